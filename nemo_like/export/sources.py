"""The rollouts files: read as pieces of lines, or as the rollouts of a task side by side.

The rollouts of a task are found through the index beside each file, in the order in which the tasks come up
first; only where they lie is held, by SQLite, and on disk. What has no such index, parquet and generated
rows, is first rewritten as rollouts in a scratch folder.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import orjson

from nemo_like.errors import UsageError
from nemo_like.export.rollout import MISSHAPEN, Rollout, Unfit, digest, from_generated
from nemo_like.export.selection import Tally
from nemo_like.export.settings import ExportConfig
from nemo_like.index import Index
from nemo_like.store import Files
from nemo_like.types import Json

PIECE_BYTES = 4 * 2**20
GROUP_ROLLOUTS = 2000
"""Rollouts whose groups are converted as one job."""
PARQUET = (".parquet", ".pq")
LINES = (".jsonl", ".ndjson", ".json")
PLACES = """
CREATE TABLE places (task_key TEXT, source INTEGER, rollout_index INTEGER, offset INTEGER, length INTEGER,
  PRIMARY KEY (task_key, source, rollout_index)) WITHOUT ROWID
"""
IN_ORDER = """
SELECT p.task_key, p.source, p.offset, p.length FROM places p
JOIN (SELECT task_key, MIN((source << 48) | offset) AS first FROM places GROUP BY task_key) USING (task_key)
ORDER BY first, p.source, p.rollout_index
"""


@dataclass(frozen=True, slots=True)
class Piece:
    """The lines of a file that begin between two offsets."""

    source: int
    start: int
    end: int


Place = tuple[int, int, int]
"""Source, offset and length of a line."""
Groups = list[list[Place]]
Job = Piece | Groups


class Sources:
    """The files of an export; `scratch` is a folder that they may fill."""

    def __init__(self, files: list[Path], scratch: Path, config: ExportConfig) -> None:
        """Raises `UsageError` where there is no such file, or it is of another kind."""
        for file in files:
            if not file.is_file():
                raise UsageError(f"there is no file {file}")
            if file.suffix.lower() not in (*PARQUET, *LINES):
                raise UsageError(
                    f"{file} should be named .jsonl or .parquet (got {file.suffix or 'no suffix'})"
                )
        if not files:
            raise UsageError("rollouts names no file")
        self.named = files
        self._scratch, self._config = scratch, config
        self.paths = [self._as_lines(file, number) for number, file in enumerate(files)]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(path.stat().st_size for path in self.paths)

    def pieces(self) -> Iterator[Piece]:
        """All lines, in order, in pieces."""
        for source, path in enumerate(self.paths):
            size = path.stat().st_size
            for start in range(0, size, PIECE_BYTES):
                yield Piece(source, start, min(start + PIECE_BYTES, size))

    def groups(self, tally: Tally) -> Iterator[Groups]:
        """The rollouts of each task, some tasks at a time; lines that are no rollout, or that of another
        line again, are counted."""
        with sqlite3.connect(self._scratch / "places.sqlite", isolation_level=None) as db:
            db.execute("PRAGMA journal_mode=OFF")
            db.execute("PRAGMA synchronous=OFF")
            db.execute(PLACES)
            for source in range(len(self.paths)):
                self._index(source, db, tally)
            groups: Groups = []
            size = 0
            for _, rows in groupby(db.execute(IN_ORDER), key=lambda row: row[0]):
                places = [row[1:] for row in rows]
                groups.append(places)
                size += len(places)
                if size >= GROUP_ROLLOUTS:
                    yield groups
                    groups, size = [], 0
            if groups:
                yield groups
        db.close()

    def _index(self, source: int, db: sqlite3.Connection, tally: Tally) -> None:
        """Note where the rollouts of a file lie."""
        path = self.paths[source]
        if not _has_keys(path):
            path = self.paths[source] = self._rewritten(source)
        size = path.stat().st_size
        beside = Files(path).index
        index = beside if _caught_up(path, beside) else self._scratch / f"{source}.index.sqlite"
        if index != beside:
            _caught_up(path, index)
        db.execute("ATTACH ? AS i", (f"{index}",))
        select = "SELECT task_key, ?, rollout_index, offset, length FROM i.rollouts ORDER BY task_key"
        done = db.execute(f"INSERT INTO places {select}", (source,)).rowcount
        # More may have come in meanwhile; what is no row at the end is not covered.
        covered = db.execute("SELECT bytes FROM i.covered WHERE source = ?", (path.name,)).fetchone()[0]
        db.execute("DETACH i")
        tally.rollouts += (lines := _count_lines(path, max(size, covered)))
        if lines > done:
            tally.dropped["no rollout, or there twice"] += lines - done

    def _as_lines(self, file: Path, number: int) -> Path:
        """A file of lines: itself, or what becomes of a parquet file."""
        if file.suffix.lower() not in PARQUET:
            return file
        from nemo_like.table import as_json, read_rows

        path = self._scratch / f"{number}.rows.jsonl"
        with path.open("wb") as lines:
            for row in read_rows(file):
                lines.write(as_json(_without_nulls(row)) + b"\n")
        return path

    def _rewritten(self, source: int) -> Path:
        """The lines of a file as rollouts that say whose they are."""
        path = self._scratch / f"{source}.rollouts.jsonl"
        with self.paths[source].open("rb") as lines, path.open("wb") as file, closing(_Repeats()) as repeats:
            for line in lines:
                file.write((self._keyed(line, repeats) if line.strip() else b"") + b"\n")
        return path

    def _keyed(self, line: bytes, repeats: _Repeats) -> bytes:
        """A line as a rollout with a key; one that can't be one stays as it is."""
        try:
            row: Json = orjson.loads(line)
            if "responses_create_params" not in row and not row.get("error"):
                return orjson.dumps(from_generated(row))
            key = Rollout(row, self._config).task_key
        except (Unfit, *MISSHAPEN):
            return line.rstrip(b"\n")
        index = row.get("_ng_rollout_index")
        if index is None:
            index = repeats.number(key)
        return orjson.dumps(row | {"_ng_task_key": key, "_ng_rollout_index": index})


