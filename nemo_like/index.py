"""The index beside a rollouts file: where each row lies, and its numbers, in SQLite.

It is disposable. For each file it says how many bytes it covers, and what stood at their beginning and end;
what does not match is scanned again, the tail or all. The JSONL alone is the truth.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self, cast

import orjson

from nemo_like.types import Json, Scored, content_text

VERSION = 1
SCAN_BATCH = 1000
EDGE_BYTES = 4096
SCHEMA = """
CREATE TABLE IF NOT EXISTS rollouts (
    task_key TEXT, rollout_index INTEGER, task_index INTEGER, agent TEXT, offset INTEGER, length INTEGER,
    success INTEGER, reward REAL, tool_calls INTEGER, output_tokens INTEGER, output_characters INTEGER,
    truncated INTEGER, total_s REAL, numbers TEXT, PRIMARY KEY (task_key, rollout_index)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS failures (
    offset INTEGER PRIMARY KEY, length INTEGER, task_key TEXT, rollout_index INTEGER, task_index INTEGER,
    agent TEXT, kind TEXT, place TEXT, message TEXT, status INTEGER, attempts INTEGER, terminal INTEGER);
CREATE INDEX IF NOT EXISTS failures_by_rollout ON failures (task_key, rollout_index);
CREATE TABLE IF NOT EXISTS covered (
    source TEXT PRIMARY KEY, bytes INTEGER, first BLOB, last BLOB, mtime_ns INTEGER) WITHOUT ROWID;
"""
COLUMNS = (
    "reward",
    "metadata/tool_calls_made",
    "usage/output_tokens",
    "metadata/output_characters",
    "metadata/truncated",
    "metadata/total_s",
)
"""Numbers that have a column of their own, in its order."""
INSERT_ROLLOUT = "INSERT OR IGNORE INTO rollouts VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?)"
INSERT_FAILURE = "INSERT OR REPLACE INTO failures VALUES (?,?,?,?,?,?,?,?,?,?,?,?)"


class Index:
    """The index of one rollouts file and of the failures beside it."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __enter__(self) -> Self:
        try:
            self._db = self._open()
        except sqlite3.DatabaseError:
            self._delete()
            self._db = self._open()
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def _open(self) -> sqlite3.Connection:
        # Used by one thread at a time: the one that opens it, then the store's writer.
        db = sqlite3.connect(self.file, isolation_level=None, check_same_thread=False)
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, VERSION):
            db.close()
            self._delete()
            return self._open()
        db.execute("PRAGMA journal_mode=WAL")
        # What is lost with the power is scanned again.
        db.execute("PRAGMA synchronous=OFF")
        db.executescript(SCHEMA)
        db.execute(f"PRAGMA user_version={VERSION}")
        return db

    def _delete(self) -> None:
        for suffix in ("", "-wal", "-shm"):
            self.file.with_name(self.file.name + suffix).unlink(missing_ok=True)

    def catch_up(self, source: Path, table: str) -> int:
        """Scan what `table` (rollouts or failures) does not cover of `source`; how many bytes that was."""
        covered = self._trusted(source)
        if covered == 0:
            self._db.execute(f"DELETE FROM {table}")
        end = covered
        with source.open("rb") as file:
            file.seek(covered)
            while rows := list(islice(_rows(file, end), SCAN_BATCH)):
                self.add(source, table, rows)
                end = rows[-1][1] + rows[-1][2]
                file.seek(end)
        if end == 0:
            self._cover(source, 0)
        return end - covered

    def agents(self) -> list[str]:
        """Who made the rollouts."""
        return [name for (name,) in self._db.execute("SELECT DISTINCT agent FROM rollouts ORDER BY agent")]

    def add(self, source: Path, table: str, rows: Sequence[tuple[Json, int, int]]) -> list[Scored]:
        """Index rows that stand in `source`: (row, offset, length) each; rollouts as the metrics see them."""
        scored = [scored_of(row) for row, _, _ in rows] if table == "rollouts" else []
        self._db.execute("BEGIN")
        if table == "rollouts":
            entries = (rollout_entry(row, s, *at) for (row, *at), s in zip(rows, scored, strict=True))
            self._db.executemany(INSERT_ROLLOUT, entries)
        else:
            self._db.executemany(INSERT_FAILURE, (failure_entry(*row) for row in rows))
        self._cover(source, rows[-1][1] + rows[-1][2])
        self._db.execute("COMMIT")
        return scored

    def _trusted(self, source: Path) -> int:
        """How many bytes of `source` the index is right about."""
        return _trusted(self._db, source)

    def _cover(self, source: Path, end: int) -> None:
        self._db.execute(
            "INSERT OR REPLACE INTO covered VALUES (?,?,?,?,?)",
            (source.name, end, *edges(source, end), source.stat().st_mtime_ns),
        )


@contextmanager
def reading(file: Path, *sources: tuple[Path, str]) -> Generator[Path]:
    """An index that covers all of the sources, (file, table) each, to be read only: that in `file`, which is
    left as it is, or, where that covers less, one that goes with the context."""
    if _covers(file, [source for source, _ in sources]):
        yield file
        return
    with TemporaryDirectory(prefix="nemo_like-") as folder, Index(Path(folder) / file.name) as index:
        for source, table in sources:
            if source.exists():
                index.catch_up(source, table)
        yield index.file


