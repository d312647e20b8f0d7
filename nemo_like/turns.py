"""Items ↔ chat messages, the conversation's part of `chat`. Pure.

Responses has reasoning, text and calls as items of their own, Chat has one assistant message that holds them
all: a *turn*. `to_messages` folds items into turns, for requests and for records, and never fails: what Chat
has no words for is refused by name before, by `problem_of`. `items_of` goes back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nemo_like.chat_tools import flat, flat_name
from nemo_like.errors import Kind, PartError
from nemo_like.parts import content_of, content_problem
from nemo_like.shapes import fields_of, list_at, object_at, objects_in, text_at, text_of
from nemo_like.types import Json, content_text

ROLES = {"reasoning": "assistant", "function_call": "assistant", "function_call_output": "tool"}
"""Who says the items that are not messages."""
NEEDS = {"function_call": ("name", "call_id"), "function_call_output": ("call_id",)}
SIGNED = ("reasoning_details", "thinking_blocks")
"""What OpenRouter and LiteLLM sign reasoning with and want back as it was: on the message in Chat, on the
reasoning item in Responses."""
PLACES = ("start_index", "end_index")
"""Of an annotation: where in the text it belongs, in characters."""
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
        if kind and "name" in item:
            messages[-1] |= _name(item)
    return messages


def say(turn: Json, item: Json) -> None:
    """Adds what an item of the assistant's says to the message of its turn."""
    kind, _ = kind_and_role(item)
    if kind == "message":
        content = item.get("content")
        if any(part.get("annotations") for part in objects_in(content)):
            turn["annotations"] = turn.get("annotations", []) + _annotations(content, len(turn["content"]))
        turn["content"] += content_text(content)
        if "name" in item:
            turn |= _name(item)
        if "audio" in item and (sound := text_of(fields_of(item["audio"]).get("id"))):
            turn["audio"] = {"id": sound}
    elif kind == "function_call":
        function = {"name": flat_name(item), "arguments": text_of(item.get("arguments"))}
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


def _name(item: Json) -> Json:
    """Who speaks, which Responses has no key for: it rides along."""
    return {"name": item["name"]} if isinstance(item.get("name"), str) else {}


def _annotations(content: Any, begins_at: int) -> list[Json]:
    """What a message cites, as Chat has it: places count from where the text of the turn begins."""
    cited: list[Json] = []
    for part in objects_in(content):
        for fields in objects_in(part.get("annotations")):
            moved = {key: fields[key] + begins_at for key in PLACES if isinstance(fields.get(key), int)}
            kind = text_of(fields.get("type"))
            rest = {key: value for key, value in (fields | moved).items() if key != "type"}
            cited.append({"type": kind, kind: rest})
        begins_at += len(content_text([part]))
    return cited


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
    return content_problem(item.get("content"), role)


def items_of(value: Any, at: int) -> list[Json]:
    """The items of message number `at`."""
    place = f"messages[{at}]"
    message = object_at(value, place)
    role, content = text_of(message.get("role")), message.get("content")
    if role not in ("system", "developer", "user", "assistant", "tool"):
        raise PartError("bad_request", f"{place}: unknown role {role!r}")
    if problem := content_problem(content, role):
        raise PartError("bad_request", f"{place}: {problem}")
    if role == "assistant":
        return items_of_turn(message, str(at), place)
    content = content_of(content or "", chat=False)
    if role == "tool":
        call_id = text_at(message.get("tool_call_id"), f"{place}.tool_call_id")
        return [{"type": "function_call_output", "call_id": call_id, "output": content} | _name(message)]
    return [{"type": "message", "role": role, "content": content} | _name(message)]


def items_of_turn(message: Json, stem: str, place: str, kind: Kind = "bad_request") -> list[Json]:
    """The items of an assistant message: reasoning, text, calls. At least one; their ids end in `stem`.

    Items that `to_completion` put there, as Chat has no words for them, are those, unless the message was
    changed since.
    """
    if (carried := objects_in(message.get("items"))) and _says(message, carried):
        return [dict(item) for item in carried]
    thinking = message.get("reasoning_content") or message.get("reasoning") or ""
    calls = list_at(message.get("tool_calls") or [], f"{place}.tool_calls", kind)
    signed = {key: message[key] for key in SIGNED if objects_in(message.get(key))}
    items: list[Json] = []
    if thinking or signed:
        items.append(reasoning_item(text_at(thinking, f"{place}.reasoning", kind), stem) | signed)
    said = _said(message, place, kind)
    sound = fields_of(message.get("audio"))
    if not said and (sound or not (items or calls)):
        said = [text_part("")]
    if said:
        spoken = message_item(said, stem) | _name(message)
        items.append(spoken | {"audio": sound} if sound else spoken)
    for at, call in enumerate(calls):
        items.append(_function_call(call, f"{stem}_{at}", f"{place}.tool_calls[{at}]", kind))
    if message.get("logprobs"):
        text = next((part for part in said if part["type"] == "output_text"), items[-1])
        text["logprobs"] = message["logprobs"]
    return items


def _said(message: Json, place: str, kind: Kind) -> list[Json]:
    """The parts of what an assistant says: a text, a refusal, both or neither."""
    content = message.get("content") or text_of(fields_of(message.get("audio")).get("transcript"))
    refusal = text_at(message.get("refusal") or "", f"{place}.refusal", kind)
    parts = objects_in(content)
    if parts:
        text = content_text([part for part in parts if part.get("type") != "refusal"])
        refusal = content_text([part for part in parts if part.get("type") == "refusal"]) + refusal
    else:
        text = text_at(content or "", f"{place}.content", kind)
    cited = [flat(each) for each in objects_in(message.get("annotations"))]
    said = [text_part(text) | {"annotations": cited}] if text or cited else []
    return said + ([{"type": "refusal", "refusal": refusal}] if refusal else [])


def turn_of(items: list[Json]) -> Json:
    """The assistant message that the items of an answer amount to; a refusal stands apart from its text."""
    turn: Json = {"role": "assistant", "content": ""}
    for item in items:
        kind, role = kind_and_role(item)
        if role != "assistant":
            continue
        if kind == "message":
            parts = objects_in(item.get("content"))
            if refusal := "".join(text_of(part.get("refusal")) for part in parts):
                turn["refusal"] = turn.get("refusal", "") + refusal
                item = item | {"content": [part for part in parts if not part.get("refusal")]}
        say(turn, item)
        if sound := fields_of(item.get("audio")):
            turn["audio"] = sound
    if turn["content"] == fields_of(turn.get("audio")).get("transcript"):
        turn["content"] = None
    if not turn["content"] and turn.keys() & {"refusal", "tool_calls", "reasoning_content", "audio"}:
        turn["content"] = None
    return turn


def _says(message: Json, items: list[Json]) -> bool:
    """Whether a message still says what the items that it carries say."""

    def gist(turn: Json) -> tuple[str, list[tuple[Any, Any]]]:
        calls = objects_in(turn.get("tool_calls"))
        made = [(call.get("id"), fields_of(call.get("function")).get("name")) for call in calls]
        return content_text(turn.get("content")) + text_of(turn.get("refusal")), made

    return gist(message) == gist(turn_of(items))


def reasoning_item(thinking: str, stem: str) -> Json:
    """What a model thinks; "" where only its signature is known."""
    thought = [{"type": "reasoning_text", "text": thinking}] if thinking else []
    return {"type": "reasoning", "id": f"rs_{stem}", "summary": [], "content": thought}


def text_part(text: str) -> Json:
    """A text in what a model says."""
    return {"type": "output_text", "text": text, "annotations": []}


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
