"""Anthropic's Messages API → Responses, and the answer back, so that coding agents can ask any model server.

    to_params(body)              Messages request → Responses request
    to_message(response, body)   Responses object → message
    error_body(error)            a `PartError` in Anthropic's shape, ours inside

Pure. What Messages has no words for (encrypted reasoning, a hosted tool's item) rides in a signature, which
clients send back as it was: so it survives the round trip, whole.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Any
from uuid import uuid4

import orjson

from nemo_like.chat_tools import flat_name
from nemo_like.dropped import tell_dropped
from nemo_like.errors import PartError
from nemo_like.parts import content_of
from nemo_like.shapes import fields_of, list_at, object_at, objects_in, text_at, text_of, without_nulls
from nemo_like.turns import SIGNED, TOKEN_FIELDS, reasoning_item
from nemo_like.types import Json, content_text, parse_arguments

DROPPED = {
    *("stream", "cache_control", "context_management", "service_tier", "inference_geo", "speed"),
    *("diagnostics", "user_profile_id", "workspace_id", "betas"),
}
"""Keys that tell Anthropic's own service how to serve."""
HOSTED = ("mcp_servers", "container")
"""Keys that ask for what only Anthropic's own service has."""
CHOICES = {"auto": "auto", "any": "required", "none": "none"}
EFFORTS = ((4096, "low"), (16384, "medium"))
"""Thinking budgets in tokens below which the effort is so called."""
ENCRYPTED = "reasoning.encrypted_content"
CARRIED = "item:"
"""Begins a signature that holds an item."""
CITATIONS = {
    *("char_location", "page_location", "content_block_location"),
    *("web_search_result_location", "search_result_location"),
}
"""Types of what a text of Messages cites; an annotation of another type rides in one for a search."""
NOT_JSON = "arguments_that_are_no_json"
"""Key of a tool call's input where the model wrote none."""
STOP_REASONS = {"max_output_tokens": "max_tokens", "content_filter": "refusal"}
"""`incomplete_details.reason` → `stop_reason`."""
ERROR_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def to_params(body: Json) -> Json:
    """The Responses request that asks what a Messages request asks.

    Unknown keys ride along, `top_k` and `metadata` among them; `stop_sequences` become `stop`.

    Raises:
        PartError: `bad_request`, naming the block, tool or setting that Responses has no words for.
    """
    given = without_nulls(body)
    if hosted := [key for key in HOSTED if given.get(key)]:
        raise PartError("bad_request", f"{hosted[0]}: only Anthropic's own service has that")
    if dropped := DROPPED.intersection(given) - {"stream"}:
        tell_dropped(dropped)
    messages = list_at(given.pop("messages", None), "messages")
    output = object_at(given.pop("output_config", {}), "output_config")
    thinking = object_at(given.pop("thinking", {}), "thinking")
    thinks = thinking.get("type") not in (None, "disabled")
    tools = list_at(given.pop("tools", []), "tools")
    reworded = {
        "input": [item for at, message in enumerate(messages) for item in _items(message, f"messages[{at}]")],
        "instructions": _system(given.pop("system", "")) or None,
        "max_output_tokens": given.pop("max_tokens", None),
        "stop": given.pop("stop_sequences", None),
        "tools": [_tool(tool, f"tools[{at}]") for at, tool in enumerate(tools)] or None,
        "reasoning": _reasoning(thinking, output.get("effort"), thinks=thinks) or None,
        "include": [ENCRYPTED] if thinks else None,
        "text": _format(output.get("format") or given.pop("output_format", None)),
        **_choice(given.pop("tool_choice", None)),
    }
    return {key: given[key] for key in given if key not in DROPPED} | without_nulls(reworded)


def to_message(response: Json, body: Json) -> Json:
    """The message that a Responses object amounts to; `body` is the request that it answers.

    Raises:
        PartError: `bad_response`, saying what is missing; `model_error` if the response says that it failed.
    """
    if response.get("status") in ("failed", "cancelled"):
        raise PartError("model_error", f"the response {response['status']}: {text_of(response.get('error'))}")
    items = objects_in(list_at(response.get("output"), "output", "bad_response"))
    return (
        head_of(response)
        | {"content": [block for item in items for block in blocks_of(item)]}
        | ending_of(response, body)
    )


