"""What a request asks, apart from how it is written: its key in a recording, and how two of them differ.

Requests that ask the same have the same canonical form: no nulls, no ids that a model made up, no token ids
and log-probabilities of earlier answers, an input that is text as the one message it is. `call_id`s are
numbered in their order, as they only tie calls to their outputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b
from typing import Any, cast

import orjson

from nemo_like.chat import TOKEN_FIELDS
from nemo_like.types import Json, content_text

IRRELEVANT = frozenset(
    {"stream", "stream_options", "store", "background", "user", "safety_identifier", "prompt_cache_key"}
)
"""Keys of a request that change nothing of what is answered."""
MADE_UP = frozenset({"id", "status", "logprobs", "annotations", "weights_version", *TOKEN_FIELDS})
"""Keys of an item that came with an answer and say nothing of the conversation."""
SHOWN_DIFFERENCES, SHOWN_CHARACTERS = 3, 60


def canonical(params: Json) -> Json:
    """The canonical form of a Responses-API request."""
    asked = {key: _plain(value) for key, value in params.items() if key not in IRRELEVANT}
    given = params.get("input")
    items = [{"role": "user", "content": given}] if isinstance(given, str) else given
    if isinstance(items, list):
        names: dict[str, str] = {}
        asked["input"] = [_item(item, names) for item in cast(list[Any], items)]
    return {key: value for key, value in asked.items() if value not in (None, {}, [])}


def key_of(asked: Json) -> str:
    """The key of a canonical form: 128 bits."""
    return blake2b(orjson.dumps(asked, option=orjson.OPT_SORT_KEYS), digest_size=16).hexdigest()


def distance(asked: Json, other: Json) -> float:
    """How far apart two canonical forms are: places that differ, texts by the share of what follows the
    first difference."""
    ours, theirs = dict(_leaves(asked)), dict(_leaves(other))
    return sum(_apart(ours.get(place), theirs.get(place)) for place in ours.keys() | theirs.keys())


def differences(asked: Json, other: Json) -> str:
    """Where two canonical forms differ, for people: `temperature: 0.7, recorded 1.0; …`."""
    ours, theirs = dict(_leaves(asked)), dict(_leaves(other))
    places = [place for place in {**ours, **theirs} if ours.get(place) != theirs.get(place)]
    said = [_said(place, ours.get(place), theirs.get(place)) for place in places[:SHOWN_DIFFERENCES]]
    more = len(places) - len(said)
    return "; ".join(said) + (f"; and {more} more" if more else "")


def _item(item: Any, names: dict[str, str]) -> Any:
    if not isinstance(item, dict):
        return _plain(item)
    fields = {key: value for key, value in cast(Json, item).items() if key not in MADE_UP}
    if isinstance(call_id := fields.get("call_id"), str):
        fields["call_id"] = names.setdefault(call_id, f"call {len(names)}")
    if "role" in fields:
        fields.setdefault("type", "message")
    if isinstance(content := fields.get("content"), list) and _is_text(cast(list[Any], content)):
        fields["content"] = content_text(content)
    return _plain(fields)


def _is_text(parts: list[Any]) -> bool:
    kinds = ("input_text", "output_text", "text")
    return all(isinstance(part, dict) and cast(Json, part).get("type") in kinds for part in parts)


def _plain(value: Any) -> Any:
    """Without nulls in objects; 1.0 is 1."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in cast(Json, value).items() if each is not None}
    if isinstance(value, list):
        return [_plain(each) for each in cast(list[Any], value)]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Every place of a value that holds no other: ("input[0].content", "Hi")."""
    if isinstance(value, dict) and value:
        for key, each in cast(Json, value).items():
            yield from _leaves(each, f"{place}.{key}" if place else key)
    elif isinstance(value, list) and value:
        for at, each in enumerate(cast(list[Any], value)):
            yield from _leaves(each, f"{place}[{at}]")
    else:
        yield place, value


def _apart(one: Any, other: Any) -> float:
    if one == other:
        return 0.0
    if isinstance(one, str) and isinstance(other, str):
        # Never 0 or 1: it is a difference, and less of one than where there is nothing.
        return 0.01 + 0.98 * (1 - _shared(one, other) / max(len(one), len(other)))
    return 1.0


def _said(place: str, one: Any, other: Any) -> str:
    if isinstance(one, str) and isinstance(other, str):
        # A long text is shown from shortly before where they part.
        start = max(0, _shared(one, other) - SHOWN_CHARACTERS // 3)
        one, other = one[start:], other[start:]
    return f"{place}: {_short(one)}, recorded {_short(other)}"


def _short(value: Any) -> str:
    if value is None:
        return "nothing"
    text = orjson.dumps(value).decode()
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…"


def _shared(one: str, other: str) -> int:
    """Characters that both begin with."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if one[:middle] == other[:middle] else (low, middle - 1)
    return low
