"""Merging and sorting: several rollouts files become one, exactly once; one gets the order of its plan.

What is made is written beside its place and put there whole, so that a kill leaves the old files or the new.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

from nemo_like import metrics
from nemo_like.errors import StoreError, UsageError
from nemo_like.fingerprint import differences
from nemo_like.shards import SUCCESS_THRESHOLD, Shards, refuse_conflicts
from nemo_like.store import Files, write_whole
from nemo_like.types import Json


@dataclass(frozen=True, kw_only=True, slots=True)
class Merged:
    """What a merge did."""

    rollouts: int
    failures: int
    left_out: int
    """Rollouts that were there already."""
    torn: list[tuple[Path, int]]
    """Files with a last line that was cut off, which is left out, and its bytes."""
    without_run: list[Path]
    """Files without a `…_run.json`, of which nobody knows what made them."""


def merge(
    files: Sequence[Path], output: Path, *, keep_first: bool = False, overwrite: bool = False
) -> Merged:
    """Put the rows of `files`, with failures and fingerprint, into `output`.

    Raises:
        StoreError: two of them disagree about a rollout or were made in different ways, one is being written,
            or `output` holds something.
        RowError: a line in the middle of one is no row.
    """
    to = Files(output)
    if output.exists() and output.stat().st_size and not overwrite:
        raise StoreError(f"{output} exists; add +overwrite=true to replace it")
    if any(output.exists() and output.samefile(file) for file in files):
        raise UsageError(f"the output is one of the files to merge: {output}")
    run, without_run = merged_run(files)
    with Shards(files) as shards:
        if not keep_first:
            refuse_conflicts(shards)
        output.parent.mkdir(parents=True, exist_ok=True)
        if run is not None:
            write_whole(to.run, orjson.dumps(run, option=orjson.OPT_INDENT_2))
        failures = write_lines(to.failures, shards.lines(failed=True))
        rollouts = write_lines(output, shards.lines())
        left_out = shards.num_rows() - rollouts
    return Merged(
        rollouts=rollouts,
        failures=failures,
        left_out=left_out,
        torn=shards.torn,
        without_run=without_run,
    )


def merged_run(files: Sequence[Path]) -> tuple[Json | None, list[Path]]:
    """What made the files, if it was the same, and those that do not say what made them.

    Raises:
        StoreError: two of them were made in different ways.
    """
    merged: Json | None = None
    first, without = Path(), list[Path]()
    for file in files:
        beside = Files(file).run
        if not beside.exists():
            without.append(file)
            continue
        run: Json = orjson.loads(beside.read_bytes())
        if merged is None:
            merged, first = run, file
            continue
        before, now = merged["fingerprint"], run["fingerprint"]
        if differing := differences(before, now):
            said = ", ".join(f"{key}={before.get(key)} and {now.get(key)}" for key in differing)
            raise StoreError(f"{first} and {file} were made in different ways: {said}")
        merged = merged | {"fingerprint": before | now}
    return merged, without


def sort(file: Path, output: Path | None, *, overwrite: bool = False) -> int:
    """Write the rows of `file` in the order of its plan, to `output` or in its own place; how many.

    Raises:
        StoreError: it is being written, or `output` exists.
    """
    if output is not None and output.exists() and not output.samefile(file) and not overwrite:
        raise StoreError(f"{output} exists; add +overwrite=true to replace it")
    with Shards([file]) as shards:
        if shards.torn and output is None:
            raise StoreError(
                f"the last line of {file} was cut off; resume its run, or sort into another file"
            )
        return write_lines(output or file, shards.lines(once=False, sort=True))


def aggregate(shards: Shards) -> list[Json]:
    """The metrics of all rollouts of some files, an entry an agent, as a collection writes them."""
    thresholds = _thresholds(shards.files)
    return [
        {"agent_ref": {"name": agent}}
        | metrics.summarize(
            shards.scored(agent),
            failures=shards.failures(agent),
            num_failed=shards.num_failed(agent),
            success_threshold=thresholds.get(agent, SUCCESS_THRESHOLD),
        )
        for agent in shards.agents()
    ]


def write_lines(path: Path, lines: Iterable[bytes]) -> int:
    """Put a file of lines into its place, whole and durable; how many it has."""
    count, fresh = 0, path.with_name(path.name + ".tmp")
    with fresh.open("wb") as file:
        for line in lines:
            file.write(line if line.endswith(b"\n") else line + b"\n")
            count += 1
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    return count


def _thresholds(files: Sequence[Path]) -> dict[str, float]:
    """What counts as a success, by agent, as the metrics beside the files say."""
    found: dict[str, float] = {}
    for file in files:
        beside = Files(file).metrics
        summaries: list[Json] = orjson.loads(beside.read_bytes()) if beside.exists() else []
        found |= {
            s["agent_ref"]["name"]: s["success_threshold"] for s in summaries if "success_threshold" in s
        }
    return found
