"""What users of the three APIs stumble over, each asked by a real SDK of a real model server."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import openai
import pytest
from aiohttp import web

from nemo_like.types import Json

from .test_streams import ASK, DONE, RESPONSE, anthropic_sdk, chunk, encoded, model_server, openai_sdk

IMAGE = "data:image/png;base64,AA=="
LINK: Json = {"url": "https://x", "title": "X", "start_index": 0, "end_index": 4}
FIND: Any = {"type": "function", "name": "find", "parameters": {"type": "object"}, "strict": False}
MADE: list[Json] = [
    {"id": f"call_{at}", "type": "function", "function": {"name": "add", "arguments": f'{{"a":{at}}}'}}
    for at in range(2)
]
Use = Callable[[Any, Any], Awaitable[Any]]
"""What is done with the SDKs of OpenAI and of Anthropic."""


def completion(finish: str = "stop", **message: Any) -> Json:
    whole = {"index": 0, "message": {"role": "assistant", "content": "Four."} | message}
    return {"id": "chatcmpl-1", "created": 1, "model": "m", "choices": [whole | {"finish_reason": finish}]}


class Endpoint:
    """Someone else's endpoint on loopback: answers everything with `answer`, and keeps what it was asked."""

    def __init__(self, answer: Json | bytes) -> None:
        self._answer = answer
        self.asked: list[Json] = []

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[str]:
        app = web.Application()
        app.router.add_post("/{path:.*}", self._reply)
        runner = web.AppRunner(app, handle_signals=False)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            yield "http://{}:{}".format(*runner.addresses[0][:2])
        finally:
            await runner.cleanup()

    async def _reply(self, request: web.Request) -> web.Response:
        self.asked.append(await request.json())
        if isinstance(self._answer, bytes):
            return web.Response(body=self._answer, content_type="text/event-stream")
        return web.json_response(self._answer)


def asked_of(answer: Json | bytes, use: Use, *, api: str = "chat") -> tuple[Any, list[Any]]:
    """What `use` makes of an `openai_model`, and what that asked the endpoint behind it."""
    endpoint = Endpoint(answer)

    async def run() -> Any:
        async with endpoint.running() as there:
            settings: Json = {"openai_base_url": there, "openai_model": "m", "api": api, "max_retries": 0}
            async with (
                model_server("openai_model", **settings) as url,
                openai_sdk(url) as sdk,
                anthropic_sdk(url) as other,
            ):
                return await use(sdk, other)

    return asyncio.run(run()), endpoint.asked


def response_asked(answer: Json | bytes = completion(), **params: Any) -> tuple[Any, Json]:
    """A response, made by Chat Completions, and the body that those were asked with."""
    answered, (body,) = asked_of(
        answer, lambda sdk, _: sdk.responses.create(**({"model": "x", "input": "?"} | params))
    )
    return answered, body


def message_asked(answer: Json | bytes = completion(), **params: Any) -> tuple[Any, Json]:
    """The same of a message."""
    given = {"model": "x", "max_tokens": 9, "messages": ASK} | params
    answered, (body,) = asked_of(answer, lambda _, other: other.messages.create(**given))
    return answered, body


def test_instructions_and_developers_become_one_system_message() -> None:
    _, body = response_asked(
        instructions="Be right.", input=[{"role": "developer", "content": "Be brief."}, *ASK]
    )
    assert body["messages"] == [{"role": "system", "content": "Be right.\n\nBe brief."}, *ASK]


@pytest.mark.parametrize(
    "said", [{"reasoning_content": "Hm."}, {"reasoning": "Hm."}, {"content": "<think>Hm.</think>\n\nFour."}]
)
def test_reasoning_is_an_item_and_goes_back_to_who_thought_it(said: Json) -> None:
    async def use(sdk: Any, _: Any) -> Any:
        first = await sdk.responses.create(model="x", input=ASK)
        turns: list[Any] = [item.to_dict() for item in first.output]
        return first, await sdk.responses.create(model="x", input=[*ASK, *turns, *ASK])

    (first, _), asked = asked_of(completion(**said), use)
    assert [item.type for item in first.output] == ["reasoning", "message"]
    assert asked[1]["messages"][1] == {"role": "assistant", "content": "Four.", "reasoning_content": "Hm."}


