"""The events in which the Responses API streams an answer; `numbered` adds the `sequence_number`. Pure.

events_of(response)   a finished response as its events
Teller                output items as they come, piece by piece
whole(events)         events in which every item is told in full, whatever the server left out
failure_of(event)     the error that an event tells
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Iterator
from copy import deepcopy
from typing import Any, NamedTuple

import orjson

from nemo_like.errors import KINDS, PartError, from_wire
from nemo_like.provider import kind_of_status
from nemo_like.shapes import fields_of, objects_in, text_of
from nemo_like.types import Json


class Words(NamedTuple):
    """How the events of a kind of part are called, and where it stands in its item."""

    part: str
    delta: str
    field: str
    place: str
    text: str


PARTS = {
    "output_text": Words("content_part", "output_text", "content", "content_index", "text"),
    "refusal": Words("content_part", "refusal", "content", "content_index", "refusal"),
    "reasoning_text": Words("content_part", "reasoning_text", "content", "content_index", "text"),
    "summary_text": Words(
        "reasoning_summary_part", "reasoning_summary_text", "summary", "summary_index", "text"
    ),
}
DELTAS = {f"response.{words.delta}.delta": kind for kind, words in PARTS.items()}
"""The event that holds a piece of a part → the part's type."""
ARGUMENTS = "response.function_call_arguments.delta"
PIECES = {*DELTAS, ARGUMENTS}
ANNOTATED = "response.output_text.annotation.added"
ADDED, ITEM_DONE = "response.output_item.added", "response.output_item.done"
ENDINGS = ("response.completed", "response.incomplete")
FAILURES = ("error", "response.failed", "response.cancelled")


def events_of(response: Json) -> Iterator[Json]:
    """A finished response as its events."""
    teller = Teller()
    yield from beginning_of(response)
    for item in objects_in(response.get("output")):
        yield from teller.tell(item)
    yield ending_of(response)


def beginning_of(response: Json) -> Iterator[Json]:
    """The events before the first item."""
    nothing_yet: Json = {"status": "in_progress", "output": [], "usage": None, "incomplete_details": None}
    for kind in ("response.created", "response.in_progress"):
        yield {"type": kind, "response": response | nothing_yet}


def ending_of(response: Json) -> Json:
    """The event after the last item."""
    status = response.get("status")
    ends = status if status in ("incomplete", "failed", "cancelled") else "completed"
    return {"type": f"response.{ends}", "response": response}


def numbered(events: Iterable[Json]) -> Iterator[Json]:
    """The events with the number that each has in its stream."""
    return (event | {"sequence_number": number} for number, event in enumerate(events))


class Teller:
    """Tells output items in events: `begin`, pieces, `end`; or a whole one by `tell`."""

    def __init__(self) -> None:
        self.output: list[Json] = []
        self._parts: dict[int, Json] = {}

    @property
    def last(self) -> int:
        """The index of the item that was begun last."""
        return len(self.output) - 1

    def begin(self, item: Json) -> Iterator[Json]:
        """An item in which nothing is said yet."""
        self.output.append(item)
        yield {"type": ADDED, "output_index": self.last, "item": deepcopy(item)}

    def begin_part(self, at: int, part: Json) -> Iterator[Json]:
        """A part of item `at`, in which nothing is said yet."""
        yield from self._end_part(at)
        words = PARTS[part["type"]]
        self.output[at][words.field].append(part)
        self._parts[at] = part
        yield self._place(at, part) | {"type": f"response.{words.part}.added", "part": deepcopy(part)}

    def say(self, at: int, text: str, logprobs: list[Json] | None = None) -> Iterator[Json]:
        """A piece of the part that was begun last in item `at`."""
        if not text:
            return
        part = self._parts[at]
        words = PARTS[part["type"]]
        part[words.text] += text
        event = self._place(at, part) | {"type": f"response.{words.delta}.delta", "delta": text}
        if part["type"] == "output_text":
            event["logprobs"] = logprobs or []
            if logprobs:
                part["logprobs"] = part.get("logprobs", []) + logprobs
        yield event

    def annotate(self, at: int, annotation: Json) -> Iterator[Json]:
        """What the text that was begun last in item `at` cites."""
        part = self._parts[at]
        cited: list[Json] = part.setdefault("annotations", [])
        cited.append(annotation)
        event = {"type": ANNOTATED, "annotation_index": len(cited) - 1, "annotation": annotation}
        yield self._place(at, part) | event

    def write(self, at: int, text: str) -> Iterator[Json]:
        """A piece of the arguments of call `at`."""
        self.output[at]["arguments"] += text
        if text:
            yield {"type": ARGUMENTS, "item_id": self._id(at), "output_index": at, "delta": text}

    def end(self, at: int) -> Iterator[Json]:
        """Item `at` is whole."""
        yield from self._end_part(at)
        item = self.output[at]
        if item.get("status") == "in_progress":
            item["status"] = "completed"
        if item.get("type") == "function_call":
            done = {"name": item.get("name"), "arguments": item.get("arguments"), "item_id": self._id(at)}
            yield {"type": "response.function_call_arguments.done", "output_index": at, **done}
        yield {"type": ITEM_DONE, "output_index": at, "item": deepcopy(item)}

    def tell(self, item: Json) -> Iterator[Json]:
        """A whole item, in one piece a part; one of an unknown kind as it is."""
        shell = dict(item)
        if "status" in item:
            shell["status"] = "in_progress"
        fields = [field for field in ("summary", "content") if isinstance(item.get(field), list)]
        if item.get("type") == "function_call":
            shell["arguments"] = ""
        elif _is_of_parts(item, fields):
            shell |= {field: [] for field in fields}
        else:
            fields = []
        yield from self.begin(shell)
        at = self.last
        if item.get("type") == "function_call":
            yield from self.write(at, text_of(item.get("arguments")))
        for part in [part for field in fields for part in item[field]]:
            yield from self._tell_part(at, part)
        yield from self._end_part(at)
        self.output[at] = item
        yield from self.end(at)

    def _tell_part(self, at: int, part: Json) -> Iterator[Json]:
        words = PARTS[part["type"]]
        shell: Json = {**part, words.text: ""}
        shell |= {key: list[Json]() for key in ("annotations", "logprobs") if key in part}
        yield from self.begin_part(at, shell)
        yield from self.say(at, text_of(part.get(words.text)), objects_in(part.get("logprobs")))
        for annotation in objects_in(part.get("annotations")):
            yield from self.annotate(at, annotation)
        shell |= part

    def _end_part(self, at: int) -> Iterator[Json]:
        part = self._parts.pop(at, None)
        if part is None:
            return
        words, place = PARTS[part["type"]], self._place(at, part)
        event = place | {"type": f"response.{words.delta}.done", words.text: part[words.text]}
        yield event | ({"logprobs": part.get("logprobs") or []} if part["type"] == "output_text" else {})
        yield place | {"type": f"response.{words.part}.done", "part": deepcopy(part)}

    def _place(self, at: int, part: Json) -> Json:
        words = PARTS[part["type"]]
        return {
            "item_id": self._id(at),
            "output_index": at,
            words.place: len(self.output[at][words.field]) - 1,
        }

    def _id(self, at: int) -> str:
        return text_of(self.output[at].get("id")) or f"item_{at}"


