"""The plan: which rollouts a run owes, from the input file and what the output file already holds.

The input is read once, a line at a time; what has to be remembered of it lies in a temporary SQLite database,
so that a million tasks need no more memory than ten. The plan is a query over that and the index of the
output.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import Any, Self, cast

import orjson

from nemo_like.errors import NOT_THE_TASKS_FAULT, REPEATS_ITSELF, RowError, StoreError, UsageError
from nemo_like.index import as_scored
from nemo_like.types import RESERVED_FIELDS, Json, Scored

BATCH = 1000
JOBS_AT_ONCE = 1000
DEFAULT_REPEATS = "_default"
"""The agents that a `num_repeats` by agent does not name."""
FORGIVEN = ", ".join(f"'{kind}'" for kind in sorted(NOT_THE_TASKS_FAULT))
FINAL = ", ".join(f"'{kind}'" for kind in sorted(REPEATS_ITSELF))

# The same row twice is two tasks: the second is told apart by its occurrence.
TASKS = """
INSERT INTO tasks
SELECT task_index, hash || CASE n WHEN 1 THEN '' ELSE '-' || (n - 1) END, agent, repeats, offset, length
FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY hash ORDER BY task_index) AS n FROM rows) ORDER BY task_index;
DROP TABLE rows;
"""
SCHEMA = """
CREATE TABLE rows (
    task_index INTEGER PRIMARY KEY, hash TEXT, agent TEXT, repeats INTEGER, offset INTEGER, length INTEGER);
CREATE TABLE tasks (
    task_index INTEGER PRIMARY KEY, task_key TEXT UNIQUE, agent TEXT, repeats INTEGER, offset INTEGER,
    length INTEGER);
CREATE TABLE skipped (line INTEGER PRIMARY KEY, reason TEXT, text TEXT);
"""
OWED = f"""
WITH RECURSIVE repeats (rollout_index) AS
  (SELECT 0 UNION ALL SELECT rollout_index + 1 FROM repeats WHERE rollout_index + 1 < :most_repeats),
owed AS
  (SELECT t.*, r.rollout_index,
     (SELECT COUNT(*) FROM store.failures f WHERE f.task_key = t.task_key
      AND f.rollout_index = r.rollout_index AND f.kind NOT IN ({FORGIVEN})) AS attempts,
     (SELECT kind FROM store.failures f WHERE f.task_key = t.task_key
      AND f.rollout_index = r.rollout_index ORDER BY f.offset DESC LIMIT 1) AS latest
   FROM tasks t JOIN repeats r ON r.rollout_index < t.repeats
   WHERE t.task_index BETWEEN :first AND :last AND NOT EXISTS
     (SELECT 1 FROM store.rollouts d WHERE d.task_key = t.task_key AND d.rollout_index = r.rollout_index))
SELECT task_index, task_key, rollout_index, agent, offset, length, attempts FROM owed
WHERE attempts < :max_attempts AND (NOT :again OR latest NOT IN ({FINAL}))
ORDER BY task_index, rollout_index
"""
COUNTS = f"""
SELECT
  (SELECT TOTAL(repeats) FROM tasks),
  (SELECT COUNT(*) FROM tasks t CROSS JOIN store.rollouts d ON d.task_key = t.task_key
   WHERE d.rollout_index < t.repeats),
  (SELECT COUNT(*) FROM store.rollouts),
  (SELECT COUNT(*) FROM store.rollouts d JOIN tasks t ON d.task_key = t.task_key),
  (SELECT COUNT(*) FROM (
     SELECT f.task_key, f.rollout_index FROM store.failures f JOIN tasks t ON t.task_key = f.task_key
     WHERE f.rollout_index < t.repeats AND f.kind NOT IN ({FORGIVEN}) AND NOT EXISTS
       (SELECT 1 FROM store.rollouts d WHERE d.task_key = f.task_key AND d.rollout_index = f.rollout_index)
     GROUP BY f.task_key, f.rollout_index HAVING COUNT(*) >= :max_attempts))
