"""The rows of one file, and of the failures beside it: what the viewer asks of them.

A thread reads what the file has grown by into a database; everything else only asks that, and seeks into the
file, so memory does not grow with it. Sorted pages are found by key; texts are indexed when they are first
searched.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self

import orjson

from nemo_like.errors import UsageError
from nemo_like.query import Query
from nemo_like.viewer.database import Database
from nemo_like.viewer.entry import ENTRY, Entry, entry_of
from nemo_like.viewer.formats import View, read
from nemo_like.viewer.scan import Scan, line_at

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
        self._names: tuple[int, tuple[list[str], list[str], list[str]]] | None = None

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._db = stack.enter_context(Database(self.path))
            self._scan = stack.enter_context(Scan(self.sources, self._db))
            self._open = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    @property
    def size(self) -> int:
        """The size of what there is to read."""
        return sum(source.stat().st_size for source in self.sources if source.exists())

    def version(self) -> int:
        """Grows with every batch of rows that is found."""
        return self._db.version()

    def count(self, selection: Selection = Selection()) -> int:
        """How many entries are selected."""
        where, arguments, joins = self._where(selection)
        return self._db.one(f"SELECT count(*) FROM entries e {joins} WHERE {where}", arguments)

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
        found = self._db.all(
            f"SELECT {ENTRY}, p.key FROM ({ids}) p JOIN entries e USING (id) JOIN texts t USING (id)",
            [*arguments, size],
        )
        entries = [entry_of(row) for row in found]
        entries.sort(key=lambda entry: (entry.key, entry.id), reverse=descending)
        return entries

    def entry(self, number: int, sort: str = "order") -> Entry | None:
        """One entry, with the key that it has in this order."""
        expression = SORTS.get(sort, SORTS["order"])
        found = self._db.all(
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
        rows = self._db.all(
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
        return self._db.all(
            f"SELECT task_key, n, scored, correct, total / nullif(scored, 0), first, {expression} FROM tasks "
            f"WHERE {where} ORDER BY {expression} {direction}, task_key {direction} LIMIT ?",
            [*arguments, size],
        )

    def means(self) -> list[tuple[str, float]]:
        """The mean reward of every task that has one."""
        return self._db.all("SELECT task_key, total / scored FROM tasks WHERE scored > 0")  # pyright: ignore[reportReturnType]  # its two columns

    def groups(self, selection: Selection) -> list[tuple[int, int, int]]:
        """(Scored rollouts, successes, how many tasks have so many of both)."""
        if selection == Selection():
            return self._db.all("SELECT scored, correct, count(*) FROM tasks WHERE scored GROUP BY 1, 2")  # pyright: ignore[reportReturnType]  # its columns
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
        return (float(value) for (value,) in self._db.connection().execute(mean, arguments))

    def kept(self, name: str) -> tuple[int, str] | None:
        """A page that was made before, and the version that it shows."""
        rows = self._db.all("SELECT version, html FROM pages WHERE name = ?", [name])
        return (int(rows[0][0]), str(rows[0][1])) if rows else None

    def keep(self, name: str, version: int, html: str) -> None:
        """Keep a page that takes long to make."""
        self._db.connection().execute("INSERT OR REPLACE INTO pages VALUES (?, ?, ?)", (name, version, html))

    def names(self) -> tuple[list[str], list[str], list[str]]:
        """The agents, tools and kinds of failure that there are, the first hundred of each."""
        columns = (("agent", "entries"), ("tool", "tools"), ("failure", "entries"))
        version = self.version()
        if self._names is None or self._names[0] != version:
            found = (
                self._db.all(f"SELECT DISTINCT {name} FROM {table} WHERE {name} != '' LIMIT 100")
                for name, table in columns
            )
            agents, tools, failures = ([str(value) for (value,) in rows] for rows in found)
            self._names = version, (sorted(agents), sorted(tools), sorted(failures))
        return self._names[1]

    def covered(self) -> int:
        """Bytes that have been read."""
        return self._db.one("SELECT coalesce(sum(bytes), 0) FROM files")

    def line(self, entry: int) -> bytes:
        """The bytes of an entry, as they stand in its file."""
        rows = self._db.all("SELECT file, offset, length FROM entries WHERE id = ?", [entry])
        if not rows:
            raise UsageError(f"there is no rollout {entry} in {self.path}")
        file, offset, length = (int(value) for value in rows[0])
        return line_at(self.sources[file], offset, length)

    def view(self, entry: int) -> View:
        """An entry, read."""
        return read(self.line(entry))

    def lines(self, selection: Selection) -> Iterator[bytes]:
        """The lines of all that is selected, byte for byte, in the order of the file."""
        where, arguments, joins = self._where(selection)
        rows = self._db.connection().execute(
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
        return self._db.all(f"SELECT {columns} FROM entries e {more} {joins} WHERE {where} {tail}", arguments)

    def is_searchable(self) -> bool:
        """Whether the texts of all rows are indexed by now; asks for it if not."""
        self._scan.wants_search.set()
        last = self._db.searchable()
        return last is not None and last >= self.version()

    def _where(self, selection: Selection) -> tuple[str, list[Any], str]:
        query = Query.parse(selection.query)
        where, arguments = query.sql(FIELDS, lambda path: f"json_extract(t.numbers, '$.{_quoted(path)}')")
        known = {"prompt", "answer"}
        needs_texts = any(field in known or field not in FIELDS for field in query.fields)
        joins = "JOIN texts t USING (id)" if needs_texts else ""
        if selection.search.strip():
            self._scan.wants_search.set()
            if self._db.searchable() is not None:
                where = f"({where}) AND e.id IN (SELECT rowid FROM search WHERE search MATCH ?)"
                arguments = [*arguments, _words(selection.search)]
            else:
                where, arguments = "0", []
        return where, arguments, joins


def _failures_beside(path: Path) -> list[Path]:
    return [] if path.stem.endswith("_failures") else [path.with_name(f"{path.stem}_failures.jsonl")]


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
