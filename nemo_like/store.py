"""The rollouts file: whole rows appended, exactly once each, durable, and resumable after any end.

Rows are written in batches by one thread, off the event loop: one `write` a batch, `fdatasync` at most every
second, and only then does a row count as done. A batch that does not go in whole is taken back.
"""

from __future__ import annotations

import fcntl
import os
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import orjson

from nemo_like.errors import StoreError
from nemo_like.index import Index
from nemo_like.types import Json, Scored

SYNC_EVERY_S = 1.0
BATCH_S = 0.05
"""Seconds that a row waits for others to be written with it."""
Table = Literal["rollouts", "failures"]


def write_whole(path: Path, data: bytes) -> None:
    """Write a small file so that whoever reads it, after a kill -9 too, finds the old one or the new one."""
    fresh = path.with_name(path.name + ".tmp")
    fresh.write_bytes(data)
    fresh.replace(path)


@dataclass(frozen=True, slots=True)
class Files:
    """The files of one output, all named after it."""

    rollouts: Path

    def _beside(self, suffix: str) -> Path:
        return self.rollouts.with_name(self.rollouts.stem + suffix)

    @property
    def failures(self) -> Path:
        """One row an attempt that failed."""
        return self._beside("_failures.jsonl")

    @property
    def skipped(self) -> Path:
        """The rows of the input that were no tasks: line, reason and text."""
        return self._beside("_skipped.jsonl")

    @property
    def index(self) -> Path:
        """Where each row lies, and its numbers."""
        return self._beside(".index.sqlite")

    @property
    def run(self) -> Path:
        """The configuration that made the rollouts, and its fingerprint."""
        return self._beside("_run.json")

    @property
    def metrics(self) -> Path:
        """The aggregate metrics."""
        return self._beside("_aggregate_metrics.json")


class RolloutStore:
    """The rollouts of one output file, its failures and its index, open for writing by this process alone.

    `on_durable` is called, from the writing thread, with the rollouts that are on disk for good.
    """

    def __init__(self, path: Path) -> None:
        self.files = Files(path)
        self.on_durable: Callable[[list[Scored]], None] = lambda _: None
        self._queue: queue.SimpleQueue[tuple[Table, Json] | threading.Event | None] = queue.SimpleQueue()
        self._hurry = threading.Event()
        self._error: StoreError | None = None

    def __enter__(self) -> Self:
        self.files.rollouts.parent.mkdir(parents=True, exist_ok=True)
        self._logs: dict[Table, _Log] = {
            "rollouts": _Log(self.files.rollouts),
            "failures": _Log(self.files.failures),
        }
        self.index = Index(self.files.index).__enter__()
        for table, log in self._logs.items():
            self.index.catch_up(log.path, table)
        self._writer = threading.Thread(target=self._write, name="rollout-store")
        self._writer.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._queue.put(None)
        self._hurry.set()
        self._writer.join()
        self.index.__exit__()
        for log in self._logs.values():
            log.close()
        if self._error is not None and kind is None:
            raise self._error

    def clear(self) -> None:
        """Delete every row; to be called before the first is appended."""
        for table, log in self._logs.items():
            log.clear()
            self.index.catch_up(log.path, table)

    def append(self, table: Table, row: Json) -> None:
        """Have a row written; it is durable once `on_durable` has named it.

        Raises:
            StoreError: an earlier row could not be written.
        """
        if self._error is not None:
            raise self._error
        self._queue.put((table, row))

    def flush(self) -> None:
        """Wait until everything appended so far is on disk and indexed; raises as `append`."""
        done = threading.Event()
        self._queue.put(done)
        self._hurry.set()
        done.wait()
        if self._error is not None:
            raise self._error

    def _write(self) -> None:
        """The writing thread: write what has gathered; sync when a second has passed or somebody waits."""
        unsynced: list[Scored] = []
        synced_at = time.monotonic()
        stopping = False
        while not stopping:
            rows, waiting, stopping = self._gather(timeout_s=SYNC_EVERY_S if unsynced else None)
            try:
                if self._error is None:
                    unsynced += self._append(rows)
                    if waiting or stopping or time.monotonic() - synced_at >= SYNC_EVERY_S:
                        self._sync(unsynced)
                        unsynced, synced_at = [], time.monotonic()
            except Exception as error:  # noqa: BLE001  # the boundary: nobody may wait for a thread that died
                reason = f"{self.files.rollouts} can't be written: {error}"
                self._error = StoreError(f"{reason}; what was finished is kept, the same command resumes")
            for event in waiting:
                event.set()

    def _gather(
        self, timeout_s: float | None
    ) -> tuple[list[tuple[Table, Json]], list[threading.Event], bool]:
        """What has come in: rows, those who wait for them, and whether it was the last."""
        rows: list[tuple[Table, Json]] = []
        waiting: list[threading.Event] = []
        try:
            item = self._queue.get(timeout=timeout_s)
            # Asleep until the batch is full: a thread that wakes for every row costs more than the row.
            self._hurry.wait(BATCH_S)
            self._hurry.clear()
            while item is not None:
                if isinstance(item, threading.Event):
                    waiting.append(item)
                else:
                    rows.append(item)
                item = self._queue.get_nowait()
        except queue.Empty:
            return rows, waiting, False
        return rows, waiting, True

    def _append(self, rows: list[tuple[Table, Json]]) -> list[Scored]:
        scored: list[Scored] = []
        for table, log in self._logs.items():
            mine = [row for to, row in rows if to == table]
            if mine:
                scored += self.index.add(log.path, table, log.append(mine))
        return scored

    def _sync(self, scored: list[Scored]) -> None:
        for log in self._logs.values():
            log.sync()
        if scored:
            self.on_durable(scored)


