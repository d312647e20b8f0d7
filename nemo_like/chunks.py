"""The chunks in which Chat Completions streams an answer. Pure.

chunks_of(completion)   a finished completion in chunks
ChunkWriter()           the events of Responses → chunks, as they come; back: `chunk_reader`
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nemo_like.chat import chat_logprob, completion_id, finish_of, seconds_of, to_completion
from nemo_like.chat_tools import flat_name
from nemo_like.response_events import ADDED, ARGUMENTS, DELTAS, ENDINGS
from nemo_like.shapes import fields_of, objects_in, text_of, without_nulls
from nemo_like.turns import SIGNED, TOKEN_FIELDS
from nemo_like.types import Json

SPOKEN = {"output_text": "content", "refusal": "refusal"}
"""Type of a part → its key in a delta; whatever else is said is `reasoning_content`."""
RIDING = ("items", "annotations", "audio", "name", *SIGNED, *TOKEN_FIELDS)
"""Keys of a message that come in one piece, with the last chunk."""


def chunks_of(completion: Json, *, usage: bool) -> Iterator[Json]:
    """A finished completion in chunks; `usage` as `stream_options.include_usage` asks for it."""
    head = {key: completion.get(key) for key in ("id", "created", "model")}
    head |= {"object": "chat.completion.chunk"}
    for choice in objects_in(completion.get("choices")):
        message = {"role": "assistant"} | without_nulls(fields_of(choice.get("message")))
        if calls := objects_in(message.get("tool_calls")):
            message["tool_calls"] = [call | {"index": at} for at, call in enumerate(calls)]
        last: Json = {key: choice[key] for key in choice if key != "message"} | {
            "delta": {},
            "logprobs": None,
        }
        said = {"index": choice.get("index", 0), "delta": message, "logprobs": choice.get("logprobs")}
        yield head | {"choices": [said | {"finish_reason": None}]}
        yield head | {"choices": [last]}
    if usage:
        yield head | {"choices": [], "usage": completion.get("usage")}


class ChunkWriter:
    """Words events of the Responses API, whole ones, in chunks."""

    def __init__(self, *, usage: bool) -> None:
        self._usage = usage
        self._head: Json = {}
        self._calls: dict[int, int] = {}
        self._heard = set[int]()
        self._logprobs = 0
        self._thought: tuple[Any, ...] = ()

    def write(self, event: Json) -> Iterator[Json]:
        """The chunks that an event amounts to."""
        kind, at = text_of(event.get("type")), event.get("output_index", 0)
        response, item = fields_of(event.get("response")), fields_of(event.get("item"))
        if not self._head:
            self._head = {"id": completion_id(response), "object": "chat.completion.chunk"}
            self._head |= {"created": seconds_of(response.get("created_at")), "model": response.get("model")}
            yield self._chunk({"role": "assistant", "content": ""})
        if kind == ADDED and item.get("type") == "function_call":
            self._calls[at] = len(self._calls)
            function = {"name": flat_name(item), "arguments": ""}
            call = {"id": text_of(item.get("call_id")), "type": "function", "function": function}
            yield self._chunk({"tool_calls": [{"index": self._calls[at]} | call]})
        elif kind == ARGUMENTS and at in self._calls:
            call = {"index": self._calls[at], "function": {"arguments": event["delta"]}}
            yield self._chunk({"tool_calls": [call]})
        elif kind == ADDED and item.get("audio"):
            self._heard.add(at)
        elif kind in DELTAS and not (at in self._heard and DELTAS[kind] == "output_text"):
            yield self._said(DELTAS[kind], at, event)
        elif kind in ENDINGS:
            yield from self._end(response)

    def _said(self, part: str, at: int, event: Json) -> Json:
        text, logprobs = (
            text_of(event["delta"]),
            [chat_logprob(entry) for entry in objects_in(event.get("logprobs"))],
        )
        self._logprobs += len(logprobs)
        if part in SPOKEN:
            return self._chunk({SPOKEN[part]: text}, logprobs={"content": logprobs} if logprobs else None)
        place = (at, event.get("content_index"), event.get("summary_index"))
        gap = "\n\n" if self._thought not in ((), place) else ""
        self._thought = place
        return self._chunk({"reasoning_content": gap + text})

    def _end(self, response: Json) -> Iterator[Json]:
        completion = to_completion({"output": [], **response})
        (choice,) = completion["choices"]
        # What has no deltas of its own.
        rest = {key: choice["message"][key] for key in RIDING if key in choice["message"]}
        ends = {key: choice[key] for key in ("stop_reason",) if key in choice}
        logprobs = objects_in(fields_of(choice["logprobs"]).get("content"))[self._logprobs :]
        ends |= {"logprobs": {"content": logprobs}} if logprobs else {}
        yield self._chunk(rest, finish_reason=finish_of(response, bool(self._calls)), **ends)
        if self._usage:
            yield self._head | {"choices": [], "usage": completion["usage"]}

    def _chunk(self, delta: Json, **fields: Any) -> Json:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None, **fields}
        return self._head | {"choices": [choice]}
