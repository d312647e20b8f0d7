"""What a model's text amounts to: reasoning, text and tool calls, in the tags that open models write.

<think>reasoning</think> text <tool_call>{"name": …, "arguments": {…}}</tool_call>
"""

from __future__ import annotations

import json
import re
from uuid import uuid4

from nemo_like.types import Json, parse_arguments

THINK, THOUGHT = "<think>", "</think>"
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
