"""Chunks of a streamed chat completion → the events of Responses, as they come. Pure."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Iterator
from contextlib import aclosing
from typing import Any

from nemo_like.chat import INCOMPLETE, logprobs_of, response_of, stem_of
from nemo_like.chat_tools import flat, names_of
from nemo_like.errors import PartError, blame
from nemo_like.response_events import Teller, beginning_of, ending_of, failure_of
from nemo_like.shapes import fields_of, object_at, objects_in, text_of
from nemo_like.sse import encoded
from nemo_like.turns import SIGNED, TOKEN_FIELDS, message_item, reasoning_item, token_fields
from nemo_like.types import Json, parse_arguments

OPEN, CLOSE = "<think>", "</think>"


class ThinkSplitter:
    """Splits thinking tags at the start of a text off, however the text is cut.

    A lone `</think>`, for which `to_response` looks too, comes too late here: what was said stays said.
    """

    def __init__(self) -> None:
        self._held = ""
        self._state = "start"

    def skip(self) -> None:
        """The server splits by itself: tags are text."""
        self._state = "says"

    def feed(self, text: str) -> Iterator[tuple[str, str]]:
        """(kind of part, text) of what is certain."""
        self._held += text
        if self._state == "start":
            begins = self._held.lstrip()
            if OPEN.startswith(begins[: len(OPEN)]) and len(begins) < len(OPEN):
                return
            thinks = begins.startswith(OPEN)
            self._state = "opened" if thinks else "says"
            self._held = begins.removeprefix(OPEN) if thinks else self._held
        if self._state == "opened":
            self._held = self._held.lstrip()
            self._state = "thinks" if self._held else "opened"
        if self._state == "thinks":
            yield from self._think()
        if self._state == "thought":
            self._held = self._held.lstrip()
            self._state = "says" if self._held else "thought"
        if self._state == "says" and self._held:
            yield "output_text", self._held
            self._held = ""

    def end(self) -> Iterator[tuple[str, str]]:
        """The rest."""
        if self._held and self._state == "thinks":
            yield "reasoning_text", self._held.rstrip()
        elif self._held and self._state == "start":
            yield "output_text", self._held
        self._held = ""

    def _think(self) -> Iterator[tuple[str, str]]:
        thought, closed, rest = self._held.partition(CLOSE)
        if not closed:
            # What may turn out to be the tag, or the white space before it, waits.
            cut = next(n for n in range(len(CLOSE), -1, -1) if thought.endswith(CLOSE[:n]))
            thought = thought[: len(thought) - cut]
        thought = thought.rstrip()
        if thought:
            yield "reasoning_text", thought
        self._held = rest if closed else self._held[len(thought) :]
        self._state = "thought" if closed else "thinks"


class ChunkReader:
    """Words a streamed completion in the events of the Responses API; `params` is the request it answers."""

    def __init__(self, params: Json) -> None:
        self._params = params
        self._completion: Json = {}
        self._choice: Json = {}
        self._tokens: Json = {}
        self._teller = Teller()
        self._speaking: int | None = None
        self._part = ""
        self._calls: dict[Any, int] = {}
        self._writing: set[int] = set()
        self._splitter = ThinkSplitter()
        self._logprobs: list[Json] = []
        self._cited: list[Json] = []
        self._sound: Json = {}
        self._names = names_of(params)

    def read(self, chunk: Json) -> Iterator[Json]:
        """The events that a chunk amounts to.

        Raises:
            PartError: the chunk tells an error, or is none.
        """
        if failure := failure_of(chunk):
            raise failure
        if not self._completion:
            self._completion = {key: chunk.get(key) for key in ("created", "model")} | {"id": stem_of(chunk)}
            yield from beginning_of(response_of(self._completion, self._params, [], {}))
        if chunk.get("usage"):
            self._completion["usage"] = chunk["usage"]
        for choice in objects_in(chunk.get("choices")):
            if choice.get("index") in (0, None):
                yield from self._read_choice(choice)

    def end(self) -> Iterator[Json]:
        """The events after the last chunk.

        Raises:
            PartError: `bad_response`; no chunk said why the answer ended.
        """
        if "finish_reason" not in self._choice:
            raise PartError("bad_response", "the stream ended before the answer did: no finish_reason")
        yield from self._say_rest()
        if not self._teller.output or (self._sound and not self._told("message")):
            yield from self._say("output_text", "")
        yield from self._cite()
        self._add_rest()
        last = self._teller.output[-1]
        if self._choice["finish_reason"] in INCOMPLETE:
            last["status"] = "incomplete"
        last |= self._tokens
        yield from self._hush()
        for at in sorted(self._writing):
            yield from self._end_call(at)
        output = self._teller.output
        yield ending_of(response_of(self._completion, self._params, output, self._choice))

    def _add_rest(self) -> None:
        """What comes when no text is being said: to the text that was said, or else to the last item."""
        output = self._teller.output
        messages = [item for item in output if item["type"] == "message"]
        texts = [part for item in messages for part in item["content"] if part["type"] == "output_text"]
        if self._logprobs:
            spoken = texts[0] if texts else output[-1]
            spoken["logprobs"] = spoken.get("logprobs", []) + self._logprobs
        if self._cited and texts:
            texts[-1]["annotations"] += self._cited
            self._cited = []
        if self._sound:
            messages[-1].setdefault("audio", self._sound)

    def _read_choice(self, choice: Json) -> Iterator[Json]:
        delta = object_at(choice.get("delta") or {}, "choices[0].delta", "bad_response")
        for source in (choice, delta):
            self._take_tokens(source)
        thought = text_of(delta.get("reasoning_content") or delta.get("reasoning"))
        signed = {key: objects_in(delta[key]) for key in SIGNED if delta.get(key)}
        if thought or signed:
            self._splitter.skip()
            yield from self._say("reasoning_text", thought)
            _sign(self._teller.output[self._speaking or 0], signed)
        self._logprobs += logprobs_of(choice)
        sound = fields_of(delta.get("audio"))
        _hear(self._sound, sound)
        for kind, text in self._splitter.feed(text_of(delta.get("content") or sound.get("transcript"))):
            yield from self._say(kind, text)
        self._cited += [flat(each) for each in objects_in(delta.get("annotations"))]
        yield from self._cite()
        if refusal := text_of(delta.get("refusal")):
            yield from self._say_rest()
            yield from self._say("refusal", refusal)
        if calls := objects_in(delta.get("tool_calls")):
            yield from self._say_rest()
            for call in calls:
                yield from self._call(call)
        if finish := choice.get("finish_reason"):
            self._choice = {"finish_reason": finish, "stop_reason": choice.get("stop_reason")}

    def _say_rest(self) -> Iterator[Json]:
        """What the splitter holds, for it might have been a tag."""
        for kind, text in self._splitter.end():
            yield from self._say(kind, text)

    def _say(self, kind: str, text: str) -> Iterator[Json]:
        """A piece of reasoning, text or refusal, in a new item or part where the last is of another kind."""
        output, thinks = self._teller.output, kind == "reasoning_text"
        if self._speaking is None or thinks != (output[self._speaking]["type"] == "reasoning"):
            yield from self._hush()
            yield from self._end_whole_calls()
            before = self._told("reasoning" if thinks else "message")
            stem = self._completion["id"] + (f"_{before}" if before else "")
            item = reasoning_item("", stem) if thinks else message_item([], stem) | {"status": "in_progress"}
            yield from self._teller.begin(item)
            self._speaking, self._part = self._teller.last, ""
        if kind != self._part and (text or not thinks):
            blank: Json = {"type": kind, "refusal" if kind == "refusal" else "text": ""}
            blank |= {"annotations": []} if kind == "output_text" else {}
            yield from self._teller.begin_part(self._speaking, blank)
            self._part = kind
        # Those of a tag stay with the text behind it.
        logprobs, self._logprobs = ([], self._logprobs) if kind != "output_text" else (self._logprobs, [])
        yield from self._teller.say(self._speaking, text, logprobs)

    def _cite(self) -> Iterator[Json]:
        """What is cited, once the text is there that cites it."""
        if self._speaking is not None and self._part == "output_text":
            for annotation in self._cited:
                yield from self._teller.annotate(self._speaking, annotation)
            self._cited = []

    def _told(self, kind: str) -> int:
        """How many items of this kind there are."""
        return sum(item["type"] == kind for item in self._teller.output)

    def _hush(self) -> Iterator[Json]:
        """Ends the reasoning or message that is being said."""
        yield from self._cite()
        if self._speaking is not None:
            item = self._teller.output[self._speaking]
            if self._sound and item["type"] == "message":
                item["audio"] = self._sound
            yield from self._teller.end(self._speaking)
        self._speaking = None

    def _call(self, call: Json) -> Iterator[Json]:
        """A piece of a call; some servers count all calls as number 0 and tell them apart by their ids."""
        function = fields_of(call.get("function"))
        key, call_id = call.get("index", 0), text_of(call.get("id"))
        at = self._calls.get(key)
        known = self._teller.output[at]["call_id"] if at is not None else ""
        if at is None or (call_id and function.get("name") and call_id != known):
            yield from self._hush()
            yield from self._end_whole_calls()
            stem = f"{self._completion['id']}_{self._told('function_call')}"
            name = text_of(function.get("name"))
            if not name:
                raise PartError("bad_response", f"a tool call without a name: {text_of(call):.200}")
            item = {"type": "function_call", "id": f"fc_{stem}", "call_id": call_id or f"call_{stem}"}
            named = self._names.get(name) or {"name": name}
            yield from self._teller.begin(item | named | {"arguments": "", "status": "in_progress"})
            self._calls[key] = at = self._teller.last
            self._writing.add(at)
        if at in self._writing:
            yield from self._teller.write(at, text_of(function.get("arguments")))

    def _end_whole_calls(self) -> Iterator[Json]:
        """Ends the calls whose arguments are whole; another may still get more of them."""
        for at in sorted(self._writing):
            if parse_arguments(self._teller.output[at]["arguments"]) is not None:
                yield from self._end_call(at)

    def _end_call(self, at: int) -> Iterator[Json]:
        self._writing.discard(at)
        if not self._teller.output[at]["arguments"]:
            yield from self._teller.write(at, "{}")
        yield from self._teller.end(at)

    def _take_tokens(self, source: Json) -> None:
        """Token ids of a piece follow those of the pieces before; the prompt's come once."""
        for key, values in token_fields(source).items():
            self._tokens[key] = values if key == TOKEN_FIELDS[0] else [*self._tokens.get(key, []), *values]


