"""Calling servers and providers: addresses, errors by name, and what is tried again."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_like.client import Client, backoff_s, owner, rollout_id
from nemo_like.errors import Kind, PartError, blame, from_wire
from nemo_like.provider import base_url_of


@pytest.mark.parametrize(
    ("given_url", "url"),
    [
        ("http://localhost:8000", "http://localhost:8000/v1"),
        ("http://localhost:8000/", "http://localhost:8000/v1"),
        ("http://localhost:8000/v1", "http://localhost:8000/v1"),
        ("http://localhost:8000/v1/", "http://localhost:8000/v1"),
        ("https://api.example/v1beta/openai", "https://api.example/v1beta/openai"),
        ("https://api.example/openai", "https://api.example/openai/v1"),
    ],
)
def test_a_base_url_is_accepted_with_and_without_v1(given_url: str, url: str) -> None:
    assert base_url_of(given_url) == url


@given(rollouts=st.lists(st.text(min_size=1), min_size=1), workers=st.integers(1, 16))
def test_a_rollout_always_has_the_same_owner(rollouts: list[str], workers: int) -> None:
    for rollout in rollouts:
        assert 0 <= owner(rollout, workers) < workers
        assert owner(rollout, workers) == owner(rollout, workers)
        assert owner(rollout, 1) == 0


@given(st.integers(0, 100))
def test_backoff_is_bounded(attempt: int) -> None:
    assert 0 <= backoff_s(attempt) <= 30


def test_a_refused_connection_is_tried_again_until_the_server_is_there() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        assert b"x-rollout-id: r7" in request
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-length: 11\r\nconnection: close\r\n\r\n" + b'{"ok": true}'[:11]
        )
        writer.close()

    async def main() -> bytes:
        rollout_id.set("r7")
        async with Client({"late": [f"http://127.0.0.1:{port}"]}) as client:
            call = asyncio.create_task(client.call("late", "/x", {}, timeout_s=10))
            await asyncio.sleep(0.05)
            server = await asyncio.start_server(answer, "127.0.0.1", port)
            async with server:
                return await call

    assert asyncio.run(main()) == b'{"ok": true'


@pytest.mark.parametrize(
    ("peers", "kind"),
    [({}, "not_found"), ({"gone": ["http://127.0.0.1:9"]}, "unreachable")],
)
def test_a_server_that_is_not_there_has_a_name(peers: dict[str, list[str]], kind: str) -> None:
    async def main() -> None:
        async with Client(peers) as client:
            await client.post("gone", "/x", {}, timeout_s=60)

    with pytest.raises(PartError) as caught:
        asyncio.run(main())
    assert (caught.value.kind, caught.value.where) == (kind, "gone")


def test_a_server_that_does_not_answer_is_a_timeout() -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            url = f"http://127.0.0.1:{silent.getsockname()[1]}"
            async with Client({"silent": [url]}) as client:
                await client.post("silent", "/x", {}, timeout_s=0.1)

    start = time.monotonic()
    with pytest.raises(PartError) as caught:
        asyncio.run(main())
    assert (caught.value.kind, caught.value.where) == ("timeout", "silent")
    assert time.monotonic() - start < 5


@given(
    kind=st.sampled_from(["timeout", "tool_error", "unauthorized"]),
    message=st.text(),
    where=st.text(),
    hint=st.text(),
)
def test_an_error_comes_off_the_wire_as_it_went_on(kind: Kind, message: str, where: str, hint: str) -> None:
    error = PartError(kind, message, where=where or "somewhere", hint=hint)
    back = from_wire(error.status, error.to_wire(), where="?")
    assert (back.kind, back.where, back.status) == (kind, error.where, error.status)
    assert back.message == error.message.encode("utf-8", "replace").decode()


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b'{"error": 1}', b'{"error": {"kind": "new"}}', b"\xff"]
)
def test_any_other_error_body_is_a_bad_response(body: bytes) -> None:
    error = from_wire(503, body, where="here")
    assert (error.kind, error.status, error.where) == ("bad_response", 503, "here")


def test_blame_names_the_part_once() -> None:
    with pytest.raises(PartError) as caught, blame("outer", "agent_error"), blame("inner", "tool_error"):
        raise KeyError("x")
    assert (caught.value.kind, caught.value.where) == ("tool_error", "inner")


def test_of_several_errors_at_once_the_named_one_is_told() -> None:
    named = PartError("session_lost", "gone", where="env")
    with pytest.raises(PartError) as caught, blame("agent", "agent_error"):
        raise ExceptionGroup("several", [ValueError("x"), ExceptionGroup("more", [named])])
    assert caught.value is named
