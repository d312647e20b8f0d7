"""Shards: the rows of one rollouts file or of several, and of the failures beside them, in any order.

The files are read once, a line at a time; who is where lies in a temporary SQLite database, so that a million
rows need no more memory than ten. Rows of NeMo Gym's, which have no task key, go by their task index.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import blake2b
from io import BufferedReader
from itertools import islice
from pathlib import Path
from typing import Any, Self, cast

import orjson

from nemo_like.errors import RowError, StoreError, UsageError
from nemo_like.index import agent_of, as_scored, numbers_of, whole_number
from nemo_like.shapes import fields_of, text_of
from nemo_like.store import Files
from nemo_like.types import Json, Scored

BATCH = 1000
SHOWN = 3
SUCCESS_THRESHOLD = 1.0
"""Of rows that do not say whether they are a success."""
BESIDE = ("_failures", "_skipped", "_materialized_inputs", "_reward_profiling")
"""What the names of files end in that lie beside rollouts and are none."""
SCHEMA = """
CREATE TABLE rows (
    file INTEGER, offset INTEGER, length INTEGER, failed INTEGER, agent TEXT, task_key TEXT,
    task_index INTEGER, rollout_index INTEGER, digest BLOB, success INTEGER, numbers TEXT, kind TEXT);
"""
AFTER = """
CREATE INDEX by_rollout ON rows (failed, task_key, rollout_index, file, offset);
CREATE INDEX by_digest ON rows (failed, digest, file, offset);
"""
# Of equal rollouts the first counts.
FIRST = """NOT EXISTS (SELECT 1 FROM rows e WHERE e.failed = r.failed AND e.task_key = r.task_key
  AND e.rollout_index = r.rollout_index AND (e.file, e.offset) < (r.file, r.offset))"""
FIRST_FAILURE = """NOT EXISTS (SELECT 1 FROM rows e WHERE e.failed = r.failed AND e.digest = r.digest
  AND (e.file, e.offset) < (r.file, r.offset))"""
CONFLICTS = """
SELECT a.file, b.file, a.task_key, a.rollout_index FROM rows a JOIN rows b
  ON b.failed = 0 AND b.task_key = a.task_key AND b.rollout_index = a.rollout_index
  AND (a.file, a.offset) < (b.file, b.offset) AND a.digest != b.digest
WHERE a.failed = 0
"""
SCORED = f"""
SELECT agent, task_key, rollout_index, success, numbers FROM rows r
WHERE failed = 0 AND agent = ? AND {FIRST} ORDER BY task_key, rollout_index
"""
NUM_FAILED = """
SELECT COUNT(DISTINCT f.task_key || ' ' || f.rollout_index) FROM rows f WHERE f.failed = 1 AND f.agent = ?
  AND NOT EXISTS (SELECT 1 FROM rows d WHERE d.failed = 0 AND d.task_key = f.task_key
  AND d.rollout_index = f.rollout_index)
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Conflict:
    """Two different rows that are the same repeat of the same task."""

    first: Path
    second: Path
    task_key: str
    rollout_index: int