def test_calls_made_at_once_are_one_message_and_their_outputs_follow() -> None:
    async def use(sdk: Any, _: Any) -> None:
        first = await sdk.responses.create(model="x", input=ASK, tools=[FIND], parallel_tool_calls=True)
        turns: list[Any] = [item.to_dict() for item in first.output]
        picture = [{"type": "input_text", "text": "See:"}, {"type": "input_image", "image_url": IMAGE}]
        for item, output in zip(first.output, ("2", picture), strict=True):
            turns.append({"type": "function_call_output", "call_id": item.call_id, "output": output})
        await sdk.responses.create(model="x", input=[*ASK, *turns])

    _, asked = asked_of(completion("tool_calls", content=None, tool_calls=MADE), use)
    assert asked[0]["parallel_tool_calls"] is True
    _, turn, first, second = asked[1]["messages"]
    assert (turn["content"], turn["tool_calls"]) == (None, MADE)
    assert (first["content"], second["tool_call_id"]) == ("2", "call_1")
    assert second["content"][1] == {"type": "image_url", "image_url": {"url": IMAGE}}


@pytest.mark.parametrize(
    ("finish", "reason", "stop"),
    [("length", "max_output_tokens", "max_tokens"), ("content_filter", "content_filter", "refusal")],
)
def test_an_answer_that_was_cut_says_why_in_every_api(finish: str, reason: str, stop: str) -> None:
    response, body = response_asked(completion(finish), max_output_tokens=7)
    assert (response.status, response.incomplete_details.reason) == ("incomplete", reason)
    assert body["max_tokens"] == 7
    assert message_asked(completion(finish))[0].stop_reason == stop


def test_a_refusal_is_one_in_every_api() -> None:
    refusal = completion(content=None, refusal="No.")
    assert response_asked(refusal)[0].output[0].content[0].refusal == "No."
    message, _ = message_asked(refusal)
    assert (message.content[0].text, message.stop_reason) == ("No.", "refusal")
    said = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed"}
    response = RESPONSE | {
        "status": "completed",
        "output": [said | {"content": [{"type": "refusal", "refusal": "No."}]}],
    }
    answer, _ = asked_of(
        response, lambda sdk, _: sdk.chat.completions.create(model="x", messages=ASK), api="responses"
    )
    assert (answer.choices[0].message.refusal, answer.choices[0].message.content) == ("No.", None)


def test_usage_keeps_its_details_in_every_api() -> None:
    usage = {
        "prompt_tokens": 9,
        "completion_tokens": 5,
        "total_tokens": 14,
        "prompt_tokens_details": {"cached_tokens": 6},
        "completion_tokens_details": {"reasoning_tokens": 3},
    }
    told = response_asked(completion() | {"usage": usage})[0].usage
    assert (told.input_tokens_details.cached_tokens, told.output_tokens_details.reasoning_tokens) == (6, 3)
    told = message_asked(completion() | {"usage": usage})[0].usage
    assert (told.input_tokens, told.cache_read_input_tokens, told.output_tokens) == (3, 6, 5)


def test_tools_of_a_namespace_are_called_by_one_name_and_named_back() -> None:
    space = {"type": "namespace", "name": "crm", "description": "Customers.", "tools": [FIND]}
    made = [MADE[0] | {"function": {"name": "crm__find", "arguments": "{}"}}]
    answer = completion("tool_calls", content=None, tool_calls=made)

    async def use(sdk: Any, _: Any) -> Any:
        asked: Json = {"model": "x", "tools": [space]}
        first = await sdk.responses.create(input=ASK, **asked)
        output = {"type": "function_call_output", "call_id": "call_0", "output": "Ann"}
        await sdk.responses.create(input=[*ASK, *[item.to_dict() for item in first.output], output], **asked)
        return first.output[0]

    item, asked = asked_of(answer, use)
    assert (item.namespace, item.name) == ("crm", "find")
    assert [tool["function"]["name"] for tool in asked[0]["tools"]] == ["crm__find"]
    assert asked[1]["messages"][1]["tool_calls"] == made


@pytest.mark.parametrize(
    ("choice", "sent"),
    [
        ("required", "required"),
        ({"type": "function", "name": "find"}, {"type": "function", "function": {"name": "find"}}),
        (
            {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "find"}]},
            {
                "type": "allowed_tools",
                "allowed_tools": {
                    "mode": "auto",
                    "tools": [{"type": "function", "function": {"name": "find"}}],
                },
            },
        ),
    ],
)
def test_a_tool_choice_gets_the_words_of_chat(choice: Any, sent: Any) -> None:
    assert response_asked(tools=[FIND], tool_choice=choice)[1]["tool_choice"] == sent