def head_of(response: Json) -> Json:
    """A message that nothing is said in yet."""
    stem = text_of(response.get("id")).removeprefix("resp_") or uuid4().hex
    return {
        "id": f"msg_{stem}",
        "type": "message",
        "role": "assistant",
        "model": text_of(response.get("model")),
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 0, "output_tokens": 0},
    }


def ending_of(response: Json, body: Json) -> Json:
    """Why a message ends, and what it took."""
    items = objects_in(response.get("output"))
    stopped_by = response.get("stop_reason")
    reason = text_of(fields_of(response.get("incomplete_details")).get("reason"))
    stop_reason = STOP_REASONS.get(reason, "end_turn")
    if stop_reason == "end_turn":
        if any(part.get("refusal") for item in items for part in objects_in(item.get("content"))):
            stop_reason = "refusal"
        elif any(item.get("type") == "function_call" for item in items):
            stop_reason = "tool_use"
        elif stopped_by is not None and stopped_by in (body.get("stop_sequences") or []):
            stop_reason = "stop_sequence"
    return {
        "stop_reason": stop_reason,
        "stop_sequence": stopped_by if stop_reason == "stop_sequence" else None,
        "usage": _usage(fields_of(response.get("usage"))),
    }


def blocks_of(item: Json) -> list[Json]:
    """The content blocks of an output item."""
    kind = item.get("type", "message")
    if kind == "message":
        parts = objects_in(item.get("content")) or [{"text": text_of(item.get("content"))}]
        return [_text_block(part) for part in parts if content_text([part])]
    if kind == "function_call":
        written = text_of(item.get("arguments"))
        read = parse_arguments(written or "{}")
        values = {NOT_JSON: written} if read is None else read
        call_id = text_of(item.get("call_id"))
        return [{"type": "tool_use", "id": call_id, "name": flat_name(item), "input": values}]
    if signed := objects_in(item.get("thinking_blocks")):
        return signed
    if text := thinking_of(item):
        return [{"type": "thinking", "thinking": text, "signature": signature_of(item)}]
    return [{"type": "redacted_thinking", "data": signature_of(item) or _carried(item)}]


def citation_of(annotation: Json) -> Json:
    """What a text cites, as Messages has it."""
    if text_of(annotation.get("type")) in CITATIONS:
        return annotation
    return {
        "type": "web_search_result_location",
        "url": text_of(annotation.get("url")),
        "title": text_of(annotation.get("title") or annotation.get("filename")),
        "cited_text": text_of(annotation.get("content")),
        "encrypted_index": _carried(annotation),
    }


def thinking_of(item: Json) -> str:
    """What a reasoning item thinks: its text, or else its summary; "" for an item of another kind."""
    if item.get("type") != "reasoning":
        return ""
    parts = objects_in(item.get("content")) or objects_in(item.get("summary"))
    return "\n\n".join(text for part in parts if (text := text_of(part.get("text"))))


def signature_of(item: Json) -> str:
    """What has to come back with a reasoning item's text; "" where that is all there is."""
    more = any(item.get(key) for key in ("summary", "encrypted_content", SIGNED[0]))
    return _carried(item) if more or len(objects_in(item.get("content"))) > 1 else ""


def error_body(error: PartError) -> bytes:
    """The JSON body of an error, as Anthropic's SDK reads it; what `from_wire` reads stands inside."""
    ours = orjson.loads(error.to_wire())["error"]
    kind = ERROR_TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
    # By these words agents know that they have to make the conversation shorter.
    too_long = "prompt is too long: " if error.kind == "context_overflow" else ""
    ours |= {"type": kind, "message": too_long + ours["message"]}
    return orjson.dumps({"type": "error", "error": ours})


