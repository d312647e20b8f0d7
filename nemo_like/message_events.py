"""The events in which Anthropic's Messages API streams an answer, made of those of Responses. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nemo_like.chat_tools import flat_name
from nemo_like.messages import blocks_of, citation_of, ending_of, head_of, signature_of
from nemo_like.response_events import ADDED, ANNOTATED, ARGUMENTS, DELTAS, ENDINGS, ITEM_DONE
from nemo_like.shapes import fields_of, objects_in, text_of
from nemo_like.types import Json

THINKING = ("reasoning_text", "summary_text")


class MessageWriter:
    """Words events of the Responses API, whole ones, in those of Messages; `body` is the request answered."""

    def __init__(self, body: Json) -> None:
        self._body = body
        self._started = False
        self._blocks = 0
        self._open: dict[int, int] = {}
        self._place: tuple[Any, ...] = ()

    def write(self, event: Json) -> Iterator[Json]:
        """The events that an event amounts to."""
        kind, at = text_of(event.get("type")), event.get("output_index", 0)
        response, item = fields_of(event.get("response")), fields_of(event.get("item"))
        if not self._started:
            self._started = True
            yield {"type": "message_start", "message": head_of(response)}
        if kind == ADDED and item.get("type") == "function_call":
            call: Json = {"type": "tool_use", "id": text_of(item.get("call_id")), "name": flat_name(item)}
            yield from self._start(at, call | {"input": {}})
        elif kind == ARGUMENTS and at in self._open:
            yield self._delta(at, {"type": "input_json_delta", "partial_json": event["delta"]})
        elif kind == ANNOTATED and at in self._open:
            citation = citation_of(fields_of(event.get("annotation")))
            yield self._delta(at, {"type": "citations_delta", "citation": citation})
        elif kind in DELTAS:
            yield from self._say(DELTAS[kind] in THINKING, at, event)
        elif kind == ITEM_DONE:
            yield from self._end(at, item)
        elif kind in ENDINGS:
            for left in list(self._open):
                yield from self._stop(left)
            ending = ending_of(response, self._body)
            usage = ending.pop("usage")
            yield {"type": "message_delta", "delta": ending, "usage": usage}
            yield {"type": "message_stop"}

    def _say(self, thinks: bool, at: int, event: Json) -> Iterator[Json]:
        """A piece of a text or a thought; every part of a text is a block of its own, a thought is one."""
        place = (at, event.get("content_index"), event.get("summary_index"))
        goes_on, self._place = self._place == place, place
        gap = "\n\n" if thinks and at in self._open and not goes_on else ""
        if at in self._open and not thinks and not goes_on:
            yield from self._stop(at)
        text = gap + text_of(event["delta"])
        if thinks:
            if at not in self._open:
                yield from self._start(at, {"type": "thinking", "thinking": "", "signature": ""})
            yield self._delta(at, {"type": "thinking_delta", "thinking": text})
        else:
            if at not in self._open:
                yield from self._start(at, {"type": "text", "text": ""})
            yield self._delta(at, {"type": "text_delta", "text": text})

    def _end(self, at: int, item: Json) -> Iterator[Json]:
        """Item `at` is done: its signature, if it has one, or all of it, if nothing was said of it."""
        if at in self._open:
            signed = objects_in(item.get("thinking_blocks"))
            signature = signed[-1].get("signature") if signed else signature_of(item)
            if item.get("type") == "reasoning" and signature:
                yield self._delta(at, {"type": "signature_delta", "signature": signature})
            yield from self._stop(at)
        elif item.get("type") != "message":
            for block in blocks_of(item):
                yield from self._start(at, block)
                yield from self._stop(at)

    def _start(self, at: int, block: Json) -> Iterator[Json]:
        self._open[at] = self._blocks
        self._blocks += 1
        yield {"type": "content_block_start", "index": self._open[at], "content_block": block}

    def _delta(self, at: int, delta: Json) -> Json:
        return {"type": "content_block_delta", "index": self._open[at], "delta": delta}

    def _stop(self, at: int) -> Iterator[Json]:
        yield {"type": "content_block_stop", "index": self._open.pop(at)}