def test_what_is_cited_is_told_in_every_api_and_every_stream() -> None:
    cited = [{"type": "url_citation", "url_citation": LINK}]
    pieces = [
        chunk({"role": "assistant", "content": "Four."}),
        chunk({"annotations": cited}),
        chunk({}, "stop"),
    ]
    streamed = b"".join(pieces) + DONE

    async def use(sdk: Any, other: Any) -> list[str]:
        async with sdk.responses.stream(model="x", input="?") as events:
            response: Any = await events.get_final_response()
        async with other.messages.stream(model="x", max_tokens=9, messages=ASK) as told:
            message: Any = await told.get_final_message()
        return [response.output[0].content[0].annotations[0].url, message.content[0].citations[0].url]

    assert asked_of(streamed, use)[0] == ["https://x"] * 2
    response, _ = response_asked(completion(annotations=cited))
    assert response.output[0].content[0].annotations[0].title == "X"
    assert message_asked(completion(annotations=cited))[0].content[0].citations[0].title == "X"
    part = {"type": "output_text", "text": "Four.", "annotations": [{"type": "url_citation", **LINK}]}
    item = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [part]}
    whole = RESPONSE | {"status": "completed", "output": [item]}
    answer, _ = asked_of(
        whole, lambda sdk, _: sdk.chat.completions.create(model="x", messages=ASK), api="responses"
    )
    assert answer.choices[0].message.annotations[0].url_citation.url == "https://x"


def test_an_item_that_chat_has_no_words_for_is_a_400_that_names_it() -> None:
    with pytest.raises(openai.BadRequestError, match=r"input\[1\]: .* no item of type web_search_call"):
        response_asked(input=[*ASK, {"type": "web_search_call", "id": "ws_1", "status": "completed"}])


def test_what_is_left_out_of_a_request_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "nemo_like.dropped")

    async def use(sdk: Any, _: Any) -> None:
        for _ in range(2):
            await sdk.responses.create(model="x", input="?", max_tool_calls=3, store=False)

    _, asked = asked_of(completion(), use)
    assert all(body.keys() == {"model", "messages"} for body in asked)
    assert [record.message for record in caplog.records if "max_tool_calls" in record.message] == [
        "max_tool_calls: the API that is asked has no words for it, so it is left out"
    ]


def test_metadata_brings_what_responses_has_no_key_for() -> None:
    metadata = {
        "chat_template_kwargs": '{"enable_thinking": false}',
        "extra_body": '{"top_k": 5}',
        "audio_data": "data:audio/wav;base64,AA==",
        "run": "1",
    }
    _, body = response_asked(metadata=metadata)
    assert (body["chat_template_kwargs"], body["top_k"]) == ({"enable_thinking": False}, 5)
    assert [part["type"] for part in body["messages"][0]["content"]] == ["audio_url", "text"]
    assert body["metadata"] == {"run": "1"}
    with pytest.raises(openai.BadRequestError, match="extra_body should be JSON of an object"):
        response_asked(metadata={"extra_body": "top_k"})


def test_sounds_and_images_are_parts_of_a_message() -> None:
    sound = {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}}
    picture = {"type": "input_image", "image_url": IMAGE, "detail": "low"}
    _, body = response_asked(input=[{"role": "user", "content": [sound, picture]}])
    image = {"type": "image_url", "image_url": {"url": IMAGE, "detail": "low"}}
    assert body["messages"][0]["content"] == [sound, image]


@pytest.mark.parametrize("stream", [False, True])
def test_a_spoken_answer_is_read_by_its_transcript(stream: bool) -> None:
    sound = {"id": "audio_1", "data": "AA==", "expires_at": 9, "transcript": "Four."}
    pieces = [chunk({"audio": {key: value}}) for key, value in sound.items()] + [chunk({}, "stop"), DONE]
    answer = b"".join(pieces) if stream else completion(content=None, audio=sound)

    async def use(sdk: Any, _: Any) -> Any:
        if not stream:
            return await sdk.responses.create(model="x", input="?")
        async with sdk.responses.stream(model="x", input="?") as events:
            return await events.get_final_response()

    response = asked_of(answer, use)[0]
    assert (response.output_text, response.output[0].audio) == ("Four.", sound)