def _text_block(part: Json) -> Json:
    block: Json = {"type": "text", "text": content_text([part])}
    cited = [citation_of(annotation) for annotation in objects_in(part.get("annotations"))]
    return block | {"citations": cited} if cited else block


def _carried(item: Json) -> str:
    kept = {key: item[key] for key in item if key not in TOKEN_FIELDS}
    return CARRIED + urlsafe_b64encode(orjson.dumps(kept)).decode()


def _uncarried(signature: str) -> Json | None:
    """The item in a signature; None where the signature is somebody else's."""
    if not signature.startswith(CARRIED):
        return None
    try:
        return object_at(orjson.loads(urlsafe_b64decode(signature.removeprefix(CARRIED))), "a signature")
    except ValueError as error:
        raise PartError("bad_request", f"a signature was changed on its way: {error}") from error


def _usage(usage: Json) -> Json:
    """Messages counts the tokens that a cache holds beside the others, not among them."""
    details = fields_of(usage.get("input_tokens_details"))
    read, written = (details.get(key) or 0 for key in ("cached_tokens", "cache_write_tokens"))
    return {
        "input_tokens": max(0, (usage.get("input_tokens") or 0) - read - written),
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": read,
        "output_tokens": usage.get("output_tokens") or 0,
    }


def _system(system: Any) -> str:
    if isinstance(system, str):
        return system
    blocks = [object_at(block, f"system[{at}]") for at, block in enumerate(list_at(system, "system"))]
    return "\n\n".join(text_at(block.get("text"), f"system[{at}].text") for at, block in enumerate(blocks))


def _items(value: Any, place: str) -> list[Json]:
    """The items of a message."""
    message = object_at(value, place)
    role, content = text_of(message.get("role")), message.get("content")
    if role not in ("user", "assistant", "system"):
        raise PartError("bad_request", f"{place}: unknown role {role!r}")
    if isinstance(content, str):
        return [{"type": "message", "role": role, "content": content}]
    items: list[Json] = []
    parts: list[Json] = []

    def speak() -> None:
        if parts:
            items.append({"type": "message", "role": role, "content": parts.copy()})
            parts.clear()

    for at, each in enumerate(list_at(content, f"{place}.content")):
        here = f"{place}.content[{at}]"
        block = object_at(each, here)
        if item := _item(block, role, here):
            speak()
            items.append(item)
        else:
            parts += _parts(block, here, "output_text" if role == "assistant" else "input_text")
    speak()
    # Servers want what the tools answered right behind the calls.
    return sorted(items, key=lambda item: item["type"] != "function_call_output") if role == "user" else items


def _item(block: Json, role: str, place: str) -> Json | None:
    """The item that a block is by itself; None for a part of a message."""
    match block.get("type"), role:
        case "tool_use", "assistant":
            values = object_at(block.get("input", {}), f"{place}.input")
            arguments = values[NOT_JSON] if values.keys() == {NOT_JSON} else orjson.dumps(values).decode()
            name, call_id = (text_at(block.get(key), f"{place}.{key}") for key in ("name", "id"))
            return {"type": "function_call", "call_id": call_id, "name": name, "arguments": arguments}
        case "tool_result", "user":
            call_id = text_at(block.get("tool_use_id"), f"{place}.tool_use_id")
            return {"type": "function_call_output", "call_id": call_id, "output": _result(block, place)}
        case "thinking" | "redacted_thinking", "assistant":
            signature = text_of(block.get("signature") or block.get("data"))
            if (item := _uncarried(signature)) is not None:
                return item
            item = reasoning_item(text_of(block.get("thinking")), "_".join(re.findall(r"\d+", place)))
            return item | {"thinking_blocks": [block]} if signature else item
        case _:
            return None


