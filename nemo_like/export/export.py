"""An export: rollouts in, a file or a folder of training data out, with a card that says what happened.

Nothing is held but what is in flight: rows go through scratch files beside the output, duplicates and draws
through SQLite. The output appears whole, at the end, or not at all.
"""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self

import orjson

from nemo_like.errors import UsageError, did_you_mean
from nemo_like.export import FORMATS
from nemo_like.export import card as cards
from nemo_like.export.containers import (
    columns_of,
    container_of,
    features_of,
    settle,
    write_parquet,
)
from nemo_like.export.convert import Block, converted, workers_for
from nemo_like.export.format import Format
from nemo_like.export.rollout import FIELDS
from nemo_like.export.selection import Selection, Split, Tally
from nemo_like.export.settings import Container, ExportConfig
from nemo_like.export.sources import Sources
from nemo_like.query import Query
from nemo_like.types import Json

INSERT_BLOCK = "INSERT INTO blocks (split, rows, success, reward, draw) VALUES (?,?,?,?,?)"
SUFFIXES = (".jsonl", ".parquet")
SPLITS: tuple[Split, ...] = ("train", "validation")


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """What an export came to."""

    facts: Json
    files: list[Path]
    """The data, and what stands beside it."""
    warnings: list[str]


@dataclass(frozen=True, slots=True)
class Target:
    """Where things go: into a folder, or all beside one file."""

    output: Path
    container: Container

    @property
    def is_file(self) -> bool:
        """Whether the output is one file."""
        return self.output.suffix in SUFFIXES

    @property
    def folder(self) -> Path:
        """The folder of all of it."""
        return self.output.parent if self.is_file else self.output

    def data(self, split: Split) -> Path:
        """The file of a split."""
        if not self.is_file:
            return self.output / f"{split}.{self.container}"
        return self.output if split == "train" else self._beside(f"_{split}{self.output.suffix}")

    @property
    def card(self) -> Path:
        """The page."""
        return self._beside("_README.md") if self.is_file else self.output / "README.md"

    @property
    def facts(self) -> Path:
        """The page as JSON."""
        return self._beside("_export.json") if self.is_file else self.output / "export.json"

    def _beside(self, suffix: str) -> Path:
        return self.output.with_name(self.output.stem + suffix)

    def replaceable(self) -> list[Path]:
        """What an earlier export left there.

        Raises:
            UsageError: something that no export made stands in the way.
        """
        try:
            made: list[str] = orjson.loads(self.facts.read_bytes())["files"]
        except (OSError, ValueError, KeyError, TypeError):
            made = []
        there = self.existing()
        if foreign := [path for path in there if path.relative_to(self.folder).as_posix() not in made]:
            raise UsageError(
                f"no export made {_listed(foreign)}, which would be replaced; name another output"
            )
        return there

    def existing(self) -> list[Path]:
        """The files of an export that are there already, whatever it was kept in."""
        files = [self.card, self.facts, *map(self.data, SPLITS)]
        if not self.is_file:
            files += [self.output / f"{split}{suffix}" for split in SPLITS for suffix in SUFFIXES]
            files += [self.output / name for name in ("dataset_dict.json", "dataset_info.json", "state.json")]
            files += sorted(self.output.glob("data-*-of-*.arrow"))
            files += [file for split in SPLITS for file in sorted((self.output / split).rglob("*"))]
        return [file for file in dict.fromkeys(files) if file.exists()]


