"""A recording: a JSONL file, a line an answered request, that any number of processes may append to.

    {"key", "attempt", "request", "response"}      or "error": {kind, message, status, where, hint}

A line is appended whole, under a lock, and is on disk before its answer counts. What is in memory is where
the lines of each key lie. A line that was torn by a crash is passed over, and the next one starts afresh.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self, cast

import orjson

from nemo_like.errors import PartError, StoreError, kind_of
from nemo_like.types import Json

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a line lies, and the attempt at a rollout in which it was recorded."""

    attempt: str
    offset: int
    length: int


class Recording:
    """The file, open; used as a context."""

    def __init__(self, path: Path, *, writes: bool) -> None:
        """`writes` makes the file where there is none.

        Raises:
            StoreError: there is no such file, or it can't be opened.
        """
        self.path, self._writes = path, writes
        self._places: dict[str, list[Place]] = {}
        self._read_to = 0
        self._torn = 0
        self._written = self._synced = 0
        """Bytes that this process has appended, and those of them that are on disk."""

    def __enter__(self) -> Self:
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND if self._writes else os.O_RDONLY
        try:
            if self._writes:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path, flags | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StoreError(f"the recording {self.path} can't be opened: {error.strerror}") from error
        self._syncing = asyncio.Lock()
        self.refresh()
        if self._torn:
            log.warning("%s: passed over %d lines that are no JSON", self.path, self._torn)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    def __len__(self) -> int:
        return sum(map(len, self._places.values()))

    def places(self, key: str) -> list[Place]:
        """Where the answers to a request lie, in the order in which they were recorded."""
        return self._places.get(key, [])

    def read(self, place: Place) -> Json:
        """The line at a place."""
        return orjson.loads(os.pread(self._file, place.length, place.offset))

    def lines(self) -> Iterator[Json]:
        """The first line of every key."""
        for places in [*self._places.values()]:
            yield self.read(places[0])

    def refresh(self) -> None:
        """Take in what was appended since, by whomever; an unfinished line is left for the next time."""
        size = os.fstat(self._file).st_size
        with os.fdopen(os.dup(self._file), "rb") as file:
            file.seek(self._read_to)
            while self._read_to < size and (line := file.readline()).endswith(b"\n"):
                self._take(line, self._read_to)
                self._read_to += len(line)

    async def append(self, line: Json) -> None:
        """Add a line; it is on disk when this returns.

        Raises:
            PartError: it can't be written; nothing of it was.
        """
        try:
            self._write(orjson.dumps(line) + b"\n")
            mine = self._written
            async with self._syncing:
                # Whoever waited for the one before is on disk with it.
                if self._synced < mine:
                    upto = self._written
                    await asyncio.to_thread(os.fdatasync, self._file)
                    self._synced = upto
        except OSError as error:
            message = f"the recording {self.path} can't be written: {error.strerror}"
            raise PartError(kind_of(error, "model_error"), message) from error

    def _write(self, line: bytes) -> None:
        """Append a line under the lock of the file, all or nothing of it."""
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            end = os.fstat(self._file).st_size
            if end and os.pread(self._file, 1, end - 1) != b"\n":
                line = b"\n" + line
            try:
                rest = memoryview(line)
                while rest:
                    rest = rest[os.write(self._file, rest) :]
            except OSError:
                os.ftruncate(self._file, end)
                raise
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)
        self._written += len(line)

    def _take(self, line: bytes, offset: int) -> None:
        try:
            fields = orjson.loads(line)
            key, attempt = cast(Json, fields)["key"], cast(Json, fields)["attempt"]
        except (orjson.JSONDecodeError, KeyError, TypeError):
            self._torn += bool(line.strip())
            return
        self._places.setdefault(key, []).append(Place(attempt, offset, len(line)))
