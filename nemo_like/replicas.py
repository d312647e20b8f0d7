"""Several copies of one model: which of them a call goes to, and what happens when one dies.

Calls with the same key (a rollout, a prompt) stay with one copy, whose prefix cache then holds what they have
in common; a new key goes to the least busy one. A copy that fails is left alone for a while, the call goes to
the next, and its keys move there. `watch` asks each for its health: what hangs is found out, and what is well
again is used again.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TypeVar

from nemo_like.client import Client
from nemo_like.errors import PartError
from nemo_like.provider import Provider
from nemo_like.types import Json

log = logging.getLogger(__name__)
T = TypeVar("T")

DOWN_S = 15.0
"""Seconds for which a replica that failed is asked only where there is no other; health ends them earlier."""
THE_REQUESTS_FAULT = frozenset({"bad_request", "bad_arguments", "context_overflow"})
"""Kinds of failure that another replica would only repeat."""
KEYS = 65_536
"""So many keys are remembered; whose was used longest ago is placed anew."""
HEALTH_TIMEOUT_S = 10.0
MISSES = 3
"""A replica that is there but does not say that it is well so often in a row is down: an engine under load
may be late."""


@dataclass(kw_only=True, slots=True)
class Replica:
    """One copy, as this process sees it."""

    provider: Provider
    in_flight: int = 0
    down_until: float = 0.0
    """By the monotonic clock."""
    misses: int = 0
    chosen_at: int = 0
    """The number of the call that last went there."""
    open: set[asyncio.Timeout] = field(default_factory=set[asyncio.Timeout])

    @asynccontextmanager
    async def busy(self) -> AsyncGenerator[None]:
        """Counts a call, which ends when the replica is found to be dead.

        Raises:
            PartError: `unreachable`: it was.
        """
        self.in_flight += 1
        try:
            async with asyncio.timeout(None) as deadline:
                self.open.add(deadline)
                try:
                    yield
                finally:
                    self.open.discard(deadline)
        except TimeoutError as error:
            where = self.provider.name or self.provider.base_url
            raise PartError("unreachable", "it fails its health check", where=where) from error
        finally:
            self.in_flight -= 1

    def give_up(self) -> None:
        """End the calls that wait for it."""
        while self.open:
            self.open.pop().reschedule(0)


class Replicas:
    """One copy or several; `slack` is how many more calls than the least busy one a key's own may have in
    flight before a call goes elsewhere. None keeps every key where it is."""

    def __init__(self, providers: Sequence[Provider], *, slack: int | None = None) -> None:
        self._all = [Replica(provider=provider) for provider in providers]
        self._slack = slack
        self._homes = OrderedDict[str, int]()
        self._calls = 0

    async def post(
        self, path: str, body: Json, *, key: str = "", at_root: bool = False
    ) -> tuple[Json, Provider]:
        """What the key's replica, or the next, answers; and which it was.

        `at_root` is for what an engine has beside the OpenAI API: a path of its server, not of its base URL.

        Raises:
            PartError: every replica failed, or one refused the request.
        """

        async def ask(replica: Replica, provider: Provider) -> tuple[Json, Provider]:
            async with replica.busy():
                return await provider.post(path, body), provider

        return await self._somewhere(ask, key, at_root=at_root)

    @asynccontextmanager
    async def stream(
        self, path: str, body: Json, *, key: str = ""
    ) -> AsyncGenerator[AsyncGenerator[bytes] | Json]:
        """As `post`, of an answer that comes in pieces: another replica is asked only before the first.

        Raises:
            PartError: as `post`; `unreachable` where the replica is found dead on the way.
        """
        async with AsyncExitStack() as stack:

            async def begin(replica: Replica, provider: Provider) -> AsyncGenerator[bytes] | Json:
                async with AsyncExitStack() as opening:
                    await opening.enter_async_context(replica.busy())
                    answer = await opening.enter_async_context(provider.stream(path, body))
                    await stack.enter_async_context(opening.pop_all())
                    return answer

            yield await self._somewhere(begin, key)

    async def _somewhere(
        self, ask: Callable[[Replica, Provider], Awaitable[T]], key: str, *, at_root: bool = False
    ) -> T:
        untried = [*range(len(self._all))]
        while True:
            at = self._choose(key, untried)
            untried.remove(at)
            replica = self._all[at]
            provider = replica.provider
            if untried:  # Where there is another to turn to there is no need to insist.
                provider = replace(provider, max_retries=min(provider.max_retries, 1))
            if at_root:
                provider = replace(provider, base_url=server_root(provider.base_url))
            try:
                return await ask(replica, provider)
            except PartError as error:
                lacks_path = at_root and error.kind == "not_found"
                if len(self._all) == 1 or error.kind in THE_REQUESTS_FAULT or lacks_path:
                    raise
                replica.down_until = max(replica.down_until, time.monotonic() + DOWN_S)
                if not untried:
                    raise
                log.warning("%s; asking another replica", error)

    def _choose(self, key: str, untried: Sequence[int]) -> int:
        if len(self._all) == 1:
            return 0
        now = time.monotonic()
        up = [at for at in untried if self._all[at].down_until <= now]
        home = self._homes.get(key)
        self._calls += 1
        load = [(replica.in_flight, replica.chosen_at) for replica in self._all]
        at = choose(load, up or untried, home, slack=self._slack)
        self._all[at].chosen_at = self._calls
        if key:
            if home not in up:
                self._homes[key] = at
            self._homes.move_to_end(key)
            if len(self._homes) > KEYS:
                self._homes.popitem(last=False)
        return at

    async def watch(self, client: Client, path: str, *, every_s: float) -> None:
        """Ask every replica for its health, for ever; any answer but a 5xx says that it is well."""
        async with asyncio.TaskGroup() as group:
            for replica in self._all:
                group.create_task(self._watch(client, replica, path, every_s))

    async def _watch(self, client: Client, replica: Replica, path: str, every_s: float) -> None:
        url = server_root(replica.provider.base_url) + path
        while True:
            problem, certain = "", False
            try:
                status = await client.status(url, timeout_s=HEALTH_TIMEOUT_S)
                problem = f"{url} answers {status}" if status >= 500 else ""
            except PartError as error:
                # Nobody listens there any more, which nothing but a new start mends.
                problem, certain = error.message, error.kind == "unreachable"
            replica.misses = replica.misses + 1 if problem else 0
            if not problem and replica.down_until:
                log.warning("%s is well again", replica.provider.base_url)
                replica.down_until = 0.0
            elif problem and (certain or replica.misses >= MISSES):
                if replica.down_until != float("inf"):
                    log.warning("%s is down: %s", replica.provider.base_url, problem)
                replica.down_until = float("inf")
                replica.give_up()
            await asyncio.sleep(every_s)


def choose(
    load: Sequence[tuple[int, int]], usable: Sequence[int], home: int | None, *, slack: int | None = None
) -> int:
    """Which of the `usable` replicas a call goes to: `home`, if it may; else the least loaded.

    `load` is, of each, the calls in flight and, for when these are equal, how lately it was chosen.
    """
    least = min(usable, key=lambda at: load[at])
    if home not in usable or home is None:
        return least
    return least if slack is not None and load[home][0] > load[least][0] + slack else home


def server_root(base_url: str) -> str:
    """Where an engine has what is not of the OpenAI API: its base URL without the `/v1`."""
    return re.sub(r"/v\d+\w*$", "", base_url)
