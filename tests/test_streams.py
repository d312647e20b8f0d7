"""Model servers behind a worker's door, asked by the real SDKs: whole, in streams, with faults."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp
import anthropic
import openai
import pytest
import uvicorn
from aiohttp import web
from pydantic import BaseModel

from nemo_like.client import ROLLOUT_HEADER, Client, owner, rollout_id
from nemo_like.errors import PartError
from nemo_like.provider import Provider
from nemo_like.rate import Rate, RateConfig
from nemo_like.serve import Door, ServerSpec, Worker, WorkerSpec
from nemo_like.sse import DONE, Decoder, encoded
from nemo_like.types import Json

MODELS = Path(__file__).parent.parent / "responses_api_models"
NAME = "policy_model"
ASK: list[Any] = [{"role": "user", "content": "What is 2 + 2?"}]
SCHEMA: Json = {"type": "object", "properties": {"a": {"type": "number"}}, "required": ["a"]}
CHAT_TOOL: Any = {"type": "function", "function": {"name": "add", "parameters": SCHEMA}}
RESPONSES_TOOL: Any = {"type": "function", "name": "add", "parameters": SCHEMA, "strict": False}
MESSAGES_TOOL: Any = {"name": "add", "description": "Adds.", "input_schema": SCHEMA}
TURN: Json = {"reasoning": "Hm.", "text": "I add.", "tool_calls": [{"name": "add", "arguments": {"a": 2}}]}


@asynccontextmanager
async def serving(app: Any, listener: socket.socket) -> AsyncGenerator[None]:
    server = uvicorn.Server(
        uvicorn.Config(app, lifespan="off", ws="none", log_config=None, timeout_graceful_shutdown=1)
    )
    task = asyncio.create_task(server.serve([listener]))
    try:
        yield
    finally:
        server.should_exit = True
        await task


@asynccontextmanager
async def model_server(kind: str, workers: int = 1, **settings: Any) -> AsyncGenerator[str]:
    """A model server in `workers` workers, each behind its door; its URL at the first."""
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(workers)]
    urls = [f"http://127.0.0.1:{each.getsockname()[1]}/~{NAME}" for each in listeners]
    server = ServerSpec(name=NAME, file=str(MODELS / kind / "app.py"), settings=settings, listener=0)
    async with AsyncExitStack() as stack:
        logs = stack.enter_context(TemporaryDirectory())
        for index, listener in enumerate(listeners):
            spec = WorkerSpec(
                index=index, servers=[server], peers={NAME: urls}, listener=0, report=0, log_dir=logs
            )
            worker = Worker(spec)
            client = await stack.enter_async_context(worker.run())
            await stack.enter_async_context(serving(Door(spec, worker.apps, {}, client), listener))
        yield urls[0]


def scripted(use: Callable[[str], Awaitable[Any]], *script: Json, workers: int = 1) -> Any:
    """What `use` makes of a scripted model's URL."""

    async def run() -> Any:
        async with model_server("scripted_model", workers, script=list(script)) as url:
            return await use(url)

    return asyncio.run(run())


def openai_sdk(url: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


def anthropic_sdk(url: str) -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(base_url=url, api_key="none", max_retries=0)


Say = Callable[[bytes], Awaitable[None]]
Play = Callable[[str, Say], Awaitable[None]]


@asynccontextmanager
async def upstream(play: Play, kind: str, missing: str) -> AsyncGenerator[str]:
    """Someone else's endpoint, which plays what `play` says at a path; `missing` is not there."""

    async def answer(request: web.Request) -> web.StreamResponse:
        await request.read()
        if request.path == missing:
            return web.json_response({"detail": "Not Found"}, status=404)
        response = web.StreamResponse(headers={"content-type": kind})
        await response.prepare(request)
        await play(request.path, response.write)
        await response.write_eof()
        return response

    app = web.Application()
    app.router.add_post("/{path:.*}", answer)
    runner = web.AppRunner(app, handle_signals=False, handler_cancellation=True, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield "http://{}:{}".format(*runner.addresses[0][:2])
    finally:
        await runner.cleanup()


def through(
    play: Play,
    use: Callable[[str], Awaitable[Any]],
    api: str = "chat",
    *,
    kind: str = "text/event-stream",
    missing: str = "",
) -> Any:
    """What `use` makes of the URL of an `openai_model` in front of an endpoint."""

    async def run() -> Any:
        async with upstream(play, kind, missing) as there:
            settings = {"openai_base_url": there, "openai_model": "m", "api": api, "max_retries": 0}
            async with model_server("openai_model", **settings) as url:
                return await use(url)

    return asyncio.run(run())


def chunk(delta: Json, finish: str | None = None, **more: Any) -> bytes:
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_700_000_000, "model": "m"}
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return encoded(head | {"choices": [choice]} | more, named=False)


FIRST = chunk({"role": "assistant", "content": "Fo"})
REST = [chunk({"content": "ur."}), chunk({}, "stop"), DONE]
USAGE = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}


