"""The rows of one file, and of the failures beside it, in a SQLite database of their own.

The database is disposable and stands beside the file, or in a temporary folder where that can't be written.
A thread reads what the file has grown by; everything else only asks the database and seeks into the file, so
memory does not grow with it. Sorted pages are found by key; texts are indexed when they are first searched.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Self

import orjson

from nemo_like.errors import UsageError
from nemo_like.index import edges
from nemo_like.query import Query
from nemo_like.viewer.entry import ENTRY, Entry, all_text, columns_of, entry_of, preview, said
from nemo_like.viewer.formats import View, read

VERSION = 1
BATCH = 2000
FOLLOW_S = 1.0
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
SORTS = {
    "order": "e.id",
    "reward": "ifnull(e.reward, -1e300)",
    "tokens": "ifnull(e.output_tokens, -1)",
    "time": "ifnull(e.total_s, -1)",
    "turns": "e.turns",
    "tool_calls": "e.tool_calls",
    "task": "e.task_key",
}
"""What a table can be sorted by → the indexed expression."""
FIELDS = {
    "reward": "e.reward",
    "success": "e.success",
    "agent": "e.agent",
    "kind": "e.kind",
    "failure": "e.failure",
    "tool": "e.tool",
    "tool_calls": "e.tool_calls",
    "turns": "e.turns",
    "tokens": "e.output_tokens",
    "input_tokens": "e.input_tokens",
    "truncated": "e.truncated",
    "time": "e.total_s",
    "started_at": "e.started_at",
    "task": "e.task_key",
    "repeat": "e.rollout_index",
    "prompt": "t.prompt",
    "answer": "t.answer",
}
"""Fields of a query → SQL; prompt and answer are their beginnings (search looks through all of them)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """Which entries: a query, words to search for."""

    query: str = ""
    search: str = ""