def _is_of_parts(item: Json, fields: list[str]) -> bool:
    """Whether an item consists of parts that there are events for."""
    parts = [part for field in fields for part in item[field]]
    return item.get("type") in ("message", "reasoning") and all(
        (words := PARTS.get(text_of(fields_of(part).get("type")))) is not None and part in item[words.field]
        for part in parts
    )


async def whole(events: AsyncIterable[Json]) -> AsyncGenerator[Json]:
    """The events, with what a server leaves out: items that are only done, parts without their pieces.

    Raises:
        PartError: what an event says that went wrong; `bad_response` where no event says that it ended well.
    """
    said: Counter[tuple[int, str]] = Counter()
    begun, done = set[int](), set[int]()
    async for event in events:
        kind, at = text_of(event.get("type")), event.get("output_index", 0)
        if failure := failure_of(event):
            raise failure
        if not isinstance(at, int) or (kind in PIECES and not isinstance(event.get("delta"), str)):
            raise PartError("bad_response", f"an event is not as it should be: {event!s:.200}")
        if kind == ADDED:
            begun.add(at)
        elif kind in PIECES:
            said[at, kind] += len(text_of(event.get("delta")))
        elif kind == ANNOTATED:
            said[at, kind] += 1
        elif kind == ITEM_DONE:
            done.add(at)
            for missing in _missing(at, fields_of(event.get("item")), begun, said):
                yield missing
        elif kind in ENDINGS:
            for index, item in enumerate(objects_in(fields_of(event.get("response")).get("output"))):
                if index not in done:
                    for missing in _missing(index, item, begun, said):
                        yield missing
                    yield {"type": ITEM_DONE, "output_index": index, "item": item}
        yield event
        if kind in ENDINGS:
            return
    raise PartError("bad_response", "the stream ended before the answer did")


def _missing(at: int, item: Json, begun: set[int], said: Counter[tuple[int, str]]) -> Iterator[Json]:
    """The events that should have come before item `at` was done."""
    if at not in begun:
        begun.add(at)
        yield {"type": ADDED, "output_index": at, "item": item}
    for kind, text, place, cited in _pieces(item):
        if rest := text[said[at, kind] :]:
            yield {"type": kind, "output_index": at, **place, "delta": rest}
        said[at, kind] = max(0, said[at, kind] - len(text))
        uncited = cited[said[at, ANNOTATED] :]
        said[at, ANNOTATED] = max(0, said[at, ANNOTATED] - len(cited))
        for annotation in uncited:
            yield {"type": ANNOTATED, "output_index": at, **place, "annotation": annotation}


def _pieces(item: Json) -> Iterator[tuple[str, str, Json, list[Json]]]:
    """The texts of an item, each with the event that brings it, which part of the item it is, and what it
    cites."""
    if item.get("type") == "function_call":
        yield ARGUMENTS, text_of(item.get("arguments")), {}, []
    for field in ("summary", "content"):
        for index, part in enumerate(objects_in(item.get(field))):
            if words := PARTS.get(text_of(part.get("type"))):
                kind = f"response.{words.delta}.delta"
                place = {f"{field}_index": index}
                yield kind, text_of(part.get(words.text)), place, objects_in(part.get("annotations"))


def failure_of(event: Json) -> PartError | None:
    """The error that an event of any of the three APIs tells; None where it tells none."""
    kind = event.get("type")
    told: Any = fields_of(event.get("response")).get("error") if kind in FAILURES[1:] else event.get("error")
    if not told and kind not in FAILURES:
        return None
    error = fields_of(told) or event
    if error.get("kind") in KINDS:
        return from_wire(error.get("status") or 500, orjson.dumps({"error": error}), where="")
    message = text_of(error.get("message")) or text_of(told) or "the answer failed, without a reason"
    code = text_of(error.get("code"))
    status = int(code) if code.isdigit() and 400 <= int(code) < 600 else 0
    shown = f"{code}: {message}" if code and not status else message
    named = kind_of_status(status or 400, shown)
    return PartError(named if status or named == "context_overflow" else "model_error", shown)