def event(kind: str, number: int, **fields: Any) -> bytes:
    return encoded({"type": kind, "sequence_number": number, **fields})


RESPONSE: Json = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1_700_000_000,
    "model": "m",
    "status": "in_progress",
    "output": [],
    "tools": [],
    "tool_choice": "auto",
    "parallel_tool_calls": True,
}
PART: Json = {"type": "output_text", "text": "Four.", "annotations": []}
SAID: Json = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [PART]}
PLACE: Json = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
EVENTS = [
    event("response.created", 0, response=RESPONSE),
    event("response.output_item.added", 1, output_index=0, item=SAID | {"content": []}),
    event("response.content_part.added", 2, **PLACE, part=PART | {"text": ""}),
    event("response.output_text.delta", 3, **PLACE, delta="Fo", logprobs=[]),
    event("response.output_text.delta", 4, **PLACE, delta="ur.", logprobs=[]),
    event("response.output_item.done", 5, output_index=0, item=SAID),
    event("response.completed", 6, response=RESPONSE | {"status": "completed", "output": [SAID]}),
]


async def play_whole(path: str, say: Say) -> None:
    for piece in EVENTS if path.endswith("/responses") else [FIRST, *REST]:
        await say(piece)


PATHS = ("/v1/responses", "/v1/chat/completions", "/v1/messages")
BODIES: dict[str, Json] = {
    "/v1/responses": {"input": "?", "stream": True},
    "/v1/chat/completions": {"messages": ASK, "stream": True},
    "/v1/messages": {"messages": ASK, "max_tokens": 9, "stream": True},
}


@asynccontextmanager
async def asked(url: str, path: str, **headers: str) -> AsyncGenerator[aiohttp.ClientResponse]:
    """The answer to a streaming request, open."""
    async with (
        aiohttp.ClientSession() as session,
        session.post(url + path, json=BODIES[path], headers=headers) as response,
    ):
        yield response


async def raw(url: str, path: str) -> tuple[int, bytes]:
    async with asked(url, path) as response:
        return response.status, await response.read()


def text_in(stream: bytes) -> str:
    """The text that a stream of any of the APIs says."""
    texts: list[str] = []
    for told in Decoder().feed(stream):
        texts += [choice["delta"].get("content") or "" for choice in told.get("choices", [])]
        delta = told.get("delta")
        if told.get("type") == "response.output_text.delta":
            texts.append(str(delta))
        elif isinstance(delta, dict):
            texts.append(delta.get("text", ""))
    return "".join(texts)


def test_the_openai_sdk_reads_chat_whole_and_in_a_stream() -> None:
    async def use(url: str) -> tuple[Any, Any]:
        async with openai_sdk(url) as sdk:
            asked: Json = {"model": "x", "messages": ASK, "tools": [CHAT_TOOL]}
            whole = await sdk.chat.completions.create(**asked)
            async with sdk.chat.completions.stream(**asked, stream_options={"include_usage": True}) as stream:
                return whole, await stream.get_final_completion()

    for answer in scripted(use, TURN):
        (choice,) = answer.choices
        assert (choice.message.content, choice.finish_reason) == ("I add.", "tool_calls")
        assert json.loads(choice.message.tool_calls[0].function.arguments) == {"a": 2}
        assert choice.message.reasoning_content == "Hm."
        assert answer.usage.completion_tokens == 5


def test_the_openai_sdk_reads_responses_whole_and_in_a_stream() -> None:
    async def use(url: str) -> tuple[Any, Any]:
        async with openai_sdk(url) as sdk:
            asked: Json = {"model": "x", "input": ASK, "tools": [RESPONSES_TOOL]}
            whole = await sdk.responses.create(**asked)
            async with sdk.responses.stream(**asked) as stream:
                return whole, await stream.get_final_response()

    for answer in scripted(use, TURN):
        assert [item.type for item in answer.output] == ["reasoning", "message", "function_call"]
        assert answer.output_text == "I add."
        assert json.loads(answer.output[2].arguments) == {"a": 2}
        assert answer.usage.output_tokens_details.reasoning_tokens == 1


