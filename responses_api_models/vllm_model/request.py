"""What an engine is sent: a Chat Completions body, with what the engine would otherwise make up itself."""

from __future__ import annotations

import re
from hashlib import sha256
from typing import Any, Literal, cast

from nemo_like.chat import STREAMING, TOKEN_FIELDS
from nemo_like.shapes import object_at
from nemo_like.types import Json, merged

NEUTRAL: Json = {"temperature": 1.0, "top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
"""What an engine would otherwise take from the model's `generation_config.json`, or from its own defaults."""
SAMPLING = (
    *NEUTRAL,
    *("presence_penalty", "frequency_penalty", "logit_bias", "seed", "stop", "stop_token_ids", "ignore_eos"),
    *("max_tokens", "max_completion_tokens", "min_tokens", "n"),
)
"""What decides how an answer is sampled."""
UNSENT = (*TOKEN_FIELDS, "items")
"""What a message carries for its way back, and no engine reads."""
Reasoning = Literal["field", "text", "left out"]
"""How earlier reasoning goes back to an engine."""
THOUGHT = re.compile(r"\s*<think>.*?</think>\s*", re.S)
ATTEMPT = re.compile(r"\.\d+\.\d{6}$")
"""What the collector puts behind a rollout's id to tell its attempts apart."""


def sampling_of(body: Json) -> Json:
    """How a body asks to sample, for the record."""
    return {key: body[key] for key in SAMPLING if key in body}


def request_body(
    body: Json,
    *,
    model: str,
    defaults: Json,
    extra: Json,
    template: Json,
    with_tokens: Json,
    reasoning: Reasoning,
    developer_as_system: bool,
) -> Json:
    """`body` as it is sent: defaults under it, `extra` merged over it, its messages as engines take them."""
    if template:
        own = object_at(body.get("chat_template_kwargs") or {}, "chat_template_kwargs")
        body = body | {"chat_template_kwargs": merged(template, own)}
    whole = merged(defaults | body | {"model": model}, extra) | with_tokens
    whole = {key: whole[key] for key in whole if whole[key] is not None and key not in STREAMING}
    messages = cast(list[Any], whole["messages"]) if isinstance(whole.get("messages"), list) else []
    if any(_needs_rewording(m, reasoning, developer_as_system) for m in messages):
        whole["messages"] = [_reworded(m, reasoning, developer_as_system) for m in messages]
    return whole


def seed_of(seed: int, rollout: str, messages: Any) -> int:
    """The seed of a call: always the same for the same task, repeat and turn."""
    turns = cast(list[Any], messages) if isinstance(messages, list) else []
    spoken = sum(isinstance(turn, dict) and cast(Json, turn).get("role") == "assistant" for turn in turns)
    words = f"{seed}/{ATTEMPT.sub('', rollout)}/{spoken}"
    return int.from_bytes(sha256(words.encode()).digest()[:4], "big") >> 1


def _needs_rewording(message: Any, reasoning: Reasoning, developer_as_system: bool) -> bool:
    if not isinstance(message, dict):
        return False
    fields = cast(Json, message)
    developer = developer_as_system and fields.get("role") == "developer"
    answer = reasoning == "left out" and fields.get("role") == "assistant"
    unsent = any(key in fields for key in UNSENT)
    return bool(fields.get("reasoning_content") or developer or answer or unsent)


def _reworded(message: Any, reasoning: Reasoning, developer_as_system: bool) -> Any:
    if not _needs_rewording(message, reasoning, developer_as_system):
        return message
    fields = {key: value for key, value in cast(Json, message).items() if key not in UNSENT}
    if developer_as_system and fields.get("role") == "developer":
        fields["role"] = "system"
    if reasoning == "left out":
        return _without_reasoning(fields)
    if reasoning == "field" and (thought := fields.get("reasoning_content")):
        # vLLM's later releases read no other name, and its earlier ones only the first.
        fields.setdefault("reasoning", thought)
    elif thought := fields.pop("reasoning_content", None):
        fields["content"] = f"<think>\n{thought}\n</think>\n\n{fields.get('content') or ''}"
    return fields


def _without_reasoning(message: Json) -> Json:
    text = message.get("content")
    if message.get("role") == "assistant" and isinstance(text, str) and (thought := THOUGHT.match(text)):
        message["content"] = text[thought.end() :]
    return {key: value for key, value in message.items() if key not in ("reasoning", "reasoning_content")}
