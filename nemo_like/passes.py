"""A run over what is owed: everything once, then what failed, until nothing is owed that could succeed.

progress.follow(store, on_progress)                            how far it is
await in_passes(owed, attempt, 64, store=…, progress=…, most=3)
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from nemo_like import metrics
from nemo_like.plan import Counts, Job
from nemo_like.store import RolloutStore
from nemo_like.types import Scored
from nemo_like.window import Window
from nemo_like.workers import for_each


class Owed(Protocol):
    """Says what is owed."""

    def __call__(self, *, again: bool) -> Iterator[Job]:
        """Every rollout that is; `again` leaves out those whose last failure would only repeat itself."""
        ...


@dataclass(slots=True)
class Progress:
    """What a run looks like while it goes on."""

    counts: Counts
    """As the run began."""
    running: metrics.Running
    done: int = 0
    """Rollouts that this run has on disk."""
    failed: int = 0
    """Attempts that failed in this run."""
    in_flight: dict[str, float] = field(default_factory=dict[str, float])
    """Rollout id → when it began, monotonic seconds."""
    window: Window | None = None
    """How many may be in flight, where that adapts."""

    def follow(self, store: RolloutStore, on_progress: Callable[[Progress], None]) -> None:
        """Count what `store` has on disk from now on, and tell `on_progress`, on the event loop that runs."""
        loop = asyncio.get_running_loop()

        def count(scored: list[Scored]) -> None:
            for one in scored:
                self.running.add(one)
            self.done += len(scored)
            on_progress(self)

        def on_durable(scored: list[Scored]) -> None:
            loop.call_soon_threadsafe(count, scored)

        store.on_durable = on_durable
        on_progress(self)


async def in_passes(
    owed: Owed,
    attempt: Callable[[Job], Awaitable[None]],
    concurrency: int | Callable[[], int],
    *,
    store: RolloutStore,
    progress: Progress,
    most: int,
) -> None:
    """Attempt all that is owed, then again what failed, `most` times at the most."""
    for number in range(most):
        before = progress.failed
        await for_each(owed(again=number > 0), attempt, concurrency)
        # The next pass reads the index.
        await asyncio.to_thread(store.flush)
        if progress.failed == before:
            return