"""
SCORED = """
SELECT d.agent, d.task_key, d.rollout_index, d.success, d.numbers
FROM tasks t CROSS JOIN store.rollouts d ON d.task_key = t.task_key
WHERE t.agent = :agent AND d.rollout_index < t.repeats ORDER BY t.task_index, d.rollout_index
"""
GROUPS = """
SELECT t.task_index, t.task_key, t.agent, t.repeats, t.offset, t.length,
  d.agent, d.rollout_index, d.success, d.numbers
FROM tasks t LEFT JOIN store.rollouts d ON d.task_key = t.task_key AND d.rollout_index < t.repeats
ORDER BY t.task_index, d.rollout_index
"""
SUMS = """
SELECT COUNT(*), TOTAL(d.success), COUNT(d.reward), TOTAL(d.reward), COUNT(d.tool_calls), TOTAL(d.tool_calls),
  COUNT(d.output_tokens), TOTAL(d.output_tokens), COUNT(d.output_characters), TOTAL(d.output_characters)
FROM tasks t CROSS JOIN store.rollouts d ON d.task_key = t.task_key WHERE d.rollout_index < t.repeats
"""
# SQLite takes the other columns from the row that has the maximum.
FAILED = """
SELECT f.kind, COUNT(*), f.place, f.message, MAX(f.offset)
FROM store.failures f JOIN tasks t ON t.task_key = f.task_key
WHERE t.agent = :agent AND f.rollout_index < t.repeats GROUP BY f.kind ORDER BY COUNT(*) DESC
"""
NUM_FAILED = """
SELECT COUNT(DISTINCT f.task_key || ' ' || f.rollout_index)
FROM store.failures f JOIN tasks t ON t.task_key = f.task_key
WHERE t.agent = :agent AND f.rollout_index < t.repeats AND NOT EXISTS
  (SELECT 1 FROM store.rollouts d WHERE d.task_key = f.task_key AND d.rollout_index = f.rollout_index)
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One rollout that is owed."""

    task_index: int
    task_key: str
    rollout_index: int
    agent: str
    offset: int
    length: int
    attempts: int
    """Failed attempts so far that count."""

    @classmethod
    def of(cls, columns: Iterable[Any]) -> Self:
        """Of the columns of a query, which are in this order."""
        return cls(**dict(zip(cls.__slots__, columns, strict=True)))

    def row(self, file: int) -> Json | None:
        """The row at its place in an open file; None where there is none."""
        try:
            row = orjson.loads(os.pread(file, self.length, self.offset))
        except orjson.JSONDecodeError:
            return None
        return cast(Json, row) if isinstance(row, dict) else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """How far a run is, in rollouts."""

    total: int
    """Asked for by the input, `limit` and `num_repeats`."""
    done: int
    """Of those, finished."""
    exhausted: int
    """Of those, failed `max_attempts` times."""
    foreign: int
    """In the output, but of tasks that are not in this input."""
    skipped: int = 0
    """Rows of the input that are no tasks, and were left out."""

    @property
    def owed(self) -> int:
        """Still to be done."""
        return self.total - self.done - self.exhausted


@dataclass(frozen=True, kw_only=True, slots=True)
class Failed:
    """The failed attempts of one kind, with the place and the words of the last."""

    kind: str
    attempts: int
    where: str
    message: str


class Plan:
    """The tasks of an input file against the index of an output file."""

    def __init__(
        self,
        file: Path,
        *,
        agent_of: Callable[[Json], str],
        complete: Callable[[Json], Json] = lambda row: row,
        limit: int | None = None,
        num_repeats: int | Mapping[str, int] = 1,
        max_attempts: int = 3,
        skip_bad_rows: bool = False,
    ) -> None:
        """Read and check every row of `file`.

        `agent_of` names a row's agent, `complete` makes a task of a row; both may raise a UsageError.
        `num_repeats` is that of all, or of each agent, with `_default` for those that it does not name.

        Raises:
            RowError: a row is malformed, or all are; the message names file, line and what was expected.
        """
        self.file = file
        # An empty name is a temporary database on disk, gone with the connection.
        self._db = sqlite3.connect("", isolation_level=None)
        self._db.executescript(SCHEMA)

        def entry(row: Json) -> tuple[str, str, int]:
            agent = agent_of(row)
            check_task(complete(row))
            return task_hash(row), agent, repeats_of(agent, num_repeats)

        rows = islice(_rows(file, entry, self._skip if skip_bad_rows else None), limit)
        while batch := list(islice(rows, BATCH)):
            self._db.execute("BEGIN")
            self._db.executemany("INSERT INTO rows VALUES (?,?,?,?,?,?)", batch)
            self._db.execute("COMMIT")
        self._db.executescript(TASKS)
        [most] = self._db.execute("SELECT IFNULL(MAX(repeats), 1) FROM tasks").fetchone()
        self._asked = {"most_repeats": most, "max_attempts": max_attempts}
        self._input = os.open(file, os.O_RDONLY | os.O_CLOEXEC)

    def _skip(self, line: int, reason: str, text: bytes) -> None:
        self._db.execute(
            "INSERT INTO skipped VALUES (?,?,?)", (line, reason, text.decode("utf-8", "replace"))
        )

    def attach(self, index: Path) -> None:
        """Plan against the output that this index is of; to be called before anything is asked."""
        self._db.execute("ATTACH DATABASE ? AS store", (str(index),))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()
        os.close(self._input)

    def owed(self, *, again: bool = False) -> Iterator[Job]:
        """Every rollout that is neither done nor exhausted, a task's repeats next to each other.

        `again` leaves out those whose last failure would only repeat itself.
        """
        [last] = self._db.execute("SELECT IFNULL(MAX(task_index), -1) FROM tasks").fetchone()
        step = max(1, JOBS_AT_ONCE // self._asked["most_repeats"])
        for first in range(0, last + 1, step):
            chunk = {"first": first, "last": first + step - 1, "again": again}
            yield from map(Job.of, self._db.execute(OWED, self._asked | chunk).fetchall())

    def task(self, job: Job) -> Json:
        """The row of a job.

        Raises:
            StoreError: the input file is not what it was when it was planned.
        """
        row = job.row(self._input)
        if row is None or task_hash(row) != job.task_key.partition("-")[0]:
            raise StoreError(f"{self.file} was changed while it was being collected; run the command again")
        return row

    def agents(self) -> list[str]:
        """The agents that the tasks are for."""
        return [name for (name,) in self._db.execute("SELECT DISTINCT agent FROM tasks ORDER BY agent")]

    def counts(self) -> Counts:
        """How far the run is."""
        total, done, rows, known, exhausted = self._db.execute(COUNTS, self._asked).fetchone()
        [skipped] = self._db.execute("SELECT COUNT(*) FROM skipped").fetchone()
        foreign = rows - known
        return Counts(total=int(total), done=done, exhausted=exhausted, foreign=foreign, skipped=skipped)

    def skipped(self) -> Iterator[Json]:
        """The rows that are no tasks: the line, the reason and the text."""
        for line, reason, text in self._db.execute("SELECT * FROM skipped ORDER BY line"):
            yield {"line": line, "reason": reason, "text": text}

    def scored(self, agent: str) -> Iterator[Scored]:
        """The finished rollouts of an agent's tasks, a task's next to each other."""
        for row in self._db.execute(SCORED, self._asked | {"agent": agent}):
            yield as_scored(*row)

    def groups(self) -> Iterator[tuple[Job, int, list[Scored]]]:
        """Every task, how many rollouts it is to have, and those that are finished."""
        for _, rows in groupby(self._db.execute(GROUPS), key=itemgetter(0)):
            task, *others = list(rows)
            index, key, agent, repeats, offset, length = task[:6]
            job = Job(
                task_index=index,
                task_key=key,
                rollout_index=0,
                agent=agent,
                offset=offset,
                length=length,
                attempts=0,
            )
            finished = [row[6:] for row in (task, *others) if row[6] is not None]
            yield job, repeats, [as_scored(by, key, *of) for by, *of in finished]

    def sums(self) -> Json:
        """The finished rollouts as counts and sums, by the names of `metrics.Running`."""
        rollouts, successes, *pairs = self._db.execute(SUMS, self._asked).fetchone()
        names = ("reward", "tool_calls", "tokens", "characters")
        sums = dict(zip(names, zip(pairs[::2], pairs[1::2], strict=True), strict=True))
        return {"rollouts": rollouts, "successes": int(successes)} | sums

    def failures(self, agent: str) -> list[Failed]:
        """Failed attempts at an agent's tasks by kind, the most frequent first."""
        rows = self._db.execute(FAILED, self._asked | {"agent": agent})
        return [Failed(kind=k, attempts=n, where=where, message=text) for k, n, where, text, _ in rows]

    def num_failed(self, agent: str) -> int:
        """How many rollouts of an agent's tasks have ended failed so far."""
        return self._db.execute(NUM_FAILED, self._asked | {"agent": agent}).fetchone()[0]