def test_the_anthropic_sdk_reads_messages_whole_and_in_a_stream() -> None:
    async def use(url: str) -> tuple[Any, Any]:
        async with anthropic_sdk(url) as sdk:
            asked: Json = {"model": "x", "max_tokens": 9, "messages": ASK, "tools": [MESSAGES_TOOL]}
            whole = await sdk.messages.create(**asked)
            async with sdk.messages.stream(**asked) as stream:
                return whole, await stream.get_final_message()

    for answer in scripted(use, TURN):
        assert [block.type for block in answer.content] == ["thinking", "text", "tool_use"]
        assert (answer.content[0].thinking, answer.content[1].text) == ("Hm.", "I add.")
        assert (answer.content[2].name, answer.content[2].input) == ("add", {"a": 2})
        assert (answer.stop_reason, answer.usage.output_tokens) == ("tool_use", 5)


def test_a_coding_agents_loop_goes_on_with_what_it_was_answered() -> None:
    async def use(url: str) -> str:
        async with anthropic_sdk(url) as sdk:
            asked: Json = {"model": "x", "max_tokens": 9, "tools": [MESSAGES_TOOL]}
            first = await sdk.messages.create(**asked, messages=ASK)
            result = {"type": "tool_result", "tool_use_id": first.content[2].id, "content": "4"}  # pyright: ignore
            turns: list[Any] = [{"role": "assistant", "content": first.content}]
            turns.append({"role": "user", "content": [result]})
            second = await sdk.messages.create(**asked, messages=[*ASK, *turns])
            return second.content[0].text  # pyright: ignore

    assert scripted(use, TURN, {"text": "Four."}) == "Four."


class Point(BaseModel):
    a: int


def test_structured_outputs_are_parsed_by_the_sdks() -> None:
    async def use(url: str) -> list[Any]:
        async with openai_sdk(url) as sdk, anthropic_sdk(url) as other:
            chat = await sdk.chat.completions.parse(model="x", messages=ASK, response_format=Point)
            response = await sdk.responses.parse(model="x", input=ASK, text_format=Point)
            message = await other.messages.parse(model="x", max_tokens=9, messages=ASK, output_format=Point)
            return [chat.choices[0].message.parsed, response.output_parsed, message.parsed_output]

    assert scripted(use, {"text": '{"a": 2}'}) == [Point(a=2)] * 3


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("fail", "error", "words"),
    [
        ({"status": 401, "message": "no such key"}, "AuthenticationError", "no such key"),
        ({"status": 404, "message": "no such model"}, "NotFoundError", "no such model"),
        ({"status": 400, "message": "maximum context length is 9"}, "BadRequestError", "context length"),
        ({"status": 429, "message": "slow down"}, "RateLimitError", "slow down"),
    ],
)
def test_a_refusal_is_the_sdks_own_error(fail: Json, error: str, words: str, stream: bool) -> None:
    async def use(url: str) -> list[Any]:
        caught: list[Any] = []
        async with openai_sdk(url) as sdk, anthropic_sdk(url) as other:
            calls: list[Callable[[], Awaitable[Any]]] = [
                lambda: sdk.responses.create(model="x", input="?", stream=stream),
                lambda: sdk.chat.completions.create(model="x", messages=ASK, stream=stream),
                lambda: other.messages.create(model="x", max_tokens=9, messages=ASK, stream=stream),
            ]
            for call in calls:
                with pytest.raises(Exception, match=words) as error:
                    await call()
                caught.append(error.value)
        return caught

    caught = scripted(use, {"fail": fail})
    assert [type(each).__name__ for each in caught] == [error] * 3
    assert caught[2].body["type"] == "error"
    if "context" in words:
        assert "prompt is too long" in caught[2].body["error"]["message"]


def test_counting_tokens_is_refused_where_nothing_can_count() -> None:
    async def use(url: str) -> None:
        async with anthropic_sdk(url) as sdk:
            with pytest.raises(anthropic.NotFoundError, match="can't count tokens"):
                await sdk.messages.count_tokens(model="x", messages=ASK)

    scripted(use, TURN)


