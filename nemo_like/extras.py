"""What a Responses request carries in its `metadata` for a Chat engine, as in NeMo Gym. Pure.

    extra_body              JSON of an object, merged deeply under the body: a key that the request has stays
    chat_template_kwargs    JSON of an object, merged deeply over the body's own
    audio_data              a data URI, heard before the text of the last message of the user

Whatever else is there goes on as metadata.
"""

from __future__ import annotations

from typing import Any

from nemo_like.errors import PartError
from nemo_like.shapes import misshapen, object_at, objects_in, text_at
from nemo_like.types import Json, merged, parse_arguments

FILES = ("audio_path", "audio_paths")
"""Keys for sounds in files, which no server here reads for somebody else."""


def with_extras(body: Json, metadata: Json) -> Json:
    """The body with what its metadata brings.

    Raises:
        PartError: `bad_request`, naming the key.
    """
    metadata = dict(metadata)
    if named := [key for key in FILES if metadata.get(key)]:
        message = (
            f"metadata.{named[0]}: no file is read here; send an input_audio part, or metadata.audio_data"
        )
        raise PartError("bad_request", message)
    if extra := _object(metadata.pop("extra_body", None), "extra_body"):
        body = merged(extra, body)
    if template := _object(metadata.pop("chat_template_kwargs", None), "chat_template_kwargs"):
        own = object_at(body.get("chat_template_kwargs") or {}, "chat_template_kwargs")
        body = body | {"chat_template_kwargs": merged(own, template)}
    if sound := metadata.pop("audio_data", None):
        body = body | {"messages": _with_sound(objects_in(body.get("messages")), sound)}
    return body | {"metadata": metadata} if metadata else body


def _object(value: Any, key: str) -> Json:
    extra = parse_arguments(value or "{}")
    if extra is None:
        raise misshapen(value, f"metadata.{key}", "JSON of an object", "bad_request")
    return extra


def _with_sound(messages: list[Json], sound: Any) -> list[Json]:
    """The messages with a sound before what the user says last."""
    url = text_at(sound, "metadata.audio_data")
    if not url.startswith("data:audio/"):
        raise misshapen(url[:40], "metadata.audio_data", "a data URI, data:audio/…", "bad_request")
    at = next((at for at in reversed(range(len(messages))) if messages[at].get("role") == "user"), None)
    if at is None:
        raise PartError("bad_request", "metadata.audio_data: no message of the user to hear it with")
    said = messages[at].get("content") or ""
    parts = objects_in(said) or ([{"type": "text", "text": said}] if said else [])
    heard = {"type": "audio_url", "audio_url": {"url": url}}
    return [*messages[:at], messages[at] | {"content": [heard, *parts]}, *messages[at + 1 :]]
