"""What a model server's endpoint answers to `stream: true`: server-sent events of its API, as they come."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Callable
from contextlib import aclosing
from typing import Self

import orjson

from nemo_like.errors import PartError
from nemo_like.messages import error_body
from nemo_like.response_events import ENDINGS, failure_of
from nemo_like.shapes import objects_in
from nemo_like.sse import Decoder, encoded
from nemo_like.types import Json

MEDIA_TYPE = "text/event-stream; charset=utf-8"
NUMBER = b'"sequence_number":'


class Stream:
    """Events that have begun: what goes wrong before the first is a plain error, and after it an event."""

    def __init__(
        self, first: bytes, rest: AsyncGenerator[bytes], fail: Callable[[PartError, int], bytes]
    ) -> None:
        self._first, self._rest, self._fail = first, rest, fail
        self._numbers = 0

    @classmethod
    async def begin(cls, events: AsyncGenerator[bytes], fail: Callable[[PartError, int], bytes]) -> Self:
        """Waits for the first event; `fail` words an error, given the number that its event gets."""
        return cls(await anext(events, b""), events, fail)

    async def pieces(self) -> AsyncGenerator[bytes]:
        """The bytes to send."""
        async with aclosing(self._rest):
            self._numbers = self._first.count(NUMBER)
            yield self._first
            async for piece in self._rest:
                self._numbers += piece.count(NUMBER)
                yield piece

    def failed(self, error: PartError) -> bytes:
        """The event that tells of an error."""
        return self._fail(error, self._numbers)


def fail_chat(error: PartError, _: int) -> bytes:
    """An error in a stream of Chat Completions."""
    return encoded(orjson.loads(error.to_wire()), named=False)


def fail_responses(error: PartError, number: int) -> bytes:
    """An error in a stream of the Responses API; `error` in it is ours."""
    told: Json = {"type": "error", "code": error.kind, "message": str(error), "param": None}
    return encoded(told | {"sequence_number": number} | orjson.loads(error.to_wire()))


def fail_messages(error: PartError, _: int) -> bytes:
    """An error in a stream of Anthropic's Messages API."""
    return encoded(orjson.loads(error_body(error)))


async def relayed(pieces: AsyncIterable[bytes], ends: Callable[[Json], bool]) -> AsyncGenerator[bytes]:
    """A stream as it comes; `ends` knows the event with which an answer is whole.

    Raises:
        PartError: what is said to have gone wrong before anything else is said; `bad_response` where the
            stream stops before it ends.
    """
    decoder, held, begun, ended = Decoder(), b"", False, False
    async for piece in pieces:
        held += piece
        for event in decoder.feed(piece):
            if not begun and (failure := failure_of(event)):
                raise failure
            begun, ended = True, ended or ends(event)
        if begun:
            yield held
            held = b""
    for event in decoder.end():
        ended = ended or ends(event)
    if held:
        yield held
    if not ended and not decoder.done:
        raise PartError("bad_response", "the stream ended before the answer did")


def ends_response(event: Json) -> bool:
    """Whether an event of the Responses API is its last."""
    return event.get("type") in ENDINGS or failure_of(event) is not None


def ends_completion(chunk: Json) -> bool:
    """Whether a chunk says why the answer ended."""
    ended = any(choice.get("finish_reason") for choice in objects_in(chunk.get("choices")))
    return ended or failure_of(chunk) is not None
