"""The rate at which a provider may be asked: requests and tokens a minute, held by waiting.

Each limit is a bucket that fills steadily and holds a second's worth. A request takes its share at once, into
debt if need be, and waits until the debt is filled again: so they go in the order they came, and by any time
t no more has gone out than a second's worth and the limit's share of t. Tokens are estimated before the
request, and corrected by the usage that its answer reports.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Self, cast

from pydantic import Field

from nemo_like.settings import Settings
from nemo_like.types import Json

BURST_S = 1.0
BYTES_PER_TOKEN = 4
FIRST_OUTPUT = 256
"""Output tokens that the first request is taken to need."""
MEMORY = 0.1
"""Weight of the last answer in the mean length of answers."""
MAX_TOKENS = ("max_output_tokens", "max_completion_tokens", "max_tokens")
USAGE = (("total_tokens",), ("input_tokens", "output_tokens"), ("prompt_tokens", "completion_tokens"))
OUTPUT = ("output_tokens", "completion_tokens")
QUEUED_FIELD = "_ng_queued_s"
"""Where a model server's answer says how many seconds the request has waited for its turn."""

queued_s: ContextVar[float] = ContextVar("queued_s", default=0.0)
"""Seconds that the running request has waited for its turn."""


class RateConfig(Settings):
    """How often a provider may be asked."""

    requests_per_minute: float | None = Field(None, gt=0)
    """Requests a minute that the provider allows, of all workers of the run together; null is no limit."""
    tokens_per_minute: float | None = Field(None, gt=0)
    """Tokens a minute, input and output, that it allows, of all workers of the run together; null is no
    limit."""


class Bucket:
    """What may go out now; below 0 what has to be waited for. Pure: the clock's seconds are handed in."""

    def __init__(self, per_s: float, *, now: float, least: float = 0.0) -> None:
        self.per_s = per_s
        self.holds = max(least, per_s * BURST_S)
        self._level, self._at = self.holds, now

    def take(self, amount: float, now: float) -> float:
        """Take `amount`; the seconds to wait before it may go out."""
        self._level, self._at = self.left(now) - amount, now
        return max(0.0, -self._level / self.per_s)

    def left(self, now: float) -> float:
        """What may go out now without a wait; below 0 what is owed."""
        return min(self.holds, self._level + (now - self._at) * self.per_s)

    def put_back(self, amount: float) -> None:
        """What was taken and not used, or (below 0) used beyond what was taken."""
        self._level = min(self.holds, self._level + amount)


@dataclass(slots=True)
class Turn:
    """A request that may go out."""

    rate: Rate
    tokens: float
    """As estimated."""
    prompt: float
    """Those of them that the request itself has."""
    _usage: Json | None = None
    _events: int = 0

    def done(self, answer: Json) -> None:
        """Correct the estimate by the usage that the answer reports, if it does."""
        usage: Any = answer.get("usage")
        if isinstance(usage, dict):
            self.rate.correct(self.tokens, cast(Json, usage))

    def hear(self, event: Json) -> None:
        """Count an event of an answer that is streamed; `end` corrects the estimate."""
        self._events += 1
        response: Any = event.get("response")
        usage: Any = cast(Json, response if isinstance(response, dict) else event).get("usage")
        if isinstance(usage, dict):
            self._usage = cast(Json, usage)

    def end(self) -> None:
        """Correct the estimate by the usage that was heard; without one by the events, of which most are a
        token each."""
        counted: Json = {"prompt_tokens": round(self.prompt), "completion_tokens": self._events}
        self.done({"usage": self._usage or counted})


class Rate:
    """The limits of one provider, as one worker process holds them."""

    @classmethod
    def of(cls, config: RateConfig, *, workers: int = 1) -> Self | None:
        """The rate that a model server's settings ask for; None where they set no limit."""
        limited = config.requests_per_minute or config.tokens_per_minute
        return cls(config, workers=workers) if limited else None

    def __init__(self, config: RateConfig, *, workers: int = 1) -> None:
        """`workers` processes ask the same provider, each at its even share of the limits."""
        now = time.monotonic()
        requests, tokens = config.requests_per_minute, config.tokens_per_minute
        self._requests = Bucket(requests / 60 / workers, now=now, least=1.0) if requests else None
        self._tokens = Bucket(tokens / 60 / workers, now=now) if tokens else None
        self._output = float(FIRST_OUTPUT)

    async def turn(self, body: Json, size: int) -> Turn:
        """Wait until a request with this body, of `size` bytes, may go out."""
        prompt = size / BYTES_PER_TOKEN
        turn = Turn(self, prompt + self._answer(body), prompt)
        now, wait_s = time.monotonic(), 0.0
        if self._requests is not None:
            wait_s = self._requests.take(1, now)
        if self._tokens is not None:
            wait_s = max(wait_s, self._tokens.take(turn.tokens, now))
        queued_s.set(queued_s.get() + wait_s)
        try:
            await asyncio.sleep(wait_s)
        except asyncio.CancelledError:
            self._give_back(1, turn.tokens)
            raise
        return turn

    def left(self) -> float:
        """Tokens that may go out now without a wait."""
        return self._tokens.left(time.monotonic()) if self._tokens is not None else float("inf")

    def correct(self, estimated: float, usage: Json) -> None:
        """Give back what a request did not use, or take what it used more; learn how long answers are."""
        for keys in USAGE:
            if all(isinstance(usage.get(key), int) for key in keys):
                self._give_back(0, estimated - sum(usage[key] for key in keys))
                break
        for key in OUTPUT:
            if isinstance(usage.get(key), int):
                self._output += MEMORY * (usage[key] - self._output)

    def _give_back(self, requests: int, tokens: float) -> None:
        if self._requests is not None:
            self._requests.put_back(requests)
        if self._tokens is not None:
            self._tokens.put_back(tokens)

    def _answer(self, body: Json) -> float:
        """Tokens that the answer may have."""
        asked = [body[key] for key in MAX_TOKENS if isinstance(body.get(key), int)]
        return min([self._output, *asked])


def queue_told(endpoint: Callable[[Json], Awaitable[Any]]) -> Callable[[Json], Awaitable[Any]]:
    """A model server's endpoint whose answer says, in `QUEUED_FIELD`, how long the request has waited."""

    async def answer(body: Json) -> Any:
        before = queued_s.set(0.0)
        try:
            value = await endpoint(body)
            waited_s = queued_s.get()
        finally:
            queued_s.reset(before)
        return cast(Json, value) | {QUEUED_FIELD: waited_s} if waited_s and isinstance(value, dict) else value

    return answer
