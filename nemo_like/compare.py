"""Comparing runs over the same tasks: by how much they differ, and which differences could have been seen.

The unit is the task: its repeats are averaged first, then the same task's means are subtracted, so that what
makes a task hard for both runs falls out. Means lie in a temporary SQLite database, taken from the runs'
indexes; a million rollouts need no more memory than ten.
"""

from __future__ import annotations

import os
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import Any, Self, cast

import orjson
from pydantic import Field, field_validator

from nemo_like.columns import LARGEST
from nemo_like.errors import UsageError, did_you_mean
from nemo_like.estimates import (
    Estimate,
    Moments,
    Pairs,
    clustered_error,
    detectable_difference,
    tasks_needed,
)
from nemo_like.index import numbers_of, reading
from nemo_like.settings import Settings
from nemo_like.store import Files
from nemo_like.stored import as_lines, identity_of, rows_of
from nemo_like.types import Json

BATCH = 10_000
TIE = 1e-9
"""Task means that differ by less are the same."""
NONE = "(none)"
"""The subset of the tasks that do not have the field."""
SHOWN = 20
"""Subsets that are shown, those with most tasks."""
SCHEMA = """
CREATE TABLE means (
    run INTEGER, task_key TEXT, mean REAL, n INTEGER, PRIMARY KEY (run, task_key)) WITHOUT ROWID;
CREATE TABLE tasks (task_key TEXT PRIMARY KEY, subset TEXT, cluster TEXT) WITHOUT ROWID;
CREATE TABLE rows (task_key TEXT, value REAL, offset INTEGER, length INTEGER);
"""
FROM_INDEX = """
INSERT INTO means SELECT :run, task_key, AVG(value), COUNT(*) FROM
  (SELECT task_key, json_extract(numbers, :path) AS value FROM run.rollouts)
WHERE value IS NOT NULL AND abs(value) <= :largest GROUP BY task_key
"""
FROM_ROWS = """
INSERT INTO means SELECT :run, task_key, AVG(value), COUNT(*) FROM rows
WHERE value IS NOT NULL AND abs(value) <= :largest GROUP BY task_key
"""
FAILED = """
SELECT COUNT(*) FROM (SELECT DISTINCT task_key, rollout_index FROM run.failures f WHERE NOT EXISTS
  (SELECT 1 FROM run.rollouts d WHERE d.task_key = f.task_key AND d.rollout_index = f.rollout_index))
"""
PAIRS = """
SELECT t.subset, b.mean, a.mean FROM means a JOIN means b ON b.run = :run AND b.task_key = a.task_key
LEFT JOIN tasks t ON t.task_key = a.task_key WHERE a.run = 0
"""
CLUSTERS = """
SELECT t.subset, t.cluster, COUNT(*), SUM(b.mean - a.mean)
FROM means a JOIN means b ON b.run = :run AND b.task_key = a.task_key
JOIN tasks t ON t.task_key = a.task_key WHERE a.run = 0
"""


class CompareConfig(Settings):
    """What `ng_compare` compares, and how."""

    rollouts: list[Path] = Field(min_length=2)
    """Files of runs over the same tasks, the first of which the others are compared with: rollouts of
    `ng_collect_rollouts` or `ng_rescore`, or generated rows with rewards, as JSONL or parquet."""
    field: str = "reward"
    """The number that is compared: reward, success, usage/output_tokens, or any other number of a rollout."""
    by: str | None = None
    """Field of a task by whose values the tasks are compared in subsets as well: difficulty, …"""
    cluster_by: str | None = None
    """Field of a task that those have in common which are no independent samples, such as the passage that
    they are about; errors then take that into account."""
    output_dir: Path = Path("comparison")
    """Folder for comparison.json and comparison.png; those of an earlier comparison are replaced."""

    @field_validator("rollouts", mode="before")
    @classmethod
    def _text_is_a_list(cls, value: Any) -> Any:
        return value.split(",") if isinstance(value, str) else value


def compare(config: CompareConfig) -> Json:
    """Compare the runs; what comparison.json holds.

    Raises:
        UsageError: a file or a field is not there, or two runs have no task in common.
    """
    names = _names(config.rollouts)
    with _Means() as means:
        runs = [
            means.add(path, config.field) | {"name": name}
            for path, name in zip(config.rollouts, names, strict=True)
        ]
        if config.by is not None or config.cluster_by is not None:
            means.describe_tasks(config.rollouts[0], config.by, config.cluster_by)
        comparisons = [
            {"run": names[run], "baseline": names[0], **means.compared(run, config)}
            for run in range(1, len(names))
        ]
    return {
        "field": config.field,
        "by": config.by,
        "cluster_by": config.cluster_by,
        "runs": runs,
        "comparisons": comparisons,
    }


