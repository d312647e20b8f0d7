"""Responses API ↔ Chat Completions, both ways. Pure: nothing is sent, and no argument is changed.

    to_chat(params)                  Responses request → Chat Completions body; back: to_params
    to_response(completion, params)  chat completion → Responses object; back: to_completion
    conversation(output)             output items → the chat messages of a record

Responses has reasoning, text and calls as items of their own, Chat has one assistant message that holds them
all: a *turn*. `_messages` folds items into turns, for requests and for records, and never fails: what Chat
has no words for is refused by name before.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from itertools import takewhile
from typing import Any, cast
from uuid import uuid4

from nemo_like.errors import Kind, PartError
from nemo_like.types import Json, content_text, parse_arguments

ROLES = {"reasoning": "assistant", "function_call": "assistant", "function_call_output": "tool"}
"""Who says the items that are not messages."""
NEEDS = {"function_call": ("name", "call_id"), "function_call_output": ("call_id",)}
TEXT_PARTS = ("input_text", "output_text", "text", "refusal")
IMAGE_PARTS = ("input_image", "image_url")
STORED = ("previous_response_id", "conversation", "prompt")
"""Keys by which a request leans on what a Responses server has stored."""
STREAMING = {"stream", "stream_options"}
"""Keys for answers in pieces; what is converted here is whole."""
DROPPED = STREAMING | {"store", "background", "truncation", "max_tool_calls", "context_management"}
"""Keys of Responses that Chat has no use for."""
USAGE = (
    ("prompt_tokens", "input_tokens", ("cached_tokens", "cache_write_tokens")),
    ("completion_tokens", "output_tokens", ("reasoning_tokens",)),
)
"""What Chat and Responses call the tokens that are read and written, and what is detailed of them."""
LOGPROBS = "message.output_text.logprobs"
INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
"""`finish_reason` of an answer that was cut short → `incomplete_details.reason`."""
FINISH = {reason: finish for finish, reason in INCOMPLETE.items()}
GIVEN_UP = ("error", "abort", "insufficient_system_resource")
"""Finish reasons of OpenRouter, vLLM and DeepSeek for an answer that failed half-way; it is no answer."""
TOKEN_FIELDS = ("prompt_token_ids", "generation_token_ids", "generation_log_probs")
"""A turn's tokens, for trainers: on the message or choice in Chat, on the turn's last item in Responses."""


def to_chat(params: Json) -> Json:
    """The Chat Completions body that asks what a Responses request asks.

    Unknown keys ride along (`top_k`, `chat_template_kwargs`); nulls and what Chat has no use for are dropped.
    JSON in `metadata.extra_body` and `metadata.chat_template_kwargs` is merged into the body, as in NeMo Gym.

    Raises:
        PartError: `bad_request`, naming the item, part, tool or setting that Chat has no words for.
    """
    given = _without_nulls(params)
    for key in STORED:
        if key in given:
            raise PartError("bad_request", f"{key}: nothing is stored here; send the whole input")
    text = _object(given.pop("text", {}), "text")
    include = _list(given.pop("include", []), "include")
    reworded = {
        "messages": _prompt(given.pop("input", []), given.pop("instructions", "")),
        # `max_completion_tokens` is the newer name; this is the one that every server takes.
        "max_tokens": given.pop("max_output_tokens", None),
        "logprobs": True if "top_logprobs" in given or LOGPROBS in include else None,
        "reasoning_effort": _object(given.pop("reasoning", {}), "reasoning").get("effort"),
        "response_format": _response_format(text.get("format")),
        "verbosity": text.get("verbosity"),
        **_chat_tools(given),
    }
    metadata = _object(given.pop("metadata", {}), "metadata")
    rest = {key: given[key] for key in given if key not in DROPPED}
    return _with_extras(rest | _without_nulls(reworded), metadata)


def to_params(body: Json) -> Json:
    """The Responses request that asks what a Chat Completions body asks; the inverse of `to_chat`.

    Raises:
        PartError: `bad_request`, naming the message, part or setting that Responses has no words for.
    """
    given = _without_nulls(body)
    if (n := given.pop("n", 1)) != 1:
        raise PartError("bad_request", f"n should be 1: a response is one answer (got {_text(n)})")
    messages = _list(given.pop("messages", None), "messages")
    tools = _list(given.pop("tools", []), "tools")
    text = {"format": _flat(given.pop("response_format", None)), "verbosity": given.pop("verbosity", None)}
    max_tokens = given.pop("max_tokens", None)
    reworded = {
        "input": [item for at, message in enumerate(messages) for item in _items(message, at)],
        "max_output_tokens": given.pop("max_completion_tokens", max_tokens),
        "include": [LOGPROBS] if given.pop("logprobs", False) else None,
        "reasoning": _without_nulls({"effort": given.pop("reasoning_effort", None)}) or None,
        "text": _without_nulls(text) or None,
        "tools": [_flat(tool) for tool in tools] or None,
        "tool_choice": _flat(given.pop("tool_choice", None)),
    }
    return {key: given[key] for key in given if key not in STREAMING} | _without_nulls(reworded)


def to_response(completion: Json, params: Json) -> Json:
    """The Responses object of a chat completion's first choice; `params` is the request that it answers.

    Reasoning is what the server calls so, or else the thinking tags at the start of the text.

    Raises:
        PartError: `bad_response`, saying what is missing or misshapen.
    """
    choices = _list(completion.get("choices") or [], "choices", "bad_response")
    if not choices:
        raise PartError("bad_response", f"the completion has no choices: {_text(completion):.500}")
    choice = _object(choices[0], "choices[0]", "bad_response")
    message = _object(choice.get("message"), "choices[0].message", "bad_response")
    finish = _text(choice.get("finish_reason"))
    if finish in GIVEN_UP:
        raise PartError("bad_response", f"the model server gave the answer up: finish_reason {finish}")
    stem = _text(completion.get("id")).removeprefix("chatcmpl-") or uuid4().hex
    answer = _think(message, cut=finish == "length") | {"logprobs": _logprobs(choice)}
    output = _turn(answer, stem, "choices[0].message", "bad_response")
    if finish in INCOMPLETE:
        output[-1]["status"] = "incomplete"
    output[-1] |= _token_fields(choice) | _token_fields(message)
    return {
        "id": f"resp_{stem}",
        "object": "response",
        "created_at": _seconds(completion.get("created")),
        "model": completion.get("model") or params.get("model") or "",
        "status": "incomplete" if finish in INCOMPLETE else "completed",
        "error": None,
        "incomplete_details": {"reason": INCOMPLETE[finish]} if finish in INCOMPLETE else None,
        "output": output,
        "parallel_tool_calls": params.get("parallel_tool_calls") is not False,
        "tool_choice": _flat(params.get("tool_choice") or "auto"),
        "tools": [_flat(tool) for tool in _objects(params.get("tools"))],
        "temperature": params.get("temperature"),
        "top_p": params.get("top_p"),
        "metadata": params.get("metadata") or {},
        "usage": _usage(completion, of_chat=True),
    }


def to_completion(response: Json) -> Json:
    """The chat completion of a Responses object, which is one turn of a model; the inverse of `to_response`.

    Raises:
        PartError: `bad_response`, saying what is missing; `model_error` if the response says that it failed.
    """
    if response.get("status") in ("failed", "cancelled"):
        raise PartError("model_error", f"the response {response['status']}: {_text(response.get('error'))}")
    message: Json = {"role": "assistant", "content": ""}
    parts: list[Json] = []
    for item in _objects(_list(response.get("output"), "output", "bad_response")):
        if _kind(item)[1] == "assistant":
            _say(message, item)
            message |= _token_fields(item)
            parts += _objects(item.get("content"))
    if refusal := "".join(_text(part.get("refusal")) for part in parts):
        message |= {"content": message["content"].removesuffix(refusal), "refusal": refusal}
    if not message["content"] and message.keys() & {"refusal", "tool_calls", "reasoning_content"}:
        message["content"] = None
    logprobs = [entry for part in parts for entry in _objects(part.get("logprobs"))]
    reason = _text(_fields(response.get("incomplete_details")).get("reason"))
    finish = FINISH.get(reason) or ("tool_calls" if "tool_calls" in message else "stop")
    choice = {"index": 0, "message": message, "finish_reason": finish}
    return {
        "id": "chatcmpl-" + (_text(response.get("id")).removeprefix("resp_") or uuid4().hex),
        "object": "chat.completion",
        "created": _seconds(response.get("created_at")),
        "model": response.get("model") or "",
        "choices": [choice | {"logprobs": {"content": logprobs} if logprobs else None}],
        "usage": _usage(response, of_chat=False),
    }


def conversation(output: list[Json]) -> list[Json]:
    """The chat messages that output items amount to: `output` of a rollout's record.

    Never raises: what is missing becomes "", an item of another type stays as it is, as `item` of a message.
    """
    messages = _messages(output, _text)
    for message in messages:
        if "tool_calls" in message and not message["content"]:
            del message["content"]
    return messages


def _messages(items: list[Any], read: Callable[[Any], str | list[Json]]) -> list[Json]:
    """Items folded into chat messages; `read` words the content of all but the assistant's."""
    messages: list[Json] = []
    turn: Json | None = None
    for item in items:
        kind, role = _kind(item)
        if role == "assistant":
            # After its text a turn only makes calls. After a call it lasts until the outputs come, as servers
            # refuse calls without their outputs right behind them.
            if turn is None or (turn["content"] and "tool_calls" not in turn and kind != "function_call"):
                turn = {"role": "assistant", "content": ""}
                messages.append(turn)
            _say(turn, item)
            continue
        turn = None
        if kind == "message":
            messages.append({"role": role, "content": read(item.get("content") or "")})
        elif kind:
            call_id = _text(item.get("call_id"))
            messages.append({"role": role, "tool_call_id": call_id, "content": read(item.get("output"))})
        else:
            messages.append({"role": "assistant", "content": "", "item": item})
    return messages