class Catalog:
    """One file to look at: `with Catalog(path) as catalog`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sources: list[Path] = [path, *_failures_beside(path)]
        self._local = threading.local()
        self._stop = threading.Event()
        self._scan = threading.Lock()
        self._opened: list[sqlite3.Connection] = []
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._database = path.with_name(f"{path.stem}.viewer.sqlite")
        self._wants_search = threading.Event()
        self._names: tuple[int, tuple[list[str], list[str], list[str]]] | None = None

    def __enter__(self) -> Self:
        if not os.access(self.path.parent, os.W_OK):
            self._temporary = tempfile.TemporaryDirectory(prefix="ng_viewer-")
            self._database = Path(self._temporary.name) / "viewer.sqlite"
        self._prepare()
        self._thread = threading.Thread(target=self._follow, daemon=True, name="catalog")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        for db in self._opened:
            db.close()
        if self._temporary is not None:
            self._temporary.cleanup()

    @property
    def size(self) -> int:
        """The size of what there is to read."""
        return sum(source.stat().st_size for source in self.sources if source.exists())

    def version(self) -> int:
        """Grows with every batch of rows that is found."""
        return self._one("SELECT coalesce(max(id), 0) FROM entries")

    def count(self, selection: Selection = Selection()) -> int:
        """How many entries are selected."""
        where, arguments, joins = self._where(selection)
        return self._one(f"SELECT count(*) FROM entries e {joins} WHERE {where}", arguments)

    def page(
        self,
        selection: Selection = Selection(),
        *,
        sort: str = "order",
        descending: bool = False,
        after: Sequence[Any] | None = None,
        backwards: bool = False,
        size: int = 50,
    ) -> list[Entry]:
        """`size` entries behind the key `after` (the `key` and `id` of one), or before it if `backwards`."""
        expression = SORTS.get(sort, SORTS["order"])
        where, arguments, joins = self._where(selection)
        down = descending != backwards
        if after is not None:
            where = f"({where}) AND ({expression}, e.id) {'<' if down else '>'} (?, ?)"
            arguments = [*arguments, *after]
        order = f"{expression} {'DESC' if down else 'ASC'}, e.id {'DESC' if down else 'ASC'}"
        ids = (
            f"SELECT e.id, {expression} AS key FROM entries e {joins} WHERE {where} ORDER BY {order} LIMIT ?"
        )
        found = self._all(
            f"SELECT {ENTRY}, p.key FROM ({ids}) p JOIN entries e USING (id) JOIN texts t USING (id)",
            [*arguments, size],
        )
        entries = [entry_of(row) for row in found]
        entries.sort(key=lambda entry: (entry.key, entry.id), reverse=descending)
        return entries

    def entry(self, number: int, sort: str = "order") -> Entry | None:
        """One entry, with the key that it has in this order."""
        expression = SORTS.get(sort, SORTS["order"])
        found = self._all(
            f"SELECT {ENTRY}, {expression} FROM entries e JOIN texts t USING (id) WHERE id = ?", [number]
        )
        return entry_of(found[0]) if found else None

    def group(self, task_key: str) -> list[Entry]:
        """The entries of one task, by repeat."""
        query = f"task == {orjson.dumps(task_key).decode()}"
        entries = self.page(Selection(query=query), size=500)
        return sorted(entries, key=lambda entry: (entry.rollout_index, entry.id))

    def find(self, task_key: str, rollout_index: int) -> int | None:
        """The id of a repeat of a task; of its last finished attempt, if there is one."""
        rows = self._all(
            "SELECT id FROM entries WHERE task_key = ? AND rollout_index = ? "
            "ORDER BY kind = 'failure', id DESC LIMIT 1",
            [task_key, rollout_index],
        )
        return rows[0][0] if rows else None

    def tasks(self, order: str, after: Sequence[Any] | None, size: int) -> list[tuple[Any, ...]]:
        """(task_key, n, scored, correct, mean reward, first id, key) of tasks, hardest or easiest first."""
        expression = "ifnull(total / nullif(scored, 0), -1e300)"
        down = order == "easiest"
        where, arguments = "1", list[Any]()
        if after is not None:
            where, arguments = f"({expression}, task_key) {'<' if down else '>'} (?, ?)", [*after]
        direction = "DESC" if down else "ASC"
        return self._all(
            f"SELECT task_key, n, scored, correct, total / nullif(scored, 0), first, {expression} FROM tasks "
            f"WHERE {where} ORDER BY {expression} {direction}, task_key {direction} LIMIT ?",
            [*arguments, size],
        )

    def means(self) -> list[tuple[str, float]]:
        """The mean reward of every task that has one."""
        return self._all("SELECT task_key, total / scored FROM tasks WHERE scored > 0")  # pyright: ignore[reportReturnType]  # its two columns

    def groups(self, selection: Selection) -> list[tuple[int, int, int]]:
        """(Scored rollouts, successes, how many tasks have so many of both)."""
        if selection == Selection():
            return self._all("SELECT scored, correct, count(*) FROM tasks WHERE scored GROUP BY 1, 2")  # pyright: ignore[reportReturnType]  # its columns
        scored = "AND e.reward IS NOT NULL GROUP BY e.task_key"
        inner = Counter(
            self.aggregate("count(e.reward), CAST(ifnull(sum(e.success), 0) AS INTEGER)", selection, scored)
        )
        return [(n, correct, tasks) for (n, correct), tasks in inner.items()]

    def task_means(self, selection: Selection) -> Iterator[float]:
        """The mean reward of every task of which something is selected."""
        where, arguments, joins = self._where(selection)
        scored = f"({where}) AND e.reward IS NOT NULL GROUP BY e.task_key"
        mean = f"SELECT avg(e.reward) FROM entries e {joins} WHERE {scored}"
        if selection == Selection():
            mean = "SELECT total / scored FROM tasks WHERE scored"
        return (float(value) for (value,) in self._db().execute(mean, arguments))

    def kept(self, name: str) -> tuple[int, str] | None:
        """A page that was made before, and the version that it shows."""
        rows = self._all("SELECT version, html FROM pages WHERE name = ?", [name])
        return (int(rows[0][0]), str(rows[0][1])) if rows else None

    def keep(self, name: str, version: int, html: str) -> None:
        """Keep a page that takes long to make."""
        self._db().execute("INSERT OR REPLACE INTO pages VALUES (?, ?, ?)", (name, version, html))

    def names(self) -> tuple[list[str], list[str], list[str]]:
        """The agents, tools and kinds of failure that there are, the first hundred of each."""
        columns = (("agent", "entries"), ("tool", "tools"), ("failure", "entries"))
        version = self.version()
        if self._names is None or self._names[0] != version:
            found = (
                self._all(f"SELECT DISTINCT {name} FROM {table} WHERE {name} != '' LIMIT 100")
                for name, table in columns
            )
            agents, tools, failures = ([str(value) for (value,) in rows] for rows in found)
            self._names = version, (sorted(agents), sorted(tools), sorted(failures))
        return self._names[1]

    def covered(self) -> int:
        """Bytes that have been read."""
        return self._one("SELECT coalesce(sum(bytes), 0) FROM files")

    def line(self, entry: int) -> bytes:
        """The bytes of an entry, as they stand in its file."""
        rows = self._all("SELECT file, offset, length FROM entries WHERE id = ?", [entry])
        if not rows:
            raise UsageError(f"there is no rollout {entry} in {self.path}")
        file, offset, length = (int(value) for value in rows[0])
        with self.sources[file].open("rb") as source:
            source.seek(offset)
            return source.read(length)

    def view(self, entry: int) -> View:
        """An entry, read."""
        return read(self.line(entry))

    def lines(self, selection: Selection) -> Iterator[bytes]:
        """The lines of all that is selected, byte for byte, in the order of the file."""
        where, arguments, joins = self._where(selection)
        rows = self._db().execute(
            f"SELECT file, offset, length FROM entries e {joins} WHERE {where} ORDER BY e.id", arguments
        )
        files: dict[int, BinaryIO] = {}
        try:
            for row in rows:
                file, offset, length = (int(value) for value in row)
                source = files.get(file) or files.setdefault(file, self.sources[file].open("rb"))
                source.seek(offset)
                line = source.read(length)
                yield line if line.endswith(b"\n") else line + b"\n"
        finally:
            for source in files.values():
                source.close()

    def aggregate(
        self, columns: str, selection: Selection, tail: str = "", joins: str = ""
    ) -> list[tuple[Any, ...]]:
        """`SELECT columns FROM entries e … WHERE selected tail`, for charts."""
        where, arguments, more = self._where(selection)
        return self._all(f"SELECT {columns} FROM entries e {more} {joins} WHERE {where} {tail}", arguments)

    def is_searchable(self) -> bool:
        """Whether the texts of all rows are indexed by now; asks for it if not."""
        self._wants_search.set()
        return self._one("SELECT count(*) FROM sqlite_master WHERE name = 'search'") > 0 and (
            self._searched() >= self.version()
        )

    def _where(self, selection: Selection) -> tuple[str, list[Any], str]:
        query = Query.parse(selection.query)
        where, arguments = query.sql(FIELDS, lambda path: f"json_extract(t.numbers, '$.{_quoted(path)}')")
        known = {"prompt", "answer"}
        needs_texts = any(field in known or field not in FIELDS for field in query.fields)
        joins = "JOIN texts t USING (id)" if needs_texts else ""
        if selection.search.strip():
            self._wants_search.set()
            if self._one("SELECT count(*) FROM sqlite_master WHERE name = 'search'"):
                where = f"({where}) AND e.id IN (SELECT rowid FROM search WHERE search MATCH ?)"
                arguments = [*arguments, _words(selection.search)]
            else:
                where, arguments = "0", []
        return where, arguments, joins

    # -- the thread that reads ------------------------------------------------------------------------------

    def _prepare(self) -> None:
        try:
            db = self._db()
            if db.execute("PRAGMA user_version").fetchone()[0] not in (0, VERSION):
                raise sqlite3.DatabaseError("another version")
            db.executescript(SCHEMA)
        except sqlite3.DatabaseError:
            self._forget()
            self._db().executescript(SCHEMA)
        self._db().execute(f"PRAGMA user_version={VERSION}")

    def _forget(self) -> None:
        """Begin again with an empty database."""
        for db in self._opened:
            db.close()
        self._opened.clear()
        self._local = threading.local()
        for suffix in ("", "-wal", "-shm"):
            self._database.with_name(self._database.name + suffix).unlink(missing_ok=True)

    def _follow(self) -> None:
        while not self._stop.is_set():
            found = self.catch_up()
            if self._wants_search.is_set():
                found |= self._index_texts()
            if not found:
                self._stop.wait(FOLLOW_S)

    def catch_up(self) -> bool:
        """Read what the files have grown by; whether there was anything."""
        with self._scan:
            found = False
            for number, source in enumerate(self.sources):
                if source.exists() and not self._stop.is_set():
                    found |= self._read(number, source)
            return found

    def _read(self, number: int, source: Path) -> bool:
        covered = self._trusted(source)
        if covered is None:
            self._clear()
            covered = 0
        if source.stat().st_size <= covered:
            return False
        found = False
        with source.open("rb") as file:
            file.seek(covered)
            offset = covered
            while lines := list(islice(_whole_lines(file), BATCH)):
                offset = self._add(number, source, offset, lines)
                found = True
                if self._stop.is_set():
                    break
        return found

    def _trusted(self, source: Path) -> int | None:
        """How many bytes of a file are known; None where it is not the file that was read."""
        rows = self._all("SELECT bytes, first, last FROM files WHERE path = ?", [source.name])
        if not rows:
            return 0
        covered, first, last = rows[0]
        if source.stat().st_size < covered or edges(source, covered) != (first, last):
            return None
        return covered

    def _clear(self) -> None:
        for table in ("entries", "texts", "tools", "tasks", "files", "pages"):
            self._db().execute(f"DELETE FROM {table}")
        self._db().execute("DROP TABLE IF EXISTS search")

    def _add(self, number: int, source: Path, offset: int, lines: list[bytes]) -> int:
        db = self._db()
        views = [read(line) for line in lines]
        first = self.version() + 1
        db.execute("BEGIN")
        entries, texts, tools = list[Any](), list[Any](), list[Any]()
        for at, (line, view) in enumerate(zip(lines, views, strict=True), first):
            entries.append((at, number, offset, len(line), *columns_of(view)))
            numbers = orjson.dumps(view.numbers).decode()
            texts.append((at, preview(view.asked), preview(view.answer or said(view)), numbers))
            tools.extend((at, tool, view.calls.count(tool)) for tool in dict.fromkeys(view.calls))
            offset += len(line)
        db.executemany(f"INSERT INTO entries VALUES ({', '.join('?' * 19)})", entries)
        db.executemany("INSERT INTO texts VALUES (?, ?, ?, ?)", texts)
        db.executemany("INSERT INTO tools VALUES (?, ?, ?)", tools)
        scored = [(v, i) for i, v in enumerate(views, first) if v.kind not in ("failure", "malformed")]
        db.executemany(
            "INSERT INTO tasks VALUES (?, ?, 1, ?, ?, ?) ON CONFLICT (task_key) DO UPDATE SET n = n + 1, "
            "scored = scored + excluded.scored, correct = correct + excluded.correct, "
            "total = total + excluded.total",
            [(v.task_key, i, v.reward is not None, bool(v.success), v.reward or 0.0) for v, i in scored],
        )
        db.execute(
            "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?)", (source.name, offset, *edges(source, offset))
        )
        db.execute("COMMIT")
        return offset

    def _searched(self) -> int:
        return self._one("SELECT coalesce(max(rowid), 0) FROM search")

    def _index_texts(self) -> bool:
        """Index the texts of rows that are not yet searchable; whether there were any."""
        db = self._db()
        db.execute(SEARCH)
        ids = self._all("SELECT id FROM entries WHERE id > ? ORDER BY id LIMIT ?", [self._searched(), BATCH])
        if ids:
            db.execute("BEGIN")
            views = ((entry, self.view(entry)) for (entry,) in ids)
            texts = (
                (entry, all_text(view.prompt), all_text(view.output) or said(view)) for entry, view in views
            )
            db.executemany("INSERT INTO search (rowid, prompt, answer) VALUES (?, ?, ?)", texts)
            db.execute("COMMIT")
        return bool(ids)

    # -- the database ---------------------------------------------------------------------------------------

    def _db(self) -> sqlite3.Connection:
        """This thread's connection."""
        db = getattr(self._local, "db", None)
        if db is None:
            db = sqlite3.connect(self._database, isolation_level=None, check_same_thread=False, timeout=30)
            for pragma in ("journal_mode=WAL", "synchronous=OFF", "cache_size=-4000"):
                db.execute(f"PRAGMA {pragma}")
            self._local.db = db
            self._opened.append(db)
        return db

    def _all(self, sql: str, arguments: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return self._db().execute(sql, arguments).fetchall()

    def _one(self, sql: str, arguments: Sequence[Any] = ()) -> int:
        return self._db().execute(sql, arguments).fetchone()[0]


def _failures_beside(path: Path) -> list[Path]:
    return [] if path.stem.endswith("_failures") else [path.with_name(f"{path.stem}_failures.jsonl")]


def _whole_lines(file: BinaryIO) -> Iterator[bytes]:
    for line in file:
        if not line.endswith(b"\n"):
            return
        yield line


def _words(search: str) -> str:
    """The search as FTS5 takes it: every word is there, the last one perhaps only begun; "…" is a phrase."""
    parts = search.split('"')
    phrases = [f'"{part}"' for part in parts[1::2] if part.strip()]
    words = [f'"{word}"' for part in parts[::2] for word in part.split()]
    if words and len(parts) % 2:
        words[-1] += "*"
    return " ".join(phrases + words) or '""'


def _quoted(path: str) -> str:
    return '"' + path.replace('"', "").replace("'", "''") + '"'