class _Means:
    """The task means of every run, and what subset and cluster each task is of."""

    def __enter__(self) -> Self:
        # An empty name is a temporary database on disk, gone with the connection.
        self._db = sqlite3.connect("", isolation_level=None, uri=True)
        self._db.executescript(SCHEMA)
        self._runs = 0
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def add(self, path: Path, field: str) -> Json:
        """Take the means of a run from its index, or from its rows where they have no index."""
        if not path.is_file():
            raise UsageError(f"there is no file {path}")
        asked = {"run": self._runs, "path": f'$."{field}"', "largest": LARGEST}
        if _has_index(path):
            files = Files(path)
            sources = ((files.rollouts, "rollouts"), (files.failures, "failures"))
            with reading(files.index, *sources) as index:
                self._db.execute("ATTACH ? AS run", (f"{index.absolute().as_uri()}?mode=ro",))
                self._db.execute(FROM_INDEX, asked)
                failed = self._one(FAILED)
                there = list(self._numbers())
                self._db.execute("DETACH run")
        else:
            self._read_rows(path, field)
            self._db.execute(FROM_ROWS, asked)
            failed, there = 0, ["reward"]
        told = self._told(path) | {"failed": failed}
        if not told["tasks"]:
            why = f" within ±{LARGEST:g}" if field in there else did_you_mean(field, there)
            raise UsageError(f"{path}: no rollout has a number '{field}'{why}")
        self._runs += 1
        return told

    def _told(self, path: Path) -> Json:
        moments, rollouts = Moments(), 0
        rows = self._db.execute("SELECT mean, n FROM means WHERE run = ?", (self._runs,))
        while batch := list(islice(rows, BATCH)):
            moments.merge([mean for mean, _ in batch])
            rollouts += sum(n for _, n in batch)
        mean = asdict(moments.estimate())
        return {"file": str(path), "tasks": moments.n, "rollouts": rollouts, "mean": mean}

    def _numbers(self) -> Iterable[str]:
        row = self._db.execute("SELECT numbers FROM run.rollouts LIMIT 1").fetchone()
        return orjson.loads(row[0]) if row else ()

    def _read_rows(self, path: Path, field: str) -> None:
        self._db.execute("DELETE FROM rows")
        for batch in _batches(self._entries(path, field)):
            self._db.executemany("INSERT INTO rows VALUES (?,?,0,0)", batch)

    def _entries(self, path: Path, field: str) -> Iterator[tuple[str, float | None]]:
        with as_lines(path, path.parent) as file:
            for row, offset, _ in rows_of(file, path):
                if (identity := identity_of(row)) is None:
                    raise UsageError(f"{path}: the row at byte {offset:,} does not say which task it is of")
                yield identity[0], numbers_of(row).get(field)

    def describe_tasks(self, path: Path, by: str | None, cluster_by: str | None) -> None:
        """Read each task's subset and cluster, off one row of the first run."""
        there: Counter[str] = Counter()
        found: Counter[str | None] = Counter()
        for batch in _batches(_one_row_a_task(path)):
            entries: list[tuple[str, str, str]] = []
            for key, row in batch:
                there.update(name for name in row if not name.startswith("_ng_"))
                values = [_value(row, name) for name in (by, cluster_by)]
                found.update(name for name, v in zip((by, cluster_by), values, strict=True) if v is not None)
                subset, cluster = values
                # A task without a cluster is one of its own.
                entries.append(
                    (key, NONE if subset is None else subset, cluster if cluster is not None else key)
                )
            self._db.executemany("INSERT OR IGNORE INTO tasks VALUES (?,?,?)", entries)
        for name in (by, cluster_by):
            if name is not None and not found[name]:
                raise UsageError(f"{path}: no task has a field '{name}'{did_you_mean(name, [*there])}")

    def compared(self, run: int, config: CompareConfig) -> Json:
        """A run against the first."""
        overall = self._difference(run, self._db.execute(PAIRS, {"run": run}), None, config.cluster_by)
        if not overall["tasks"]:
            raise UsageError(f"{config.rollouts[0]} and {config.rollouts[run]} have no task in common")
        only = [self._only(0, run), self._only(run, 0)]
        told: Json = {"overall": overall, "only_baseline": only[0], "only_run": only[1]}
        if config.by is None:
            return told
        rows = self._db.execute(PAIRS + " ORDER BY t.subset", {"run": run})
        subsets = {
            str(subset): self._difference(run, pairs, subset, config.cluster_by)
            for subset, pairs in groupby(rows, key=itemgetter(0))
        }
        return told | {"subsets": subsets}

    def _difference(
        self,
        run: int,
        rows: Iterator[tuple[str | None, float, float]],
        subset: str | None,
        clustered: str | None,
    ) -> Json:
        pairs, won, lost = Pairs(), 0, 0
        while batch := [(b, a) for _, b, a in islice(rows, BATCH)]:
            pairs.merge(batch)
            won += sum(b - a > TIE for b, a in batch)
            lost += sum(a - b > TIE for b, a in batch)
        estimate = pairs.difference.estimate()
        if clustered is not None and estimate.value is not None:
            estimate = clustered_error(self._clusters(run, subset), estimate.value)
        return {
            "tasks": pairs.difference.n,
            "baseline": pairs.b.mean,
            "run": pairs.a.mean,
            "difference": estimate.value,
            "se": estimate.se,
            "ci95": estimate.ci95 and list(estimate.ci95),
            **({"clusters": estimate.n} if clustered is not None else {}),
            "correlation": pairs.correlation,
            "won": won,
            "lost": lost,
            "tied": pairs.difference.n - won - lost,
            **_power(estimate, pairs.difference.n),
        }

    def _clusters(self, run: int, subset: str | None) -> Iterator[tuple[int, float]]:
        where, group = ("", "t.cluster") if subset is None else (" AND t.subset = :subset", "t.cluster")
        asked = {"run": run} | ({} if subset is None else {"subset": subset})
        for _, _, n, total in self._db.execute(f"{CLUSTERS}{where} GROUP BY {group}", asked):
            yield n, total

    def _only(self, run: int, other: int) -> int:
        sql = """SELECT COUNT(*) FROM means a WHERE a.run = ? AND NOT EXISTS
          (SELECT 1 FROM means b WHERE b.run = ? AND b.task_key = a.task_key)"""
        return self._one(sql, run, other)

    def _one(self, sql: str, *arguments: Any) -> int:
        return self._db.execute(sql, arguments).fetchone()[0]