def _say(turn: Json, item: Json) -> None:
    """Adds what an item of the assistant's says to the message of its turn."""
    kind, _ = _kind(item)
    if kind == "message":
        turn["content"] += content_text(item.get("content"))
    elif kind == "function_call":
        function = {"name": _text(item.get("name")), "arguments": _text(item.get("arguments"))}
        call = {"id": _text(item.get("call_id")), "type": "function", "function": function}
        turn.setdefault("tool_calls", []).append(call)
    else:
        parts = _objects(item.get("content")) or _objects(item.get("summary"))
        texts = [turn.get("reasoning_content"), *(_text(part.get("text")) for part in parts)]
        if text := "\n\n".join(text for text in texts if text):
            turn["reasoning_content"] = text


def _kind(item: Any) -> tuple[str, str]:
    """What an item is and who says it: ("message", "user"); empty where Chat has no words for it."""
    fields = _fields(item)
    kind, role = fields.get("type"), fields.get("role")
    if kind == "message" or (kind is None and "role" in fields):
        return "message", role if isinstance(role, str) else "assistant"
    return (kind, ROLES[kind]) if isinstance(kind, str) and kind in ROLES else ("", "")


def _prompt(prompt: Any, instructions: Any) -> list[Json]:
    """The messages of a Responses request."""
    items = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    for at, item in enumerate(_list(items, "input")):
        if problem := _problem(item):
            raise PartError("bad_request", f"input[{at}]: {problem}")
    messages = _messages(items, lambda content: _content(content, chat=True))
    for message in messages:
        if "tool_calls" in message and not message["content"]:
            # Null, as OpenAI itself answers it: some servers refuse a message without the key.
            message["content"] = None
    if system := _string(instructions, "instructions"):
        messages.insert(0, {"role": "system", "content": system})
    if not messages:
        raise PartError("bad_request", "the request has no input")
    # Many chat templates take one system message, as the first.
    leading = list(takewhile(lambda message: message["role"] in ("system", "developer"), messages))
    first = {"role": messages[0]["role"], "content": "\n\n".join(message["content"] for message in leading)}
    return [first, *messages[len(leading) :]] if leading else messages


