"""Server-sent events, as the APIs of models stream them: JSON in `data:` lines, blank lines between."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterable
from typing import cast

import orjson

from nemo_like.errors import PartError
from nemo_like.types import Json

DONE = b"data: [DONE]\n\n"
"""How Chat Completions ends a stream."""
EVENT_LIMIT_BYTES = 64 * 2**20
BLANK_LINE = re.compile(rb"\r\n\r\n|\n\n|\r\r")


def encoded(data: Json, *, named: bool = True) -> bytes:
    """An event; `named` after its type, as Responses and Messages have it and Chat has not."""
    name = b"event: %b\n" % str(data["type"]).encode() if named else b""
    return b"%bdata: %b\n\n" % (name, orjson.dumps(data))


class Decoder:
    """Takes bytes as they come, gives the events that are whole; `[DONE]` is none, but sets `done`."""

    def __init__(self) -> None:
        self._rest = b""
        self.done = False

    def feed(self, piece: bytes) -> list[Json]:
        """The events that this piece completes.

        Raises:
            PartError: `bad_response`; one is no JSON object, or too long.
        """
        self._rest += piece
        if len(self._rest) > EVENT_LIMIT_BYTES:
            raise PartError("bad_response", f"an event is longer than {EVENT_LIMIT_BYTES} bytes")
        *blocks, self._rest = BLANK_LINE.split(self._rest)
        return [event for block in blocks if (event := self._event(block)) is not None]

    def end(self) -> list[Json]:
        """The event at the end of a stream that closes without a blank line."""
        return self.feed(b"\n\n")

    def _event(self, block: bytes) -> Json | None:
        lines = [
            line.removeprefix(b"data:").strip() for line in block.splitlines() if line.startswith(b"data:")
        ]
        data = b"\n".join(lines)
        if data == b"[DONE]":
            self.done = True
        if not data or data == b"[DONE]":
            return None
        try:
            event = orjson.loads(data)
        except orjson.JSONDecodeError:
            event = None
        if not isinstance(event, dict):
            raise PartError("bad_response", f"not an event: {data[:200].decode('utf-8', 'replace')!r}")
        return cast(Json, event)


async def decoded(pieces: AsyncIterable[bytes]) -> AsyncGenerator[Json]:
    """The events in a stream of bytes."""
    decoder = Decoder()
    async for piece in pieces:
        for event in decoder.feed(piece):
            yield event
    for event in decoder.end():
        yield event
