from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import takewhile
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionMessageParam
from openai.types.responses import Response
from pydantic import TypeAdapter

from nemo_like.chat import conversation, to_chat, to_completion, to_params, to_response, tools_of
from nemo_like.errors import Kind, PartError
from nemo_like.types import Json, content_text

MESSAGES = TypeAdapter(list[ChatCompletionMessageParam])
ADD: Json = {
    "type": "function",
    "name": "add",
    "description": "Adds.",
    "parameters": {"type": "object", "properties": {"a": {"type": "number"}}},
    "strict": True,
}


CHOSEN: Json = {"type": "function", "name": "add"}
ALLOWED: Json = {"type": "allowed_tools", "mode": "required", "tools": [CHOSEN]}


def call(call_id: str = "call_1", name: str = "add", arguments: str = '{"a":1}') -> Json:
    return {"type": "function_call", "call_id": call_id, "name": name, "arguments": arguments}


def output(call_id: str = "call_1", value: Any = "2") -> Json:
    return {"type": "function_call_output", "call_id": call_id, "output": value}


def says(text: str) -> Json:
    part = {"type": "output_text", "text": text, "annotations": []}
    return {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [part]}


def thinks(text: str) -> Json:
    return {
        "type": "reasoning",
        "id": "rs_1",
        "summary": [],
        "content": [{"type": "reasoning_text", "text": text}],
    }


def asks(*items: Any) -> list[Json]:
    return to_chat({"input": [{"role": "user", "content": "Hi"}, *items]})["messages"][1:]


def completion(message: Json | None = None, finish_reason: str = "stop", **choice: Any) -> Json:
    message = {"role": "assistant", "content": "Four.", **(message or {})}
    return {
        "id": "chatcmpl-7",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": finish_reason, **choice}],
    }


def chat_call(call_id: str = "call_1", name: str = "add", arguments: Any = '{"a":1}') -> Json:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def answer(text: str, finish_reason: str = "stop") -> tuple[str, str | None]:
    """The reasoning and the text that are made of a completion's text; None is no message at all."""
    items = to_response(completion({"content": text}, finish_reason), {})["output"]
    reasoning = "".join(item["content"][0]["text"] for item in items if item["type"] == "reasoning")
    texts = [content_text(item["content"]) for item in items if item["type"] == "message"]
    return reasoning, texts[0] if texts else None


