"""The one way to call a server: by its name, in process or over HTTP, or by its URL.

A server of this worker is called through its ASGI app with bytes, as HTTP would, without a socket. Any other
is reached at the private address of the worker that owns the rollout. The rollout's id goes along with every
call by itself.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, contextmanager
from contextvars import ContextVar
from typing import Any, Self, cast
from zlib import crc32

import aiohttp
import orjson

from nemo_like.asgi import ASGIApp, call_app, open_app
from nemo_like.errors import PartError, from_wire, kind_of
from nemo_like.types import Json

log = logging.getLogger(__name__)

ROLLOUT_HEADER = "x-rollout-id"
KEEPALIVE_S = 30.0
"""Idle seconds after which we drop a connection; every server here keeps it longer, so none is closed under
us."""
ANSWER_LIMIT_BYTES = 256 * 2**20
REFUSED_RETRIES = 5
BACKOFF_BASE_S, BACKOFF_CAP_S = 0.5, 30.0

Opening = AbstractAsyncContextManager[aiohttp.ClientResponse]

rollout_id: ContextVar[str] = ContextVar("rollout_id", default="")
"""The rollout that the running call belongs to; set by the server that took the call."""


def owner(rollout: str, workers: int) -> int:
    """Which of `workers` holds the sessions of this rollout."""
    return crc32(rollout.encode()) % workers


class Client:
    """Names → servers.

    `peers` maps a server's name to the address of each worker that holds it; `local` to the app in this
    process.
    """

    def __init__(
        self, peers: Mapping[str, Sequence[str]], local: Mapping[str, ASGIApp] | None = None
    ) -> None:
        self._peers = peers
        self._local: Mapping[str, ASGIApp] = {} if local is None else local
        self._session: aiohttp.ClientSession | None = None
        self.throttled = 0
        """How often a provider has said to this process that it is asked too much."""

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),
            auto_decompress=True,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    def workers_of(self, server: str) -> int:
        """How many worker processes hold a server."""
        return max(1, len(self._peers.get(server, ())))

    async def call(self, server: str, path: str, body: Json | bytes, *, timeout_s: float) -> bytes:
        """What `server` answers, as JSON text.

        Raises:
            PartError: what went wrong, named by the part it went wrong in.
        """
        data = body if isinstance(body, bytes) else orjson.dumps(body)
        headers = {ROLLOUT_HEADER: rollout_id.get()}
        try:
            async with asyncio.timeout(timeout_s):
                if (app := self._local.get(server)) is not None:
                    status, answer = await call_app(app, path, data, headers)
                else:
                    status, answer = await self._post_to_peer(server, path, data, headers)
        except TimeoutError as error:
            raise PartError("timeout", f"no answer within {timeout_s:g} s", where=server) from error
        if status >= 400:
            raise from_wire(status, answer, where=server)
        return answer

    async def post(self, server: str, path: str, body: Json | bytes, *, timeout_s: float) -> Json:
        """The JSON object that `server` answers; raises as `call`."""
        return as_object(await self.call(server, path, body, timeout_s=timeout_s), where=server)

    async def stream(
        self, server: str, path: str, body: Json | bytes, *, timeout_s: float
    ) -> AsyncGenerator[bytes]:
        """What `server` answers, in pieces as they come; `timeout_s` bounds the wait for each.

        Close it with `contextlib.aclosing`, so that the server hears of it where you stop reading.

        Raises:
            PartError: what went wrong, named by the part it went wrong in.
        """
        data = body if isinstance(body, bytes) else orjson.dumps(body)
        headers = {ROLLOUT_HEADER: rollout_id.get()}
        with troubles(server, f"no piece of the answer within {timeout_s:g} s"):
            async with AsyncExitStack() as stack:
                async with asyncio.timeout(timeout_s):
                    if (app := self._local.get(server)) is not None:
                        status, pieces = await stack.enter_async_context(open_app(app, path, data, headers))
                    else:
                        opening = self.open(self._url(server, path), data, headers)
                        response = await stack.enter_async_context(opening)
                        status, pieces = response.status, pieces_of(response)
                if status >= 400:
                    raise from_wire(status, b"".join([piece async for piece in pieces]), where=server)
                while piece := await next_piece(pieces, timeout_s):
                    yield piece

    def _url(self, server: str, path: str) -> str:
        """Where the worker is that owns this rollout."""
        if server not in self._peers:
            raise PartError("not_found", f"no server named {server!r}", where=server)
        urls = self._peers[server]
        return urls[owner(rollout_id.get(), len(urls))] + path

    async def _post_to_peer(
        self, server: str, path: str, data: bytes, headers: dict[str, str]
    ) -> tuple[int, bytes]:
        url = self._url(server, path)
        for attempt in range(REFUSED_RETRIES + 1):
            try:
                return await self.send(url, data, headers)
            except aiohttp.ClientConnectorError as error:
                # The server is not there yet, or not any more: nothing of the call has happened.
                kind = kind_of(error, "unreachable")
                if attempt == REFUSED_RETRIES or kind != "unreachable":
                    raise PartError(kind, str(error), where=server) from error
                await asyncio.sleep(backoff_s(attempt))
            except (aiohttp.ClientError, OSError) as error:
                raise PartError("unreachable", _words(error), where=server) from error
        raise AssertionError("unreachable code")

    async def post_once(self, url: str, body: Json, *, timeout_s: float) -> Json:
        """The JSON object that an address of a server answers, whoever owns the rollout; no retry.

        Raises:
            PartError: what went wrong.
        """
        try:
            async with asyncio.timeout(timeout_s):
                status, answer = await self.send(url, orjson.dumps(body), {})
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise PartError("unreachable", _words(error), where=url) from error
        if status >= 400:
            raise from_wire(status, answer, where=url)
        return as_object(answer, where=url)

    async def send(self, url: str, data: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        """One POST, no retry, no mapping of errors."""
        status, _, answer = await self.exchange(url, data, headers)
        return status, answer

    async def get(self, url: str, *, timeout_s: float) -> Any:
        """The JSON at a URL.

        Raises:
            PartError: it is not there, or not JSON.
        """
        try:
            return orjson.loads(await self.fetch(url, timeout_s=timeout_s))
        except orjson.JSONDecodeError as error:
            raise PartError("unreachable", _words(error), where=url) from error

    async def fetch(self, url: str, *, timeout_s: float, headers: Mapping[str, str] | None = None) -> bytes:
        """What a GET of a URL is answered with, whatever its status.

        Raises:
            PartError: it is not there.
        """
        if self._session is None:
            raise RuntimeError("a Client is used inside `async with`")
        try:
            async with asyncio.timeout(timeout_s), self._session.get(url, headers=headers) as response:
                return await response.read()
        except (aiohttp.ClientError, OSError) as error:
            raise PartError("unreachable", _words(error), where=url) from error

    async def status(self, url: str, *, timeout_s: float) -> int:
        """The HTTP status that a GET of a URL is answered with.

        Raises:
            PartError: `unreachable`, or `timeout` where there is no answer in time.
        """
        if self._session is None:
            raise RuntimeError("a Client is used inside `async with`")
        try:
            async with asyncio.timeout(timeout_s), self._session.get(url) as response:
                return response.status
        except TimeoutError as error:
            raise PartError("timeout", f"{url} did not answer within {timeout_s:g} s", where=url) from error
        except (aiohttp.ClientError, OSError) as error:
            raise PartError("unreachable", f"{url}: {_words(error)}", where=url) from error

    async def exchange(
        self, url: str, data: bytes, headers: Mapping[str, str]
    ) -> tuple[int, Mapping[str, str], bytes]:
        """One POST: status, headers and body."""
        async with self.open(url, data, headers) as response:
            if (response.content_length or 0) > ANSWER_LIMIT_BYTES:
                raise aiohttp.ClientPayloadError(f"an answer of {response.content_length} bytes is too long")
            return response.status, response.headers, await response.read()

    def open(self, url: str, data: bytes, headers: Mapping[str, str]) -> Opening:
        """One POST, whose answer is read while it is open."""
        if self._session is None:
            raise RuntimeError("a Client is used inside `async with`")
        return self._session.post(url, data=data, headers={"content-type": "application/json", **headers})


async def pieces_of(response: aiohttp.ClientResponse) -> AsyncGenerator[bytes]:
    """The body of an answer, as it comes."""
    async for piece in response.content.iter_any():
        yield piece


async def next_piece(pieces: AsyncGenerator[bytes], timeout_s: float) -> bytes:
    """The next piece that is not empty; b"" at the end."""
    async with asyncio.timeout(timeout_s):
        while (piece := await anext(pieces, None)) is not None:
            if piece:
                return piece
    return b""


@contextmanager
def troubles(where: str, late: str, url: str = "") -> Generator[None]:
    """Names what goes wrong on the way to a server and back; `late` is what a timeout says."""
    try:
        yield
    except TimeoutError as error:
        raise PartError("timeout", late, where=where) from error
    except (aiohttp.ClientError, OSError) as error:
        kind = kind_of(error, "unreachable")
        raise PartError(kind, f"{url}: {_words(error)}" if url else _words(error), where=where) from error


def as_object(answer: bytes, *, where: str) -> Json:
    """The JSON object in `answer`, or a `bad_response` that shows how it begins."""
    try:
        value = orjson.loads(answer)
    except orjson.JSONDecodeError as error:
        message = f"not JSON ({error}): {answer[:200].decode('utf-8', 'replace')!r}"
        raise PartError("bad_response", message, where=where) from error
    if not isinstance(value, dict):
        shown = answer[:200].decode("utf-8", "replace")
        raise PartError("bad_response", f"not a JSON object: {shown!r}", where=where)
    return cast(Json, value)


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__


def backoff_s(attempt: int) -> float:
    """Seconds before try `attempt` + 2, with full jitter."""
    return random.uniform(0, min(BACKOFF_CAP_S, BACKOFF_BASE_S * 2**attempt))
