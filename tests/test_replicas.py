"""Several copies of a model: who is asked, who is left alone, who is asked again."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Self

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from nemo_like.client import Client
from nemo_like.errors import PartError
from nemo_like.provider import Provider
from nemo_like.replicas import Replicas, choose, server_root

Json = dict[str, Any]
PATH = "/chat/completions"


class Copy:
    """A copy of a model on loopback. `status` is what it answers with, 0 that it never does."""

    def __init__(self, status: int = 200) -> None:
        self.status = self.health = status
        self.asked: list[str] = []
        self.port = 0
        self.arrived = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post("/{path:.*}", self._reply)
        app.router.add_get("/health", self._tell_health)
        self._closing = asyncio.Event()
        self._runner = web.AppRunner(app, handle_signals=False, shutdown_timeout=0)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True).start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        self._closing.set()
        await self._runner.cleanup()

    async def _reply(self, request: web.Request) -> web.Response:
        self.asked.append((await request.json())["who"])
        self.arrived.set()
        if self.status == 0:
            await self._closing.wait()
        await self.may_answer.wait()
        headers = {"Retry-After": "0"}
        return web.json_response({"port": self.port}, status=self.status or 200, headers=headers)

    async def _tell_health(self, _: web.Request) -> web.Response:
        return web.Response(status=self.health or 503)


@asynccontextmanager
async def replicas(*copies: Copy, slack: int | None = None) -> AsyncIterator[tuple[Replicas, Client]]:
    async with Client({}) as client:
        urls = [f"http://127.0.0.1:{copy.port}/v1" for copy in copies]
        providers = [Provider(client=client, base_url=url, max_retries=1) for url in urls]
        yield Replicas(providers, slack=slack), client


async def ask(several: Replicas, key: str) -> int:
    """The port of the copy that answered."""
    answer, _ = await several.post(PATH, {"who": key}, key=key)
    return answer["port"]


def test_a_key_stays_with_the_copy_that_took_its_first_call() -> None:
    async def run() -> None:
        async with Copy() as one, Copy() as other, replicas(one, other) as (several, _):
            ports = {key: await ask(several, key) for key in "abcdef"}
            assert sorted(ports.values()) == sorted([one.port, other.port] * 3)
            for _ in range(3):
                assert {key: await ask(several, key) for key in "fedcba"} == ports

    asyncio.run(run())


def test_a_new_key_goes_to_the_least_busy_copy() -> None:
    async def run() -> None:
        async with Copy() as busy, Copy() as idle, replicas(busy, idle) as (several, _):
            busy.may_answer.clear()
            first = asyncio.create_task(ask(several, "a"))
            await busy.arrived.wait()
            assert [await ask(several, key) for key in "bcd"] == [idle.port] * 3
            busy.may_answer.set()
            assert await first == busy.port

    asyncio.run(run())


def test_the_keys_of_a_dead_copy_move_and_stay_moved() -> None:
    async def run() -> None:
        async with Copy() as well, Copy() as dead, replicas(dead, well) as (several, _):
            assert await ask(several, "a") == dead.port
            await dead.stop()
            assert await ask(several, "a") == well.port
            assert await ask(several, "a") == well.port
            assert await ask(several, "b") == well.port

    asyncio.run(run())


def test_a_copy_that_is_well_again_is_used_again() -> None:
    async def run() -> None:
        async with Copy(503) as sick, Copy() as well, replicas(sick, well) as (several, client):
            assert [await ask(several, key) for key in "abc"] == [well.port] * 3
            assert sick.asked == ["a", "a"]  # once, and its one retry
            sick.status = sick.health = 200
            watch = asyncio.create_task(several.watch(client, "/health", every_s=0.001))
            newcomers = map(str, itertools.count())
            while sick.port != await ask(several, next(newcomers)):
                pass
            watch.cancel()

    asyncio.run(run())


def test_a_call_to_a_copy_that_hangs_moves_when_its_health_is_gone() -> None:
    async def run() -> None:
        async with Copy(0) as hanging, Copy() as well, replicas(hanging, well) as (several, client):
            call = asyncio.create_task(ask(several, "a"))
            await hanging.arrived.wait()
            watch = asyncio.create_task(several.watch(client, "/health", every_s=0.001))
            assert await call == well.port
            watch.cancel()

    asyncio.run(run())


def test_a_fault_of_the_request_is_told_at_once() -> None:
    async def run() -> None:
        async with Copy(400) as one, Copy() as other, replicas(one, other) as (several, _):
            with pytest.raises(PartError) as caught:
                await ask(several, "a")
            assert caught.value.kind == "bad_request"
            assert (one.asked, other.asked) == (["a"], [])

    asyncio.run(run())


def test_where_all_are_down_the_last_is_what_is_told() -> None:
    async def run() -> None:
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))
            gone = Copy()
            gone.port = nobody.getsockname()[1]
            async with Copy(503) as sick, replicas(sick, gone) as (several, _):
                with pytest.raises(PartError) as caught:
                    await ask(several, "a")
                assert caught.value.kind == "unreachable"
                assert f":{gone.port}" in caught.value.where

    asyncio.run(run())


def test_what_is_not_of_the_api_is_asked_at_the_servers_root() -> None:
    async def run() -> None:
        async with Copy() as copy, replicas(copy) as (several, _):
            _, provider = await several.post("/tokenize", {"who": "a"}, at_root=True)
            assert provider.base_url == f"http://127.0.0.1:{copy.port}"

    asyncio.run(run())


@pytest.mark.parametrize(
    ("url", "root"), [("http://a:1/v1", "http://a:1"), ("https://b/api/v2", "https://b/api")]
)
def test_the_root_of_a_server(url: str, root: str) -> None:
    assert server_root(url) == root


@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=6),
    st.one_of(st.none(), st.integers(0, 5)),
    st.one_of(st.none(), st.integers(0, 9)),
    st.data(),
)
def test_a_key_leaves_its_copy_only_for_one_that_is_much_less_busy(
    load: list[tuple[int, int]], home: int | None, slack: int | None, data: st.DataObject
) -> None:
    every = [*range(len(load))]
    usable = data.draw(st.lists(st.sampled_from(every), min_size=1, unique=True).map(sorted))
    chosen = choose(load, usable, home, slack=slack)
    least = min(load[at] for at in usable)
    assert chosen in usable
    may_stay: Callable[[int], bool] = lambda at: slack is None or load[at][0] - least[0] <= slack  # noqa: E731
    if home in usable and home is not None and may_stay(home):
        assert chosen == home
    else:
        assert load[chosen] == least
