"""What a model's text amounts to: reasoning, text and tool calls, in the tags that open models write.

<think>reasoning</think> text <tool_call>{"name": …, "arguments": {…}}</tool_call>

read_answer(text)   of a whole text
Spoken()            of one that grows
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from uuid import uuid4

from nemo_like.chunk_reader import ThinkSplitter
from nemo_like.types import Json, parse_arguments

THINK, THOUGHT = "<think>", "</think>"
CALLS = "<tool_call>"
KEYS = {"reasoning_text": "reasoning_content", "output_text": "content"}
CALL = re.compile(r"<tool_call>\s*(.*?)\s*</tool_call>", re.DOTALL)


def read_answer(text: str, *, thinking: bool, tools: bool) -> Json:
    """The assistant's message in `text`.

    `thinking` is whether the prompt ended within `<think>`, as many templates' do; `tools` whether the model
    was shown any. What is no call, or was cut short, stays text.
    """
    reasoning, content = _split(text, thinking)
    message: Json = {"role": "assistant", "content": content}
    if reasoning:
        message["reasoning_content"] = reasoning
    calls = [_call(found.group(1)) for found in CALL.finditer(content)] if tools else []
    if calls and all(calls):
        message["tool_calls"] = calls
        message["content"] = CALL.sub("", content).strip() or None
    elif reasoning and not content:
        message["content"] = None
    return message


class Spoken:
    """What can be said of an answer while its text grows; a call, and what may yet be one, a stop text, a tag
    or a part of a character waits."""

    def __init__(self, *, thinking: bool, tools: bool, stop: Sequence[str]) -> None:
        """As `read_answer`; the answer ends before a text of `stop`."""
        self._splitter, self._tools, self._stop = ThinkSplitter(), tools, stop
        self._read = ""
        self._content = ""
        self._said = dict.fromkeys(KEYS.values(), "")
        if thinking:
            list(self._splitter.feed(THINK))

    def feed(self, text: str) -> Iterator[Json]:
        """The deltas of a message that `text`, which is all there is by now, adds to what was said."""
        sure = _before(text.rstrip("\ufffd"), self._stop)
        if not sure.startswith(self._read):
            return  # A tokenizer that words what came before anew: `rest` says what it comes to.
        new, self._read = sure[len(self._read) :], sure
        for kind, piece in self._splitter.feed(new):
            if kind == "output_text" and self._tools:
                self._content += piece
                piece = _before(self._content, [CALLS]).rstrip()[len(self._said["content"]) :]
            if piece:
                self._said[KEYS[kind]] += piece
                yield {KEYS[kind]: piece}

    def rest(self, message: Json) -> Json:
        """The whole message without what was said of it."""
        left = dict(message)
        for key, said in self._said.items():
            whole: str = message.get(key) or ""
            # Beside calls a text has no white space in front; what was said may.
            begun = said if whole.startswith(said) else said.lstrip()
            left[key] = whole.removeprefix(begun) if whole.startswith(begun) else ""
        return {key: value for key, value in left.items() if value not in ("", None)}


def _before(text: str, marks: Sequence[str]) -> str:
    """The text before the first of the marks, or before what may be the beginning of one at its end."""
    found = [at for mark in marks if (at := text.find(mark)) >= 0]
    if found:
        return text[: min(found)]
    for at in range(max(0, len(text) - max(map(len, marks), default=0)), len(text)):
        if any(mark.startswith(text[at:]) for mark in marks):
            return text[:at]
    return text


def _split(text: str, thinking: bool) -> tuple[str, str]:
    """Reasoning and the rest; thinking that does not end is all there is."""
    head, closed, tail = text.partition(THOUGHT)
    opened = thinking or head.lstrip().startswith(THINK)
    if not opened and (not closed or THINK in head):
        return "", text
    return head.lstrip().removeprefix(THINK).strip(), tail.lstrip()


def _call(text: str) -> Json | None:
    called = parse_arguments(text)
    if called is None or not isinstance(name := called.get("name"), str) or not name:
        return None
    arguments = called.get("arguments", {})
    written = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return {
        "id": f"call_{uuid4().hex}",
        "type": "function",
        "function": {"name": name, "arguments": written},
    }