def _problem(item: Any) -> str | None:
    """Why `item` can't be said in Chat Completions; None where it can."""
    kind, role = _kind(item)
    if not kind:
        return f"Chat Completions has no item of type {_text(_fields(item).get('type')) or _text(item):.200}"
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
        return f"content should be text or a list of parts (got {_text(content):.200})"
    for part in cast(list[Any], content):
        kind, image = _fields(part).get("type"), _fields(part).get("image_url")
        if kind not in TEXT_PARTS and not (kind in IMAGE_PARTS and image and role in ("user", "tool")):
            return f"a {role} message can't be sent with the part {_text(part):.200}"
    return None


def _content(value: Any, *, chat: bool) -> str | list[Json]:
    """Text where it is only text, as every server and template takes that; parts where there is an image."""
    parts = _objects(value)
    if any(part.get("type") in IMAGE_PARTS for part in parts):
        return [_part(part, chat=chat) for part in parts]
    return _text(value)


def _part(part: Json, *, chat: bool) -> Json:
    if part.get("type") not in IMAGE_PARTS:
        return {"type": "text" if chat else "input_text", "text": content_text([part])}
    url = part.get("image_url")
    image = cast(Json, url) if isinstance(url, dict) else {"url": url, "detail": part.get("detail")}
    if chat:
        return {"type": "image_url", "image_url": _without_nulls(image)}
    return {"type": "input_image"} | _without_nulls(
        {"image_url": image.get("url"), "detail": image.get("detail")}
    )


