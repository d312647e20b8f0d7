"""Anthropic's Messages API in: what agents send, and what they get back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from anthropic.types import Message
from hypothesis import given
from hypothesis import strategies as st

from nemo_like.chat import to_chat, to_response
from nemo_like.errors import Kind, PartError, from_wire
from nemo_like.messages import error_body, to_message, to_params
from nemo_like.types import Json, content_text

from .test_chat import FIELDS, answers, anything, call, completion, completions, or_refused_as, says

USE: Json = {"type": "tool_use", "id": "toolu_1", "name": "add", "input": {"a": 1}}


def user(*blocks: Json) -> Json:
    return {"role": "user", "content": list(blocks)}


def params(*messages: Json, **more: Any) -> Json:
    return to_params({"messages": list(messages) or [{"role": "user", "content": "Hi"}], **more})


def items(*messages: Json) -> list[Json]:
    return params(*messages)["input"]


def result(content: Any = "2", **more: Any) -> Json:
    return {"type": "tool_result", "tool_use_id": "toolu_1", "content": content, **more}


def answered(*output: Json, body: Json | None = None, **fields: Any) -> Json:
    response = {"id": "resp_1", "status": "completed", "model": "m", "output": list(output)} | fields
    return to_message(response, body or {})


def test_text_is_what_it_is_in_a_string_or_in_blocks() -> None:
    text = {"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}}
    assert items({"role": "user", "content": "Hi"}) == [{"type": "message", "role": "user", "content": "Hi"}]
    assert items(user(text))[0]["content"] == [{"type": "input_text", "text": "Hi"}]
    assert items({"role": "system", "content": "Now."})[0]["role"] == "system"


@pytest.mark.parametrize("system", ["Be brief.\n\nBe kind.", [{"text": "Be brief."}, {"text": "Be kind."}]])
def test_the_system_prompt_becomes_instructions(system: Any) -> None:
    assert params(system=system)["instructions"] == "Be brief.\n\nBe kind."


def test_images_and_documents_become_parts() -> None:
    source = {"type": "base64", "media_type": "image/png", "data": "AA"}
    paper = {"type": "base64", "media_type": "application/pdf", "data": "BB"}
    (message,) = items(
        user(
            {"type": "image", "source": source},
            {"type": "image", "source": {"type": "url", "url": "https://x/y.png"}},
            {"type": "document", "title": "a.pdf", "source": paper},
            {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "words"}},
        )
    )
    assert message["content"] == [
        {"type": "input_image", "image_url": "data:image/png;base64,AA"},
        {"type": "input_image", "image_url": "https://x/y.png"},
        {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,BB"},
        {"type": "input_text", "text": "words"},
    ]
    file = to_chat({"input": [message]})["messages"][0]["content"][2]
    assert file == {
        "type": "file",
        "file": {"file_data": "data:application/pdf;base64,BB", "filename": "a.pdf"},
    }


def test_calls_and_results_become_items_and_results_come_first() -> None:
    turn = {"role": "assistant", "content": [{"type": "text", "text": "I add."}, USE]}
    said, made, output, asked = items(turn, user({"type": "text", "text": "Go on."}, result()))
    assert said["content"] == [{"type": "output_text", "text": "I add."}]
    assert made == {"type": "function_call", "call_id": "toolu_1", "name": "add", "arguments": '{"a":1}'}
    assert output == {"type": "function_call_output", "call_id": "toolu_1", "output": "2"}
    assert asked["role"] == "user"


@pytest.mark.parametrize(
    ("block", "output"),
    [
        (result([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]), "ab"),
        (result(None), ""),
        (result("no such file", is_error=True), "Error: no such file"),
        (
            result([{"type": "image", "source": {"type": "url", "url": "u"}}]),
            [{"type": "input_image", "image_url": "u"}],
        ),
    ],
)
def test_what_a_tool_answered_is_told(block: Json, output: Any) -> None:
    assert items(user(block))[0]["output"] == output


def test_settings_get_the_names_of_responses() -> None:
    tool = {"name": "add", "description": "Adds.", "input_schema": {"type": "object"}, "cache_control": {}}
    asked = params(
        model="m",
        max_tokens=9,
        temperature=0.5,
        top_k=5,
        stop_sequences=["\n"],
        tools=[tool],
        tool_choice={"type": "tool", "name": "add", "disable_parallel_tool_use": True},
        thinking={"type": "enabled", "budget_tokens": 8000},
        output_config={"format": {"type": "json_schema", "schema": {"type": "object"}}},
        metadata={"user_id": "u"},
        service_tier="auto",
        context_management={"edits": []},
        stream=True,
    )
    del asked["input"]
    assert asked == {
        "model": "m",
        "max_output_tokens": 9,
        "temperature": 0.5,
        "top_k": 5,
        "stop": ["\n"],
        "tools": [
            {
                "type": "function",
                "name": "add",
                "description": "Adds.",
                "parameters": {"type": "object"},
                "strict": False,
            }
        ],
        "tool_choice": {"type": "function", "name": "add"},
        "parallel_tool_calls": False,
        "reasoning": {"effort": "medium", "summary": "auto"},
        "include": ["reasoning.encrypted_content"],
        "text": {
            "format": {"type": "json_schema", "name": "answer", "schema": {"type": "object"}, "strict": True}
        },
        "metadata": {"user_id": "u"},
    }


@pytest.mark.parametrize(("kind", "choice"), [("auto", "auto"), ("any", "required"), ("none", "none")])
def test_a_tool_choice_gets_its_word(kind: str, choice: str) -> None:
    assert params(tool_choice={"type": kind})["tool_choice"] == choice


@pytest.mark.parametrize(
    ("thinking", "effort", "reasoning"),
    [
        ({"type": "disabled"}, None, None),
        ({"type": "adaptive"}, None, {"summary": "auto"}),
        ({"type": "adaptive", "display": "omitted"}, "max", {"effort": "xhigh"}),
        ({"type": "enabled", "budget_tokens": 1024}, None, {"effort": "low", "summary": "auto"}),
        ({"type": "enabled", "budget_tokens": 64000}, None, {"effort": "high", "summary": "auto"}),
    ],
)
def test_thinking_becomes_an_effort(thinking: Json, effort: str | None, reasoning: Json | None) -> None:
    assert params(thinking=thinking, output_config={"effort": effort}).get("reasoning") == reasoning


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"messages": "Hi"}, 'messages should be a list (got "Hi")'),
        ({"messages": [{"role": "tool", "content": ""}]}, "messages[0]: unknown role 'tool'"),
        (
            {"messages": [user({"type": "server_tool_use"})]},
            "messages[0].content[0]: this block can't be sent",
        ),
        ({"messages": [user(USE)]}, "messages[0].content[0]: this block can't be sent"),
        ({"messages": [user(result([{"type": "tool_reference"}]))]}, "messages[0].content[0].content[0]"),
        (
            {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
            "tools[0]: only tools with an input_",
        ),
        (
            {"tool_choice": {"type": "some"}},
            "tool_choice.type should be auto, any, none or tool (got 'some')",
        ),
        ({"mcp_servers": [{}]}, "mcp_servers: only Anthropic's own service has that"),
        ({"system": 5}, "system should be a list (got 5)"),
    ],
)
def test_what_can_not_be_said_is_refused_by_name(change: Json, words: str) -> None:
    with pytest.raises(PartError) as caught:
        to_params({"messages": [{"role": "user", "content": "Hi"}], **change})
    assert caught.value.kind == "bad_request"
    assert words in caught.value.message


def test_a_response_becomes_a_message() -> None:
    usage = {
        "input_tokens": 10,
        "input_tokens_details": {"cached_tokens": 6, "cache_write_tokens": 1},
        "output_tokens": 5,
        "total_tokens": 15,
    }
    message = answered(says("Four."), call(), usage=usage)
    assert message == {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [
            {"type": "text", "text": "Four."},
            {"type": "tool_use", "id": "call_1", "name": "add", "input": {"a": 1}},
        ],
        "stop_reason": "tool_use",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 3,
            "cache_creation_input_tokens": 1,
            "cache_read_input_tokens": 6,
            "output_tokens": 5,
        },
    }
    Message.model_validate(message)


@pytest.mark.parametrize(
    ("fields", "stop_reason"),
    [
        ({}, "end_turn"),
        ({"incomplete_details": {"reason": "max_output_tokens"}}, "max_tokens"),
        ({"incomplete_details": {"reason": "content_filter"}}, "refusal"),
        ({"stop_reason": "END"}, "stop_sequence"),
        ({"stop_reason": "<|eot|>"}, "end_turn"),
    ],
)
def test_why_it_ended_gets_its_word(fields: Json, stop_reason: str) -> None:
    message = answered(says("Four."), body={"stop_sequences": ["END"]}, **fields)
    assert message["stop_reason"] == stop_reason
    assert message["stop_sequence"] == ("END" if stop_reason == "stop_sequence" else None)


def test_a_refusal_is_told_as_one() -> None:
    message = answered(*to_response(completion({"content": None, "refusal": "No."}), {})["output"])
    assert (message["content"], message["stop_reason"]) == ([{"type": "text", "text": "No."}], "refusal")


def test_arguments_that_are_no_json_come_back_as_they_were() -> None:
    broken = call(arguments='{"a": ')
    message = answered(broken)
    assert items({"role": "assistant", "content": message["content"]}) == [broken]


def test_a_failed_response_is_no_message() -> None:
    with pytest.raises(PartError, match="overloaded") as caught:
        answered(status="failed", error={"message": "overloaded"})
    assert caught.value.kind == "model_error"


def test_thoughts_that_somebody_else_signed_go_to_those_who_know_them() -> None:
    block = {"type": "thinking", "thinking": "Hm.", "signature": "abc"}
    (item,) = items({"role": "assistant", "content": [block]})
    assert item["thinking_blocks"] == [block]
    assert answered(item)["content"] == [block]
    (turn,) = to_chat({"input": [item]})["messages"]
    assert (turn["reasoning_content"], turn["thinking_blocks"]) == ("Hm.", [block])


def test_what_a_text_cites_comes_back_as_it_was() -> None:
    link = {"type": "url_citation", "url": "https://x", "title": "X", "start_index": 0, "end_index": 4}
    file = {"type": "file_citation", "file_id": "f", "filename": "a.pdf", "index": 1}
    quoted: Json = {"type": "char_location", "cited_text": "4", "document_index": 0, "document_title": None}
    quoted |= {"start_char_index": 0, "end_char_index": 1, "file_id": None}
    part = {"type": "output_text", "text": "Four.", "annotations": [link, file, quoted]}
    message = answered(says("") | {"content": [part]})
    Message.model_validate(message)
    (block,) = message["content"]
    assert [cited["type"] for cited in block["citations"]] == ["web_search_result_location"] * 2 + [
        "char_location"
    ]
    assert (block["citations"][0]["url"], block["citations"][1]["title"]) == ("https://x", "a.pdf")
    (item,) = items({"role": "assistant", "content": message["content"]})
    assert item["content"] == [part]


words = st.text(max_size=8)
secrets = st.fixed_dictionaries(
    {"type": st.just("reasoning"), "id": words, "encrypted_content": st.text(min_size=1)},
    optional={"summary": st.lists(st.builds(lambda text: {"type": "summary_text", "text": text}, words))},
)
unknown = st.fixed_dictionaries(
    {"type": st.sampled_from(["web_search_call", "mcp_call", "new"])},
    optional={"id": words, "action": anything},
)


@given(st.lists(secrets | unknown, max_size=4))
def test_items_that_messages_has_no_words_for_survive_the_round_trip(output: list[Json]) -> None:
    output = json.loads(
        json.dumps(output).replace("NaN", "0").replace("-Infinity", "0").replace("Infinity", "0")
    )
    message = answered(*output)
    assert items({"role": "assistant", "content": message["content"]}) == output


def told(output: list[Json]) -> list[Any]:
    """What an answer says, one entry a thing: texts in a row are one, as Messages has them."""
    things: list[Any] = []
    for item in output:
        if item["type"] == "function_call":
            name = f"{item['namespace']}__{item['name']}" if "namespace" in item else item["name"]
            things.append(("calls", item["call_id"], name, json.loads(item["arguments"])))
        elif item["type"] == "message":
            things += [
                ("says", content_text([part]), part.get("annotations") or None) for part in item["content"]
            ]
        else:
            # A thought that is all there is to it gets another id, and why it ended is told elsewhere.
            plain = not item.get("encrypted_content") and item.get("content")
            made = ("id", "status") if plain else ()
            things.append({key: item[key] for key in item if key not in made})
    return things


@given(answers())
def test_an_answer_is_the_same_after_going_to_messages_and_back(answer: Json) -> None:
    content = to_message(answer, {})["content"]
    back = items({"role": "assistant", "content": content})
    assert told(back) == told(answer["output"])


@given(completions())
def test_an_answer_means_the_same_when_it_is_sent_back(whole: Json) -> None:
    response = to_response(whole, {})
    message = to_message(response, {})
    Message.model_validate(message)
    again = {"input": [*items({"role": "assistant", "content": message["content"] or "-"})]}
    if message["content"]:
        assert to_chat(again)["messages"][-1]["role"] == "assistant"
        texts = [(m.get("content") or "", m.get("reasoning_content")) for m in to_chat(again)["messages"]]
        expected = to_chat({"input": response["output"]})["messages"]
        assert texts == [(m.get("content") or "", m.get("reasoning_content")) for m in expected]


BLOCK_FIELDS = [*FIELDS, "system", "tools", "source", "tool_use_id", "tool_choice", "thinking"]


@given(st.dictionaries(st.sampled_from(BLOCK_FIELDS), anything, max_size=6))
def test_a_request_is_sent_or_refused_by_name(body: Json) -> None:
    with or_refused_as("bad_request"):
        to_params(body)


@pytest.mark.parametrize(
    ("kind", "status", "name"),
    [
        ("unauthorized", 401, "authentication_error"),
        ("unauthorized", 403, "permission_error"),
        ("rate_limited", 429, "rate_limit_error"),
        ("bad_request", 400, "invalid_request_error"),
        ("model_error", 529, "overloaded_error"),
        ("model_error", 500, "api_error"),
        ("context_overflow", 400, "invalid_request_error"),
    ],
)
def test_errors_have_anthropics_shape_with_ours_inside(kind: Kind, status: int, name: str) -> None:
    body = error_body(PartError(kind, "no", where="there", status=status))
    told = json.loads(body)
    assert (told["type"], told["error"]["type"]) == ("error", name)
    back = from_wire(status, body, where="?")
    assert (back.kind, back.where, back.status) == (kind, "there", status)
