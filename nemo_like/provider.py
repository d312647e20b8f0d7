"""Someone else's model endpoint, asked over HTTP: retried, in turn, and what goes wrong in its own words."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import TypeVar, cast

import aiohttp
import orjson

from nemo_like.client import (
    ROLLOUT_HEADER,
    Client,
    as_object,
    backoff_s,
    next_piece,
    pieces_of,
    rollout_id,
    troubles,
)
from nemo_like.errors import Kind, PartError
from nemo_like.rate import Rate, Turn
from nemo_like.sse import Decoder
from nemo_like.types import Json

log = logging.getLogger(__name__)

THROTTLED_STATUS = frozenset({429, 503, 529})
"""How a provider says that it is asked too much."""
RETRIED_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529})
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
        answer, turn = await self._retried(lambda: self._try(path, data), body, len(data))
        if turn is not None:
            turn.done(answer)
        return answer

    @asynccontextmanager
    async def stream(self, path: str, body: Json) -> AsyncGenerator[AsyncGenerator[bytes] | Json]:
        """The pieces of what the provider streams, as they come; the JSON object, where it does not stream.

        Tried again only before the first piece; `timeout_s` bounds the wait for each.

        Raises:
            PartError: in the provider's own words, with its status.
        """
        data = orjson.dumps(body)
        async with AsyncExitStack() as stack:
            answer, turn = await self._retried(lambda: self._open(stack, path, data), body, len(data))
            if turn is None:
                yield answer
            elif isinstance(answer, dict):
                turn.done(answer)
                yield answer
            else:
                yield await stack.enter_async_context(aclosing(_metered(answer, turn)))

    async def _retried(
        self, attempt: Callable[[], Awaitable[T]], body: Json, size: int
    ) -> tuple[T, Turn | None]:
        """What an attempt comes to, and the turn that it had."""
        for number in range(self.max_retries + 1):
            turn = None if self.rate is None else await self.rate.turn(body, size)
            try:
                return await attempt(), turn
            except _TryAgain as again:
                if number == self.max_retries:
                    raise again.error from again.error.__cause__
                # What it asks for may be 0, and then all would come back at once, again and again.
                wait_s = again.after_s + backoff_s(number)
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
        with troubles(self._where, self._late(path), self.base_url + path):
            while piece := await next_piece(pieces, self.timeout_s):
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
            with troubles(self._where, self._late(path), self.base_url + path):
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


async def _metered(pieces: AsyncGenerator[bytes], turn: Turn) -> AsyncGenerator[bytes]:
    """A stream as it comes, which corrects what its turn was estimated at."""
    decoder = Decoder()
    try:
        async for piece in pieces:
            for event in decoder.feed(piece):
                turn.hear(event)
            yield piece
    finally:
        turn.end()


class _TryAgain(Exception):
    """A failure that another try may mend; `after_s` is what the provider asked us to wait at least."""

    def __init__(self, error: PartError, *, after_s: float = 0.0) -> None:
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


def _retry_after_s(headers: Mapping[str, str]) -> float:
    """`Retry-After` in seconds, capped; its date form is rare and left to our own backoff."""
    try:
        asked_s = float(headers.get("Retry-After", ""))
    except ValueError:
        return 0.0
    return min(asked_s, RETRY_AFTER_CAP_S) if asked_s >= 0 else 0.0


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