def _chat_tools(given: Json) -> Json:
    """Takes the tools out of `given`, with what servers refuse where there are none."""
    tools, choice = _list(given.pop("tools", []), "tools"), given.pop("tool_choice", None)
    parallel = given.pop("parallel_tool_calls", None)
    if tools:
        return {
            "tools": [_nested(tool, "function", f"tools[{at}]") for at, tool in enumerate(tools)],
            "tool_choice": _nested(choice, "function", "tool_choice") if isinstance(choice, dict) else choice,
            "parallel_tool_calls": parallel,
        }
    if choice in (None, "auto", "none"):
        return {}
    raise PartError("bad_request", f"tool_choice {_text(choice)} needs tools, and the request has none")


def _response_format(form: Any) -> Any:
    if form is None or form in ({"type": "text"}, {"type": "json_object"}):
        return form
    return _nested(form, "json_schema", "text.format")


def _nested(value: Any, kind: str, place: str) -> Json:
    """`{type: function, name: …}` → `{type: function, function: {name: …}}`; so for `json_schema`."""
    flat = _object(_flat(value), place)
    if flat.get("type") != kind:
        raise PartError("bad_request", f"{place}: only the type {kind} can be sent (got {_text(flat):.200})")
    _string(flat.get("name") or None, f"{place}.name")
    return {"type": kind, kind: _without_nulls({key: flat[key] for key in flat if key != "type"})}


def _flat(value: Any) -> Any:
    """The inverse of `_nested`; what is not nested stays as it is."""
    fields = _fields(value)
    kind = fields.get("type")
    nested = _fields(fields.get(kind)) if isinstance(kind, str) else {}
    return {"type": kind, **nested} if nested else value


def _with_extras(body: Json, metadata: Json) -> Json:
    """NeMo Gym's way to send what Responses has no key for: JSON in `metadata`. A key that is set stays."""
    metadata = dict(metadata)
    for key in ("extra_body", "chat_template_kwargs"):
        value = metadata.pop(key, None) or "{}"
        extra = parse_arguments(value)
        if extra is None:
            raise _misshapen(value, f"metadata.{key}", "JSON of an object", "bad_request")
        if key == "extra_body":
            body = extra | body
        elif extra:
            body[key] = _object(body.get(key) or {}, key) | extra
    return body | {"metadata": metadata} if metadata else body


def _items(value: Any, at: int) -> list[Json]:
    """The items of message number `at`."""
    place = f"messages[{at}]"
    message = _object(value, place)
    role, content = _text(message.get("role")), message.get("content")
    if role not in ("system", "developer", "user", "assistant", "tool"):
        raise PartError("bad_request", f"{place}: unknown role {role!r}")
    if problem := _content_problem(content, role):
        raise PartError("bad_request", f"{place}: {problem}")
    if role == "assistant":
        return _turn(message, str(at), place)
    content = _content(content or "", chat=False)
    if role == "tool":
        call_id = _string(message.get("tool_call_id"), f"{place}.tool_call_id")
        return [{"type": "function_call_output", "call_id": call_id, "output": content}]
    return [{"type": "message", "role": role, "content": content}]


def _turn(message: Json, stem: str, place: str, kind: Kind = "bad_request") -> list[Json]:
    """The items of an assistant message: reasoning, text, calls. At least one; their ids end in `stem`."""
    thinking = message.get("reasoning_content") or message.get("reasoning") or ""
    refusal = _string(message.get("refusal") or "", f"{place}.refusal", kind)
    content = message.get("content") or ""
    text = content_text(content) if _objects(content) else _string(content, f"{place}.content", kind)
    calls = _list(message.get("tool_calls") or [], f"{place}.tool_calls", kind)
    items: list[Json] = []
    if thinking:
        thought = {"type": "reasoning_text", "text": _string(thinking, f"{place}.reasoning", kind)}
        items.append({"type": "reasoning", "id": f"rs_{stem}", "summary": [], "content": [thought]})
    if text or refusal or not (thinking or calls):
        spoken: Json = {"type": "output_text", "text": text, "annotations": []}
        if message.get("logprobs"):
            spoken["logprobs"] = message["logprobs"]
        said = [spoken] if text or not refusal else []
        said += [{"type": "refusal", "refusal": refusal}] if refusal else []
        head = {"type": "message", "id": f"msg_{stem}", "role": "assistant", "status": "completed"}
        items.append(head | {"content": said})
    for at, call in enumerate(calls):
        items.append(_function_call(call, f"{stem}_{at}", f"{place}.tool_calls[{at}]", kind))
    return items


