"""Work in parallel: jobs pulled from an iterator by a bounded number of workers, in a process fit for it."""

from __future__ import annotations

import asyncio
import gc
import resource
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

T = TypeVar("T")


async def for_each(
    jobs: Iterable[T], work: Callable[[T], Awaitable[None]], concurrency: int | Callable[[], int]
) -> None:
    """Do every job, `concurrency` at a time; `jobs` is read as workers become free, so it may be endless
    work. A concurrency that changes is asked for when a job is done.

    Raises:
        Exception: what the first job that failed raised; the others are cancelled.
    """
    source = iter(jobs)
    wanted = concurrency if callable(concurrency) else lambda: concurrency
    workers, exhausted = 0, False

    async def worker() -> None:
        nonlocal workers, exhausted
        for job in source:
            await work(job)
            if workers > wanted():
                break
            hire()
        else:
            exhausted = True
        workers -= 1

    def hire() -> None:
        nonlocal workers
        while workers < wanted() and not exhausted:
            workers += 1
            group.create_task(worker())

    try:
        async with asyncio.TaskGroup() as group:
            hire()
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None


def prepare_for_many() -> int:
    """Make this process fit for thousands of calls in flight; the number of files that it may have open.

    Each call holds a socket. And each is a few hundred young objects that live for seconds: at Python's usual
    pace of garbage collection they are looked through again and again, a third of all CPU at 2,048 in flight.
    """
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most