def test_tokens_are_counted_by_an_endpoint_that_can() -> None:
    async def play(path: str, say: Say) -> None:
        assert path == "/v1/responses/input_tokens"
        await say(b'{"object": "response.input_tokens", "input_tokens": 7}')

    async def use(url: str) -> int:
        async with anthropic_sdk(url) as sdk:
            return (await sdk.messages.count_tokens(model="x", messages=ASK)).input_tokens

    assert through(play, use, kind="application/json") == 7


@pytest.mark.parametrize(
    ("path", "api", "expected"),
    [("/v1/responses", "responses", EVENTS), ("/v1/chat/completions", "chat", [FIRST, *REST])],
)
def test_a_stream_of_the_same_api_is_passed_through_byte_for_byte(
    path: str, api: str, expected: list[bytes]
) -> None:
    assert through(play_whole, lambda url: raw(url, path), api) == (200, b"".join(expected))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("api", ["responses", "chat"])
def test_pieces_arrive_before_the_endpoint_has_ended(path: str, api: str) -> None:
    heard = asyncio.Event()

    async def play(_: str, say: Say) -> None:
        pieces = EVENTS if api == "responses" else [FIRST, *REST]
        early = 4 if api == "responses" else 1
        for piece in pieces[:early]:
            await say(piece)
        await heard.wait()
        for piece in pieces[early:]:
            await say(piece)

    async def use(url: str) -> str:
        stream = b""
        async with asked(url, path) as response:
            async for piece in response.content.iter_any():
                stream += piece
                if text_in(stream) == "Fo":
                    heard.set()
        return text_in(stream)

    assert through(play, use, api) == "Four."


@pytest.mark.parametrize("told", [True, False])
def test_a_stream_gives_back_the_tokens_that_it_did_not_need(told: bool) -> None:
    usage = encoded({"choices": [], "usage": USAGE}, named=False)

    async def play(_: str, say: Say) -> None:
        for piece in [FIRST, *REST[:2], *([usage] if told else []), DONE]:
            await say(piece)

    async def run() -> float:
        rate = Rate(RateConfig(tokens_per_minute=60_000))
        async with upstream(play, "text/event-stream", "") as there, Client({}) as client:
            provider = Provider(client=client, base_url=there, rate=rate)
            async with provider.stream("/chat/completions", {"max_tokens": 900}) as pieces:
                assert not isinstance(pieces, dict)
                assert rate.left() < 900
                assert text_in(b"".join([piece async for piece in pieces])) == "Four."
        return rate.left()

    assert asyncio.run(run()) > 950


def test_the_api_that_an_endpoint_streams_is_found_out() -> None:
    asked_for: list[str] = []

    async def play(path: str, say: Say) -> None:
        asked_for.append(path)
        await play_whole(path, say)

    async def use(url: str) -> list[str]:
        return [text_in((await raw(url, path))[1]) for path in PATHS]

    assert through(play, use, "auto", missing="/v1/responses") == ["Four."] * 3
    assert asked_for == ["/v1/chat/completions"] * 3


def test_usage_that_comes_last_reaches_every_api() -> None:
    async def play(_: str, say: Say) -> None:
        for piece in (
            FIRST,
            chunk({}, "length"),
            encoded({"choices": [], "usage": USAGE}, named=False),
            DONE,
        ):
            await say(piece)

    async def use(url: str) -> tuple[Any, Any]:
        async with openai_sdk(url) as sdk, anthropic_sdk(url) as other:
            events = [each async for each in await sdk.responses.create(model="x", input="?", stream=True)]
            async with other.messages.stream(model="x", max_tokens=9, messages=ASK) as messages:
                return events[-1], await messages.get_final_message()

    last, message = through(play, use)
    assert (last.type, last.response.usage.total_tokens) == ("response.incomplete", 7)
    assert (message.stop_reason, message.usage.input_tokens, message.usage.output_tokens) == (
        "max_tokens",
        5,
        2,
    )


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("api", ["responses", "chat"])
def test_an_endpoint_that_stops_in_mid_stream_is_told_in_an_event(path: str, api: str) -> None:
    async def play(_: str, say: Say) -> None:
        for piece in EVENTS[:4] if api == "responses" else [FIRST]:
            await say(piece)

    status, stream = through(play, lambda url: raw(url, path), api)
    *_, last = Decoder().feed(stream)
    assert (status, text_in(stream)) == (200, "Fo")
    assert last["error"]["kind"] == "bad_response"
    assert "ended before the answer did" in last["error"]["message"]


