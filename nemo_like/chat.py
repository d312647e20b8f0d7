"""Responses API ↔ Chat Completions, both ways. Pure: nothing is sent, and no argument is changed.

    to_chat(params)                  Responses request → Chat Completions body; back: to_params
    to_response(completion, params)  chat completion → Responses object; back: to_completion
    conversation(output)             output items → the chat messages of a record
    prompt_of(params), tools_of(params)   the same of a request: what stands before the answer

How items and messages say the same is in `turns`; requests, answers and their settings are here.
"""

from __future__ import annotations

import time
from itertools import takewhile
from typing import Any
from uuid import uuid4

from nemo_like.chat_tools import chat_tools, flat, names_of, nested, params_choice
from nemo_like.chat_tools import tools_of as tools_of
from nemo_like.dropped import tell_dropped
from nemo_like.errors import PartError
from nemo_like.extras import with_extras
from nemo_like.parts import content_of
from nemo_like.shapes import (
    fields_of,
    list_at,
    object_at,
    objects_in,
    text_at,
    text_of,
    without_nulls,
)
from nemo_like.turns import TOKEN_FIELDS as TOKEN_FIELDS
from nemo_like.turns import (
    items_of,
    items_of_turn,
    kind_and_role,
    problem_of,
    to_messages,
    token_fields,
    turn_of,
)
from nemo_like.types import Json

STORED = ("previous_response_id", "conversation", "prompt")
"""Keys by which a request leans on what a Responses server has stored."""
STREAMING = {"stream", "stream_options"}
"""Keys for answers in pieces; what is converted here is whole."""
DROPPED = STREAMING | {"store", "background", "truncation", "max_tool_calls", "context_management"}
"""Keys of Responses that Chat has no use for."""
UNSAID = STREAMING | {"store"}
"""Of these, those that nobody misses."""
IDLE: tuple[Any, ...] = (False, "disabled", [], {})
"""Values of such keys that ask for nothing."""
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


def to_chat(params: Json) -> Json:
    """The Chat Completions body that asks what a Responses request asks.

    Unknown keys ride along (`top_k`, `chat_template_kwargs`); nulls and what Chat has no use for are dropped.
    `metadata` may bring more, see `extras`.

    Raises:
        PartError: `bad_request`, naming the item, part, tool or setting that Chat has no words for.
    """
    given = without_nulls(params)
    for key in STORED:
        if key in given:
            raise PartError("bad_request", f"{key}: nothing is stored here; send the whole input")
    text = object_at(given.pop("text", {}), "text")
    include = list_at(given.pop("include", []), "include")
    reworded = {
        "messages": _prompt(given.pop("input", []), given.pop("instructions", "")),
        # `max_completion_tokens` is the newer name; this is the one that every server takes.
        "max_tokens": given.pop("max_output_tokens", None),
        "logprobs": True if "top_logprobs" in given or LOGPROBS in include else None,
        "reasoning_effort": object_at(given.pop("reasoning", {}), "reasoning").get("effort"),
        "response_format": _response_format(text.get("format")),
        "verbosity": text.get("verbosity"),
        **chat_tools(given),
    }
    metadata = object_at(given.pop("metadata", {}), "metadata")
    if missed := DROPPED.intersection(given) - UNSAID:
        tell_dropped(key for key in missed if given[key] not in IDLE)
    rest = {key: given[key] for key in given if key not in DROPPED}
    body = rest | without_nulls(reworded)
    return with_extras(body, metadata) if metadata else body


def to_params(body: Json) -> Json:
    """The Responses request that asks what a Chat Completions body asks; the inverse of `to_chat`.

    Raises:
        PartError: `bad_request`, naming the message, part or setting that Responses has no words for.
    """
    given = without_nulls(body)
    if (n := given.pop("n", 1)) != 1:
        raise PartError("bad_request", f"n should be 1: a response is one answer (got {text_of(n)})")
    messages = list_at(given.pop("messages", None), "messages")
    tools = list_at(given.pop("tools", []), "tools")
    text = {"format": flat(given.pop("response_format", None)), "verbosity": given.pop("verbosity", None)}
    max_tokens = given.pop("max_tokens", None)
    reworded = {
        "input": [item for at, message in enumerate(messages) for item in items_of(message, at)],
        "max_output_tokens": given.pop("max_completion_tokens", max_tokens),
        "include": [LOGPROBS] if given.pop("logprobs", False) else None,
        "reasoning": without_nulls({"effort": given.pop("reasoning_effort", None)}) or None,
        "text": without_nulls(text) or None,
        "tools": [flat(tool) for tool in tools] or None,
        "tool_choice": params_choice(given.pop("tool_choice", None)),
    }
    return {key: given[key] for key in given if key not in STREAMING} | without_nulls(reworded)


