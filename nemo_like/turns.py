"""Items ↔ chat messages, the conversation's part of `chat`. Pure.

Responses has reasoning, text and calls as items of their own, Chat has one assistant message that holds them
all: a *turn*. `to_messages` folds items into turns, for requests and for records, and never fails: what Chat
has no words for is refused by name before, by `problem_of`. `items_of` goes back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from nemo_like.errors import Kind, PartError
from nemo_like.shapes import (
    TEXT_PARTS,
    fields_of,
    list_at,
    object_at,
    objects_in,
    text_at,
    text_of,
    without_nulls,
)
from nemo_like.types import Json, content_text

ROLES = {"reasoning": "assistant", "function_call": "assistant", "function_call_output": "tool"}
"""Who says the items that are not messages."""
NEEDS = {"function_call": ("name", "call_id"), "function_call_output": ("call_id",)}
IMAGE_PARTS = ("input_image", "image_url")
MEDIA_PARTS = (*IMAGE_PARTS, "input_audio", "input_file", "file")
FILE_FIELDS = ("file_data", "file_id", "filename")
SIGNED = ("reasoning_details", "thinking_blocks")
"""What OpenRouter and LiteLLM sign reasoning with and want back as it was: on the message in Chat, on the
reasoning item in Responses."""
TOKEN_FIELDS = ("prompt_token_ids", "generation_token_ids", "generation_log_probs")
"""A turn's tokens, for trainers: on the message or choice in Chat, on the turn's last item in Responses."""


def to_messages(items: list[Any], read: Callable[[Any], str | list[Json]]) -> list[Json]:
    """Items folded into chat messages; `read` words the content of all but the assistant's."""
    messages: list[Json] = []
    turn: Json | None = None
    for item in items:
        kind, role = kind_and_role(item)
        if role == "assistant":
            # After its text a turn only makes calls. After a call it lasts until the outputs come, as servers
            # refuse calls without their outputs right behind them.
            if turn is None or (turn["content"] and "tool_calls" not in turn and kind != "function_call"):
                turn = {"role": "assistant", "content": ""}
                messages.append(turn)
            say(turn, item)
            continue
        turn = None
        if kind == "message":
            messages.append({"role": role, "content": read(item.get("content") or "")})
        elif kind:
            call_id = text_of(item.get("call_id"))
            messages.append({"role": role, "tool_call_id": call_id, "content": read(item.get("output"))})
        else:
            messages.append({"role": "assistant", "content": "", "item": item})
    return messages


def say(turn: Json, item: Json) -> None:
    """Adds what an item of the assistant's says to the message of its turn."""
    kind, _ = kind_and_role(item)
    if kind == "message":
        turn["content"] += content_text(item.get("content"))
    elif kind == "function_call":
        function = {"name": text_of(item.get("name")), "arguments": text_of(item.get("arguments"))}
        call = {"id": text_of(item.get("call_id")), "type": "function", "function": function}
        turn.setdefault("tool_calls", []).append(call)
    else:
        parts = objects_in(item.get("content")) or objects_in(item.get("summary"))
        texts = [turn.get("reasoning_content"), *(text_of(part.get("text")) for part in parts)]
        if text := "\n\n".join(text for text in texts if text):
            turn["reasoning_content"] = text
        for key in SIGNED:
            if signed := objects_in(item.get(key)):
                turn[key] = turn.get(key, []) + signed


def kind_and_role(item: Any) -> tuple[str, str]:
    """What an item is and who says it: ("message", "user"); empty where Chat has no words for it."""
    fields = fields_of(item)
    kind, role = fields.get("type"), fields.get("role")
    if kind == "message" or (kind is None and "role" in fields):
        return "message", role if isinstance(role, str) else "assistant"
    return (kind, ROLES[kind]) if isinstance(kind, str) and kind in ROLES else ("", "")


def problem_of(item: Any) -> str | None:
    """Why `item` can't be said in Chat Completions; None where it can."""
    kind, role = kind_and_role(item)
    if not kind:
        shown = text_of(fields_of(item).get("type")) or text_of(item)
        return f"Chat Completions has no item of type {shown:.200}"
    if missing := [key for key in NEEDS.get(kind, ()) if not item.get(key)]:
        return f"a {kind} needs a {missing[0]}"
    if kind != "message":
        return None
    if role not in ("user", "assistant", "system", "developer"):
        return f"unknown role {role!r}; what a tool answers is an item of type function_call_output"
    if item.get("tool_calls"):
        return "a message holds no tool_calls; each call is an item of type function_call"
    return _content_problem(item.get("content"), role)


