"""What an engine is sent: a Chat Completions body, with what the engine would otherwise make up itself."""

from __future__ import annotations

import re
from hashlib import sha256
from typing import Any, cast

from nemo_like.chat import STREAMING, TOKEN_FIELDS
from nemo_like.types import Json, merged

NEUTRAL: Json = {"temperature": 1.0, "top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
"""What an engine would otherwise take from the model's `generation_config.json`, or from its own defaults."""
SAMPLING = (
    *NEUTRAL,
    *("presence_penalty", "frequency_penalty", "logit_bias", "seed", "stop", "stop_token_ids", "ignore_eos"),
    *("max_tokens", "max_completion_tokens", "min_tokens", "n"),
)
"""What decides how an answer is sampled."""
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
    reasoning_as_field: bool,
    developer_as_system: bool,
) -> Json:
    """`body` as it is sent: defaults under it, `extra` merged over it, its messages as engines take them."""
    if template:
        body = body | {"chat_template_kwargs": merged(template, body.get("chat_template_kwargs") or {})}
    whole = merged(defaults | body | {"model": model}, extra) | with_tokens
    whole = {key: whole[key] for key in whole if whole[key] is not None and key not in STREAMING}
    messages = cast(list[Any], whole["messages"]) if isinstance(whole.get("messages"), list) else []
    if any(_needs_rewording(m, developer_as_system) for m in messages):
        whole["messages"] = [_reworded(m, reasoning_as_field, developer_as_system) for m in messages]
    return whole


def seed_of(seed: int, rollout: str, messages: Any) -> int:
    """The seed of a call: always the same for the same task, repeat and turn."""
    turns = cast(list[Any], messages) if isinstance(messages, list) else []
    spoken = sum(isinstance(turn, dict) and cast(Json, turn).get("role") == "assistant" for turn in turns)
    words = f"{seed}/{ATTEMPT.sub('', rollout)}/{spoken}"
    return int.from_bytes(sha256(words.encode()).digest()[:4], "big") >> 1


def _needs_rewording(message: Any, developer_as_system: bool) -> bool:
    if not isinstance(message, dict):
        return False
    fields = cast(Json, message)
    developer = developer_as_system and fields.get("role") == "developer"
    return bool(fields.get("reasoning_content") or developer or any(key in fields for key in TOKEN_FIELDS))


def _reworded(message: Any, reasoning_as_field: bool, developer_as_system: bool) -> Any:
    if not _needs_rewording(message, developer_as_system):
        return message
    fields = {key: value for key, value in cast(Json, message).items() if key not in TOKEN_FIELDS}
    if developer_as_system and fields.get("role") == "developer":
        fields["role"] = "system"
    if reasoning_as_field and (thought := fields.get("reasoning_content")):
        # vLLM's later releases read no other name, and its earlier ones only the first.
        fields.setdefault("reasoning", thought)
    elif thought := fields.pop("reasoning_content", None):
        fields["content"] = f"<think>\n{thought}\n</think>\n\n{fields.get('content') or ''}"
    return fields
