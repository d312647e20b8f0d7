"""Stored rollouts: those of a file, against the index of what is made of them.

The file is read once, a row at a time; who each rollout is and where its row lies goes into a temporary
SQLite database, so that a million need no more memory than ten. Parquet is laid out as lines first, in a file
without a name that goes with this process.
"""

from __future__ import annotations

import sqlite3
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Literal, Self, cast

import orjson

from nemo_like.answered import VERIFIER
from nemo_like.errors import MissingExtra, RowError, StoreError, UsageError
from nemo_like.index import agent_of, as_scored, whole_number
from nemo_like.plan import FINAL, FORGIVEN, Counts, Failed, Job
from nemo_like.store import Files
from nemo_like.types import Json, Scored

Only = Literal["failed", "older"]
"""Rollouts whose verdict failed, or is an older verifier's."""

BATCH = 1000
IDENTITIES = (
    ("_ng_task_key", "_ng_rollout_index"),
    ("data_idx", "sample_idx"),
    ("_ng_task_index", "_ng_rollout_index"),
)
"""The fields that say which task and which repeat: the collector's, of generated rows, NeMo Gym's."""
SCHEMA = """
CREATE TABLE stored (
    position INTEGER PRIMARY KEY, task_key TEXT, rollout_index INTEGER, task_index INTEGER, agent TEXT,
    offset INTEGER, length INTEGER, is_current INTEGER, UNIQUE (task_key, rollout_index));
CREATE TABLE finished (
    task_key TEXT, rollout_index INTEGER, PRIMARY KEY (task_key, rollout_index)) WITHOUT ROWID;
"""
OWED = f"""
WITH owed AS
  (SELECT s.*,
     (SELECT COUNT(*) FROM store.failures f WHERE f.task_key = s.task_key
      AND f.rollout_index = s.rollout_index AND f.kind NOT IN ({FORGIVEN})) AS attempts,
     (SELECT kind FROM store.failures f WHERE f.task_key = s.task_key
      AND f.rollout_index = s.rollout_index ORDER BY f.offset DESC LIMIT 1) AS latest
   FROM stored s WHERE s.position BETWEEN :first AND :last AND NOT EXISTS
     (SELECT 1 FROM store.rollouts d WHERE d.task_key = s.task_key AND d.rollout_index = s.rollout_index))
SELECT task_index, task_key, rollout_index, agent, offset, length, attempts FROM owed
WHERE attempts < :max_attempts AND (NOT :again OR latest NOT IN ({FINAL})) ORDER BY position
"""
JOINED = (
    "stored s CROSS JOIN store.rollouts d ON d.task_key = s.task_key AND d.rollout_index = s.rollout_index"
)
FAILURES = "stored s JOIN store.failures f ON f.task_key = s.task_key AND f.rollout_index = s.rollout_index"
NOT_DONE = """NOT EXISTS
  (SELECT 1 FROM store.rollouts d WHERE d.task_key = s.task_key AND d.rollout_index = s.rollout_index)"""
COUNTS = f"""
SELECT
  (SELECT COUNT(*) FROM stored), (SELECT COUNT(*) FROM {JOINED}), (SELECT COUNT(*) FROM store.rollouts),
  (SELECT COUNT(*) FROM
    (SELECT 1 FROM {FAILURES} WHERE f.kind NOT IN ({FORGIVEN}) AND {NOT_DONE}
     GROUP BY s.position HAVING COUNT(*) >= :max_attempts))
"""
SUMS = f"""
SELECT COUNT(*), TOTAL(d.success), COUNT(d.reward), TOTAL(d.reward), COUNT(d.tool_calls), TOTAL(d.tool_calls),
  COUNT(d.output_tokens), TOTAL(d.output_tokens), COUNT(d.output_characters), TOTAL(d.output_characters)
FROM {JOINED}
"""
SCORED = f"""
SELECT s.agent, d.task_key, d.rollout_index, d.success, d.numbers FROM {JOINED}
WHERE s.agent = :agent ORDER BY s.task_key, s.rollout_index
"""
# SQLite takes the other columns from the row that has the maximum.
FAILED = f"""
SELECT f.kind, COUNT(*), f.place, f.message, MAX(f.offset) FROM {FAILURES}
WHERE s.agent = :agent GROUP BY f.kind ORDER BY COUNT(*) DESC
"""
NUM_FAILED = f"SELECT COUNT(DISTINCT s.position) FROM {FAILURES} WHERE s.agent = :agent AND {NOT_DONE}"
VERDICTS = f"""
SELECT d.task_key, d.rollout_index, json_extract(d.numbers, '$.old_reward'), d.reward
FROM {JOINED} WHERE NOT s.is_current ORDER BY s.task_key, s.rollout_index
"""