def _content_problem(content: Any, role: str) -> str | None:
    """Why a `role` message of this content can't be said in the other API; None where it can."""
    if content is None or isinstance(content, str):
        return None
    if not isinstance(content, list):
        return f"content should be text or a list of parts (got {text_of(content):.200})"
    for part in cast(list[Any], content):
        fields = fields_of(part)
        if fields.get("type") not in TEXT_PARTS and not (_holds_media(fields) and role in ("user", "tool")):
            return f"a {role} message can't be sent with the part {text_of(part):.200}"
    return None


def _holds_media(part: Json) -> bool:
    match part.get("type"):
        case "input_image" | "image_url":
            return bool(part.get("image_url"))
        case "input_audio":
            return bool(part.get("input_audio"))
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
        case "input_audio":
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


def items_of(value: Any, at: int) -> list[Json]:
    """The items of message number `at`."""
    place = f"messages[{at}]"
    message = object_at(value, place)
    role, content = text_of(message.get("role")), message.get("content")
    if role not in ("system", "developer", "user", "assistant", "tool"):
        raise PartError("bad_request", f"{place}: unknown role {role!r}")
    if problem := _content_problem(content, role):
        raise PartError("bad_request", f"{place}: {problem}")
    if role == "assistant":
        return items_of_turn(message, str(at), place)
    content = content_of(content or "", chat=False)
    if role == "tool":
        call_id = text_at(message.get("tool_call_id"), f"{place}.tool_call_id")
        return [{"type": "function_call_output", "call_id": call_id, "output": content}]
    return [{"type": "message", "role": role, "content": content}]


def items_of_turn(message: Json, stem: str, place: str, kind: Kind = "bad_request") -> list[Json]:
    """The items of an assistant message: reasoning, text, calls. At least one; their ids end in `stem`.

    Items that `to_completion` put there, as Chat has no words for some of them, are those.
    """
    if items := objects_in(message.get("items")):
        return [dict(item) for item in items]
    thinking = message.get("reasoning_content") or message.get("reasoning") or ""
    refusal = text_at(message.get("refusal") or "", f"{place}.refusal", kind)
    content = message.get("content") or ""
    text = content_text(content) if objects_in(content) else text_at(content, f"{place}.content", kind)
    calls = list_at(message.get("tool_calls") or [], f"{place}.tool_calls", kind)
    signed = {key: message[key] for key in SIGNED if objects_in(message.get(key))}
    items: list[Json] = []
    if thinking or signed:
        items.append(reasoning_item(text_at(thinking, f"{place}.reasoning", kind), stem) | signed)
    if text or refusal or not (items or calls):
        spoken: Json = {"type": "output_text", "text": text, "annotations": []}
        if message.get("logprobs"):
            spoken["logprobs"] = message["logprobs"]
        said = [spoken] if text or not refusal else []
        said += [{"type": "refusal", "refusal": refusal}] if refusal else []
        items.append(message_item(said, stem))
    for at, call in enumerate(calls):
        items.append(_function_call(call, f"{stem}_{at}", f"{place}.tool_calls[{at}]", kind))
    return items


def reasoning_item(thinking: str, stem: str) -> Json:
    """What a model thinks; "" where only its signature is known."""
    thought = [{"type": "reasoning_text", "text": thinking}] if thinking else []
    return {"type": "reasoning", "id": f"rs_{stem}", "summary": [], "content": thought}


def message_item(said: list[Json], stem: str) -> Json:
    """What a model says."""
    head = {"type": "message", "id": f"msg_{stem}", "role": "assistant", "status": "completed"}
    return head | {"content": said}


def _function_call(value: Any, stem: str, place: str, kind: Kind) -> Json:
    call = object_at(value, place, kind)
    function = object_at(call.get("function"), f"{place}.function", kind)
    return {
        "type": "function_call",
        "id": f"fc_{stem}",
        "call_id": text_of(call.get("id")) or f"call_{stem}",
        "name": text_at(function.get("name") or None, f"{place}.function.name", kind),
        "arguments": text_of(function.get("arguments")) or "{}",
        "status": "completed",
    }


def token_fields(source: Json) -> Json:
    """A turn's tokens, where the model server gives them."""
    return {key: source[key] for key in TOKEN_FIELDS if source.get(key) is not None}
