"""ASGI, as far as it is needed here: types, reading a request, answering JSON, calling an app in process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Mapping, MutableMapping
from contextlib import asynccontextmanager, suppress
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]


def header_of(scope: Scope, name: str) -> str:
    """A request's header, "" where it has none; `name` in lower case."""
    wanted = name.encode()
    for key, value in scope["headers"]:
        if key == wanted:
            return value.decode("latin-1")
    return ""


async def read_body(receive: Receive) -> bytes:
    """A request's whole body."""
    message = await receive()
    body: bytes = message.get("body", b"")
    while message.get("more_body"):
        message = await receive()
        body += message.get("body", b"")
    return body


async def send_json(send: Send, status: int, body: bytes) -> None:
    """Answer with JSON text."""
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def received(body: bytes) -> Receive:
    """A `receive` for a body that has been read; the caller of it never goes away."""
    read = False

    async def receive() -> Message:
        nonlocal read
        if read:
            await asyncio.Event().wait()
        read = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


@asynccontextmanager
async def until_gone(receive: Receive) -> AsyncGenerator[None]:
    """Cancels what runs inside when the caller goes away; the request's body has been read before."""
    task, gone = asyncio.current_task(), False

    async def watch() -> None:
        nonlocal gone
        while (await receive())["type"] != "http.disconnect":
            pass
        gone = True
        if task is not None:
            task.cancel()

    watcher = asyncio.create_task(watch())
    try:
        yield
    except asyncio.CancelledError:
        if not gone:
            raise
    finally:
        watcher.cancel()


async def send_pieces(send: Send, status: int, kind: str, pieces: AsyncIterable[bytes]) -> None:
    """Answer in pieces, as they come."""
    headers = [(b"content-type", kind.encode()), (b"cache-control", b"no-cache")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    async for piece in pieces:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def call_app(app: ASGIApp, path: str, data: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
    """POST to an ASGI app of this process: (status, body)."""
    status, parts = 500, list[bytes]()

    async def send(message: Message) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
        elif message["type"] == "http.response.body":
            parts.append(message.get("body", b""))

    await app(_scope(path, headers), received(data), send)
    return status, parts[0] if len(parts) == 1 else b"".join(parts)


@asynccontextmanager
async def open_app(
    app: ASGIApp, path: str, data: bytes, headers: Mapping[str, str]
) -> AsyncGenerator[tuple[int, AsyncGenerator[bytes]]]:
    """POST to an ASGI app of this process: (status, pieces of the body as they come).

    The app is cancelled when its reader leaves.
    """
    messages = asyncio.Queue[Message | None]()

    async def run() -> None:
        try:
            await app(_scope(path, headers), received(data), messages.put)
        finally:
            messages.put_nowait(None)

    async def pieces() -> AsyncGenerator[bytes]:
        while (message := await messages.get()) is not None:
            yield message.get("body", b"")
        await task

    task = asyncio.create_task(run())
    try:
        start = await messages.get()
        if start is None:
            await task
        yield (500 if start is None else start["status"]), pieces()
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def _scope(path: str, headers: Mapping[str, str]) -> Scope:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(key.encode(), value.encode()) for key, value in headers.items()],
        "client": None,
        "server": None,
    }