async def read_chunks(chunks: AsyncIterable[Json], params: Json) -> AsyncGenerator[Json]:
    """Chunks → Responses events, as they come; `params` is the request that they answer.

    Raises:
        PartError: as `ChunkReader`; `bad_response` where a chunk holds nonsense.
    """
    reader = ChunkReader(params)
    async for chunk in chunks:
        with blame("", "bad_response"):
            events = [*reader.read(chunk)]
        for event in events:
            yield event
    with blame("", "bad_response"):
        events = [*reader.end()]
    for event in events:
        yield event


async def response_stream(chunks: AsyncIterable[Json], params: Json) -> AsyncGenerator[bytes]:
    """Chunks → the stream of Responses events, as they come."""
    number = 0
    async with aclosing(read_chunks(chunks, params)) as events:
        async for event in events:
            yield encoded(event | {"sequence_number": number})
            number += 1


def _hear(sound: Json, piece: Json) -> None:
    """Adds a piece of a spoken answer to it."""
    for key, value in piece.items():
        grows = key in ("data", "transcript") and isinstance(sound.get(key), str)
        sound[key] = sound[key] + text_of(value) if grows else value


def _sign(item: Json, signed: Json) -> None:
    """Adds signed reasoning to its item; entries that come in pieces are put together."""
    for key, entries in signed.items():
        whole: list[Json] = item.setdefault(key, [])
        for entry in entries:
            last = whole[-1] if whole else {}
            same = last and (last.get("type"), last.get("index")) == (entry.get("type"), entry.get("index"))
            if not same or "index" not in entry:
                whole.append(dict(entry))
                continue
            for name, value in entry.items():
                grows = name in ("text", "summary", "data", "thinking") and isinstance(last.get(name), str)
                last[name] = last[name] + (value or "") if grows else value