class TestRequests:
    def test_a_string_is_what_the_user_says(self):
        assert to_chat({"input": "Hi", "model": "m"}) == {
            "model": "m",
            "messages": [{"role": "user", "content": "Hi"}],
        }

    def test_instructions_and_the_first_system_messages_become_one(self):
        items = [
            {"role": "system", "content": "Be brief."},
            {"role": "developer", "content": [{"type": "input_text", "text": "Be kind."}]},
            {"role": "user", "content": "Hi"},
            {"role": "system", "content": "Later."},
        ]
        assert to_chat({"instructions": "Be right.", "input": items})["messages"] == [
            {"role": "system", "content": "Be right.\n\nBe brief.\n\nBe kind."},
            {"role": "user", "content": "Hi"},
            {"role": "system", "content": "Later."},
        ]

    def test_a_lone_developer_message_keeps_its_role(self):
        assert to_chat({"input": [{"role": "developer", "content": "Be brief."}]})["messages"] == [
            {"role": "developer", "content": "Be brief."}
        ]

    def test_instructions_alone_are_enough(self):
        assert to_chat({"instructions": "Go.", "input": []})["messages"] == [
            {"role": "system", "content": "Go."}
        ]

    def test_parts_that_are_all_text_become_a_string(self):
        parts = [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]
        assert asks({"role": "user", "content": parts}) == [{"role": "user", "content": "ab"}]

    @pytest.mark.parametrize("content", [None, "", []])
    def test_content_that_is_nothing_is_an_empty_string(self, content: Any):
        assert asks({"role": "user", "content": content}) == [{"role": "user", "content": ""}]

    def test_an_image_keeps_the_parts(self):
        parts = [
            {"type": "input_text", "text": "What is it?"},
            {"type": "input_image", "image_url": "https://x/y.png", "detail": "low"},
            {"type": "input_image", "image_url": "data:image/png;base64,AA", "detail": None},
        ]
        assert asks({"role": "user", "content": parts})[0]["content"] == [
            {"type": "text", "text": "What is it?"},
            {"type": "image_url", "image_url": {"url": "https://x/y.png", "detail": "low"}},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}},
        ]

    def test_files_and_sounds_are_parts_of_both_apis(self):
        sound = {"type": "input_audio", "input_audio": {"data": "AA", "format": "wav"}}
        file = {"file_data": "data:application/pdf;base64,AA", "filename": "a.pdf"}
        message = {"type": "message", "role": "user", "content": [sound, {"type": "input_file", **file}]}
        body = to_chat({"input": [message]})
        assert body["messages"][0]["content"] == [sound, {"type": "file", "file": file}]
        assert to_params(body)["input"] == [message]

    def test_reasoning_text_and_calls_of_a_turn_are_one_message(self):
        assert asks(thinks("Hm."), says("I add."), call("a"), call("b"), output("a"), output("b", "3")) == [
            {
                "role": "assistant",
                "content": "I add.",
                "reasoning_content": "Hm.",
                "tool_calls": [chat_call("a"), chat_call("b")],
            },
            {"role": "tool", "tool_call_id": "a", "content": "2"},
            {"role": "tool", "tool_call_id": "b", "content": "3"},
        ]

    def test_calls_alone_have_null_content(self):
        assert asks(call(), output())[0] == {
            "role": "assistant",
            "content": None,
            "tool_calls": [chat_call()],
        }

    def test_what_follows_a_call_before_its_output_is_the_same_turn(self):
        items = [
            says("I add. "),
            call("a"),
            thinks("And."),
            says("Twice."),
            call("b"),
            output("a"),
            output("b"),
        ]
        turn, *outputs = asks(*items)
        assert turn == {
            "role": "assistant",
            "content": "I add. Twice.",
            "reasoning_content": "And.",
            "tool_calls": [chat_call("a"), chat_call("b")],
        }
        assert [message["role"] for message in outputs] == ["tool", "tool"]

    def test_an_output_ends_the_turn(self):
        messages = asks(call("a"), output("a"), call("b"), output("b"), says("Done."))
        assert [message["role"] for message in messages] == [
            "assistant",
            "tool",
            "assistant",
            "tool",
            "assistant",
        ]

    def test_two_answers_in_a_row_stay_two_messages(self):
        assert asks(says("a"), says("b")) == [
            {"role": "assistant", "content": "a"},
            {"role": "assistant", "content": "b"},
        ]

    def test_reasoning_after_a_text_belongs_to_what_follows(self):
        assert asks(says("a"), thinks("Hm."), says("b")) == [
            {"role": "assistant", "content": "a"},
            {"role": "assistant", "content": "b", "reasoning_content": "Hm."},
        ]

    def test_reasoning_is_its_text_or_else_its_summary(self):
        summary = [{"type": "summary_text", "text": "One."}, {"type": "summary_text", "text": "Two."}]
        item = {"type": "reasoning", "id": "rs_1", "summary": summary, "encrypted_content": "x"}
        assert asks(item)[0]["reasoning_content"] == "One.\n\nTwo."
        assert asks(thinks("All.") | {"summary": summary})[0]["reasoning_content"] == "All."

    def test_reasoning_that_is_encrypted_says_nothing(self):
        item = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"}
        assert asks(item, says("a")) == [{"role": "assistant", "content": "a"}]

    @pytest.mark.parametrize("key", ["reasoning_details", "thinking_blocks"])
    def test_signed_reasoning_goes_back_to_who_signed_it(self, key: str):
        signed = [{"type": "reasoning.encrypted", "data": "x"}]
        (item, *_) = to_response(completion({key: signed}), {})["output"]
        assert (item["type"], item[key]) == ("reasoning", signed)
        assert asks(item, says("a")) == [{"role": "assistant", "content": "a", key: signed}]

    def test_encrypted_reasoning_that_was_asked_for_is_not_asked_of_chat(self):
        assert to_chat({"input": "Hi", "include": ["reasoning.encrypted_content"]}).keys() == {"messages"}

    def test_a_refusal_is_said_again_as_text(self):
        item = {"type": "message", "role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}
        assert asks(item) == [{"role": "assistant", "content": "No."}]

    @pytest.mark.parametrize(
        ("value", "text"),
        [
            ("plain", "plain"),
            ([{"type": "input_text", "text": "a"}, {"type": "output_text", "text": "b"}], "ab"),
            ({"sum": 2, "unit": "°"}, '{"sum": 2, "unit": "°"}'),
            ([1, 2], "[1, 2]"),
            ([], "[]"),
            (4, "4"),
            (None, ""),
        ],
    )
    def test_what_a_tool_answered_is_sent_as_text(self, value: Any, text: str):
        assert asks(call(), output(value=value))[1]["content"] == text

    def test_tools_are_nested_and_their_nulls_dropped(self):
        tools = [ADD, {"type": "function", "name": "now", "description": None}]
        assert to_chat({"input": "Hi", "tools": tools})["tools"] == [
            {"type": "function", "function": {key: ADD[key] for key in ADD if key != "type"}},
            {"type": "function", "function": {"name": "now"}},
        ]

    def test_tools_in_the_shape_of_chat_are_taken_too(self):
        tool = {"type": "function", "function": {"name": "now"}}
        assert to_chat({"input": "Hi", "tools": [tool]})["tools"] == [tool]

    @pytest.mark.parametrize("choice", ["auto", "none", "required"])
    def test_a_tool_choice_in_a_word_stays(self, choice: str):
        assert to_chat({"input": "Hi", "tools": [ADD], "tool_choice": choice})["tool_choice"] == choice

    def test_a_tool_chosen_by_name_is_nested(self):
        body = to_chat({"input": "Hi", "tools": [ADD], "tool_choice": {"type": "function", "name": "add"}})
        assert body["tool_choice"] == {"type": "function", "function": {"name": "add"}}

    @pytest.mark.parametrize("tools", [[], None])
    def test_without_tools_nothing_is_said_of_tools(self, tools: Any):
        params = {"input": "Hi", "tools": tools, "tool_choice": "auto", "parallel_tool_calls": True}
        assert to_chat(params).keys() == {"messages"}

    def test_tools_of_a_namespace_get_one_name_each(self):
        find: Json = {"type": "function", "name": "find", "parameters": {}}
        space = {"type": "namespace", "name": "crm", "description": "Customers.", "tools": [find]}
        called = call(name="find") | {"namespace": "crm"}
        items = [{"role": "user", "content": "Hi"}, called, output()]
        body = to_chat({"input": items, "tools": [ADD, space], "tool_choice": CHOSEN | {"name": "find"}})
        assert [tool["function"]["name"] for tool in body["tools"]] == ["add", "crm__find"]
        assert body["tool_choice"]["function"]["name"] == "crm__find"
        assert body["messages"][1]["tool_calls"][0]["function"]["name"] == "crm__find"
        assert [tool["function"]["name"] for tool in tools_of({"tools": [ADD, space]})] == [
            "add",
            "crm__find",
        ]

    def test_some_tools_can_be_allowed(self):
        allowed = to_chat({"input": "Hi", "tools": [ADD], "tool_choice": ALLOWED})["tool_choice"]
        tools = [{"type": "function", "function": {"name": "add"}}]
        assert allowed == {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": tools}}

    def test_what_chat_does_not_know_of_a_tool_is_left_out(self):
        tool = ADD | {"defer_loading": True, "output_schema": {}, "cache_control": {"type": "ephemeral"}}
        (sent,) = to_chat({"input": "Hi", "tools": [tool]})["tools"]
        assert sent["function"].keys() == ADD.keys() - {"type"} | {"cache_control"}

    def test_settings_get_the_names_of_chat(self):
        schema = {"name": "point", "schema": {"type": "object"}, "strict": True}
        params = {
            "input": "Hi",
            "max_output_tokens": 9,
            "reasoning": {"effort": "low", "summary": "auto"},
            "text": {"format": {"type": "json_schema", **schema}, "verbosity": "low"},
            "top_logprobs": 2,
            "tools": [ADD],
            "parallel_tool_calls": False,
        }
        body = to_chat(params)
        assert {key: body[key] for key in body if key not in ("messages", "tools")} == {
            "max_tokens": 9,
            "reasoning_effort": "low",
            "response_format": {"type": "json_schema", "json_schema": schema},
            "verbosity": "low",
            "top_logprobs": 2,
            "logprobs": True,
            "parallel_tool_calls": False,
        }

    def test_logprobs_can_be_asked_for_by_include(self):
        body = to_chat({"input": "Hi", "include": ["message.output_text.logprobs"]})
        assert body.keys() == {"messages", "logprobs"}
        assert body["logprobs"] is True

    def test_a_json_object_is_asked_for_as_such(self):
        params = {"input": "Hi", "text": {"format": {"type": "json_object"}}}
        assert to_chat(params)["response_format"] == {"type": "json_object"}

    def test_what_neither_api_knows_rides_along(self):
        extras = {"top_k": 5, "chat_template_kwargs": {"enable_thinking": False}, "seed": 1, "stop": ["\n"]}
        plain = {"temperature": 0.5, "top_p": 0.9, "user": "u", "metadata": {"run": "1"}}
        assert to_chat({"input": "Hi", **extras, **plain}).items() >= (extras | plain).items()

    def test_nulls_and_what_chat_has_no_use_for_are_dropped(self):
        params = {
            "input": "Hi",
            "temperature": None,
            "top_logprobs": None,
            "metadata": None,
            "reasoning": {"effort": None},
            "text": None,
            "store": False,
            "include": [],
            "truncation": "disabled",
            "background": False,
            "stream": True,
            "previous_response_id": None,
        }
        assert to_chat(params).keys() == {"messages"}

    def test_json_in_metadata_is_merged_into_the_body(self):
        metadata = {
            "extra_body": '{"seed": 3, "temperature": 0, "chat_template_kwargs": {"a": 1, "b": 1}}',
            "chat_template_kwargs": '{"b": 2}',
            "run": "7",
        }
        body = to_chat({"input": "Hi", "temperature": 1.0, "metadata": metadata})
        assert body["seed"] == 3
        assert body["temperature"] == 1.0
        assert body["chat_template_kwargs"] == {"a": 1, "b": 2}
        assert body["metadata"] == {"run": "7"}
        assert "extra_body" in metadata
        assert "metadata" not in to_chat({"input": "Hi", "metadata": {"extra_body": "{}"}})

    def test_json_in_metadata_is_merged_deeply_and_the_requests_own_keys_stay(self):
        metadata = {
            "extra_body": '{"guided": {"a": 1, "b": 1}, "chat_template_kwargs": {"style": {"x": 1, "y": 1}}}',
            "chat_template_kwargs": '{"style": {"z": 3}, "think": false}',
        }
        given = {"guided": {"b": 2}, "chat_template_kwargs": {"style": {"y": 2}, "think": True}}
        body = to_chat({"input": "Hi", "metadata": metadata, **given})
        assert body["guided"] == {"a": 1, "b": 2}
        assert body["chat_template_kwargs"] == {"style": {"x": 1, "y": 2, "z": 3}, "think": False}

    def test_a_sound_in_metadata_is_heard_before_what_the_user_says_last(self):
        sound = "data:audio/wav;base64,AA"
        items = [{"role": role, "content": f"{role}."} for role in ("user", "user", "assistant")]
        body = to_chat({"input": items, "metadata": {"audio_data": sound, "run": "1"}})
        heard = [{"type": "audio_url", "audio_url": {"url": sound}}, {"type": "text", "text": "user."}]
        assert [message["content"] for message in body["messages"]] == ["user.", heard, "assistant."]
        assert body["metadata"] == {"run": "1"}
        assert to_chat(to_params(body)) == body

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"previous_response_id": "resp_1"}, "previous_response_id"),
            ({"conversation": "c"}, "conversation"),
            ({"input": []}, "no input"),
            ({"input": 5}, "input should be a list (got 5)"),
            (
                {"input": [call(), {"type": "local_shell"}]},
                "input[1]: Chat Completions has no item of type local_",
            ),
            ({"input": [{}]}, "input[0]: Chat Completions has no item of type {}"),
            ({"input": [{"type": ["message"]}]}, 'no item of type ["message"]'),
            ({"input": [call(name="")]}, "input[0]: a function_call needs a name"),
            ({"input": [{"type": "function_call_output"}]}, "a function_call_output needs a call_id"),
            (
                {"input": [{"role": "tool", "content": "2"}]},
                "input[0]: unknown role 'tool'; what a tool answers",
            ),
            ({"input": [{"role": "assistant", "tool_calls": [chat_call()]}]}, "holds no tool_calls"),
            ({"input": [{"role": "user", "content": 5}]}, "text or a list of parts (got 5)"),
            (
                {"input": [{"role": "user", "content": [{"type": "input_file"}]}]},
                'the part {"type": "input_file"}',
            ),
            ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input_image"),
            (
                {"input": [{"role": "assistant", "content": [{"type": "input_image", "image_url": "x"}]}]},
                "input_image",
            ),
            (
                {"tools": [ADD, {"type": "mcp"}]},
                'tools[1]: only the type function can be sent (got {"type": "mcp"})',
            ),
            (
                {"tools": [{"type": "namespace", "name": "crm", "tools": [{"type": "custom", "name": "x"}]}]},
                'tools[0].tools[0]: only the type function can be sent (got {"type": "custom"',
            ),
            (
                {
                    "tools": [
                        ADD | {"name": "a__b"},
                        {"type": "namespace", "name": "a", "tools": [ADD | {"name": "b"}]},
                    ]
                },
                "tools[0]: another tool is called a__b too",
            ),
            ({"tools": [{"type": "namespace", "tools": []}]}, "tools[0].name should be text (got null)"),
            ({"tools": [{"type": "function"}]}, "tools[0].name should be text (got null)"),
            ({"tools": {"add": ADD}}, "tools should be a list"),
            ({"tool_choice": "required"}, "tool_choice required needs tools"),
            ({"tools": [ADD], "tool_choice": {"type": "web_search"}}, "tool_choice: only the type function"),
            ({"text": {"format": {"type": "grammar"}}}, "text.format: only the type json_schema"),
            ({"metadata": {"audio_path": "a.wav"}}, "metadata.audio_path: no file is read here"),
            ({"metadata": {"audio_data": "a.wav"}}, "metadata.audio_data should be a data URI"),
            (
                {
                    "input": [{"role": "system", "content": "Hi"}],
                    "metadata": {"audio_data": "data:audio/wav;base64,AA"},
                },
                "metadata.audio_data: no message of the user",
            ),
            ({"metadata": {"extra_body": "{"}}, "metadata.extra_body should be JSON of an object"),
            (
                {"metadata": {"extra_body": "[1]"}},
                'metadata.extra_body should be JSON of an object (got "[1]")',
            ),
            (
                {"metadata": {"chat_template_kwargs": "yes"}},
                'metadata.chat_template_kwargs should be JSON of an object (got "yes")',
            ),
            (
                {"metadata": {"chat_template_kwargs": '{"a": 1}'}, "chat_template_kwargs": "b"},
                'chat_template_kwargs should be an object (got "b")',
            ),
            ({"reasoning": "high"}, "reasoning should be an object"),
        ],
    )
    def test_what_chat_has_no_words_for_is_refused_by_name(self, change: Json, message: str):
        with pytest.raises(PartError) as caught:
            to_chat({"input": "Hi", **change})
        assert caught.value.kind == "bad_request"
        assert message in caught.value.message