def task_hash(row: Json) -> str:
    """What identifies a task: its content, however it is written; the line it stands on does not count."""
    content = {key: value for key, value in row.items() if key != "_ng_task_index"}
    return blake2b(orjson.dumps(content, option=orjson.OPT_SORT_KEYS), digest_size=10).hexdigest()


def repeats_of(agent: str, num_repeats: int | Mapping[str, int]) -> int:
    """How many rollouts a task of `agent` is to have.

    Raises:
        UsageError: the mapping names neither it nor a `_default`.
    """
    if isinstance(num_repeats, int):
        return num_repeats
    if (repeats := num_repeats.get(agent, num_repeats.get(DEFAULT_REPEATS))) is None:
        named = ", ".join(num_repeats)
        raise UsageError(f"num_repeats names no number for the agent '{agent}' (only {named}); add _default")
    return repeats


def _rows(
    file: Path,
    entry: Callable[[Json], tuple[str, str, int]],
    skip: Callable[[int, str, bytes], None] | None,
) -> Iterator[tuple[int, str, str, int, int, int]]:
    """(task index, hash, agent, repeats, offset, length) of every row; blank lines are no rows.

    What is no task goes to `skip`, as line number, reason and text; without it, it is an error.
    """
    task_index, offset, first_error = 0, 0, ""
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if text.strip():
                try:
                    yield task_index, *entry(read_row(text)), offset + len(line) - len(text), len(text)
                    task_index += 1
                except UsageError as error:
                    if skip is None:
                        raise RowError(f"{file}:{number}: {error}") from error
                    skip(number, str(error), text)
                    first_error = first_error or f"{file}:{number}: {error}"
            offset += len(line)
    if first_error and not task_index:
        raise RowError(f"every row was skipped; the first: {first_error}")


