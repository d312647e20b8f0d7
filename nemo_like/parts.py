"""The parts of a message's content, as Responses and Chat call them: text, images, sounds, files. Pure."""

from __future__ import annotations

import json
from typing import Any, cast

from nemo_like.shapes import TEXT_PARTS, fields_of, objects_in, text_of, without_nulls
from nemo_like.types import Json, content_text

IMAGE_PARTS = ("input_image", "image_url")
MEDIA_PARTS = (*IMAGE_PARTS, "input_audio", "audio_url", "video_url", "input_file", "file")
"""What is no text; sounds and videos are the same in both, those by URL are vLLM's."""
FILE_FIELDS = ("file_data", "file_id", "filename")


def content_problem(content: Any, role: str) -> str | None:
    """Why a `role` message of this content can't be said in the other API; None where it can."""
    if content is None or isinstance(content, str):
        return None
    if not isinstance(content, list):
        return f"content should be text or a list of parts (got {text_of(content):.200})"
    for part in cast(list[Any], content):
        fields = fields_of(part)
        if fields.get("type") not in TEXT_PARTS and not (_holds_media(fields) and role in ("user", "tool")):
            return f"a message of role {role} can't be sent with the part {json.dumps(part):.200}"
    return None


def _holds_media(part: Json) -> bool:
    match part.get("type"):
        case "input_image" | "image_url":
            return bool(part.get("image_url"))
        case "input_audio" | "audio_url" | "video_url" as kind:
            return bool(part.get(kind))
        case "input_file":
            return bool(part.get("file_data") or part.get("file_id"))
        case "file":
            return bool(fields_of(part.get("file")))
        case _:
            return False


def content_of(value: Any, *, chat: bool) -> str | list[Json]:
    """Text where it is only text, as every server and template takes that; parts where there is more."""
    parts = objects_in(value)
    if any(part.get("type") in MEDIA_PARTS for part in parts):
        return [_part(part, chat=chat) for part in parts]
    return text_of(value)


def _part(part: Json, *, chat: bool) -> Json:
    match part.get("type"):
        case "input_image" | "image_url":
            return _image(part, chat=chat)
        case "input_audio" | "audio_url" | "video_url":
            return part
        case "input_file" | "file":
            file = fields_of(part.get("file")) or part
            file = without_nulls({key: file.get(key) for key in FILE_FIELDS})
            return {"type": "file", "file": file} if chat else {"type": "input_file", **file}
        case _:
            return {"type": "text" if chat else "input_text", "text": content_text([part])}


def _image(part: Json, *, chat: bool) -> Json:
    url = part.get("image_url")
    image = cast(Json, url) if isinstance(url, dict) else {"url": url, "detail": part.get("detail")}
    if chat:
        return {"type": "image_url", "image_url": without_nulls(image)}
    return {"type": "input_image"} | without_nulls(
        {"image_url": image.get("url"), "detail": image.get("detail")}
    )