class TestRequestsBack:
    def test_an_assistant_message_becomes_its_items(self):
        message = {
            "role": "assistant",
            "content": "I add.",
            "reasoning": "Hm.",
            "tool_calls": [chat_call(), chat_call("b")],
        }
        tool = {"role": "tool", "tool_call_id": "b", "content": "2"}
        thought, text, *calls, result = to_params({"messages": [message, tool]})["input"]
        assert thought == thinks("Hm.") | {"id": "rs_0"}
        assert text == says("I add.") | {"id": "msg_0"}
        assert [item["call_id"] for item in calls] == ["call_1", "b"]
        assert result == output("b")

    def test_settings_get_the_names_of_responses(self):
        body = {
            "messages": [{"role": "user", "content": "Hi"}],
            "max_completion_tokens": 5,
            "max_tokens": 9,
            "response_format": {"type": "json_schema", "json_schema": {"name": "p", "schema": {}}},
            "tools": [{"type": "function", "function": {"name": "now"}}],
            "tool_choice": {"type": "function", "function": {"name": "now"}},
            "reasoning_effort": "low",
            "logprobs": True,
            "n": 1,
            "top_k": 3,
            "stream": False,
        }
        assert to_params(body) == {
            "input": [{"type": "message", "role": "user", "content": "Hi"}],
            "max_output_tokens": 5,
            "text": {"format": {"type": "json_schema", "name": "p", "schema": {}}},
            "tools": [{"type": "function", "name": "now"}],
            "tool_choice": {"type": "function", "name": "now"},
            "reasoning": {"effort": "low"},
            "include": ["message.output_text.logprobs"],
            "top_k": 3,
        }

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"messages": None}, "messages should be a list (got null)"),
            ({"messages": ["Hi"]}, 'messages[0] should be an object (got "Hi")'),
            ({"messages": [{"role": "function", "content": ""}]}, "messages[0]: unknown role 'function'"),
            ({"messages": [{"role": "tool", "content": ""}]}, "messages[0].tool_call_id should be text"),
            ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "input_audio"),
            ({"messages": [{"role": "assistant", "tool_calls": [{}]}]}, "messages[0].tool_calls[0].function"),
            ({"n": 4}, "n should be 1"),
        ],
    )
    def test_what_responses_has_no_words_for_is_refused_by_name(self, change: Json, message: str):
        with pytest.raises(PartError) as caught:
            to_params({"messages": [], **change})
        assert caught.value.kind == "bad_request"
        assert message in caught.value.message