def to_response(completion: Json, params: Json) -> Json:
    """The Responses object of a chat completion's first choice; `params` is the request that it answers.

    Reasoning is what the server calls so, or else the thinking tags at the start of the text.

    Raises:
        PartError: `bad_response`, saying what is missing or misshapen.
    """
    choices = list_at(completion.get("choices") or [], "choices", "bad_response")
    if not choices:
        raise PartError("bad_response", f"the completion has no choices: {text_of(completion):.500}")
    choice = object_at(choices[0], "choices[0]", "bad_response")
    message = object_at(choice.get("message"), "choices[0].message", "bad_response")
    finish = text_of(choice.get("finish_reason"))
    if finish in GIVEN_UP:
        raise PartError("bad_response", f"the model server gave the answer up: finish_reason {finish}")
    stem = stem_of(completion)
    answer = _think(message, cut=finish == "length") | {"logprobs": logprobs_of(choice)}
    output = items_of_turn(answer, stem, "choices[0].message", "bad_response")
    if names := names_of(params):
        output = [item | names.get(text_of(item.get("name")), {}) for item in output]
    output[-1] |= token_fields(choice) | token_fields(message)
    return response_of(completion | {"id": stem}, params, output, choice)


def stem_of(completion: Json) -> str:
    """What the ids of a response and its items share with the id of the completion it is made of."""
    return text_of(completion.get("id")).removeprefix("chatcmpl-") or uuid4().hex


def response_of(completion: Json, params: Json, output: list[Json], choice: Json) -> Json:
    """The Responses object round `output`; the rest is taken from the completion and its choice."""
    finish = text_of(choice.get("finish_reason"))
    if finish in GIVEN_UP:
        raise PartError("bad_response", f"the model server gave the answer up: finish_reason {finish}")
    if finish in INCOMPLETE:
        output[-1]["status"] = "incomplete"
    response = {
        "id": f"resp_{stem_of(completion)}",
        "object": "response",
        "created_at": seconds_of(completion.get("created")),
        "model": completion.get("model") or params.get("model") or "",
        "status": "incomplete" if finish in INCOMPLETE else "completed",
        "error": None,
        "incomplete_details": {"reason": INCOMPLETE[finish]} if finish in INCOMPLETE else None,
        "output": output,
        "parallel_tool_calls": params.get("parallel_tool_calls") is not False,
        "tool_choice": flat(params.get("tool_choice") or "auto"),
        "tools": [flat(tool) for tool in objects_in(params.get("tools"))],
        "temperature": params.get("temperature"),
        "top_p": params.get("top_p"),
        "metadata": params.get("metadata") or {},
        "usage": _usage(completion, of_chat=True),
    }
    # vLLM and SGLang tell here which of the `stop` texts ended the answer.
    stopped_by = choice.get("stop_reason")
    return response | {"stop_reason": stopped_by} if isinstance(stopped_by, str) else response


def to_completion(response: Json) -> Json:
    """The chat completion of a Responses object, which is one turn of a model; the inverse of `to_response`.

    Raises:
        PartError: `bad_response`, saying what is missing; `model_error` if the response says that it failed.
    """
    if response.get("status") in ("failed", "cancelled"):
        raise PartError("model_error", f"the response {response['status']}: {text_of(response.get('error'))}")
    items = objects_in(list_at(response.get("output"), "output", "bad_response"))
    message = turn_of(items)
    for item in items:
        message |= token_fields(item)
    if any(not kind_and_role(item)[0] for item in items) or _gist(items, response) != _gist(
        items_of_turn(message, "", "output", "bad_response"), response
    ):
        message["items"] = items
    parts = [part for item in items for part in [item, *objects_in(item.get("content"))]]
    logprobs = [chat_logprob(entry) for part in parts for entry in objects_in(part.get("logprobs"))]
    choice = {"index": 0, "message": message, "finish_reason": finish_of(response, "tool_calls" in message)}
    choice |= {"stop_reason": response["stop_reason"]} if "stop_reason" in response else {}
    return {
        "id": completion_id(response),
        "object": "chat.completion",
        "created": seconds_of(response.get("created_at")),
        "model": response.get("model") or "",
        "choices": [choice | {"logprobs": {"content": logprobs} if logprobs else None}],
        "usage": _usage(response, of_chat=False),
    }


def _gist(items: list[Json], response: Json) -> list[Json]:
    """Items without what says nothing, or is told elsewhere: their ids and tokens, nulls, a usual status."""
    unsaid = {"id", "logprobs", *TOKEN_FIELDS}
    ends = ("completed", response.get("status"))

    def told(fields: Json) -> Json:
        return {key: value for key, value in fields.items() if value not in (None, []) and key not in unsaid}

    gist: list[Json] = []
    for item in items:
        usual = ends if item is items[-1] else ("completed",)
        gist.append(told(item) | {"status": None if item.get("status") in (None, *usual) else item["status"]})
        gist[-1] |= {
            key: [told(part) for part in objects_in(item.get(key))] for key in ("content", "summary")
        }
    return gist


