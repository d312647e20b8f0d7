"""The thread that reads what a file has grown by, and the failures beside it, into the database."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Self

import orjson

from nemo_like.index import edges
from nemo_like.viewer.database import SEARCH, Database
from nemo_like.viewer.entry import all_text, columns_of, preview, said
from nemo_like.viewer.formats import View, read

BATCH = 2000
FOLLOW_S = 1.0


class Scan:
    """Follows `sources` for as long as the context lasts."""

    def __init__(self, sources: Sequence[Path], db: Database) -> None:
        self._sources, self._db = sources, db
        self._stop = threading.Event()
        self.wants_search = threading.Event()
        """Set by whoever wants the texts indexed."""

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._follow, daemon=True, name="scan")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _follow(self) -> None:
        while not self._stop.is_set():
            found = self._catch_up()
            if self.wants_search.is_set():
                found |= self._index_texts()
            if not found:
                self._stop.wait(FOLLOW_S)

    def _catch_up(self) -> bool:
        """Read what the files have grown by; whether there was anything."""
        found = False
        for number, source in enumerate(self._sources):
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
        rows = self._db.all("SELECT bytes, first, last FROM files WHERE path = ?", [source.name])
        if not rows:
            return 0
        covered, first, last = rows[0]
        if source.stat().st_size < covered or edges(source, covered) != (first, last):
            return None
        return covered

    def _clear(self) -> None:
        for table in ("entries", "texts", "tools", "tasks", "files", "pages"):
            self._db.connection().execute(f"DELETE FROM {table}")
        self._db.connection().execute("DROP TABLE IF EXISTS search")

    def _add(self, number: int, source: Path, offset: int, lines: list[bytes]) -> int:
        db = self._db.connection()
        views = [read(line) for line in lines]
        first = self._db.version() + 1
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
            [(v.task_key, i, *_scores(v)) for v, i in scored],
        )
        db.execute(
            "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?)", (source.name, offset, *edges(source, offset))
        )
        db.execute("COMMIT")
        return offset

    def _index_texts(self) -> bool:
        """Index the texts of rows that are not yet searchable; whether there were any."""
        db = self._db.connection()
        db.execute(SEARCH)
        places = self._db.all(
            "SELECT id, file, offset, length FROM entries WHERE id > ? ORDER BY id LIMIT ?",
            [self._db.searchable(), BATCH],
        )
        if places:
            db.execute("BEGIN")
            views = (
                (entry, read(line_at(self._sources[int(file)], at, size))) for entry, file, at, size in places
            )
            texts = (
                (entry, all_text(view.prompt), all_text(view.output) or said(view)) for entry, view in views
            )
            db.executemany("INSERT INTO search (rowid, prompt, answer) VALUES (?, ?, ?)", texts)
            db.execute("COMMIT")
        return bool(places)


def _scores(view: View) -> tuple[bool, bool, float]:
    """Whether it has a reward, whether it is a success too, the reward."""
    has_reward = view.reward is not None
    return has_reward, has_reward and bool(view.success), view.reward or 0.0


def line_at(source: Path, offset: int, length: int) -> bytes:
    """The bytes of a row."""
    with source.open("rb") as file:
        file.seek(offset)
        return file.read(length)


def _whole_lines(file: BinaryIO) -> Iterator[bytes]:
    for line in file:
        if not line.endswith(b"\n"):
            return
        yield line