class TestResponses:
    def test_a_completion_becomes_a_response(self):
        usage = {
            "prompt_tokens": 3,
            "completion_tokens": 5,
            "total_tokens": 8,
            "prompt_tokens_details": {"cached_tokens": 2, "audio_tokens": None},
            "completion_tokens_details": {"reasoning_tokens": 4},
        }
        params = {"input": "2+2?", "temperature": 0.5, "tools": [ADD], "metadata": None, "tool_choice": None}
        assert to_response(completion() | {"usage": usage}, params) == {
            "id": "resp_7",
            "object": "response",
            "created_at": 1_700_000_000,
            "model": "m",
            "status": "completed",
            "error": None,
            "incomplete_details": None,
            "output": [says("Four.") | {"id": "msg_7"}],
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [ADD],
            "temperature": 0.5,
            "top_p": None,
            "metadata": {},
            "usage": {
                "input_tokens": 3,
                "input_tokens_details": {"cached_tokens": 2, "cache_write_tokens": 0},
                "output_tokens": 5,
                "output_tokens_details": {"reasoning_tokens": 4},
                "total_tokens": 8,
            },
        }

    def test_other_counts_and_costs_of_a_usage_are_kept(self):
        details = {"cached_tokens": 1, "cache_write_tokens": 0, "audio_tokens": 2}
        read = {"prompt_tokens": 3, "prompt_tokens_details": details}
        written = {"completion_tokens": 5, "completion_tokens_details": {"reasoning_tokens": 0}}
        usage = read | written | {"total_tokens": 8, "cost": 0.25}
        whole = completion() | {"usage": usage}
        response = to_response(whole, {})
        assert response["usage"]["cost"] == 0.25
        assert response["usage"]["input_tokens_details"] == details
        assert to_completion(response)["usage"] == usage

    def test_the_text_that_stopped_an_answer_is_kept(self):
        whole = completion(stop_reason="END", logprobs=None)
        response = to_response(whole, {})
        assert response["stop_reason"] == "END"
        assert to_completion(response)["choices"] == whole["choices"]

    def test_of_several_choices_the_first_is_the_response(self):
        whole = completion()
        whole["choices"].append({"index": 1, "message": {"role": "assistant", "content": "Five."}})
        (item,) = to_response(whole, {})["output"]
        assert content_text(item["content"]) == "Four."

    def test_without_usage_it_is_null(self):
        assert to_response(completion(), {})["usage"] is None

    def test_a_total_that_is_missing_is_summed(self):
        usage = {"prompt_tokens": 3, "completion_tokens": 5}
        assert to_response(completion() | {"usage": usage}, {})["usage"]["total_tokens"] == 8

    @pytest.mark.parametrize("created", [None, "today", float("inf")])
    def test_a_time_that_is_none_is_now(self, created: Any):
        assert to_response(completion() | {"created": created}, {})["created_at"] == pytest.approx(
            time.time(), abs=60
        )

    def test_an_answer_without_an_id_gets_one_of_its_own(self):
        bare = completion() | {"id": None}
        assert to_response(bare, {})["id"] != to_response(bare, {})["id"]

    @pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
    def test_reasoning_is_an_item_before_the_message(self, field: str):
        reasoning, message = to_response(completion({field: "Hm."}), {})["output"]
        assert reasoning == thinks("Hm.") | {"id": "rs_7"}
        assert message["type"] == "message"

    @pytest.mark.parametrize(
        ("text", "finish_reason", "expected"),
        [
            ("<think>\nHm.\n</think>\n\nFour.", "stop", ("Hm.", "Four.")),
            ("  <think>Hm.</think>Four.", "stop", ("Hm.", "Four.")),
            ("Hm.\n</think>\n\nFour.", "stop", ("Hm.", "Four.")),
            ("<think>\n\n</think>\n\nFour.", "stop", ("", "Four.")),
            ("<think>Hm.</think>", "stop", ("Hm.", None)),
            ("<think>Hm. Then", "length", ("Hm. Then", None)),
            ("<think>Hm. Then", "stop", ("", "<think>Hm. Then")),
            ("Use <think>x</think> so.", "stop", ("", "Use <think>x</think> so.")),
            ("I <think> so.", "length", ("", "I <think> so.")),
            ("Four.", "stop", ("", "Four.")),
        ],
    )
    def test_thinking_tags_are_split_off(
        self, text: str, finish_reason: str, expected: tuple[str, str | None]
    ):
        assert answer(text, finish_reason) == expected

    def test_tags_stay_where_the_server_has_parsed_the_reasoning(self):
        message = {"reasoning_content": "Hm.", "content": "Close it with </think>."}
        text = to_response(completion(message), {})["output"][1]["content"]
        assert content_text(text) == message["content"]

    def test_calls_become_items_and_an_empty_text_none(self):
        calls = [
            chat_call(),
            {"function": {"name": "now", "arguments": None}},
            chat_call("c", "x", {"a": "°"}),
        ]
        items = to_response(completion({"content": "", "tool_calls": calls}, "tool_calls"), {})["output"]
        assert items == [
            call() | {"id": "fc_7_0", "status": "completed"},
            call("call_7_1", "now", "{}") | {"id": "fc_7_1", "status": "completed"},
            call("c", "x", '{"a": "°"}') | {"id": "fc_7_2", "status": "completed"},
        ]

    @pytest.mark.parametrize("content", ["", None, []])
    def test_an_empty_answer_is_an_empty_message(self, content: Any):
        (item,) = to_response(completion({"content": content}), {})["output"]
        assert content_text(item["content"]) == ""

    def test_a_refusal_is_a_part(self):
        (item,) = to_response(completion({"content": None, "refusal": "No."}), {})["output"]
        assert item["content"] == [{"type": "refusal", "refusal": "No."}]

    @pytest.mark.parametrize(
        ("finish_reason", "reason"), [("length", "max_output_tokens"), ("content_filter", "content_filter")]
    )
    def test_an_answer_that_was_cut_is_incomplete(self, finish_reason: str, reason: str):
        response = to_response(completion({"tool_calls": [chat_call()]}, finish_reason), {})
        assert response["status"] == "incomplete"
        assert response["incomplete_details"] == {"reason": reason}
        assert [item["status"] for item in response["output"]] == ["completed", "incomplete"]

    def test_logprobs_are_on_the_text(self):
        top = {"token": "F", "logprob": -0.5, "bytes": None}
        entries = [top | {"top_logprobs": [top]}]
        (item,) = to_response(completion(logprobs={"content": entries, "refusal": None}), {})["output"]
        top = {"token": "F", "logprob": -0.5, "bytes": []}
        assert item["content"][0]["logprobs"] == [top | {"top_logprobs": [top]}]
        assert "logprobs" not in to_response(completion(logprobs=None), {})["output"][0]["content"][0]

    def test_logprobs_of_calls_are_on_the_last_of_them(self):
        entries = {"content": [{"token": "{", "logprob": -0.5, "bytes": [123], "top_logprobs": []}]}
        message = {"content": None, "tool_calls": [chat_call("a"), chat_call("b")]}
        whole = completion(message, "tool_calls", logprobs=entries)
        first, last = to_response(whole, {})["output"]
        assert ("logprobs" in first, last["logprobs"]) == (False, entries["content"])
        assert to_completion(to_response(whole, {}))["choices"] == whole["choices"]

    def test_calls_of_a_namespace_are_named_as_the_request_names_them(self):
        space = {"type": "namespace", "name": "crm", "description": "", "tools": [ADD | {"name": "find"}]}
        calls = [chat_call(name="crm__find"), chat_call("b", "crm__other"), chat_call("c")]
        response = to_response(completion({"tool_calls": calls}), {"tools": [ADD, space]})
        named = [(item["name"], item.get("namespace")) for item in response["output"][1:]]
        assert named == [("find", "crm"), ("crm__other", None), ("add", None)]
        Response.model_validate(response)
        again = to_completion(response)["choices"][0]["message"]["tool_calls"]
        assert [made["function"]["name"] for made in again] == ["crm__find", "crm__other", "add"]

    def test_what_is_cited_stands_on_the_text(self):
        link = {"url": "https://x", "title": "X", "start_index": 0, "end_index": 4}
        message = {"annotations": [{"type": "url_citation", "url_citation": link}]}
        (item,) = to_response(completion(message), {})["output"]
        assert item["content"][0]["annotations"] == [{"type": "url_citation", **link}]

    def test_places_of_citations_count_from_where_a_turn_begins(self):
        cited = {"type": "url_citation", "url": "u", "title": "t", "start_index": 0, "end_index": 4}
        part = {"type": "output_text", "text": "Two.", "annotations": [cited]}
        turn = asks(says("One. "), call(), says("") | {"content": [part]}, output())[0]
        assert turn["content"] == "One. Two."
        (link,) = turn["annotations"]
        assert (link["url_citation"]["start_index"], link["url_citation"]["end_index"]) == (5, 9)

    def test_a_spoken_answer_is_its_transcript_and_the_sound_rides_along(self):
        sound = {"id": "audio_1", "data": "AA==", "expires_at": 9, "transcript": "Four."}
        whole = completion({"content": None, "audio": sound}, logprobs=None)
        (item,) = to_response(whole, {})["output"]
        assert (content_text(item["content"]), item["audio"]) == ("Four.", sound)
        assert asks(item) == [{"role": "assistant", "content": "Four.", "audio": {"id": "audio_1"}}]
        assert to_completion(to_response(whole, {}))["choices"] == whole["choices"]

    def test_a_refusal_in_parts_is_one_all_the_same(self):
        parts = [{"type": "text", "text": "Hm."}, {"type": "refusal", "refusal": "No."}]
        (item,) = to_params({"messages": [{"role": "assistant", "content": parts}]})["input"]
        assert [part["type"] for part in item["content"]] == ["output_text", "refusal"]

    def test_token_ids_are_on_the_last_item(self):
        tokens = {"prompt_token_ids": [1], "generation_token_ids": [2], "generation_log_probs": [-0.1]}
        for source in (
            completion({"tool_calls": [chat_call()], **tokens}),
            completion({"tool_calls": [chat_call()]}, **tokens),
        ):
            message, last = to_response(source, {})["output"]
            assert last.items() >= tokens.items()
            assert message.keys().isdisjoint(tokens)

    @pytest.mark.parametrize(
        ("broken", "message"),
        [
            ({}, "no choices: {}"),
            ({"choices": [], "error": {"message": "overloaded"}}, "overloaded"),
            ({"choices": "x"}, 'choices should be a list (got "x")'),
            ({"choices": [None]}, "choices[0] should be an object (got null)"),
            ({"choices": [{}]}, "choices[0].message should be an object (got null)"),
            (completion({"content": 5}), "choices[0].message.content should be text (got 5)"),
            (completion({"reasoning": {"a": 1}}), "choices[0].message.reasoning should be text"),
            (completion({"tool_calls": {"a": 1}}), "choices[0].message.tool_calls should be a list"),
            (completion({"tool_calls": ["x"]}), "tool_calls[0] should be an object"),
            (completion({"tool_calls": [{"type": "custom"}]}), "tool_calls[0].function should be an object"),
            (completion({"tool_calls": [chat_call(name="")]}), "tool_calls[0].function.name should be text"),
            (completion(logprobs=["x"]), "logprobs should be an object"),
            (completion() | {"usage": [1]}, "usage should be an object"),
            (completion(finish_reason="error"), "finish_reason error"),
        ],
    )
    def test_a_broken_completion_says_what_is_broken(self, broken: Json, message: str):
        with pytest.raises(PartError) as caught:
            to_response(broken, {})
        assert caught.value.kind == "bad_response"
        assert message in caught.value.message

    def test_a_response_in_several_messages_becomes_one_completion(self):
        response = {"id": "resp_1", "output": [says("One. "), thinks("Hm."), says("Two."), call()]}
        (choice,) = to_completion(response)["choices"]
        assert choice["finish_reason"] == "tool_calls"
        assert choice["message"].pop("items") == response["output"]
        assert choice["message"] == {
            "role": "assistant",
            "content": "One. Two.",
            "reasoning_content": "Hm.",
            "tool_calls": [chat_call()],
        }

    def test_a_failed_response_is_no_completion(self):
        with pytest.raises(PartError, match="overloaded") as caught:
            to_completion({"status": "failed", "error": {"message": "overloaded"}, "output": []})
        assert caught.value.kind == "model_error"

    def test_a_response_without_output_is_no_completion(self):
        with pytest.raises(PartError, match="output should be a list"):
            to_completion({"status": "completed"})