def wants_usage(body: Json) -> bool:
    """Whether a Chat Completions body asks for the usage at the end of its stream."""
    return bool(fields_of(body.get("stream_options")).get("include_usage"))


def completion_id(response: Json) -> str:
    """The id of the completion that is made of a response."""
    return "chatcmpl-" + (text_of(response.get("id")).removeprefix("resp_") or uuid4().hex)


def finish_of(response: Json, calls: bool) -> str:
    """Why a response ended, in the words of Chat."""
    reason = text_of(fields_of(response.get("incomplete_details")).get("reason"))
    return FINISH.get(reason) or ("tool_calls" if calls else "stop")


def conversation(output: list[Json]) -> list[Json]:
    """The chat messages that output items amount to: `output` of a rollout's record.

    Never raises: what is missing becomes "", an item of another type stays as it is, as `item` of a message.
    """
    messages = to_messages(output, text_of)
    for message in messages:
        if "tool_calls" in message and not message["content"]:
            del message["content"]
    return messages


def prompt_of(params: Json) -> list[Json]:
    """The chat messages that a Responses request puts before the model, for those who read records.

    Content stays a list of parts where there is an image; raises no more than `conversation`.
    """
    given = params.get("input")
    items: list[Any] = [{"role": "user", "content": given}] if isinstance(given, str) else objects_in(given)
    messages = to_messages(items, lambda content: content_of(content, chat=True))
    instructions = text_of(params.get("instructions"))
    return [{"role": "system", "content": instructions}, *messages] if instructions else messages


def _prompt(prompt: Any, instructions: Any) -> list[Json]:
    """The messages of a Responses request."""
    items = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    for at, item in enumerate(list_at(items, "input")):
        if problem := problem_of(item):
            raise PartError("bad_request", f"input[{at}]: {problem}")
    messages = to_messages(items, lambda content: content_of(content, chat=True))
    for message in messages:
        if "tool_calls" in message and not message["content"]:
            # Null, as OpenAI itself answers it: some servers refuse a message without the key.
            message["content"] = None
    if system := text_at(instructions, "instructions"):
        messages.insert(0, {"role": "system", "content": system})
    if not messages:
        raise PartError("bad_request", "the request has no input")
    # Many chat templates take one system message, as the first.
    leading = list(takewhile(lambda message: message["role"] in ("system", "developer"), messages))
    first = messages[0] | {"content": "\n\n".join(message["content"] for message in leading)}
    return [first, *messages[len(leading) :]] if leading else messages


def _response_format(form: Any) -> Any:
    if form is None or form in ({"type": "text"}, {"type": "json_object"}):
        return form
    return nested(form, "json_schema", "text.format")


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


def logprobs_of(choice: Json) -> list[Json]:
    """The log-probabilities of a choice as Responses has them: `bytes` is never null."""
    logprobs = object_at(choice.get("logprobs") or {}, "choices[0].logprobs", "bad_response")
    return [
        _logprob(entry) | {"top_logprobs": [_logprob(top) for top in objects_in(entry.get("top_logprobs"))]}
        for entry in objects_in(logprobs.get("content"))
    ]


def _logprob(entry: Json) -> Json:
    return {"token": None, "logprob": None} | entry | {"bytes": entry.get("bytes") or list[int]()}


def chat_logprob(entry: Json) -> Json:
    """The inverse of `_logprob`: a token that has no bytes of its own has null."""
    tops = [chat_logprob(top) for top in objects_in(entry.get("top_logprobs"))]
    its_bytes: list[int] | None = entry.get("bytes") or (None if entry.get("token") else [])
    return entry | {"bytes": its_bytes} | ({"top_logprobs": tops} if "top_logprobs" in entry else {})


def _usage(answer: Json, *, of_chat: bool) -> Json | None:
    """The usage of an answer of either API, in the names of the other; other counts and costs stay."""
    if not answer.get("usage"):
        return None
    usage = object_at(answer["usage"], "usage", "bad_response")
    reworded: Json = {"total_tokens": 0}
    known = {"total_tokens"}
    for chat, responses, details in USAGE:
        old, new = (chat, responses) if of_chat else (responses, chat)
        given = fields_of(usage.get(f"{old}_details"))
        counts = {key: _count(given, key) for key in details} | _numbers(given)
        reworded |= {new: _count(usage, old), f"{new}_details": counts}
        reworded["total_tokens"] += reworded[new]
        known |= {old, new}
    total = _count(usage, "total_tokens") or reworded["total_tokens"]
    others = {key: value for key, value in _numbers(usage).items() if key not in known}
    return reworded | others | {"total_tokens": total}


def _numbers(counts: Json) -> Json:
    return {key: value for key, value in counts.items() if isinstance(value, int | float)}


def _count(counts: Json, key: str) -> int:
    value = counts.get(key)
    return value if isinstance(value, int) else 0


def seconds_of(value: Any) -> int:
    """A time since the epoch, or now where there is none."""
    return int(value) if isinstance(value, int | float) and 0 < value < 2**32 else int(time.time())