def _function_call(value: Any, stem: str, place: str, kind: Kind) -> Json:
    call = _object(value, place, kind)
    function = _object(call.get("function"), f"{place}.function", kind)
    return {
        "type": "function_call",
        "id": f"fc_{stem}",
        "call_id": _text(call.get("id")) or f"call_{stem}",
        "name": _string(function.get("name") or None, f"{place}.function.name", kind),
        "arguments": _text(function.get("arguments")) or "{}",
        "status": "completed",
    }


def _think(message: Json, *, cut: bool) -> Json:
    """The message with thinking at the start of its text moved to `reasoning_content`.

    A lone `</think>` ends thinking too, as many chat templates open the tag in the prompt; a lone `<think>`
    begins it only in an answer that was cut.
    """
    text = message.get("content")
    if not isinstance(text, str) or message.get("reasoning_content") or message.get("reasoning"):
        return message
    head, closed, tail = text.partition("</think>")
    opened = head.lstrip().startswith("<think>")
    thought = (opened or "<think>" not in head) if closed else (opened and cut)
    if not thought:
        return message
    thinking = head.lstrip().removeprefix("<think>").strip()
    return message | {"reasoning_content": thinking, "content": tail.lstrip()}


def _logprobs(choice: Json) -> list[Json]:
    """The log-probabilities of a choice as Responses has them: `bytes` is never null."""
    logprobs = _object(choice.get("logprobs") or {}, "choices[0].logprobs", "bad_response")
    return [
        _logprob(entry) | {"top_logprobs": [_logprob(top) for top in _objects(entry.get("top_logprobs"))]}
        for entry in _objects(logprobs.get("content"))
    ]


def _logprob(entry: Json) -> Json:
    return {"token": entry.get("token"), "logprob": entry.get("logprob"), "bytes": entry.get("bytes") or []}


def _token_fields(source: Json) -> Json:
    return {key: source[key] for key in TOKEN_FIELDS if source.get(key) is not None}


def _usage(answer: Json, *, of_chat: bool) -> Json | None:
    """The usage of an answer of either API, in the names of the other."""
    if not answer.get("usage"):
        return None
    usage = _object(answer["usage"], "usage", "bad_response")
    reworded: Json = {"total_tokens": 0}
    for chat, responses, details in USAGE:
        old, new = (chat, responses) if of_chat else (responses, chat)
        given = _fields(usage.get(f"{old}_details"))
        reworded |= {new: _count(usage, old), f"{new}_details": {key: _count(given, key) for key in details}}
        reworded["total_tokens"] += reworded[new]
    return reworded | {"total_tokens": _count(usage, "total_tokens") or reworded["total_tokens"]}


def _count(counts: Json, key: str) -> int:
    value = counts.get(key)
    return value if isinstance(value, int) else 0


def _seconds(value: Any) -> int:
    """A time since the epoch, or now where there is none."""
    return int(value) if isinstance(value, int | float) and 0 < value < 2**32 else int(time.time())


def _text(value: Any) -> str:
    """Text as it is, content parts as their text, null as "", anything else as JSON."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    parts = _objects(value)
    if parts and all(part.get("type") in TEXT_PARTS for part in parts):
        return content_text(parts)
    return json.dumps(value, ensure_ascii=False)


def _without_nulls(fields: Json) -> Json:
    return {key: value for key, value in fields.items() if value is not None}


def _fields(value: Any) -> Json:
    return cast(Json, value) if isinstance(value, dict) else {}


def _objects(value: Any) -> list[Json]:
    """The objects of a list; none where it is no list."""
    if not isinstance(value, list):
        return []
    return [cast(Json, each) for each in cast(list[Any], value) if isinstance(each, dict)]


def _object(value: Any, place: str, kind: Kind = "bad_request") -> Json:
    if isinstance(value, dict):
        return cast(Json, value)
    raise _misshapen(value, place, "an object", kind)


def _list(value: Any, place: str, kind: Kind = "bad_request") -> list[Any]:
    if isinstance(value, list):
        return cast(list[Any], value)
    raise _misshapen(value, place, "a list", kind)


def _string(value: Any, place: str, kind: Kind = "bad_request") -> str:
    if isinstance(value, str):
        return value
    raise _misshapen(value, place, "text", kind)


def _misshapen(value: Any, place: str, shape: str, kind: Kind) -> PartError:
    return PartError(kind, f"{place} should be {shape} (got {json.dumps(value, ensure_ascii=False):.200})")
