"""Functions run in processes that can be killed.

A nursery process imports what the functions stand on, once, and forks the workers from itself: one that had
to be killed is replaced in milliseconds. A worker does one call at a time; a call that is slow gets lower
priority and no longer holds its place, so that it delays nobody.

    verdict = await shared().run("folder/file.py:function", *arguments, timeout_s=5)
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import inspect
import json
import os
import pickle
import resource
import signal
import socket
import struct
import sys
import threading
import weakref
from collections.abc import AsyncGenerator, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from functools import cache
from typing import Any, TypeVar, cast

from nemo_like.errors import PartError
from nemo_like.registry import load

T = TypeVar("T")

SLOW_S = 0.03
"""Seconds after which a call gives up its place, and the processor to the others."""
MAX_SLOW = 16
"""So many slow calls run beside the others; the next ones keep their place."""
MEMORY_BYTES = 4 * 2**30
"""Address space of a worker: a tower of powers ends there, not with the machine."""
RECEIVE_BYTES = 2**20
LENGTH = struct.Struct("<Q")
PID = struct.Struct("<i")
NO_MODULE = b"-"


class Pool:
    """Up to `size` worker processes (all cores, at least 2), started as they are needed."""

    def __init__(self, size: int | None = None) -> None:
        self._size = size or max(2, os.cpu_count() or 1)
        self._idle: list[_Worker] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._places = _Places(self._size)
        self._nursery: socket.socket | None = None
        self._forking = asyncio.Lock()

    async def run(self, function: str, *arguments: Any, timeout_s: float, imports: str = "") -> Any:
        """What the function named `package.module:name` or `file.py:name` answers, as JSON keeps it.

        The clock starts when the function does. Whatever happens to its process, the next call finds another,
        which has imported the module `imports` already, and called its `warm_up` if it has one.

        Raises:
            PartError: it raised (`verifier_error`), its process died (the same), or it took too long
                (`timeout`).
        """
        self._move_to_this_loop()
        async with self._places.one() as place:
            worker = self._idle.pop() if self._idle else await self._fork(imports)
            try:
                place.begin(worker.pid)
                async with asyncio.timeout(timeout_s):
                    succeeded, answer = await worker.call(function, arguments)
            except TimeoutError as error:
                worker.kill()
                raise PartError("timeout", f"{function} took longer than {timeout_s:g} s") from error
            except OSError as error:
                worker.kill()
                raise PartError("verifier_error", f"the process that ran {function} died") from error
            except BaseException:
                worker.kill()
                raise
            if place.lent:
                # Its priority can't be raised again.
                worker.kill()
            else:
                self._idle.append(worker)
        if not succeeded:
            raise PartError("verifier_error", str(answer))
        return answer

    def close(self) -> None:
        """End every process."""
        for worker in self._idle:
            worker.kill()
        self._idle.clear()
        self._end_nursery()

    def _move_to_this_loop(self) -> None:
        """Scripts and tests run one event loop after another."""
        if self._loop is not (loop := asyncio.get_running_loop()):
            self._loop, self._places, self._forking = loop, _Places(self._size), asyncio.Lock()

    async def _fork(self, module: str) -> _Worker:
        async with self._forking:
            try:
                return await self._ask_nursery(module)
            except OSError:
                # Something ended it; once more with a new one.
                self._end_nursery()
                return await self._ask_nursery(module)

    async def _ask_nursery(self, module: str) -> _Worker:
        if self._nursery is None:
            self._nursery = _start_nursery()
            weakref.finalize(self, self._nursery.close)
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        try:
            with theirs:
                socket.send_fds(self._nursery, [module.encode() or NO_MODULE], [theirs.fileno()])
            answer = await asyncio.get_running_loop().sock_recv(self._nursery, PID.size)
            if not answer:
                raise ConnectionError("the process that starts verifiers died")
        except BaseException:
            ours.close()
            # An answer that nobody took would be taken for the next one's.
            self._end_nursery()
            raise
        return _Worker(PID.unpack(answer)[0], ours)

    def _end_nursery(self) -> None:
        if self._nursery is not None:
            self._nursery.close()
            self._nursery = None


class _Places:
    """How many calls run at once, slow ones aside."""

    def __init__(self, size: int) -> None:
        self.free = asyncio.Semaphore(size)
        self.slow = 0

    @asynccontextmanager
    async def one(self) -> AsyncGenerator[_Place]:
        await self.free.acquire()
        place = _Place(self)
        try:
            yield place
        finally:
            place.end()


class _Place:
    """One call's place among those that run; `lent` to another call once this one is slow."""

    def __init__(self, places: _Places) -> None:
        self.lent = False
        self._places = places
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, pid: int) -> None:
        self._timer = asyncio.get_running_loop().call_later(SLOW_S, self._lend, pid)

    def _lend(self, pid: int) -> None:
        if self._places.slow < MAX_SLOW:
            self._places.slow += 1
            self.lent = True
            self._places.free.release()
            with suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, pid, 19)

    def end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self.lent:
            self._places.slow -= 1
        else:
            self._places.free.release()