class Shards:
    """Rollouts files, and the failures beside them, read and held still while the context lasts.

    Raises, on entering:
        StoreError: one of them is being written.
        RowError: a line in the middle of one is no row.
    """

    def __init__(self, files: Sequence[Path], *, with_numbers: bool = False) -> None:
        self.files = list(files)
        self._with_numbers = with_numbers
        self.torn: list[tuple[Path, int]] = []
        """Files with a last line that was cut off, and its bytes."""
        self._open: list[BufferedReader] = []
        self._paths: list[Path] = []

    def __enter__(self) -> Self:
        # An empty name is a temporary database on disk, gone with the connection.
        self._db = sqlite3.connect("", isolation_level=None)
        self._db.executescript(SCHEMA)
        with ExitStack() as stack:
            stack.callback(self._db.close)
            for path in self.files:
                self._read(stack.enter_context(path.open("rb")), path, failed=False)
                if (beside := Files(path).failures).exists():
                    self._read(stack.enter_context(beside.open("rb")), beside, failed=True)
            self._db.executescript(AFTER)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def num_rows(self, *, failed: bool = False) -> int:
        """How many rows there are, equal ones included."""
        return self._db.execute("SELECT COUNT(*) FROM rows WHERE failed = ?", (failed,)).fetchone()[0]

    def conflicts(self) -> Iterator[Conflict]:
        """What keeps the files from being one."""
        for first, second, key, index in self._db.execute(CONFLICTS):
            one, other = self._paths[int(first)], self._paths[int(second)]
            yield Conflict(first=one, second=other, task_key=key, rollout_index=index)

    def lines(self, *, failed: bool = False, once: bool = True, sort: bool = False) -> Iterator[bytes]:
        """The rows as they stand in the files, in that order or in that of the plan.

        `once` leaves out all but the first of those that are the same rollout, or equal failures.
        """
        wanted = (FIRST_FAILURE if failed else FIRST) if once else "1"
        order = "task_index IS NULL, task_index, rollout_index, file, offset" if sort else "file, offset"
        query = f"SELECT file, offset, length FROM rows r WHERE failed = ? AND {wanted} ORDER BY {order}"
        for file, offset, length in self._db.execute(query, (failed,)):
            yield os.pread(self._open[int(file)].fileno(), length, offset)

    def agents(self) -> list[str]:
        """Who made the rows."""
        return [name for (name,) in self._db.execute("SELECT DISTINCT agent FROM rows ORDER BY agent")]

    def scored(self, agent: str) -> Iterator[Scored]:
        """An agent's rollouts, each once, a task's next to each other."""
        for row in self._db.execute(SCORED, (agent,)):
            yield as_scored(*row)

    def failures(self, agent: str) -> dict[str, int]:
        """An agent's failed attempts by kind."""
        query = (
            f"SELECT kind, COUNT(*) FROM rows r WHERE failed = 1 AND agent = ? AND {FIRST_FAILURE} GROUP BY 1"
        )
        return dict(self._db.execute(query, (agent,)).fetchall())

    def num_failed(self, agent: str) -> int:
        """How many of an agent's rollouts failed and were never finished."""
        return self._db.execute(NUM_FAILED, (agent,)).fetchone()[0]

    def _read(self, file: BufferedReader, path: Path, *, failed: bool) -> None:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreError(f"{path} is being written by another process") from None
        number = len(self._open)
        self._open.append(file)
        self._paths.append(path)
        rows = self._rows(file, path)
        while batch := list(islice(rows, BATCH)):
            entries = (self._entry(row, line, (number, *place), failed) for row, line, *place in batch)
            self._db.execute("BEGIN")
            self._db.executemany(f"INSERT INTO rows VALUES ({','.join('?' * 12)})", entries)
            self._db.execute("COMMIT")

    def _rows(self, file: BufferedReader, path: Path) -> Iterator[tuple[Json, bytes, int, int]]:
        offset = 0
        for number, line in enumerate(file, 1):
            try:
                row = orjson.loads(line) if line.strip() else None
            except orjson.JSONDecodeError as error:
                if not line.endswith(b"\n"):
                    self.torn.append((path, len(line)))
                    return
                raise RowError(f"{path}:{number}: not JSON: {error}") from error
            if row is not None and not isinstance(row, dict):
                raise RowError(f"{path}:{number}: expected a JSON object (got {type(row).__name__})")
            if row is not None:
                repeat = cast(Json, row).get("_ng_rollout_index") or 0
                if whole_number(repeat) is None:
                    raise RowError(f"{path}:{number}: _ng_rollout_index should be whole (got {repeat!r})")
                yield cast(Json, row), line, offset, len(line)
            offset += len(line)

    def _entry(self, row: Json, line: bytes, place: tuple[int, ...], failed: bool) -> tuple[Any, ...]:
        digest = blake2b(line.rstrip(), digest_size=16).digest()
        index = whole_number(row.get("_ng_task_index"))
        repeat = whole_number(row.get("_ng_rollout_index") or 0)
        key = row.get("_ng_task_key") or (f"#{index}" if index is not None else digest.hex())
        reward = row.get("reward")
        by_reward = isinstance(reward, int | float) and reward >= SUCCESS_THRESHOLD
        success = bool(row.get("success", by_reward))
        numbers = orjson.dumps(numbers_of(row)).decode() if self._with_numbers and not failed else None
        kind = text_of(fields_of(row.get("failure")).get("kind") or row.get("_ng_failure_class")) or None
        return (*place, failed, agent_of(row), str(key), index, repeat, digest, success, numbers, kind)


def rollouts_files(patterns: str | Sequence[str]) -> list[Path]:
    """The rollouts files that globs (or a list with commas of them) name, each once, in order of names.

    What lies beside rollouts, failures for instance, is left out.

    Raises:
        UsageError: a glob matches nothing.
    """
    globs = patterns.split(",") if isinstance(patterns, str) else patterns
    found: set[Path] = set()
    for pattern in (glob.strip() for glob in globs):
        base = Path(pattern)
        anchor = Path(base.anchor) if base.is_absolute() else Path()
        matches = [Path(pattern)] if base.is_file() else anchor.glob(str(base.relative_to(base.anchor)))
        mine = {path for path in matches if path.is_file() and not path.stem.endswith(BESIDE)}
        if not mine:
            raise UsageError(f"no rollouts file is named {pattern}")
        found |= mine
    return sorted(found)


def refuse_conflicts(shards: Shards) -> None:
    """Raises a StoreError that names the first conflicts, if there are any."""
    if found := list(islice(shards.conflicts(), SHOWN)):
        shown = "; ".join(
            f"repeat {one.rollout_index} of task {one.task_key} is in {one.first} and, other, in {one.second}"
            for one in found
        )
        raise StoreError(f"{shown}; +on_duplicate=first keeps the first of each")