def _power(estimate: Estimate, tasks: int) -> Json:
    """The difference that could have been seen, and the tasks that it takes to see the one there is."""
    if estimate.se is None or not estimate.value:
        return {"detectable": estimate.se and detectable_difference(estimate.se), "tasks_needed": None}
    needed = tasks_needed(estimate.se**2 * tasks, estimate.value)
    return {"detectable": detectable_difference(estimate.se), "tasks_needed": round(needed)}


def _has_index(path: Path) -> bool:
    """Whether it is a file of rollouts that the index can be of."""
    if path.suffix != ".jsonl":
        return False
    with path.open("rb") as file:
        first = next(rows_of(file, path), None)
    return first is not None and "_ng_task_key" in first[0]


def _one_row_a_task(path: Path) -> Iterator[tuple[str, Json]]:
    if not _has_index(path):
        with as_lines(path, path.parent) as file:
            for row, _, _ in rows_of(file, path):
                if (identity := identity_of(row)) is not None:
                    yield identity[0], row
        return
    with reading(Files(path).index, (path, "rollouts")) as index:
        db = sqlite3.connect(f"{index.absolute().as_uri()}?mode=ro", uri=True)
        source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            places = db.execute("SELECT task_key, MIN(offset), length FROM rollouts GROUP BY task_key")
            for key, offset, length in places:
                yield key, orjson.loads(os.pread(source, length, offset))
        finally:
            db.close()
            os.close(source)


def _value(row: Json, name: str | None) -> str | None:
    """A field of a task as text; those of generated rows have a prefix."""
    if name is None:
        return None
    value: Any = row.get(name, row.get(f"original_{name}"))
    if value is None and "." in name:
        first, _, rest = name.partition(".")
        inner = row.get(first, row.get(f"original_{first}"))
        return _value(cast(Json, inner), rest) if isinstance(inner, dict) else None
    return value if value is None or isinstance(value, str) else orjson.dumps(value).decode()


def _batches(items: Iterator[Any]) -> Iterator[list[Any]]:
    while batch := list(islice(items, BATCH)):
        yield batch


def _names(paths: Sequence[Path]) -> list[str]:
    """What the runs are called: their files' names, or paths where names are the same."""
    stems = [path.stem for path in paths]
    return stems if len(set(stems)) == len(stems) else [str(path) for path in paths]


def entries_of(comparison: Json, by: str | None) -> list[tuple[str, Json]]:
    """What is shown of a comparison: (name, entry) of the whole, then of the subsets with most tasks."""
    subsets: dict[str, Json] = comparison.get("subsets", {})
    most = sorted(subsets, key=lambda name: (-subsets[name]["tasks"], name))[:SHOWN]
    whole = (f"{comparison['run']} vs {comparison['baseline']}", comparison["overall"])
    return [whole, *((f"  {by}={name}"[:40], subsets[name]) for name in subsets if name in most)]