@dataclass(slots=True)
class LeftOut:
    """Rows that are not rescored, by reason."""

    counts: Counter[str] = field(default_factory=Counter[str])

    def __str__(self) -> str:
        return ", ".join(f"{n:,} {why}" for why, n in self.counts.most_common())


class StoredRollouts:
    """The rollouts of a file that are to be rescored: `with StoredRollouts(path) as stored`."""

    def __init__(
        self,
        path: Path,
        scratch: Path,
        *,
        only: Only | None = None,
        limit: int | None = None,
        max_attempts: int = 3,
        check_agent: Callable[[str], object] = lambda _: None,
        is_current: Callable[[str, str | None], bool] = lambda _agent, _verifier: False,
    ) -> None:
        """Read who is in `path`, or, of failures, beside it.

        `check_agent` may refuse one; `is_current` says of an agent and a verifier if it is kept.
        What has to be laid out anew goes into the folder `scratch`.

        Raises:
            UsageError: the file is missing, or holds no rollouts; a row does not say whose it is.
        """
        if not path.is_file():
            raise UsageError(f"there is no file {path}")
        self.path = Files(path).failures if only == "failed" else path
        if not self.path.is_file():
            raise UsageError(f"there is no file {self.path}, in which failed rollouts would be")
        self.left_out = LeftOut()
        self.first_row = ""
        """A hash of whose row is the first, and of its response."""
        self._max_attempts = max_attempts
        self._db = sqlite3.connect("", isolation_level=None)
        self._db.executescript(SCHEMA)
        self._check_agent, self._is_current = check_agent, is_current
        self._file = as_lines(self.path, scratch)
        try:
            if only == "failed":
                with as_lines(path, scratch) as finished:
                    self._read_finished(finished)
            self._read(only, limit)
        except BaseException:
            self._file.close()
            raise

    def attach(self, index: Path) -> None:
        """Look at the output that this index is of; to be called before anything else is asked."""
        self._db.execute("ATTACH DATABASE ? AS store", (str(index),))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()
        self._file.close()

    def _read_finished(self, file: BinaryIO) -> None:
        rows = rows_of(file, self.path)
        identities = (identity for row, _, _ in rows if (identity := identity_of(row)) is not None)
        while batch := list(islice(identities, BATCH)):
            self._db.executemany("INSERT OR IGNORE INTO finished VALUES (?,?)", batch)

    def _read(self, only: Only | None, limit: int | None) -> None:
        # Of several attempts at a rollout the last one counts.
        verb = "REPLACE" if only == "failed" else "IGNORE"
        agents: set[str] = set()
        entries = islice(self._entries(agents), limit)
        position = 0
        while batch := list(islice(entries, BATCH)):
            numbered = [(position + i, *entry) for i, entry in enumerate(batch)]
            position += len(batch)
            self._db.execute("BEGIN")
            before = self._db.total_changes
            self._db.executemany(f"INSERT OR {verb} INTO stored VALUES (?,?,?,?,?,?,?,?)", numbered)
            self.left_out.counts["repeated"] += len(batch) - (self._db.total_changes - before)
            self._db.execute("COMMIT")
        if only == "failed":
            done = self._db.execute(
                "DELETE FROM stored AS s WHERE EXISTS (SELECT 1 FROM finished f "
                "WHERE f.task_key = s.task_key AND f.rollout_index = s.rollout_index)"
            ).rowcount
            self.left_out.counts["finished since"] = done
        self.left_out.counts = +self.left_out.counts

    def _entries(self, agents: set[str]) -> Iterator[tuple[Any, ...]]:
        for row, offset, length in rows_of(self._file, self.path):
            identity = identity_of(row)
            if identity is None:
                names = " or ".join(key for key, _ in IDENTITIES)
                there = f"its fields are: {', '.join(row)}"
                lacks = f"has no {names}, or its repeat is no whole number"
                raise RowError(f"{self.path}: the row at byte {offset:,} {lacks}; {there}")
            self.first_row = self.first_row or _hash([*identity, row.get("response")])
            if not _has_response(row):
                self.left_out.counts["without a response"] += 1
                continue
            agent = agent_of(row)
            if agent not in agents:
                self._check_agent(agent)
                agents.add(agent)
            is_current = self._is_current(agent, row.get(VERIFIER))
            self.left_out.counts["of this verifier already"] += is_current
            yield *identity, whole_number(row.get("_ng_task_index")), agent, offset, length, is_current

    def owed(self, *, again: bool = False) -> Iterator[Job]:
        """Every rollout that is neither done nor exhausted; `again` leaves out those whose last failure would
        only repeat itself."""
        [last] = self._db.execute("SELECT IFNULL(MAX(position), -1) FROM stored").fetchone()
        for first in range(0, last + 1, BATCH):
            asked = {"first": first, "last": first + BATCH - 1, "again": again}
            rows = self._db.execute(OWED, asked | {"max_attempts": self._max_attempts}).fetchall()
            yield from map(Job.of, rows)

    def row(self, job: Job) -> Json:
        """The row of a rollout.

        Raises:
            StoreError: the file is not what it was.
        """
        row = job.row(self._file.fileno())
        if row is None or identity_of(row) != (job.task_key, job.rollout_index):
            raise StoreError(f"{self.path} was changed while it was being rescored; run the command again")
        return row

    def agents(self) -> list[str]:
        """Whose rollouts they are."""
        return [name for (name,) in self._db.execute("SELECT DISTINCT agent FROM stored ORDER BY agent")]

    def counts(self) -> Counts:
        """How far the rescoring is."""
        asked = {"max_attempts": self._max_attempts}
        total, done, rows, exhausted = self._db.execute(COUNTS, asked).fetchone()
        return Counts(total=total, done=done, exhausted=exhausted, foreign=rows - done)

    def sums(self) -> Json:
        """The rescored rollouts as counts and sums, by the names of `metrics.Running`."""
        rollouts, successes, *pairs = self._db.execute(SUMS).fetchone()
        names = ("reward", "tool_calls", "tokens", "characters")
        sums = dict(zip(names, zip(pairs[::2], pairs[1::2], strict=True), strict=True))
        return {"rollouts": rollouts, "successes": int(successes)} | sums

    def scored(self, agent: str) -> Iterator[Scored]:
        """The rescored rollouts of an agent, a task's next to each other."""
        for row in self._db.execute(SCORED, {"agent": agent}):
            yield as_scored(*row)

    def failures(self, agent: str) -> list[Failed]:
        """Failed attempts at an agent's rollouts by kind, the most frequent first."""
        rows = self._db.execute(FAILED, {"agent": agent})
        return [Failed(kind=k, attempts=n, where=where, message=text) for k, n, where, text, _ in rows]

    def num_failed(self, agent: str) -> int:
        """How many of an agent's rollouts have no new verdict for a failure."""
        return self._db.execute(NUM_FAILED, {"agent": agent}).fetchone()[0]

    def verdicts(self) -> Iterator[tuple[str, int, float | None, float]]:
        """(Task, repeat, old reward, new reward) of each rollout with a new verdict, by task."""
        yield from self._db.execute(VERDICTS)