@pytest.mark.parametrize("path", PATHS)
def test_an_error_in_place_of_the_first_event_is_a_plain_error(path: str) -> None:
    async def play(_: str, say: Say) -> None:
        await say(encoded({"error": {"message": "slow down", "code": 429}}, named=False))

    status, body = through(play, lambda url: raw(url, path))
    assert status == 429
    assert json.loads(body)["error"]["message"] == "slow down"


def test_the_sdks_raise_what_breaks_off() -> None:
    async def play(_: str, say: Say) -> None:
        await say(FIRST)

    async def use(url: str) -> None:
        async with openai_sdk(url) as sdk, anthropic_sdk(url) as other:
            with pytest.raises(openai.APIError, match="ended before the answer did"):
                async for _ in await sdk.chat.completions.create(model="x", messages=ASK, stream=True):
                    pass
            with pytest.raises(openai.APIError, match="ended before the answer did"):
                async for _ in await sdk.responses.create(model="x", input="?", stream=True):
                    pass
            stream = await other.messages.create(model="x", max_tokens=9, messages=ASK, stream=True)
            with pytest.raises(anthropic.APIError, match="ended before the answer did"):
                async for _ in stream:
                    pass

    through(play, use)


@pytest.mark.parametrize("path", PATHS)
def test_an_endpoint_that_does_not_stream_is_told_in_events(path: str) -> None:
    async def play(_: str, say: Say) -> None:
        message = {"role": "assistant", "content": "Four."}
        choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
        await say(json.dumps({"id": "chatcmpl-1", "model": "m", "choices": choices}).encode())

    status, stream = through(play, lambda url: raw(url, path), kind="application/json")
    assert (status, text_in(stream)) == (200, "Four.")


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("path", PATHS)
def test_a_caller_that_goes_away_ends_the_call_to_the_endpoint(path: str, stream: bool) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def play(_: str, say: Say) -> None:
        await say(FIRST)
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def ask(url: str) -> None:
        body = BODIES[path] | {"stream": stream}
        async with aiohttp.ClientSession() as session, session.post(url + path, json=body) as response:
            await response.read()

    async def use(url: str) -> None:
        call = asyncio.create_task(ask(url))
        await begun.wait()
        call.cancel()
        with suppress(asyncio.CancelledError):
            await call
        await asyncio.wait_for(ended.wait(), 60)

    through(play, use)


def test_a_stream_of_another_workers_rollout_is_passed_on() -> None:
    foreign = next(f"r{number}" for number in range(99) if owner(f"r{number}", 2) == 1)

    async def use(url: str) -> tuple[str, str]:
        async with asked(url, "/v1/messages", **{ROLLOUT_HEADER: foreign}) as response:
            return response.content_type, text_in(await response.read())

    assert scripted(use, {"text": "Four."}, workers=2) == ("text/event-stream", "Four.")


@pytest.mark.parametrize("layout", ["in process", "over HTTP"])
def test_a_server_streams_from_another_in_both_layouts(layout: str) -> None:
    async def pieces(client: Client, body: Json) -> AsyncIterator[bytes]:
        async with aclosing(client.stream(NAME, "/v1/responses", body, timeout_s=60)) as stream:
            async for piece in stream:
                yield piece

    async def run() -> tuple[str, PartError]:
        script = [{"when": {"contains": "fail"}, "fail": {"status": 429}}, {"text": "Four."}]
        server = ServerSpec(
            name=NAME,
            file=str(MODELS / "scripted_model/app.py"),
            settings={"script": script},
            listener=0,
        )
        async with AsyncExitStack() as stack:
            logs = stack.enter_context(TemporaryDirectory())
            worker = Worker(
                WorkerSpec(index=0, servers=[server], peers={NAME: [""]}, listener=0, report=0, log_dir=logs)
            )
            client = await stack.enter_async_context(worker.run())
            if layout == "over HTTP":
                listener = socket.create_server(("127.0.0.1", 0))
                await stack.enter_async_context(serving(worker.apps[NAME], listener))
                url = f"http://127.0.0.1:{listener.getsockname()[1]}"
                client = await stack.enter_async_context(Client({NAME: [url]}))
            rollout_id.set("r")
            said = b"".join([piece async for piece in pieces(client, {"input": "?", "stream": True})])
            with pytest.raises(PartError) as caught:
                _ = [piece async for piece in pieces(client, {"input": "fail", "stream": True})]
            return text_in(said), caught.value

    text, error = asyncio.run(run())
    assert (text, error.kind, error.where) == ("Four.", "rate_limited", NAME)