class _Worker:
    """One forked process, seen from here."""

    def __init__(self, pid: int, connection: socket.socket) -> None:
        self.pid = pid
        self._connection = connection
        weakref.finalize(self, connection.close)

    async def call(self, function: str, arguments: tuple[Any, ...]) -> tuple[bool, Any]:
        """(Whether it returned, what it returned or raised); an `OSError` where the process died."""
        loop = asyncio.get_running_loop()
        request = pickle.dumps((function, arguments))
        await loop.sock_sendall(self._connection, LENGTH.pack(len(request)) + request)
        reply, length = bytearray(), LENGTH.size
        while len(reply) < length:
            part = await loop.sock_recv(self._connection, RECEIVE_BYTES)
            if not part:
                raise ConnectionError
            reply += part
            if len(reply) >= LENGTH.size:
                length = LENGTH.size + LENGTH.unpack_from(reply)[0]
        succeeded, answer = json.loads(reply[LENGTH.size :])
        return succeeded, answer

    def kill(self) -> None:
        """The process ends now, whatever it does."""
        self._connection.close()
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


_of_thread = threading.local()


def shared() -> Pool:
    """The pool of this thread, which its servers and scripts share."""
    if not hasattr(_of_thread, "pool"):
        _of_thread.pool = Pool()
    return cast(Pool, _of_thread.pool)


def wait_for(work: Coroutine[Any, Any, T]) -> T:
    """What `work` answers, for callers without an event loop, or inside one that they can't wait on.

    It runs in a thread of its own, and so must ask for the `shared()` pool inside.
    """
    return _one_thread().submit(asyncio.run, work).result()


@cache
def _one_thread() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, "pool")


def _start_nursery() -> socket.socket:
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.set_inheritable(True)
        # Not subprocess: nobody waits for it, it ends when its connection does.
        command = [sys.executable, "-m", __name__, str(theirs.fileno())]
        os.posix_spawn(sys.executable, command, os.environ, setsid=True)
    ours.setblocking(False)
    return ours


def _nursery(control: socket.socket) -> None:
    """Fork a worker for each message: the module that it will want, and its end of a connection."""
    # Nobody waits for the workers.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    # What a verifier prints belongs in the log.
    os.dup2(2, 1)
    while True:
        module, files, _, _ = socket.recv_fds(control, 4096, 1)
        if not module:
            # Whoever asked is gone, and so is everything of this session.
            os.killpg(0, signal.SIGKILL)
        if module != NO_MODULE:
            # What can't be imported is told by the function that wants it.
            with suppress(ImportError):
                _warm_up(module.decode())
        if not (pid := os.fork()):
            control.close()
            _work(socket.socket(fileno=files[0]))
            os._exit(0)
        os.close(files[0])
        control.send(PID.pack(pid))


@cache
def _warm_up(module: str) -> None:
    getattr(importlib.import_module(module), "warm_up", lambda: None)()
    # A worker that looked through all of it for garbage would copy all of it.
    gc.collect()
    gc.freeze()


def _work(connection: socket.socket) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    with connection.makefile("rb") as requests:
        while header := requests.read(LENGTH.size):
            function, arguments = pickle.loads(requests.read(*LENGTH.unpack(header)))
            try:
                answer = load(function)(*arguments)
                answer = asyncio.run(answer) if inspect.iscoroutine(answer) else answer
                reply = json.dumps([True, answer]).encode()
            except BaseException as error:  # noqa: BLE001  # the boundary: some libraries' errors are no Exception
                reply = json.dumps([False, f"{type(error).__name__}: {error}"]).encode()
            connection.sendall(LENGTH.pack(len(reply)) + reply)


if __name__ == "__main__":
    _nursery(socket.socket(fileno=int(sys.argv[1])))