class _Repeats:
    """Numbers the repeats of a task as they come; held by SQLite, and where they are many on disk."""

    def __init__(self) -> None:
        self._db = sqlite3.connect("", isolation_level=None)
        self._db.execute("CREATE TABLE seen (task BLOB PRIMARY KEY, n INTEGER) WITHOUT ROWID")
        self._db.execute("BEGIN")

    def number(self, task_key: str) -> int:
        """That of the next repeat of a task, from 0."""
        add = "INSERT INTO seen VALUES (?, 0) ON CONFLICT DO UPDATE SET n = n + 1 RETURNING n"
        return self._db.execute(add, (digest(task_key.encode()),)).fetchone()[0]

    def close(self) -> None:
        self._db.close()


def lines_of(path: Path, piece: Piece) -> list[bytes]:
    """The lines that begin in a piece."""
    with path.open("rb") as file:
        if piece.start:
            # A line belongs to the piece that its first byte is in.
            file.seek(piece.start - 1)
            file.readline()
        start = file.tell()
        if start >= piece.end:
            return []
        data = file.read(piece.end - start)
        if not data.endswith(b"\n"):
            data += file.readline()
    return [line for line in data.split(b"\n") if line.strip()]


def _has_keys(path: Path) -> bool:
    """Whether the rows of a file say which task they are of, as its first one shows."""
    with path.open("rb") as file:
        for line in file:
            if line.strip():
                try:
                    return bool(orjson.loads(line).get("_ng_task_key"))
                except (orjson.JSONDecodeError, AttributeError):
                    return False
    return True


def _caught_up(path: Path, index: Path) -> bool:
    """Bring an index up to date; False where it can't be written."""
    try:
        with Index(index) as opened:
            opened.catch_up(path, "rollouts")
    except (sqlite3.OperationalError, OSError):
        return False
    return True


def _count_lines(path: Path, end: int) -> int:
    """The lines in the first `end` bytes that are not empty, one that is torn at the end left out."""
    count, left = 0, end
    with path.open("rb") as file:
        while data := file.read(min(PIECE_BYTES, left)):
            left -= len(data)
            count += data.count(b"\n")
    return count


def _without_nulls(row: Json) -> Json:
    return {name: value for name, value in row.items() if value is not None}


def free(scratch: Path) -> None:
    """Delete a scratch folder."""
    shutil.rmtree(scratch, ignore_errors=True)