class TestConversations:
    def test_a_rollout_reads_as_a_chat(self):
        first = [thinks("Hm."), says("I add."), call(), output()]
        assert conversation([*first, thinks("So."), call("b"), output("b"), says("Two.")]) == [
            {
                "role": "assistant",
                "content": "I add.",
                "reasoning_content": "Hm.",
                "tool_calls": [chat_call()],
            },
            {"role": "tool", "tool_call_id": "call_1", "content": "2"},
            {"role": "assistant", "reasoning_content": "So.", "tool_calls": [chat_call("b")]},
            {"role": "tool", "tool_call_id": "b", "content": "2"},
            {"role": "assistant", "content": "Two."},
        ]

    def test_reasoning_that_led_nowhere_is_a_message_of_its_own(self):
        assert conversation([says("a"), thinks("Hm.")]) == [
            {"role": "assistant", "content": "a"},
            {"role": "assistant", "content": "", "reasoning_content": "Hm."},
        ]

    def test_a_simulated_user_may_speak(self):
        user = {"role": "user", "content": [{"type": "input_text", "text": "Go on."}]}
        texts = [message["content"] for message in conversation([says("Well?"), user, says("So.")])]
        assert texts == ["Well?", "Go on.", "So."]

    def test_an_unknown_item_is_kept(self):
        item = {"type": "web_search_call", "id": "ws_1"}
        assert conversation([item]) == [{"role": "assistant", "content": "", "item": item}]

    def test_missing_fields_are_empty(self):
        items = [{"type": "function_call"}, {"type": "function_call_output"}, {"type": "message"}]
        assert conversation(items) == [
            {
                "role": "assistant",
                "tool_calls": [{"id": "", "type": "function", "function": {"name": "", "arguments": ""}}],
            },
            {"role": "tool", "tool_call_id": "", "content": ""},
            {"role": "assistant", "content": ""},
        ]


