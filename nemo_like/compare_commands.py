"""The command that compares runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from nemo_like.command import command
from nemo_like.types import Json


def compare() -> int:
    """Compare runs over the same tasks: by how much they differ, who won, and what could have been seen.

        ng_compare "+rollouts=[results/a.jsonl,results/b.jsonl]" +by=difficulty

    The first file is the baseline. A table is printed; comparison.json and comparison.png go into
    `output_dir`.
    """
    import orjson

    from nemo_like.compare import CompareConfig
    from nemo_like.compare import compare as compared
    from nemo_like.config import load
    from nemo_like.store import write_whole

    async def main(arguments: Sequence[str]) -> int:
        wanted: CompareConfig = load(arguments, CompareConfig).settings(CompareConfig)
        result = compared(wanted)
        wanted.output_dir.mkdir(parents=True, exist_ok=True)
        file = wanted.output_dir / "comparison.json"
        write_whole(file, orjson.dumps(result, option=orjson.OPT_INDENT_2))
        print(_table(result))
        picture = file.with_suffix(".png")
        try:
            from nemo_like.compare_plot import draw_comparison
        except ModuleNotFoundError as error:
            print(f"no picture: it needs {error.name}: pip install 'nemo-like[analysis]'", file=sys.stderr)
            print(f"\n{file}")
        else:
            draw_comparison(result, picture)
            print(f"\n{file}\n{picture}")
        return 0

    return command("ng_compare", compare, [CompareConfig], main)


def _table(result: Json) -> str:
    """The comparison as text: a line a comparison, and one a subset."""
    from nemo_like.compare import entries_of

    rows: list[tuple[str, ...]] = [
        ("", "tasks", "baseline", "run", "difference", "95 % interval", "won", "lost", "tied", "detectable")
    ]
    notes: list[str] = []
    for comparison in result["comparisons"]:
        rows += [_line(*entry) for entry in entries_of(comparison, result["by"])]
        notes += _notes(comparison)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(_cells(row, widths)).rstrip() for row in rows]
    runs = [f"{run['name']}: {_run_line(run)}" for run in result["runs"]]
    return "\n".join([f"{result['field']} by task, {len(runs)} runs", *runs, "", *lines, "", *notes])


def _cells(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [row[0].ljust(widths[0]), *(cell.rjust(n) for cell, n in zip(row[1:], widths[1:], strict=True))]


def _run_line(run: Json) -> str:
    error = "" if run["mean"]["se"] is None else f" ± {run['mean']['se']:.3f}"
    failed = f", {run['failed']:,} failed" if run["failed"] else ""
    return f"{run['mean']['value']:.3f}{error} ({run['tasks']:,} tasks, {run['rollouts']:,} rollouts{failed})"


def _line(name: str, entry: Json) -> tuple[str, ...]:
    error = "" if entry["se"] is None else f" ± {entry['se']:.3f}"
    interval = f"{entry['ci95'][0]:+.3f} to {entry['ci95'][1]:+.3f}" if entry["ci95"] else "unknown"
    least = "unknown" if entry["detectable"] is None else f"{entry['detectable']:.3f}"
    counts = (f"{entry[key]:,}" for key in ("won", "lost", "tied"))
    means = (f"{entry['baseline']:.3f}", f"{entry['run']:.3f}", f"{entry['difference']:+.3f}{error}")
    return (name, f"{entry['tasks']:,}", *means, interval, *counts, least)


def _notes(comparison: Json) -> list[str]:
    from nemo_like.compare import SHOWN

    entry, run, baseline = comparison["overall"], comparison["run"], comparison["baseline"]
    notes: list[str] = []
    if entry["ci95"] and not entry["ci95"][0] <= 0 <= entry["ci95"][1]:
        notes.append(f"{run} is {'above' if entry['difference'] > 0 else 'below'} {baseline}.")
    elif entry["detectable"]:
        more = (
            f"; it takes about {entry['tasks_needed']:,} tasks to see this one"
            if entry["tasks_needed"]
            else ""
        )
        could = f"one of {entry['detectable']:.3f} would be found 80 % of the time{more}"
        notes.append(f"{run} and {baseline}: no difference could be seen; {could}.")
    if comparison["only_baseline"] or comparison["only_run"]:
        lacking = (
            f"{comparison[key]:,} tasks only {name} has"
            for key, name in (("only_baseline", baseline), ("only_run", run))
        )
        notes.append(f"Not compared: {', '.join(lacking)}.")
    if (hidden := len(comparison.get("subsets", {})) - SHOWN) > 0:
        notes.append(f"{hidden:,} more subsets are in the JSON.")
    return notes
