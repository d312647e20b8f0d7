"""Single requests in, batches out: whoever waits while a batch runs is in the next one.

    async with Batcher(work, rows=16, tokens=32_768, wait_s=0.01) as batcher:
        answer = await batcher.ask(item, size)

`work` gets the items of a batch in a thread of its own, one batch at a time. Nothing waits longer than
`wait_s` for company while the thread is idle.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, Self, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

NEVER = "the model server has stopped"


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """What a request takes of a batch, in tokens: rows are padded to the longest of both."""

    prompt: int
    answer: int


@dataclass(kw_only=True, slots=True)
class _Waiting(Generic[Item, Result]):
    item: Item
    size: Size
    answer: asyncio.Future[Result] = field(default_factory=asyncio.Future[Any])


class Batcher(Generic[Item, Result]):
    """Gathers requests; made for one event loop, used as a context."""

    def __init__(
        self,
        work: Callable[[Sequence[Item]], Sequence[Result | Exception]],
        *,
        rows: int,
        tokens: int,
        wait_s: float,
    ) -> None:
        self._work, self._rows, self._tokens, self._wait_s = work, rows, tokens, wait_s
        self._queue: deque[_Waiting[Item, Result]] = deque()
        self._arrived = asyncio.Event()
        self._between = asyncio.Lock()
        self.batches = 0
        """How many have begun."""
        self.busy = asyncio.Event()
        """Set while one runs."""

    async def __aenter__(self) -> Self:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Gives up what waits; the batch that runs is waited for, so `work` should come to an end."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        for waiting in self._queue:
            waiting.answer.cancel()
        await asyncio.to_thread(self._thread.shutdown)

    @property
    def waiting(self) -> int:
        """Requests that are in no batch yet."""
        return len(self._queue)

    async def ask(self, item: Item, size: Size) -> Result:
        """What `work` makes of `item`; raises what it says."""
        waiting = _Waiting[Item, Result](item=item, size=size)
        self._queue.append(waiting)
        self._arrived.set()
        return await waiting.answer

    @asynccontextmanager
    async def pause(self) -> AsyncGenerator[None]:
        """Between two batches, for as long as the context lasts."""
        async with self._between:
            yield

    async def _run(self) -> None:
        while True:
            await self._arrived.wait()
            if len(self._queue) < self._rows:
                await asyncio.sleep(self._wait_s)
            async with self._between:
                await self._run_batch()
            if not self._queue:
                self._arrived.clear()

    async def _run_batch(self) -> None:
        batch = self._take()
        if not batch:
            return
        self.batches += 1
        self.busy.set()
        loop = asyncio.get_running_loop()
        running = loop.run_in_executor(self._thread, self._work, [each.item for each in batch])
        try:
            results = await running
        except asyncio.CancelledError:
            for each in batch:
                each.answer.cancel()
            raise
        except Exception as error:  # noqa: BLE001 whoever asked is told, by name
            results = [error] * len(batch)
        finally:
            self.busy.clear()
        for each, result in zip(batch, results, strict=True):
            if each.answer.done():
                continue
            if isinstance(result, Exception):
                each.answer.set_exception(result)
            else:
                each.answer.set_result(result)

    def _take(self) -> list[_Waiting[Item, Result]]:
        """The next batch, in the order of arrival; who has given up is left out."""
        asked = [each for each in self._queue if not each.answer.done()]
        n = fitting([each.size for each in asked], rows=self._rows, tokens=self._tokens)
        self._queue = deque(asked[n:])
        return asked[:n]


def fitting(sizes: Sequence[Size], *, rows: int, tokens: int) -> int:
    """How many of the first fit into a batch together; one always does."""
    prompt = answer = 0
    for n, size in enumerate(sizes):
        prompt, answer = max(prompt, size.prompt), max(answer, size.answer)
        if n and (n == rows or (n + 1) * (prompt + answer) > tokens):
            return n
    return len(sizes)
