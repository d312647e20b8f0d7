"""The card of an export: what made the data, what was kept and why the rest went, as a page and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from nemo_like import __version__
from nemo_like.export.format import Format
from nemo_like.export.selection import OTHERS, SETTINGS, Tally, count_failures
from nemo_like.export.settings import Container, ExportConfig
from nemo_like.fingerprint import what_made
from nemo_like.settings import redacted
from nemo_like.store import Files
from nemo_like.types import Json

SHOWN = 20
"""Models, agents and ways of sampling that are listed at most."""


def facts(
    config: ExportConfig,
    format: Format,
    tally: Tally,
    files: Sequence[Path],
    columns: Sequence[str],
    container: Container,
) -> Json:
    """What there is to say, as JSON."""
    asked = config.model_dump(mode="json", exclude_defaults=True)
    scored, total = tally.rewards
    return redacted(
        {
            "format": format.name,
            "container": container,
            "columns": list(columns),
            "nemo_like": __version__,
            "sources": [_source(file) for file in files],
            "made_by": {
                name: [
                    {"value": _known(name, value), "rollouts": n} for value, n in counts.most_common(SHOWN)
                ]
                for name, counts in tally.made_by.items()
            },
            "selection": {name: value for name, value in asked.items() if name in SETTINGS},
            "options": {
                name: value
                for name, value in asked.items()
                if name
                not in (*SETTINGS, "rollouts", "output", "format", "container", "workers", "overwrite")
            },
            "rollouts": {
                "total": tally.rollouts,
                "kept": tally.kept,
                "dropped": dict(tally.dropped.most_common()),
            },
            **({"tasks": _tasks(tally)} if tally.tasks else {}),
            "rows": dict(tally.rows),
            "in_several_rows": tally.divided,
            "mean_reward": total / scored if scored else None,
            "success_rate": tally.successes / blocks if (blocks := _blocks(tally, format)) else None,
        }
    )


def page(facts: Json, format: Format, features: list[Json] | None, splits: Mapping[str, str]) -> str:
    """The page: what `datasets` reads on top, then what a person does."""
    front: Json = {"tags": ["nemo-like", facts["format"]]}
    if splits:
        data = [{"split": split, "path": path} for split, path in splits.items()]
        front["configs"] = [{"config_name": "default", "data_files": data}]
    if features is not None:
        front["dataset_info"] = {"features": features}
    head = "".join(f"{name}: {orjson.dumps(value).decode()}\n" for name, value in front.items())
    sources = ", ".join(f"`{source['file']}`" for source in facts["sources"])
    parts = [
        f"# {facts['format']}",
        f"{format.about} Made by nemo-like {facts['nemo_like']} from {sources}.",
        _section("Rows", _rows_table(facts)),
        _section("Kept", _kept_table(facts)),
        _section("Made by", _made_by(facts)),
        _section("Selection", _list(facts["selection"] or {"nothing": "was asked for"})),
        _section("Options", _list(facts["options"])) if facts["options"] else "",
        _section("Columns", ", ".join(f"`{name}`" for name in facts["columns"])),
    ]
    return f"---\n{head}---\n\n" + "\n\n".join(part for part in parts if part) + "\n"


def _source(file: Path) -> Json:
    """What is known of a rollouts file, and of the failures beside it."""
    beside = Files(file)
    about: Json = {"file": file.name, "bytes": file.stat().st_size}
    if made := what_made(file):
        about["fingerprint"] = made
    if beside.failures.is_file():
        with beside.failures.open("rb") as lines:
            about["failed_attempts"] = dict(count_failures(lines).most_common())
    return about


def _known(name: str, value: str) -> Any:
    return orjson.loads(value) if name == "sampling" and value != OTHERS else value


def _blocks(tally: Tally, format: Format) -> int:
    return tally.kept if format.of_task is None else 0


def _tasks(tally: Tally) -> Json:
    gone = dict(tally.tasks_dropped.most_common())
    return {"total": tally.tasks, "kept": tally.tasks - sum(gone.values()), "dropped": gone}


def _rows_table(facts: Json) -> str:
    lines = [f"| {split} | {n:,} |" for split, n in facts["rows"].items()]
    known = [name for name in ("mean_reward", "success_rate") if facts[name] is not None]
    lines += [f"| {name.replace('_', ' ')} | {facts[name]:.4g} |" for name in known]
    if facts["in_several_rows"]:
        lines.append(f"| rollouts in several rows | {facts['in_several_rows']:,} |")
    return _table(("", "rows"), lines)


def _kept_table(facts: Json) -> str:
    lines: list[str] = []
    for noun in ("rollouts", "tasks"):
        if noun in facts:
            count = facts[noun]
            lines.append(f"| **{noun} kept** | **{count['kept']:,} of {count['total']:,}** |")
            lines += [f"| {noun} left out: {why} | {n:,} |" for why, n in count["dropped"].items()]
    for source in facts["sources"]:
        failed: Json = source.get("failed_attempts") or {}
        where = f"attempts that failed in `{source['file']}`"
        lines += [f"| {where}: {kind} | {n:,} |" for kind, n in failed.items()]
    return _table(("", "number"), lines)


def _made_by(facts: Json) -> str:
    lines = [
        f"| {name} | {_cell(entry['value'])} | {entry['rollouts']:,} |"
        for name, entries in facts["made_by"].items()
        for entry in entries
        if entry["value"]
    ]
    table = _table(("", "what", "rollouts"), lines)
    settings: Counter[str] = Counter()
    for source in facts["sources"]:
        fingerprint: Json = source.get("fingerprint") or {}
        for key, value in fingerprint.items():
            settings[f"| {key} | {_cell(value)} |"] += 1
    run = "\n\nThe run's own settings of agent, environment, verifier and model:\n\n" + _table(
        ("setting", "value"), list(settings)
    )
    return table + (run if settings else "")


def _section(title: str, text: str) -> str:
    return f"## {title}\n\n{text}"


def _table(head: Sequence[str], lines: Sequence[str]) -> str:
    return "\n".join((f"| {' | '.join(head)} |", "|---" * len(head) + "|", *lines))


def _list(values: Mapping[str, Any]) -> str:
    return "\n".join(f"- `{name}`: {_cell(value)}" for name, value in values.items())


def _cell(value: Any) -> str:
    text = value if isinstance(value, str) else orjson.dumps(value).decode()
    return text.replace("|", "\\|").replace("\n", " ")
