"""What the viewer keeps of a file: a SQLite database beside it, or in a temporary folder where none can be.

It is disposable: another version of it, or a broken one, is begun again.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

VERSION = 2
SCHEMA = """
CREATE TABLE IF NOT EXISTS files (
    path TEXT PRIMARY KEY, bytes INTEGER, first BLOB, last BLOB) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS entries (
    id INTEGER PRIMARY KEY, file INTEGER, offset INTEGER, length INTEGER, kind TEXT, task_key TEXT,
    rollout_index INTEGER, agent TEXT, reward REAL, success INTEGER, failure TEXT, tool TEXT,
    tool_calls INTEGER, turns INTEGER, input_tokens INTEGER, output_tokens INTEGER, truncated INTEGER,
    total_s REAL, started_at REAL);
CREATE TABLE IF NOT EXISTS texts (id INTEGER PRIMARY KEY, prompt TEXT, answer TEXT, numbers TEXT);
CREATE TABLE IF NOT EXISTS tools (id INTEGER, tool TEXT, calls INTEGER);
CREATE TABLE IF NOT EXISTS tasks (
    task_key TEXT PRIMARY KEY, first INTEGER, n INTEGER, scored INTEGER, correct INTEGER, total REAL
    ) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS pages (name TEXT PRIMARY KEY, version INTEGER, html TEXT);
CREATE INDEX IF NOT EXISTS by_task ON entries (task_key, rollout_index, id);
CREATE INDEX IF NOT EXISTS by_reward ON entries (ifnull(reward, -1e300), id);
CREATE INDEX IF NOT EXISTS by_output ON entries (ifnull(output_tokens, -1), id);
CREATE INDEX IF NOT EXISTS by_time ON entries (ifnull(total_s, -1), id);
CREATE INDEX IF NOT EXISTS by_turns ON entries (turns, id);
CREATE INDEX IF NOT EXISTS by_calls ON entries (tool_calls, id);
CREATE INDEX IF NOT EXISTS by_failure ON entries (failure, id) WHERE failure IS NOT NULL;
CREATE INDEX IF NOT EXISTS by_task_mean ON tasks (ifnull(total / nullif(scored, 0), -1e300), task_key);
"""
SEARCH = (
    "CREATE VIRTUAL TABLE IF NOT EXISTS search USING fts5(prompt, answer, content='', tokenize='unicode61')"
)
"""The index of all texts, made when they are first searched."""


class Database:
    """The database of one file: `with Database(path) as db`; each thread has a connection of its own."""

    def __init__(self, path: Path) -> None:
        """`path` is the file that it is of."""
        self._of = path
        self._local = threading.local()
        self._opened: list[sqlite3.Connection] = []
        self._temporary: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> Self:
        self._path = self._of.with_name(f"{self._of.stem}.viewer.sqlite")
        if not os.access(self._of.parent, os.W_OK):
            self._temporary = tempfile.TemporaryDirectory(prefix="ng_viewer-")
            self._path = Path(self._temporary.name) / "viewer.sqlite"
        try:
            if self.one("PRAGMA user_version") not in (0, VERSION):
                raise sqlite3.DatabaseError("another version")
            self.connection().executescript(SCHEMA)
        except sqlite3.DatabaseError:
            self._forget()
            self.connection().executescript(SCHEMA)
        self.connection().execute(f"PRAGMA user_version={VERSION}")
        return self

    def __exit__(self, *_: object) -> None:
        for connection in self._opened:
            connection.close()
        if self._temporary is not None:
            self._temporary.cleanup()

    def connection(self) -> sqlite3.Connection:
        """This thread's."""
        db = getattr(self._local, "db", None)
        if db is None:
            db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False, timeout=30)
            for pragma in ("journal_mode=WAL", "synchronous=OFF", "cache_size=-4000"):
                db.execute(f"PRAGMA {pragma}")
            self._local.db = db
            self._opened.append(db)
        return db

    def all(self, sql: str, arguments: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Every row of a query."""
        return self.connection().execute(sql, arguments).fetchall()

    def one(self, sql: str, arguments: Sequence[Any] = ()) -> int:
        """The only number of a query."""
        return self.connection().execute(sql, arguments).fetchone()[0]

    def version(self) -> int:
        """Grows with every batch of rows."""
        return self.one("SELECT coalesce(max(id), 0) FROM entries")

    def searchable(self) -> int | None:
        """The last entry whose texts are indexed; None where none has been searched for."""
        if not self.one("SELECT count(*) FROM sqlite_master WHERE name = 'search'"):
            return None
        return self.one("SELECT coalesce(max(rowid), 0) FROM search")

    def _forget(self) -> None:
        for connection in self._opened:
            connection.close()
        self._opened.clear()
        self._local = threading.local()
        for suffix in ("", "-wal", "-shm"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