def identity_of(row: Json) -> tuple[str, int] | None:
    """Which task and which repeat a row is, where it says so."""
    for key, index in IDENTITIES:
        if (value := row.get(key)) is not None:
            # What pandas makes of whole numbers where one is missing.
            value = int(value) if isinstance(value, float) and value.is_integer() else value
            number = whole_number(row.get(index) or 0)
            return None if number is None else (str(value), number)
    return None


def _hash(value: Any) -> str:
    return blake2b(orjson.dumps(value), digest_size=8).hexdigest()


def _has_response(row: Json) -> bool:
    return row.get("response") is not None and not row.get("error")


def as_lines(path: Path, scratch: Path) -> BinaryIO:
    """The rows of a file as JSON lines; those of parquet in a file in the folder `scratch`."""
    if path.suffix in (".jsonl", ".ndjson"):
        return path.open("rb")
    try:
        from nemo_like.rollout_table import RolloutTable, task_rows
        from nemo_like.table import as_json
    except ModuleNotFoundError as error:
        raise MissingExtra(f"{path} needs {error.name}: pip install 'nemo-like[generate]'") from error
    lines = cast(BinaryIO, tempfile.TemporaryFile(dir=scratch))  # noqa: SIM115  # closed by whoever has it
    for batch in RolloutTable(path).batches():
        lines.writelines(as_json(row) + b"\n" for row in task_rows(batch))
    lines.flush()
    return lines


def rows_of(file: BinaryIO, path: Path) -> Iterator[tuple[Json, int, int]]:
    """The rows, each with offset and length; a last line that is not whole is none.

    Raises:
        RowError: a line is no JSON object.
    """
    file.seek(0)
    offset = 0
    for number, line in enumerate(file, 1):
        try:
            row: Any = orjson.loads(line) if line.strip() else {}
        except orjson.JSONDecodeError as error:
            if not line.endswith(b"\n"):
                return
            raise RowError(f"{path}:{number}: not JSON: {error}") from error
        if not isinstance(row, dict):
            raise RowError(f"{path}:{number}: expected a JSON object (got {type(row).__name__})")
        if row:
            yield cast(Json, row), offset, len(line)
        offset += len(line)
