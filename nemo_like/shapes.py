"""JSON from outside, read by its shape: `…_at` refuses another by its place, the rest take what there is."""

from __future__ import annotations

import json
from typing import Any, cast

from nemo_like.errors import Kind, PartError
from nemo_like.types import Json, content_text

TEXT_PARTS = ("input_text", "output_text", "text", "refusal")


def text_of(value: Any) -> str:
    """Text as it is, content parts as their text, null as "", anything else as JSON."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    parts = objects_in(value)
    if parts and all(part.get("type") in TEXT_PARTS for part in parts):
        return content_text(parts)
    return json.dumps(value, ensure_ascii=False)


def without_nulls(fields: Json) -> Json:
    """The fields that are not null."""
    return {key: value for key, value in fields.items() if value is not None}


def fields_of(value: Any) -> Json:
    """An object as it is; anything else has no fields."""
    return cast(Json, value) if isinstance(value, dict) else {}


def objects_in(value: Any) -> list[Json]:
    """The objects of a list; none where it is no list."""
    if not isinstance(value, list):
        return []
    return [cast(Json, each) for each in cast(list[Any], value) if isinstance(each, dict)]


def object_at(value: Any, place: str, kind: Kind = "bad_request") -> Json:
    """An object, or a `PartError` that names its place."""
    if isinstance(value, dict):
        return cast(Json, value)
    raise misshapen(value, place, "an object", kind)


def list_at(value: Any, place: str, kind: Kind = "bad_request") -> list[Any]:
    """A list, or a `PartError` that names its place."""
    if isinstance(value, list):
        return cast(list[Any], value)
    raise misshapen(value, place, "a list", kind)


def text_at(value: Any, place: str, kind: Kind = "bad_request") -> str:
    """Text, or a `PartError` that names its place."""
    if isinstance(value, str):
        return value
    raise misshapen(value, place, "text", kind)


def misshapen(value: Any, place: str, shape: str, kind: Kind) -> PartError:
    """The error that says what a place should be, and what it is."""
    return PartError(kind, f"{place} should be {shape} (got {json.dumps(value, ensure_ascii=False):.200})")