def _covers(file: Path, sources: Iterable[Path]) -> bool:
    if not file.is_file():
        return False
    try:
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as db:
            version = db.execute("PRAGMA user_version").fetchone()[0]
            there = [source for source in sources if source.exists()]
            return version == VERSION and all(_trusted(db, s) == s.stat().st_size for s in there)
    except sqlite3.Error:
        return False


def _trusted(db: sqlite3.Connection, source: Path) -> int:
    """How many bytes of `source` an index is right about."""
    row = db.execute("SELECT * FROM covered WHERE source = ?", (source.name,)).fetchone()
    if row is None:
        return 0
    _, covered, first, last, mtime_ns = row
    stat = source.stat()
    if stat.st_size < covered or (stat.st_size == covered and stat.st_mtime_ns != mtime_ns):
        return 0
    return covered if edges(source, covered) == (first, last) else 0


def scored_of(row: Json) -> Scored:
    """A rollouts row as the metrics see it."""
    return Scored(
        agent=agent_of(row),
        task_key=str(row.get("_ng_task_key")),
        rollout_index=int(row.get("_ng_rollout_index") or 0),
        success=bool(row.get("success")),
        numbers=numbers_of(row),
    )


def rollout_entry(row: Json, scored: Scored, offset: int, length: int) -> tuple[Any, ...]:
    """A rollouts row as the index holds it."""
    columns = (scored.numbers.get(path) for path in COLUMNS)
    numbers = orjson.dumps(scored.numbers).decode()
    who = (scored.task_key, scored.rollout_index, whole_number(row.get("_ng_task_index")), scored.agent)
    return (*who, offset, length, scored.success, *columns, numbers)


def failure_entry(row: Json, offset: int, length: int) -> tuple[Any, ...]:
    """A failures row as the index holds it."""
    failure: Json = row.get("failure") or {}
    return (
        offset,
        length,
        row.get("_ng_task_key"),
        row.get("_ng_rollout_index"),
        row.get("_ng_task_index"),
        agent_of(row),
        *(failure.get(key) for key in ("kind", "where", "message", "status", "attempts", "terminal")),
    )


def numbers_of(row: Json) -> dict[str, float]:
    """Every number of a rollout by its path: top-level fields, `reward_components/…`, `usage/…` and
    `metadata/…`; true counts as 1."""
    numbers = {k: float(v) for k, v in row.items() if isinstance(v, int | float) and not k.startswith("_ng_")}
    # A generated row's is a text.
    response = _object(row.get("response"))
    usage = _object(response.get("usage"))
    details = [_object(usage.get(f"{side}_tokens_details")) for side in ("input", "output")]
    parts = (
        ("reward_components", _object(row.get("reward_components"))),
        ("usage", usage),
        ("metadata", _object(row.get("metadata"))),
    )
    for path, fields in (*parts, *(("usage", part) for part in details)):
        numbers |= {f"{path}/{k}": float(v) for k, v in fields.items() if isinstance(v, int | float)}
    if "metadata/started_at" in numbers:
        numbers["metadata/finished_at"] = numbers["metadata/started_at"] + numbers.get(
            "metadata/total_s", 0.0
        )
    numbers["metadata/truncated"] = float(response.get("status") == "incomplete")
    if "output_tokens" not in usage:
        said = cast(list[Any], given) if isinstance(given := row.get("output"), list) else []
        messages = (cast(Json, m) for m in said if isinstance(m, dict))
        texts = (content_text(m.get("content")) for m in messages if m.get("role") == "assistant")
        numbers["metadata/output_characters"] = float(sum(map(len, texts)))
    return numbers


def agent_of(row: Json) -> str:
    """The name of the agent that made a row."""
    reference = row.get("agent_ref")
    return str(cast(Json, reference).get("name", "")) if isinstance(reference, dict) else ""


def as_scored(agent: str, key: str, index: int, success: int | None, numbers: str) -> Scored:
    """An index entry as the metrics see it."""
    return Scored(
        agent=agent,
        task_key=key,
        rollout_index=index,
        success=bool(success),
        numbers=orjson.loads(numbers),
    )


def _rows(file: Iterable[bytes], offset: int) -> Iterator[tuple[Json, int, int]]:
    """The rows of whole lines, with offset and length; what is no JSON object is no row, nor what has
    something else than a number for the repeat."""
    for line in file:
        if not line.endswith(b"\n"):
            return
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError:
            row = None
        if isinstance(row, dict) and whole_number(cast(Json, row).get("_ng_rollout_index") or 0) is not None:
            yield cast(Json, row), offset, len(line)
        offset += len(line)


def whole_number(value: Any) -> int | None:
    """A value as a whole number that SQLite holds; None where it is none."""
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if abs(number) < 2**63 else None


def _object(value: Any) -> Json:
    """A value of a row that should be an object; an empty one where it is none."""
    return cast(Json, value) if isinstance(value, dict) else {}


def edges(source: Path, end: int) -> tuple[bytes, bytes]:
    """Hashes of the first and the last bytes of what is covered."""
    with source.open("rb") as file:
        first = file.read(min(EDGE_BYTES, end))
        file.seek(max(0, end - EDGE_BYTES))
        last = file.read(min(EDGE_BYTES, end))
    return blake2b(first, digest_size=16).digest(), blake2b(last, digest_size=16).digest()
