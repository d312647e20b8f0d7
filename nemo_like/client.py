"""The one way to call a server: by its name, in process or over HTTP, and a model provider by its URL.

A server of this worker is called through its ASGI app with bytes, as HTTP would, without a socket. Any other
is reached at the private address of the worker that owns the rollout. The rollout's id goes along with every
call by itself.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar, cast
from zlib import crc32

import aiohttp
import orjson

from nemo_like.asgi import ASGIApp, call_app, open_app
from nemo_like.errors import Kind, PartError, from_wire, kind_of
from nemo_like.rate import Rate
from nemo_like.types import Json

log = logging.getLogger(__name__)

ROLLOUT_HEADER = "x-rollout-id"
KEEPALIVE_S = 30.0
"""Idle seconds after which we drop a connection; every server here keeps it longer, so none is closed under
us."""
ANSWER_LIMIT_BYTES = 256 * 2**20
REFUSED_RETRIES = 5
THROTTLED_STATUS = frozenset({429, 503, 529})
"""How a provider says that it is asked too much."""
RETRIED_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529})
BACKOFF_BASE_S, BACKOFF_CAP_S = 0.5, 30.0
RETRY_AFTER_CAP_S = 120.0
KINDS_OF_STATUS: dict[int, Kind] = {
    401: "unauthorized",
    403: "unauthorized",
    404: "not_found",
    408: "timeout",
    425: "rate_limited",
    429: "rate_limited",
}
MESSAGE_CHARACTERS = 500
OVERFLOW = re.compile(
    r"context_length_exceeded|exceed_context_size|available context size"
    r"|context length|maximum model length|max_model_len|context ?window|too many tokens|prompt is too long"
    r"|exceeds the maximum number of tokens|must have less than \d+ tokens|and the model's context",
    re.I,
)

T = TypeVar("T")
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
        with _troubles(server, f"no piece of the answer within {timeout_s:g} s"):
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
                while piece := await _next(pieces, timeout_s):
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

    async def fetch(self, url: str, *, timeout_s: float) -> bytes:
        """What a GET of a URL is answered with, whatever its status.

        Raises:
            PartError: it is not there.
        """
        if self._session is None:
            raise RuntimeError("a Client is used inside `async with`")
        try:
            async with asyncio.timeout(timeout_s), self._session.get(url) as response:
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Provider:
    """Someone else's model endpoint, retried here and nowhere else.

    `timeout_s` bounds each try, `max_retries` how many follow the first; waits have full jitter and honour
    `Retry-After`. Each try waits for its turn under `rate`.
    """

    client: Client
    base_url: str
    api_key: str = ""
    name: str = ""
    timeout_s: float = 600.0
    max_retries: int = 4
    rate: Rate | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    """More of them, with every request; they win over the key's."""

    async def post(self, path: str, body: Json) -> Json:
        """The JSON object that the provider answers to `body` at `path` (such as "/chat/completions").

        Raises:
            PartError: in the provider's own words, with its status.
        """
        data = orjson.dumps(body)
        return await self._retried(lambda: self._try(path, data), body, len(data))

    @asynccontextmanager
    async def stream(self, path: str, body: Json) -> AsyncGenerator[AsyncGenerator[bytes] | Json]:
        """The pieces of what the provider streams, as they come; the JSON object, where it does not stream.

        Tried again only before the first piece; `timeout_s` bounds the wait for each.

        Raises:
            PartError: in the provider's own words, with its status.
        """
        data = orjson.dumps(body)
        async with AsyncExitStack() as stack:
            yield await self._retried(lambda: self._open(stack, path, data), body, len(data))

    async def _retried(self, attempt: Callable[[], Awaitable[T]], body: Json, size: int) -> T:
        for number in range(self.max_retries + 1):
            turn = None if self.rate is None else await self.rate.turn(body, size)
            try:
                answer = await attempt()
                whole: object = answer
                if turn is not None and isinstance(whole, dict):
                    turn.done(cast(Json, whole))
                return answer
            except _TryAgain as again:
                if number == self.max_retries:
                    raise again.error from again.error.__cause__
                wait_s = backoff_s(number) if again.after_s is None else again.after_s
                log.warning("%s; trying again in %.1f s", again.error, wait_s)
                await asyncio.sleep(wait_s)
        raise AssertionError("unreachable code")

    async def _try(self, path: str, data: bytes) -> Json:
        with self._may_pass(path):
            async with asyncio.timeout(self.timeout_s):
                answer = await self.client.exchange(self.base_url + path, data, self._headers())
        return self._read(*answer)

    async def _open(self, stack: AsyncExitStack, path: str, data: bytes) -> AsyncGenerator[bytes] | Json:
        with self._may_pass(path):
            async with asyncio.timeout(self.timeout_s):
                opening = self.client.open(self.base_url + path, data, self._headers())
                response = await stack.enter_async_context(opening)
                if response.status < 400 and response.content_type == "text/event-stream":
                    return self._pieces(path, response)
                answer = await response.read()
        return self._read(response.status, response.headers, answer)

    async def _pieces(self, path: str, response: aiohttp.ClientResponse) -> AsyncGenerator[bytes]:
        pieces = pieces_of(response)
        with _troubles(self._where, self._late(path), self.base_url + path):
            while piece := await _next(pieces, self.timeout_s):
                yield piece

    def _read(self, status: int, headers: Mapping[str, str], answer: bytes) -> Json:
        """The JSON object of a whole answer."""
        self.client.throttled += status in THROTTLED_STATUS
        if status >= 400:
            failure = self._refusal(status, answer, self._where)
            if status in RETRIED_STATUS and failure.kind != "context_overflow":
                raise _TryAgain(failure, after_s=_retry_after_s(headers))
            raise failure
        try:
            return as_object(answer, where=self._where)
        except PartError as error:
            raise _TryAgain(error) from error

    @contextmanager
    def _may_pass(self, path: str) -> Generator[None]:
        """Names what goes wrong on the way; another try may mend it."""
        try:
            with _troubles(self._where, self._late(path), self.base_url + path):
                yield
        except PartError as error:
            raise _TryAgain(error) from error.__cause__

    @property
    def _where(self) -> str:
        return self.name or self.base_url

    def _late(self, path: str) -> str:
        return f"{self.base_url}{path} did not answer within {self.timeout_s:g} s"

    def _headers(self) -> dict[str, str]:
        key = {"authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        more = {name.lower(): value for name, value in self.headers.items()}
        return key | more | {ROLLOUT_HEADER: rollout_id.get()}

    def _refusal(self, status: int, answer: bytes, where: str) -> PartError:
        message = _message_of(answer) or f"status {status} and no message"
        # A header's value that is shorter is no secret, but a version or a flag.
        for secret in (self.api_key, *(value for value in self.headers.values() if len(value) >= 8)):
            message = message.replace(secret, "***") if secret else message
        kind = kind_of_status(status, message)
        hint = ""
        if kind == "unauthorized":
            hint = "check policy_api_key (env.yaml or +policy_api_key=…)"
        elif kind == "not_found":
            hint = f"check policy_base_url ({self.base_url}) and policy_model_name"
        return PartError(kind, message[:MESSAGE_CHARACTERS], where=where, status=status, hint=hint)


async def pieces_of(response: aiohttp.ClientResponse) -> AsyncGenerator[bytes]:
    """The body of an answer, as it comes."""
    async for piece in response.content.iter_any():
        yield piece


async def _next(pieces: AsyncGenerator[bytes], timeout_s: float) -> bytes:
    """The next piece that is not empty; b"" at the end."""
    async with asyncio.timeout(timeout_s):
        while (piece := await anext(pieces, None)) is not None:
            if piece:
                return piece
    return b""


@contextmanager
def _troubles(where: str, late: str, url: str = "") -> Generator[None]:
    """Names what goes wrong on the way to a server and back; `late` is what a timeout says."""
    try:
        yield
    except TimeoutError as error:
        raise PartError("timeout", late, where=where) from error
    except (aiohttp.ClientError, OSError) as error:
        kind = kind_of(error, "unreachable")
        raise PartError(kind, f"{url}: {_words(error)}" if url else _words(error), where=where) from error


class _TryAgain(Exception):
    """A failure that another try may mend; `after_s` is what the provider asked us to wait."""

    def __init__(self, error: PartError, *, after_s: float | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.after_s = after_s


def kind_of_status(status: int, message: str) -> Kind:
    """What a provider's refusal is called here."""
    if status in (400, 413, 422) and OVERFLOW.search(message):
        return "context_overflow"
    return KINDS_OF_STATUS.get(status, "bad_request" if status < 500 else "model_error")


def base_url_of(url: str) -> str:
    """A provider's base URL as people write it, with or without `/v1`, as the prefix of its endpoints."""
    url = url.rstrip("/")
    return url if re.search(r"/v\d+\w*(/|$)", url) else f"{url}/v1"


def backoff_s(attempt: int) -> float:
    """Seconds before try `attempt` + 2, with full jitter."""
    return random.uniform(0, min(BACKOFF_CAP_S, BACKOFF_BASE_S * 2**attempt))


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


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    """`Retry-After` in seconds, capped; its date form is rare and left to our own backoff."""
    try:
        asked_s = float(headers.get("Retry-After", ""))
    except ValueError:
        return None
    return min(asked_s, RETRY_AFTER_CAP_S) if asked_s >= 0 else None


def _message_of(answer: bytes) -> str:
    """A provider's own words, out of the shapes they come in."""
    try:
        body = orjson.loads(answer)
    except orjson.JSONDecodeError:
        return answer[:10_000].decode("utf-8", "replace").strip()
    for key in ("error", "message", "detail"):
        if isinstance(body, dict) and key in body:
            body = cast(Json, body)[key]
    return body if isinstance(body, str) else orjson.dumps(body).decode()


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__