words = st.text(min_size=1, max_size=8)
plain_words = words.filter(lambda text: "think>" not in text)
names = st.sampled_from(["add", "now", "look_up"])
flags = st.booleans()


def optional(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Json]:
    return st.fixed_dictionaries({}, optional=fields)


def citations(*kinds: str) -> st.SearchStrategy[list[Json]]:
    place = {"start_index": st.integers(0, 9), "end_index": st.integers(9, 99)}
    more = {"url": words, "title": words, "file_id": words, "filename": words, "index": st.integers(0, 9)}
    cited = {
        "url_citation": ("url", "title", "start_index", "end_index"),
        "container_file_citation": ("file_id", "filename", "start_index", "end_index"),
        "file_citation": ("file_id", "filename", "index"),
        "file_path": ("file_id", "index"),
    }
    one = [
        st.fixed_dictionaries({"type": st.just(kind)} | {key: (place | more)[key] for key in cited[kind]})
        for kind in kinds or cited
    ]
    return st.lists(st.one_of(one), max_size=2)


@st.composite
def turns(draw: st.DrawFn) -> list[Json]:
    """What is said and done in a turn: reasoning, text, calls with their outputs; not reasoning alone."""
    items: list[Json] = [thinks(draw(words))] if draw(flags) else []
    ids = draw(st.lists(words, max_size=3))
    if draw(flags) or not ids:
        text = draw(words)
        cited = says(text) | {"content": [says(text)["content"][0] | {"annotations": draw(citations())}]}
        items.append(draw(st.sampled_from([cited, {"role": "assistant", "content": text}])))
    items += [call(call_id, draw(names), draw(words)) for call_id in ids]
    return items + [
        output(call_id, draw(words | st.just([{"type": "input_text", "text": "x"}]))) for call_id in ids
    ]