def checked_row(line: bytes) -> Json:
    """A line of the input as a task.

    Raises:
        RowError: it is none; the message says what was expected.
    """
    row = read_row(line)
    check_task(row)
    return row


def read_row(line: bytes) -> Json:
    """A line of the input as a row, which may still have to be made a task.

    Raises:
        RowError: it is no object, or has fields that only rollouts have.
    """
    try:
        row: Any = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise RowError(f"not JSON: {error}") from error
    if not isinstance(row, dict):
        raise RowError(f"expected a JSON object (got {type(row).__name__})")
    row = cast(Json, row)
    taken = sorted(k for k in row if k in RESERVED_FIELDS or (k.startswith("_ng_") and k != "_ng_task_index"))
    if taken:
        raise RowError(f"the field '{taken[0]}' belongs to rollouts, a task may not have it")
    agent = row.get("agent_ref")
    if agent is not None and not isinstance(agent, dict):
        raise RowError("expected 'agent_ref' to be an object with the agent's 'name'")
    return row


def check_task(row: Json) -> None:
    """Raises a RowError where a row's request is none; the message says what was expected."""
    params = row.get("responses_create_params")
    if not isinstance(params, dict):
        raise RowError("expected an object 'responses_create_params' (with 'input' in it)")
    given = cast(Json, params).get("input")
    if not isinstance(given, str) and not _is_list_of_objects(given):
        raise RowError("expected 'responses_create_params.input' to be a string or a list of items")
    tools = cast(Json, params).get("tools")
    if tools is not None and not _is_list_of_objects(tools):
        raise RowError("expected 'responses_create_params.tools' to be a list of objects")


def _is_list_of_objects(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in cast(list[Any], value))
