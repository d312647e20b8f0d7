"""The window: how many rollouts are in flight at once, where nobody says so, found while they run.

It doubles as long as that pays (slow start), then grows by a twentieth a round; it shrinks by a fifth when
the model endpoint says 429 or 503, or when its engine's own queue grows long. What it never does: grow while
it is not full, or shrink twice for one cause. Growing that brings no more rollouts a second is taken back, so
an endpoint that only gets slower is found out too, and tried again later, ever more rarely.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from nemo_like.types import Json

START, LARGEST = 32, 1024
FULL = 0.8
"""Share of the window that has to be in flight for a finished rollout to speak for growing."""
SHRINK, GROW = 0.8, 0.05
FEWEST = 4
"""Finished rollouts that make up a round, however small the window is."""
DEBOUNCE_S = 5.0
"""Seconds after a cut in which no other follows, and nothing grows."""
QUEUED = 0.25
"""Share of the window that may wait in the engine's own queue."""
JUDGED = 1.5
"""By so much has it to have grown since its last proof before it is judged whether that paid."""
PAYS = 0.3
"""Growing pays if the rate grows by at least this share of what the window grew by."""
HOLD_ROUNDS = 4
"""Rounds that it rests after growing did not pay; twice as many each further time."""
NEAR = 0.95
"""Share of the size at which it was cut last where it rests before it goes on growing."""
POLL_S = 1.0
KEPT = 200
"""Changes that are kept."""


@dataclass(frozen=True, slots=True)
class Load:
    """How the model servers of a run are doing, all of them together."""

    throttled: int = 0
    """How often a provider has said 429 or 503 to them, ever."""
    queued: int = 0
    """Requests that wait in the engines' own queues, where those say so."""


class Window:
    """A number of rollouts in flight, and what moves it. Pure: the clock's seconds are handed in."""

    def __init__(self, *, start: int = START, largest: int = LARGEST, now: float = 0.0) -> None:
        self.size = max(1, min(start, largest))
        self.largest = largest
        self.highest = self.size
        self.cuts = 0
        self.throttled = 0
        """Refusals that were heard of: by model servers, 429 and 503, and as the end of a rollout."""
        self.changes: deque[tuple[float, int, str]] = deque([(0.0, self.size, "start")], maxlen=KEPT)
        """(seconds since the start, size from then on, why)."""
        self._began = now
        self._slow_start = True
        self._quiet_until = now
        self._proved: tuple[int, float] | None = None
        self._rest, self._rests, self._cut_at = 0, 0, 0
        self._new_round(now, settling=0)

    def finished(self, in_flight: int, now: float) -> None:
        """A rollout has come to its end; `in_flight` counts it too."""
        if now < self._quiet_until or in_flight < FULL * self.size or in_flight > self.size:
            # What finishes now says nothing about this size: begin to count anew.
            self._new_round(now, settling=self._settling)
            return
        if self._settling > 0:
            self._settling -= 1
            self._round_began = now
            return
        self._count += 1
        if self._count >= max(FEWEST, self.size) and now > self._round_began:
            self._end_round(self._count / (now - self._round_began), now)

    def refused(self, times: int, in_flight: int, now: float) -> None:
        """A provider has said 429 or 503, so many times."""
        self.throttled += times
        if times:
            self._cut(in_flight, now, "throttled")

    def queued(self, requests: int, in_flight: int, now: float) -> None:
        """The engine has so many requests in its own queue."""
        if requests > QUEUED * self.size:
            self._cut(in_flight, now, "queue")
        elif requests:
            # Fed, and not more: the right size.
            self._new_round(now, settling=self._settling)

    def summary(self) -> Json:
        """What it came to, as JSON."""
        changes = [{"at_s": round(at, 1), "size": size, "why": why} for at, size, why in self.changes]
        settled = {"settled_at": self.size, "highest": self.highest, "cuts": self.cuts}
        return settled | {"throttled": self.throttled, "changes": changes}

    def _cut(self, in_flight: int, now: float, why: str) -> None:
        # While more are in flight than allowed the last cut has not been felt yet.
        if now < self._quiet_until or in_flight > self.size:
            return
        self._slow_start, self._proved = False, None
        self._rest, self._rests, self._cut_at = 0, 0, self.size
        self._quiet_until = now + DEBOUNCE_S
        self.cuts += 1
        self._set(int(self.size * SHRINK), now, why)

    def _end_round(self, rate: float, now: float) -> None:
        if self._rest:
            self._rest -= 1
            self._proved = (self.size, rate)
            self._new_round(now, settling=0)
            return
        size, proved = self._proved or (self.size, rate)
        grown = self.size / size
        if grown >= JUDGED and rate < proved * (1 + PAYS * (grown - 1)):
            self._slow_start = False
            self._rest, self._rests = HOLD_ROUNDS * 2**self._rests, min(self._rests + 1, 8)
            self._set(size, now, "no gain")
            return
        if grown >= JUDGED or self._proved is None:
            self._proved, self._rests = (self.size, rate), 0 if grown >= JUDGED else self._rests
        step = self.size if self._slow_start else max(1, int(self.size * GROW))
        if self.size < (near := int(NEAR * self._cut_at)) <= self.size + step:
            step, self._rest = near - self.size, 2 * HOLD_ROUNDS
        self._set(self.size + step, now, "slow start" if self._slow_start else "growth")

    def _set(self, size: int, now: float, why: str) -> None:
        size = max(1, min(size, self.largest))
        if size != self.size:
            self.size, self.highest = size, max(self.highest, size)
            self.changes.append((now - self._began, size, why))
        # The first to finish were begun under the old size.
        self._new_round(now, settling=size // 2)

    def _new_round(self, now: float, *, settling: int) -> None:
        self._count, self._round_began, self._settling = 0, now, settling


@asynccontextmanager
async def heeding(
    window: Window | None,
    ask: Callable[[], Awaitable[Load]],
    in_flight: Callable[[], int],
    *,
    every_s: float = POLL_S,
) -> AsyncGenerator[None]:
    """Have the window, if there is one, follow what the model servers answer to `ask`."""
    if window is None:
        yield
        return

    async def follow() -> None:
        heard: int | None = None
        while True:
            load = await ask()
            # What was refused before this run began is not its doing.
            times = max(0, load.throttled - (load.throttled if heard is None else heard))
            heard = load.throttled
            window.refused(times, in_flight(), time.monotonic())
            window.queued(load.queued, in_flight(), time.monotonic())
            await asyncio.sleep(every_s)

    task = asyncio.create_task(follow(), name="window")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