def parts() -> st.SearchStrategy[Json]:
    return st.builds(lambda text: {"type": "input_text", "text": text}, words) | optional(
        detail=st.sampled_from(["low", "high"])
    ).map(lambda fields: {"type": "input_image", "image_url": "https://x/y.png", **fields})


def spoken(roles: list[str], content: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Json]]:
    return st.builds(
        lambda role, text, named: [{"role": role, "content": text, **named}],
        st.sampled_from(roles),
        content,
        optional(name=words) if roles == ["user"] else st.just({}),
    )


def requests() -> st.SearchStrategy[Json]:
    schema = {"type": "json_schema", "name": "p", "schema": {"type": "object"}}
    steps = turns() | spoken(["user"], words | st.lists(parts(), min_size=1, max_size=3))
    steps |= spoken(["system", "developer"], words)
    items = st.lists(steps, min_size=1, max_size=4).map(
        lambda steps: [item for step in steps for item in step]
    )
    tools = optional(
        tool_choice=st.sampled_from(["auto", "required", CHOSEN, ALLOWED]),
        parallel_tool_calls=flags,
    ).map(lambda fields: {"tools": [ADD, {"type": "function", "name": "now"}], **fields})
    settings = optional(
        model=words,
        instructions=words,
        temperature=st.floats(0, 2),
        top_p=st.floats(0, 1),
        max_output_tokens=st.integers(1, 99),
        reasoning=st.just({"effort": "low"}),
        text=st.sampled_from([{"format": schema}, {"format": {"type": "json_object"}, "verbosity": "low"}]),
        include=st.just(["message.output_text.logprobs"]),
        metadata=st.just({"run": "1"}),
        user=words,
        seed=st.integers(0, 9),
        top_k=st.integers(1, 9),
    )
    return st.builds(
        lambda prompt, settings, tools: {"input": prompt, **settings, **tools},
        words | items,
        settings,
        st.just({}) | tools,
    )


def nested(annotation: Json) -> Json:
    kind = annotation["type"]
    return {"type": kind, kind: {key: annotation[key] for key in annotation if key != "type"}}


@st.composite
def completions(draw: st.DrawFn) -> Json:
    message: Json = {"role": "assistant", "content": draw(st.none() | plain_words)}
    message |= draw(optional(reasoning_content=words))
    cited = [nested(each) for each in draw(citations("url_citation"))] if message["content"] else []
    message |= {"annotations": cited} if cited else {}
    calls = draw(st.lists(st.builds(chat_call, words, names, words), max_size=2))
    refusal = draw(st.none() | words)
    if message["content"] is None and not refusal and draw(flags):
        message["audio"] = {"id": "audio_1", "data": "AA==", "expires_at": 9, "transcript": draw(words)}
    message |= ({"tool_calls": calls} if calls else {}) | ({"refusal": refusal} if refusal else {})
    if message["content"] is None and len(message) == 2:
        message["content"] = ""
    message |= draw(st.just({}) | st.just({"prompt_token_ids": [1], "generation_token_ids": [2, 3]}))
    entry = {"token": "F", "logprob": -0.5, "bytes": draw(st.sampled_from([[70], None]))}
    logprobs = [{"content": [entry | {"top_logprobs": [entry]}]}] if message["content"] or calls else []
    read, written, detail = draw(st.tuples(*[st.integers(0, 99)] * 3))
    usage = {
        "prompt_tokens": read,
        "prompt_tokens_details": {"cached_tokens": detail, "cache_write_tokens": 0},
        "completion_tokens": written,
        "completion_tokens_details": {"reasoning_tokens": detail},
        "total_tokens": read + written,
    }
    finish = draw(st.sampled_from(["tool_calls" if calls else "stop", "length", "content_filter"]))
    whole = completion(message, finish, logprobs=draw(st.sampled_from([None, *logprobs])))
    return whole | {"usage": draw(st.sampled_from([None, usage]))}


def meaning(params: Json) -> Json:
    """A request in the plainest words: who says what, one entry a thing."""
    prompt = params["input"]
    items = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    if "instructions" in params:
        items = [{"role": "system", "content": params["instructions"]}, *items]
    leading = list(takewhile(lambda item: item.get("role") in ("system", "developer"), items))
    told: list[Any] = [("told", "\n\n".join(item["content"] for item in leading))] if leading else []
    for item in items[len(leading) :]:
        match item.get("type", "message"):
            case "reasoning":
                told.append(("thinks", item["content"][0]["text"]))
            case "function_call":
                told.append(("calls", item["call_id"], item["name"], item["arguments"]))
            case "function_call_output":
                told.append(("gets", item["call_id"], content_text(item["output"])))
            case _:
                images = [part for part in item["content"] if isinstance(part, dict) and "image_url" in part]
                said = item["content"] if images else content_text(item["content"])
                cited = [part.get("annotations") for part in item["content"] if isinstance(part, dict)]
                told.append((item["role"], said, item.get("name"), [each for each in cited if each]))
    settings = {key: value for key, value in params.items() if key not in ("input", "instructions")}
    return {"told": told, **settings}


@given(requests())
def test_a_request_means_the_same_after_going_to_chat_and_back(params: Json):
    assert meaning(to_params(to_chat(params))) == meaning(params)


@given(requests())
def test_a_chat_body_that_goes_to_responses_and_back_is_the_same(params: Json):
    body = to_chat(params)
    assert to_chat(to_params(body)) == body


@given(requests(), completions())
def test_no_argument_is_changed(params: Json, whole: Json):
    before = copy.deepcopy((params, whole))
    to_completion(to_response(whole, params))
    to_params(to_chat(params))
    assert (params, whole) == before


@given(requests())
def test_a_chat_body_is_one_that_openai_types_accept(params: Json):
    messages = to_chat(params)["messages"]
    MESSAGES.validate_python(messages)
    calls_owed: list[str] = []
    for message in messages:
        if message["role"] == "tool":
            calls_owed.remove(message["tool_call_id"])
        else:
            assert not calls_owed
        calls_owed += [tool_call["id"] for tool_call in message.get("tool_calls", [])]


@given(completions())
def test_a_completion_is_the_same_after_going_to_responses_and_back(whole: Json):
    assert to_completion(to_response(whole, {})) == whole


@given(completions(), requests())
def test_what_is_made_is_what_openai_types_accept(whole: Json, params: Json):
    response = to_response(whole, params)
    Response.model_validate(response)
    ChatCompletion.model_validate(to_completion(response))