def export(config: ExportConfig) -> Exported:
    """Export rollouts.

    Raises:
        UsageError: what was asked is wrong, or nothing is kept.
    """
    format = FORMATS.get(config.format)
    target = Target(config.output, container_of(format, config.container, config.output))
    _check(config, format, target.container)
    _check_place(config, target)
    target.folder.parent.mkdir(parents=True, exist_ok=True)
    target.folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=target.folder) as folder:
        scratch = Path(folder)
        sources = Sources(config.files, scratch, config)
        tally, keys = Tally(), set[str]()
        with Gathered(scratch, config) as gathered:
            by_task = format.of_task is not None or Selection(config, needs_reward=False).of_tasks
            jobs = sources.groups(tally) if by_task else sources.pieces()
            workers = workers_for(config, sources.size)
            for chunk in converted(config, sources.paths, jobs, workers=workers):
                tally.merge(chunk.tally)
                keys |= chunk.keys
                for block in chunk.blocks:
                    gathered.add(block, tally)
            lines = gathered.finish(tally)
        _check_result(config, tally)
        columns = settle(columns_of(format, keys), list(lines.values()), format)
        facts = cards.facts(config, format, tally, sources.named, list(columns), target.container)
        finished = scratch / "finished"
        finished.mkdir()
        _write(lines, finished, target, columns)
        named = {} if target.container == "hf" else {split: target.data(split).name for split in lines}
        # Arguments that are objects differ in their fields, which no declaration of columns can say.
        features = None if config.tool_arguments == "object" else features_of(columns)
        text = cards.page(facts, format, features, named)
        (finished / target.card.name).write_text(text)
        made = {file.relative_to(finished).as_posix() for file in finished.rglob("*") if file.is_file()}
        facts["files"] = sorted(made | {target.facts.name})
        (finished / target.facts.name).write_bytes(orjson.dumps(facts, option=orjson.OPT_INDENT_2))
        _move(finished, target)
    files = [target.output] if target.container == "hf" else [target.data(split) for split in lines]
    warnings = _warnings(config, tally)
    return Exported(facts=facts, files=[*files, target.card, target.facts], warnings=warnings)


class Gathered:
    """The rows of each split, as they come in: without duplicates, and balanced at the end."""

    def __init__(self, scratch: Path, config: ExportConfig) -> None:
        self._scratch, self._config = scratch, config
        self._files: dict[Split, IO[bytes]] = {}

    def __enter__(self) -> Self:
        # A database without a name is a file that SQLite deletes; what fits its cache never gets there.
        self._db = sqlite3.connect("", isolation_level=None)
        self._db.execute("CREATE TABLE seen (digest BLOB PRIMARY KEY) WITHOUT ROWID")
        self._db.execute(
            "CREATE TABLE blocks (number INTEGER PRIMARY KEY, "
            "split TEXT, rows INTEGER, success INTEGER, reward REAL, draw INTEGER)"
        )
        self._db.execute("BEGIN")
        self._open = ExitStack()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()
        self._db.close()

    def add(self, block: Block, tally: Tally) -> None:
        """Take the rows of a block."""
        if block.digest is not None:
            added = self._db.execute("INSERT OR IGNORE INTO seen VALUES (?)", (block.digest,)).rowcount
            if not added:
                tally.dropped["duplicate"] += 1
                return
        if self._config.balance:
            reward = block.rewards[1] if block.rewards[0] else None
            values = (block.split, block.rows, block.successes, reward, block.draw)
            self._db.execute(INSERT_BLOCK, values)
        self._file(block.split).write(block.lines)
        _count(block, tally)

    def finish(self, tally: Tally) -> dict[Split, Path]:
        """The file of each split that has rows."""
        self._open.close()
        if self._config.balance:
            for split in self._files:
                self._balance(split, tally)
        return {split: self._path(split) for split in SPLITS if tally.rows[split]}

    def _balance(self, split: Split, tally: Tally) -> None:
        """Leave out rows of the larger class until both are of a size."""
        counts = dict(
            self._db.execute(
                "SELECT success, COUNT(*) FROM blocks WHERE split = ? GROUP BY success", (split,)
            )
        )
        wanted = min(counts.get(0, 0), counts.get(1, 0))
        if not wanted:
            one = "with success" if counts.get(1) else "without success"
            raise UsageError(f"there is nothing to balance: all rollouts of the {split} split are {one}")
        numbers = "SELECT number FROM blocks WHERE split = ? AND success = ? ORDER BY draw, number LIMIT ?"
        self._db.execute("CREATE TEMP TABLE IF NOT EXISTS kept (number INTEGER PRIMARY KEY)")
        for success in (0, 1):
            self._db.execute(f"INSERT INTO kept {numbers}", (split, success, wanted))
        blocks = self._db.execute(
            "SELECT rows, success, reward, number IN kept FROM blocks WHERE split = ? ORDER BY number",
            (split,),
        )
        fresh = self._scratch / "balanced.jsonl"
        with self._path(split).open("rb") as lines, fresh.open("wb") as file:
            for rows, success, reward, kept in blocks:
                block = [lines.readline() for _ in range(rows)]
                if kept:
                    file.writelines(block)
                else:
                    tally.dropped["not drawn, to balance"] += 1
                    tally.rows[split] -= rows
                    tally.successes -= success
                    if reward is not None:
                        tally.rewards = (tally.rewards[0] - 1, tally.rewards[1] - reward)
        fresh.replace(self._path(split))

    def _path(self, split: Split) -> Path:
        return self._scratch / f"{split}.jsonl"

    def _file(self, split: Split) -> IO[bytes]:
        if split not in self._files:
            self._files[split] = self._open.enter_context(self._path(split).open("wb"))
        return self._files[split]


