"""Work in parallel: jobs pulled from an iterator by a bounded number of workers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

T = TypeVar("T")


async def for_each(jobs: Iterable[T], work: Callable[[T], Awaitable[None]], concurrency: int) -> None:
    """Do every job, `concurrency` at a time; `jobs` is read as workers become free, so it may be endless
    work.

    Raises:
        Exception: what the first job that failed raised; the others are cancelled.
    """
    source = iter(jobs)

    async def worker() -> None:
        for job in source:
            await work(job)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(worker())
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