@given(completions())
def test_an_answer_can_be_sent_back_to_the_model(whole: Json):
    response = to_response(whole, {})
    messages = to_chat({"input": [{"role": "user", "content": "Hi"}, *response["output"]]})["messages"]
    MESSAGES.validate_python(messages)
    recorded = conversation(response["output"])
    assert [{key: turn[key] for key in turn if turn[key] is not None} for turn in messages[1:]] == recorded


@st.composite
def answers(draw: st.DrawFn) -> Json:
    """A finished response of a Responses server, with whatever Chat says otherwise or has no words for."""
    status = st.sampled_from(["completed", "incomplete"])
    entry = {"token": "F", "logprob": -0.5, "bytes": [70], "top_logprobs": []}
    text = st.fixed_dictionaries(
        {"type": st.just("output_text"), "text": plain_words, "annotations": citations()},
        optional={"logprobs": st.just([entry])},
    )
    refusal = st.fixed_dictionaries({"type": st.just("refusal"), "refusal": words})
    message = st.fixed_dictionaries(
        {"type": st.just("message"), "id": words, "role": st.just("assistant"), "status": status}
        | {"content": st.lists(text | refusal, min_size=1, max_size=2)},
        optional={"phase": st.sampled_from(["commentary", "final_answer"])},
    )
    made = st.fixed_dictionaries(
        {"type": st.just("function_call"), "id": words, "call_id": words, "name": names, "status": status}
        | {"arguments": st.sampled_from(["{}", '{"a":1}'])},
        optional={"namespace": words},
    )
    thought = st.sampled_from(["summary_text", "reasoning_text"]).flatmap(
        lambda kind: st.builds(
            lambda texts: (
                thinks("")
                | {"content": [], "summary": []}
                | {"content" if kind == "reasoning_text" else "summary": texts}
            ),
            st.lists(st.builds(lambda text: {"type": kind, "text": text}, words), max_size=2),
        )
    )
    output = draw(st.lists(message | made | thought | hosted, min_size=1, max_size=4))
    ended = draw(st.sampled_from([("completed", None), ("incomplete", {"reason": "max_output_tokens"})]))
    if ended[0] == "incomplete":
        output[-1] = output[-1] | {"status": "incomplete"}
    head = {"id": "resp_7", "created_at": 1_700_000_000, "model": "m"}
    return head | {"status": ended[0], "incomplete_details": ended[1], "output": output}


def nameless(items: list[Json]) -> list[Json]:
    return [{key: item[key] for key in item if key != "id"} for item in items]


@given(answers())
def test_an_answer_is_the_same_after_going_to_chat_and_back(answer: Json):
    whole = to_completion(answer)
    back = to_response(whole, {})["output"]
    assert nameless(back) == nameless(answer["output"])
    assert back == answer["output"] or "items" not in whole["choices"][0]["message"]


@given(answers(), words)
def test_a_message_that_was_changed_since_is_taken_as_it_is_now(answer: Json, text: str):
    (choice,) = to_completion(answer)["choices"]
    changed = choice["message"] | {"content": text + (choice["message"]["content"] or "")}
    items = to_params({"messages": [changed]})["input"]
    said = "".join(content_text(item["content"]) for item in items if item.get("type") == "message")
    assert said == changed["content"] + changed.get("refusal", "")


hosted = st.sampled_from(
    [
        {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"query": "x"}},
        {"type": "mcp_call", "id": "mcp_1", "output": None},
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"},
        {"type": "reasoning", "id": "rs_2", "summary": [{"type": "summary_text", "text": "Hm."}]}
        | {"encrypted_content": "y"},
    ]
)


@given(turns(), st.lists(hosted, min_size=1, max_size=3), st.data())
def test_items_that_chat_has_no_words_for_survive_the_round_trip(
    turn: list[Json], others: list[Json], data: st.DataObject
):
    said = [item for item in turn if item.get("type") != "function_call_output"]
    output = data.draw(st.permutations([*said, *others]))
    response = {"id": "resp_7", "status": "completed", "model": "m", "output": output}
    whole = to_completion(response)
    assert to_response(whole, {})["output"] == output
    assert to_params({"messages": [whole["choices"][0]["message"]]})["input"] == output


FIELDS = ["type", "role", "content", "input", "output", "messages", "choices", "message", "tool_calls"]
VALUES = ["message", "user", "assistant", "tool", "function_call", "reasoning", "input_image", "function"]
anything = st.recursive(
    st.none()
    | flags
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(VALUES),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=5),
    max_leaves=20,
)
objects = st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=3), anything, max_size=6)


@st.composite
def damaged(draw: st.DrawFn, wholes: st.SearchStrategy[Json]) -> Json:
    """Valid JSON with one value, anywhere in it, replaced by anything."""
    whole = orjson.loads(orjson.dumps(draw(wholes)))
    place: Any = whole
    while True:
        key = draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        if not isinstance(place[key], dict | list) or not place[key] or draw(flags):
            place[key] = draw(anything)
            return whole
        place = place[key]


@contextmanager
def or_refused_as(*kinds: Kind) -> Iterator[None]:
    """Lets a `PartError` of these kinds pass, and nothing else."""
    try:
        yield
    except PartError as error:
        if error.kind not in kinds:
            raise


@given(st.lists(anything | objects))
def test_a_conversation_never_raises(items: list[Any]):
    for message in conversation(items):
        assert isinstance(message["role"], str)
        assert isinstance(message.get("content", ""), str)


@given(damaged(turns().map(lambda items: {"output": items})))
def test_a_damaged_conversation_never_raises(response: Json):
    conversation(response["output"] if isinstance(response["output"], list) else [response["output"]])


@given(objects | damaged(completions()))
def test_a_completion_is_answered_or_refused_by_name(whole: Json):
    with or_refused_as("bad_response"):
        response = to_response(whole, {"input": "Hi"})
        assert response["output"]
        to_completion(response)


@given(objects | damaged(completions().map(lambda whole: to_response(whole, {})) | answers()))
def test_a_response_is_answered_or_refused_by_name(response: Json):
    with or_refused_as("bad_response", "model_error"):
        to_completion(response)


@given(objects | damaged(requests()))
def test_a_request_is_sent_or_refused_by_name(params: Json):
    with or_refused_as("bad_request"):
        to_params(to_chat(params))


@given(objects | damaged(requests().map(to_chat)))
def test_a_chat_body_is_sent_or_refused_by_name(body: Json):
    with or_refused_as("bad_request"):
        to_params(body)