def _result(block: Json, place: str) -> str | list[Json]:
    """What a tool answered."""
    content = block.get("content") or ""
    if not isinstance(content, str):
        blocks = list_at(content, f"{place}.content")
        parts = [
            part
            for at, each in enumerate(blocks)
            for part in _parts(object_at(each, f"{place}.content[{at}]"), f"{place}.content[{at}]")
        ]
        content = content_of(parts, chat=False) if parts else ""
    if not block.get("is_error"):
        return content
    failed = "Error: "
    return (
        failed + content if isinstance(content, str) else [{"type": "input_text", "text": failed}, *content]
    )


def _parts(block: Json, place: str, kind: str = "input_text") -> list[Json]:
    """The parts of a Responses message that a block amounts to."""
    source = fields_of(block.get("source"))
    data, media = text_of(source.get("data")), text_of(source.get("media_type"))
    match block.get("type"), source.get("type"):
        case "text", _:
            part = {"type": kind, "text": text_at(block.get("text"), f"{place}.text")}
            cited = [_annotation(citation) for citation in objects_in(block.get("citations"))]
            return [part | {"annotations": cited} if cited and kind == "output_text" else part]
        case "image", "base64":
            return [{"type": "input_image", "image_url": f"data:{media};base64,{data}"}]
        case "image", "url":
            return [{"type": "input_image", "image_url": text_of(source.get("url"))}]
        case "document", "base64":
            name = text_of(block.get("title")) or "document.pdf"
            return [{"type": "input_file", "filename": name, "file_data": f"data:{media};base64,{data}"}]
        case "document", "url":
            return [{"type": "input_file", "file_url": text_of(source.get("url"))}]
        case "document", "text":
            return [{"type": kind, "text": data}]
        case "document", "content":
            inner = source.get("content") or ""
            blocks = [{"type": "text", "text": inner}] if isinstance(inner, str) else objects_in(inner)
            return [part for each in blocks for part in _parts(each, f"{place}.source.content", kind)]
        case _:
            raise PartError("bad_request", f"{place}: this block can't be sent: {text_of(block):.200}")


def _annotation(citation: Json) -> Json:
    """The inverse of `citation_of`."""
    carried = _uncarried(text_of(citation.get("encrypted_index")))
    return citation if carried is None else carried


def _tool(value: Any, place: str) -> Json:
    tool = object_at(value, place)
    if "input_schema" not in tool:
        raise PartError(
            "bad_request", f"{place}: only tools with an input_schema can be sent (got {text_of(tool):.200})"
        )
    return without_nulls(
        {
            "type": "function",
            "name": text_at(tool.get("name"), f"{place}.name"),
            "description": tool.get("description"),
            "parameters": object_at(tool["input_schema"], f"{place}.input_schema"),
            "strict": bool(tool.get("strict")),
        }
    )


def _choice(value: Any) -> Json:
    if value is None:
        return {}
    choice = object_at(value, "tool_choice")
    kind = text_of(choice.get("type"))
    parallel = False if choice.get("disable_parallel_tool_use") else None
    if kind == "tool":
        name = text_at(choice.get("name"), "tool_choice.name")
        return {"tool_choice": {"type": "function", "name": name}, "parallel_tool_calls": parallel}
    if kind not in CHOICES:
        raise PartError("bad_request", f"tool_choice.type should be auto, any, none or tool (got {kind!r})")
    return {"tool_choice": CHOICES[kind], "parallel_tool_calls": parallel}


def _reasoning(thinking: Json, effort: Any, *, thinks: bool) -> Json:
    """Effort by its name, or else by the budget; the thoughts in words, unless they are to be left out."""
    budget = thinking.get("budget_tokens")
    if effort is None and thinks and isinstance(budget, int):
        effort = next((name for limit, name in EFFORTS if budget < limit), "high")
    summary = "auto" if thinks and thinking.get("display") != "omitted" else None
    return without_nulls({"effort": "xhigh" if effort == "max" else effort, "summary": summary})


def _format(form: Any) -> Json | None:
    if form is None:
        return None
    fields = object_at(form, "output_config.format")
    schema = object_at(fields.get("schema"), "output_config.format.schema")
    return {"format": {"type": "json_schema", "name": "answer", "schema": schema, "strict": True}}