class _Log:
    """An append-only JSONL file, locked, whose last line is whole."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._unsynced = False
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._file)
            raise StoreError(f"{path} is being written by another process") from None
        try:
            self._end = _cut_torn_line(self._file, path)
        except StoreError:
            os.close(self._file)
            raise

    def append(self, rows: list[Json]) -> list[tuple[Json, int, int]]:
        """Write the rows, all or none; each with its offset and length."""
        self._unsynced = True
        lines = [orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows]
        start = self._end
        try:
            data = memoryview(b"".join(lines))
            while data:
                data = data[os.write(self._file, data) :]
        except OSError:
            # The part of a batch that went in would be a torn line in the middle of the file.
            os.ftruncate(self._file, start)
            raise
        placed: list[tuple[Json, int, int]] = []
        for row, line in zip(rows, lines, strict=True):
            placed.append((row, self._end, len(line)))
            self._end += len(line)
        return placed

    def clear(self) -> None:
        """Delete every line."""
        os.ftruncate(self._file, 0)
        self._end = 0

    def sync(self) -> None:
        """Have on disk what was written since the last time."""
        if self._unsynced:
            os.fdatasync(self._file)
            self._unsynced = False

    def close(self) -> None:
        """Let go of the file and its lock."""
        os.close(self._file)


def _cut_torn_line(file: int, path: Path) -> int:
    """Cut off what follows the last newline, and what a power cut left as zeros; the file's new size."""
    size = os.fstat(file).st_size
    if size and os.pread(file, 1, 0) not in (b"{", b"\0"):
        raise StoreError(f"{path} is not a rollouts file: it does not begin with a JSON object")
    end = _line_start(file, size)
    while end > 0:
        start = _line_start(file, end - 1)
        line = os.pread(file, end - start, start)
        if _is_json(line):
            break
        if b"\0" not in line:
            raise StoreError(f"{path} is not a rollouts file: its last line is not JSON")
        end = start
    if end < size:
        os.ftruncate(file, end)
    return end


def _line_start(file: int, end: int, chunk: int = 65536) -> int:
    """Offset just after the last newline before `end`."""
    while end > 0:
        start = max(0, end - chunk)
        found = os.pread(file, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def _is_json(line: bytes) -> bool:
    try:
        orjson.loads(line)
    except orjson.JSONDecodeError:
        return False
    return True