def _count(block: Block, tally: Tally) -> None:
    tally.rows[block.split] += block.rows
    tally.successes += block.successes
    tally.rewards = (tally.rewards[0] + block.rewards[0], tally.rewards[1] + block.rewards[1])


def _write(lines: dict[Split, Path], folder: Path, target: Target, columns: Json) -> None:
    """Write the rows into `folder`, under the names that they have in the end."""
    if target.container == "hf":
        from nemo_like.export.saved import save_to_disk

        save_to_disk({**lines}, folder, columns)
        return
    for split, path in lines.items():
        if target.container == "parquet":
            write_parquet(path, folder / target.data(split).name, columns)
        else:
            path.replace(folder / target.data(split).name)


def _move(finished: Path, target: Target) -> None:
    """Put what is finished in the place of what an earlier export left."""
    for old in target.replaceable():
        # What says which files are an export's goes last, and comes first.
        if old != target.facts:
            old.unlink()
    for made in sorted(finished.iterdir(), key=lambda path: path.name != target.facts.name):
        made.replace(target.folder / made.name)


def _check_place(config: ExportConfig, target: Target) -> None:
    """Raises `UsageError` where the output would replace what it may not."""
    there = {path.resolve() for path in target.existing()}
    if inside := [file for file in config.files if file.resolve() in there]:
        raise UsageError(f"output would replace one of the rollouts files: {inside[0]}")
    if (old := target.replaceable()) and not config.overwrite:
        raise UsageError(f"{_listed(old)} exists; overwrite=true replaces what an export made")


def _listed(paths: list[Path]) -> str:
    return ", ".join(map(str, paths))


def _check(config: ExportConfig, format: Format, container: Container) -> None:
    """Raises `UsageError` for settings that don't go together."""
    if config.balance and format.of_task is not None:
        raise UsageError(f"balance is for formats of single rollouts, and {format.name} is of tasks")
    if config.tool_arguments == "object" and (format.exact or "jsonl" not in format.only):
        raise UsageError(f"{format.name} has no place for tool_arguments=object")
    if config.tool_arguments == "object" and container != "jsonl":
        raise UsageError("tool_arguments=object needs container=jsonl: no column holds arguments that differ")
    if config.output.suffix not in (*SUFFIXES, "") and not config.output.is_dir():
        raise UsageError(f"output should be a folder, or end in .jsonl or .parquet (got {config.output})")


def _check_result(config: ExportConfig, tally: Tally) -> None:
    """Raises `UsageError` where nothing is left; it says why."""
    if tally.rows.total():
        if not tally.rows["train"]:
            raise UsageError(
                "all tasks fell into the validation split; take a smaller share, or another seed"
            )
        return
    reasons = ", ".join(f"{n:,} {why}" for why, n in _reasons(tally)) or "there are none"
    unknown = "".join(f"; {line}" for line in _unknown_fields(config, tally))
    raise UsageError(f"nothing is kept of {tally.rollouts:,} rollouts: {reasons}{unknown}")


def _reasons(tally: Tally) -> Iterator[tuple[str, int]]:
    yield from tally.dropped.most_common()
    yield from ((f"tasks: {why}", n) for why, n in tally.tasks_dropped.most_common())


def _warnings(config: ExportConfig, tally: Tally) -> list[str]:
    warnings = _unknown_fields(config, tally)
    if config.validation_share and not tally.rows["validation"]:
        warnings.append("no task fell into the validation split: there are too few for its share")
    return warnings


def _unknown_fields(config: ExportConfig, tally: Tally) -> list[str]:
    """Of the query, the fields that no rollout had."""
    unknown = sorted(Query.parse(config.query).fields - tally.known) if config.query else []
    return [
        f"no rollout that was asked has a field '{field}'{did_you_mean(field, [*FIELDS])}"
        for field in unknown
    ]
