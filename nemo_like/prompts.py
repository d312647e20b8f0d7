"""Prompts: what a data set's cell asks of a model, however it is stored.

A cell is text, or messages as a list, an array, a struct or JSON text. Text is one user's turn; messages are
asked as they are, without the nulls that a column of structs fills in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, cast

import orjson

from nemo_like.errors import RowError
from nemo_like.types import Json, content_text

SHOWN_CHARACTERS = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """What is asked."""

    messages: list[Json]
    """As a chat endpoint takes them."""
    text: str
    """As a person reads it: one user's turn is its text, any other conversation is a line `role: text` a
    message."""
    plain: bool
    """Whether the cell was text, and not messages."""
    key: int
    """64 bits that tell what is asked from anything else."""


def read_prompt(cell: Any) -> Prompt:
    """The prompt in a cell.

    Raises:
        RowError: it is empty, or neither text nor messages.
    """
    value = _plain(cell)
    if isinstance(value, str):
        messages = _messages_in(value)
        if messages is None:
            if not value.strip():
                raise RowError("the prompt is empty")
            return _prompt([{"role": "user", "content": value}], value, plain=True)
    else:
        messages = _as_messages(value)
    if messages is None:
        raise RowError(f"the prompt should be text or messages with a role each (got {_short(value)})")
    if not any(content_text(message.get("content")).strip() or _has_more(message) for message in messages):
        raise RowError(f"no message of the prompt says anything (got {_short(value)})")
    return _prompt(messages, _in_words(messages), plain=False)


def sound(text: str) -> str:
    """`text` with a � for every lone surrogate: no encoder takes those."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _prompt(messages: list[Json], text: str, *, plain: bool) -> Prompt:
    digest = blake2b(orjson.dumps(messages), digest_size=8).digest()
    return Prompt(messages=messages, text=text, plain=plain, key=int.from_bytes(digest, "big"))


def _messages_in(text: str) -> list[Json] | None:
    """The messages that a text is JSON of; None where it is any other text."""
    if not text.lstrip().startswith(("[", "{")):
        return None
    try:
        return _as_messages(orjson.loads(text))
    except orjson.JSONDecodeError:
        return None


def _as_messages(value: Any) -> list[Json] | None:
    if isinstance(value, dict):
        value = [cast(Json, value)]
    if not isinstance(value, list) or not value:
        return None
    parts = cast(list[Any], value)
    if not all(isinstance(part, dict) and isinstance(cast(Json, part).get("role"), str) for part in parts):
        return None
    return cast(list[Json], parts)


def _plain(value: Any) -> Any:
    """Python's own types in place of arrays and tuples, no null in any mapping, no lone surrogate."""
    if isinstance(value, str):
        return sound(value)
    if isinstance(value, dict):
        pairs = cast(Json, value).items()
        return {sound(str(key)): _plain(part) for key, part in pairs if part is not None}
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray | str):
        return [_plain(part) for part in cast(Sequence[Any], value)]
    return value


def _has_more(message: Json) -> bool:
    """Whether a message that has no text says something all the same: an image, a call."""
    return bool(message.get("tool_calls")) or (
        isinstance(message.get("content"), list) and any(_other_parts(cast(list[Any], message["content"])))
    )


def _other_parts(parts: list[Any]) -> Iterator[bool]:
    return (isinstance(part, dict) and cast(Json, part).get("type", "text") != "text" for part in parts)


def _in_words(messages: list[Json]) -> str:
    if len(messages) == 1 and messages[0]["role"] == "user":
        return content_text(messages[0].get("content"))
    return "\n".join(f"{message['role']}: {content_text(message.get('content'))}" for message in messages)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…"