def test_several_answers_are_chats_alone() -> None:
    several = completion()
    several["choices"].append(several["choices"][0] | {"index": 1})

    async def asks(sdk: Any, _: Any) -> Any:
        return await sdk.chat.completions.create(model="x", messages=ASK, n=2)

    answer, _ = asked_of(several, asks)
    assert [choice.index for choice in answer.choices] == [0, 1]
    with pytest.raises(openai.BadRequestError, match=r"n should be 1: a response is one answer \(got 2\)"):
        asked_of(RESPONSE, asks, api="responses")


def test_who_speaks_is_told_where_chat_is_spoken_and_left_out_elsewhere() -> None:
    named: Any = [{"role": "user", "name": "ann", "content": "Hi"}]
    said = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed"}
    whole: Json = RESPONSE | {"status": "completed", "output": [said]}

    async def asks(sdk: Any, _: Any) -> Any:
        return await sdk.chat.completions.create(model="x", messages=named)

    assert asked_of(completion(), asks)[1][0]["messages"] == named
    assert asked_of(whole, asks, api="responses")[1][0]["input"] == [
        {"type": "message", "role": "user", "content": "Hi"}
    ]


def test_messages_with_all_that_claude_code_sends_reach_a_chat_engine() -> None:
    source = {"type": "base64", "media_type": "image/png", "data": "AA=="}
    use = {"type": "tool_use", "id": "toolu_1", "name": "find", "input": {"q": 1}}
    result = {
        "type": "tool_result",
        "tool_use_id": "toolu_1",
        "content": [{"type": "image", "source": source}],
    }
    _, body = message_asked(
        system=[{"type": "text", "text": "Be brief."}, {"type": "text", "text": "Be kind."}],
        messages=[*ASK, {"role": "assistant", "content": [use]}, {"role": "user", "content": [result]}],
        tools=[{"name": "find", "description": "Finds.", "input_schema": {"type": "object"}}],
        tool_choice={"type": "any", "disable_parallel_tool_use": True},
        thinking={"type": "enabled", "budget_tokens": 1024},
        extra_body={"top_k": 5, "temperature": 1.0},
        stop_sequences=["END"],
    )
    assert [message["role"] for message in body["messages"]] == ["system", "user", "assistant", "tool"]
    assert body["messages"][0]["content"] == "Be brief.\n\nBe kind."
    assert body["messages"][3]["content"] == [{"type": "image_url", "image_url": {"url": IMAGE}}]
    assert (body["tool_choice"], body["parallel_tool_calls"]) == ("required", False)
    # Thinking is told in one place.
    assert (body["reasoning_effort"], body.keys() & {"thinking", "reasoning"}) == ("low", set[str]())
    assert (body["top_k"], body["temperature"], body["stop"]) == (5, 1.0, ["END"])


@pytest.mark.parametrize("stream", [False, True])
def test_encrypted_reasoning_comes_back_to_a_responses_endpoint_by_way_of_messages(stream: bool) -> None:
    secret = {"type": "reasoning", "id": "rs_1", "encrypted_content": "c2VjcmV0"}
    secret |= {"summary": [{"type": "summary_text", "text": "Hm."}]}
    whole = RESPONSE | {"status": "completed", "output": [secret]}
    ended = encoded({"type": "response.completed", "sequence_number": 0, "response": whole})

    async def use(_: Any, other: Any) -> None:
        given: Json = {"model": "x", "max_tokens": 9}
        if stream:
            async with other.messages.stream(messages=ASK, **given) as told:
                first: Any = await told.get_final_message()
                turns: list[Any] = [*ASK, {"role": "assistant", "content": first.content}, *ASK]
            async with other.messages.stream(messages=turns, **given) as told:
                await told.get_final_message()
        else:
            first = await other.messages.create(messages=ASK, **given)
            turns = [*ASK, {"role": "assistant", "content": first.content}, *ASK]
            await other.messages.create(messages=turns, **given)
        assert first.content[0].thinking == "Hm."

    _, asked = asked_of(ended if stream else whole, use, api="responses")
    assert asked[1]["input"][1] == secret


def test_tokens_are_counted_by_a_vllm_engine() -> None:
    endpoint = Endpoint({"count": 3, "max_model_len": 9, "tokens": [1, 2, 3]})

    async def run() -> int:
        async with (
            endpoint.running() as there,
            model_server("vllm_model", base_url=there, model="m") as url,
            anthropic_sdk(url) as sdk,
        ):
            return (await sdk.messages.count_tokens(model="x", messages=ASK)).input_tokens

    assert asyncio.run(run()) == 3
