"""The live line of a collection, and what is stuck, on demand."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any, Self

from tqdm import tqdm

from nemo_like.client import Client
from nemo_like.head import ServerInfo
from nemo_like.passes import Progress
from nemo_like.watch import oldest

TICK_S = 2.0
STUCK_S = 60.0
"""Age of the oldest rollout in flight from which on the line shows it."""


class ProgressBar:
    """How many of how many, the running metrics, and the oldest rollout when something is stuck."""

    def __init__(self, title: str = "Collecting rollouts") -> None:
        self._title = title

    def __enter__(self) -> Self:
        self._bar: Any = None
        self._progress: Progress | None = None
        self._timer = asyncio.get_running_loop().call_later(TICK_S, self._tick)
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        if self._bar is not None:
            self._bar.close()

    @property
    def in_flight(self) -> dict[str, float]:
        """Rollout id → when it began, monotonic seconds."""
        return self._progress.in_flight if self._progress else {}

    def show(self, progress: Progress) -> None:
        """Draw what has changed."""
        self._progress = progress
        if self._bar is None:
            counts = progress.counts
            self._bar = tqdm(
                total=counts.total - counts.exhausted,
                initial=counts.done,
                desc=self._title,
                dynamic_ncols=True,
            )
        key = progress.running.summary()
        shown = {"reward": key["avg_reward"], "success": key["success_rate"], "tools": key["avg_tool_calls"]}
        if progress.failed:
            shown["failed"] = progress.failed
        if progress.window is not None:
            shown["parallel"] = progress.window.size
        postfix = {name: f"{value:.3g}" for name, value in shown.items() if value is not None}
        oldest_s = time.monotonic() - min(progress.in_flight.values(), default=time.monotonic())
        if oldest_s > STUCK_S:
            postfix["oldest"] = f"{oldest_s:.0f}s"
        self._bar.set_postfix(postfix, refresh=False)
        self._bar.update(progress.counts.done + progress.done - self._bar.n)

    def _tick(self) -> None:
        if self._progress is not None:
            self.show(self._progress)
            self._bar.refresh()
        self._timer = asyncio.get_running_loop().call_later(TICK_S, self._tick)


@contextmanager
def oldest_on_demand(bar: ProgressBar, servers: Sequence[ServerInfo], client: Client) -> Generator[None]:
    """SIGUSR1 prints the rollouts that have been in flight longest, and where they are."""
    tasks: set[asyncio.Task[None]] = set()

    async def show() -> None:
        for rollout in await oldest(bar.in_flight, servers, client):
            print(rollout, file=sys.stderr, flush=True)

    def on_signal() -> None:
        tasks.add(asyncio.get_running_loop().create_task(show()))

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, on_signal)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGUSR1)
        for task in tasks:
            task.cancel()
