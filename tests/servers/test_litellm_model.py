"""LiteLLM's SDK against an endpoint that is there, wrong, slow or lying, and with its own mock answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web

from nemo_like.asgi import call_app
from nemo_like.client import Client
from nemo_like.errors import MissingExtra
from nemo_like.registry import load_file
from nemo_like.sse import DONE, Decoder, encoded

from ..conftest import Project, write_jsonl
from ..test_streams import (
    ASK,
    FIRST,
    PATHS,
    REST,
    Play,
    Say,
    anthropic_sdk,
    asked,
    model_server,
    openai_sdk,
    raw,
    text_in,
    upstream,
)

FOLDER = Path(__file__).parents[2] / "responses_api_models/litellm_model"
app = load_file(FOLDER / "app.py")
provider = load_file(FOLDER / "provider.py")

Json = dict[str, Any]
KEY, ENVIRONMENT_KEY = "sk-very-secret", "sk-secret-of-the-environment"
PRICED = "openai/gpt-4o-mini"
"""A model whose price LiteLLM knows."""
RESPONSES, CHAT = "/v1/responses", "/v1/chat/completions"
TOOL = {"type": "function", "name": "add", "parameters": {"type": "object", "properties": {}}}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    # Of the types of one of LiteLLM's providers.
    pytest.mark.filterwarnings("ignore:Items? "),
    # Of how it copies the chunks of a stream.
    pytest.mark.filterwarnings("ignore:Accessing the 'model_"),
]


def completion(text: str | None = "4", **message: Any) -> Json:
    choices = [
        {"index": 0, "message": {"role": "assistant", "content": text} | message, "finish_reason": "stop"}
    ]
    usage = {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "gpt-4o-mini",
        "choices": choices,
        "usage": usage,
    }


class World:
    """An event loop, and on it an endpoint that plays the replies a test gives it, the last one for ever."""

    def __init__(self) -> None:
        self.runner = asyncio.Runner()
        self.replies: list[tuple[int, Any]] = []
        self.asked: list[Json] = []
        self.keys: set[str | None] = set()
        self.run(self._start())

    def run(self, work: Awaitable[Any]) -> Any:
        async def wait() -> Any:
            return await work

        return self.runner.run(wait())

    async def _start(self) -> None:
        routes = web.Application()
        routes.router.add_post("/{path:.*}", self._reply)
        self._closing = asyncio.Event()
        self._web = web.AppRunner(routes, handle_signals=False)
        await self._web.setup()
        await web.TCPSite(self._web, "127.0.0.1", 0).start()
        self.url = "http://{}:{}/v1".format(*self._web.addresses[0][:2])

    def close(self) -> None:
        async def close() -> None:
            self._closing.set()
            await self._web.cleanup()

        self.run(close())
        self.runner.close()

    async def _reply(self, request: web.Request) -> web.Response:
        self.asked.append(await request.json())
        self.keys.add(request.headers.get("authorization"))
        status, body = self.replies[0] if len(self.replies) == 1 else self.replies.pop(0)
        if status == 0:
            await self._closing.wait()
        text = body if isinstance(body, str) else json.dumps(body)
        headers = {"Retry-After": "0"} if status in (429, 500, 503) else None
        return web.Response(status=status or 200, text=text, headers=headers, content_type="application/json")

    def ask(
        self, *replies: tuple[int, Any], body: Json | None = None, path: str = RESPONSES, **settings: Any
    ) -> tuple[int, Any]:
        """What the model server answers to one request."""
        self.replies, self.asked, self.keys = [*replies], [], set()
        given = {
            "litellm_model": PRICED,
            "litellm_api_key": KEY,
            "litellm_api_base": self.url,
            "max_retries": 2,
        }

        async def run() -> tuple[int, Any]:
            async with Client({}) as client:
                config = app.LiteLLMConfig.from_mapping(given | settings, where="policy_model")
                server = app.LiteLLMModel(config, name="policy_model", client=client)
                async with server.lifespan():
                    asked = orjson.dumps(body or {"input": "What is 2 + 2?"})
                    status, answer = await call_app(server.app(), path, asked, {"x-rollout-id": "r1"})
                    return status, orjson.loads(answer)

        return self.run(run())


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOME_PROVIDER_API_KEY", ENVIRONMENT_KEY)
        world = World()
        yield world
        world.close()


def test_an_answer_has_its_text_its_usage_and_its_cost(world: World) -> None:
    status, answer = world.ask(
        (200, completion()), body={"input": "?", "temperature": 0.5, "max_output_tokens": 9}
    )
    assert (status, answer["output"][0]["content"][0]["text"]) == (200, "4")
    assert (answer["usage"]["input_tokens"], answer["usage"]["output_tokens"]) == (1000, 100)
    # 0.15 and 0.60 dollars a million tokens.
    assert answer["usage"]["cost"] == pytest.approx(1000 * 0.15e-6 + 100 * 0.60e-6)
    [sent] = world.asked
    assert sent["messages"] == [{"role": "user", "content": "?"}]
    assert (sent["model"], sent["temperature"], sent["max_tokens"]) == ("gpt-4o-mini", 0.5, 9)
    assert world.keys == {f"Bearer {KEY}"}


def test_chat_completions_are_answered_as_the_provider_said_them(world: World) -> None:
    body = {"messages": [{"role": "user", "content": "?"}]}
    status, answer = world.ask((200, completion()), body=body, path=CHAT)
    assert (status, answer["choices"][0]["message"]["content"]) == (200, "4")
    assert answer["usage"]["cost"] > 0


def test_a_model_without_a_known_price_has_no_cost(world: World) -> None:
    status, answer = world.ask((200, completion() | {"model": "mine"}), litellm_model="openai/mine")
    assert status == 200
    assert "cost" not in answer["usage"]


def test_tools_are_sent_and_calls_come_back(world: World) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    _, answer = world.ask((200, completion(None, tool_calls=[call])), body={"input": "?", "tools": [TOOL]})
    assert world.asked[0]["tools"][0]["function"]["name"] == "add"
    [item] = answer["output"]
    assert (item["type"], item["call_id"], item["arguments"]) == ("function_call", "call_1", '{"a": 1}')


@pytest.mark.parametrize(
    ("reply", "status", "kind", "tries"),
    [
        ((401, {"error": {"message": f"wrong key {KEY}"}}), 401, "unauthorized", 1),
        ((403, {"error": {"message": "not yours"}}), 403, "unauthorized", 1),
        ((404, {"error": {"message": "no such model"}}), 404, "not_found", 1),
        ((400, {"error": {"message": "temperature is out of range"}}), 400, "bad_request", 1),
        ((422, {"error": {"message": "unprocessable"}}), 422, "bad_request", 1),
        (
            (
                400,
                {
                    "error": {
                        "message": "This model's maximum context length is 8192 tokens",
                        "code": "context_length_exceeded",
                    }
                },
            ),
            400,
            "context_overflow",
            1,
        ),
        (
            (400, {"error": {"message": "violates our content policy", "code": "content_policy_violation"}}),
            400,
            "bad_request",
            1,
        ),
        ((429, {"error": {"message": "slow down"}}), 429, "rate_limited", 3),
        ((500, {"error": {"message": "boom"}}), 500, "model_error", 3),
        ((503, {"error": {"message": "overloaded"}}), 503, "model_error", 3),
    ],
)
def test_a_failure_has_our_name_and_the_provider_s_words(
    world: World, reply: tuple[int, Any], status: int, kind: str, tries: int
) -> None:
    told, answer = world.ask(reply)
    error = answer["error"]
    assert (told, error["kind"]) == (status, kind)
    assert reply[1]["error"]["message"].replace(KEY, "***") in error["message"]
    assert error["where"] == PRICED
    assert KEY not in json.dumps(error)
    assert len(world.asked) == tries


def test_what_another_try_mends_is_tried_again(world: World) -> None:
    status, answer = world.ask((429, {"error": {"message": "slow down"}}), (200, completion()))
    assert (status, answer["output"][0]["content"][0]["text"], len(world.asked)) == (200, "4", 2)


def test_an_endpoint_that_hangs_is_a_timeout(world: World) -> None:
    status, answer = world.ask((0, ""), timeout_s=0.2, max_retries=0)
    assert (status, answer["error"]["kind"]) == (504, "timeout")


def test_an_endpoint_that_is_not_there_is_unreachable(world: World) -> None:
    status, answer = world.ask((200, {}), litellm_api_base="http://127.0.0.1:9/v1", max_retries=0)
    assert answer["error"]["kind"] in ("unreachable", "model_error")
    assert status in (500, 502)


def test_a_provider_that_nobody_knows_is_named(world: World) -> None:
    status, answer = world.ask((200, {}), litellm_model="nonsense", litellm_api_base=None)
    assert (status, answer["error"]["kind"]) == (404, "not_found")
    assert "provider/model" in answer["error"]["hint"]


def test_parameters_that_the_provider_lacks_are_refused_or_left_out(world: World) -> None:
    body = {"input": "?", "temperature": 0.5, "parallel_tool_calls": False, "tools": [TOOL]}
    settings = {"litellm_model": "cohere/command-r", "mock_response": "4", "litellm_api_base": None}
    status, answer = world.ask((200, {}), body=body, **settings)
    assert (status, answer["error"]["kind"]) == (400, "bad_request")
    assert "drop_params" in answer["error"]["hint"]
    status, answer = world.ask((200, {}), body=body, drop_params=True, **settings)
    assert status == 200, answer


def test_a_secret_of_the_environment_is_not_shown(world: World) -> None:
    status, answer = world.ask((400, {"error": {"message": f"what is {ENVIRONMENT_KEY}?"}}))
    assert (status, answer["error"]["kind"]) == (400, "bad_request")
    assert "what is ***?" in answer["error"]["message"]


def test_extra_body_is_merged_over_every_request(world: World) -> None:
    world.ask(
        (200, completion()),
        body={"input": "?", "temperature": 0.5},
        extra_body={"seed": 7, "temperature": None},
    )
    assert world.asked[0]["seed"] == 7
    assert "temperature" not in world.asked[0]


def test_a_request_cannot_send_the_key_elsewhere(world: World) -> None:
    elsewhere = dict.fromkeys(("api_base", "base_url"), "http://127.0.0.1:9/v1")
    body = {"input": "?", "api_key": "mine", "timeout": 0.001, "num_retries": 9, "model": "openai/other"}
    assert world.ask((200, completion()), body=body | elsewhere)[0] == 200
    assert world.keys == {f"Bearer {KEY}"}
    assert len(world.asked) == 1


def test_a_mock_answer_asks_nobody(world: World) -> None:
    status, answer = world.ask((500, {}), mock_response="four", litellm_api_base=None)
    assert (status, answer["output"][0]["content"][0]["text"]) == (200, "four")
    status, answer = world.ask((500, {}), mock_response="litellm.RateLimitError", max_retries=0)
    assert (status, answer["error"]["kind"]) == (429, "rate_limited")
    assert world.asked == []


def test_every_error_of_the_table_is_one_of_litellm_s(world: World) -> None:
    library = provider.LiteLLM([])
    assert library.mapped(RuntimeError("odd")).kind == "model_error"
    import litellm

    for name, (kind, _, _) in provider.ERRORS.items():
        cls = getattr(litellm, name)
        before = list(provider.ERRORS)[: list(provider.ERRORS).index(name)]
        assert not any(issubclass(cls, getattr(litellm, other)) for other in before), (name, kind)


def test_nothing_is_sent_to_anybody_else(world: World) -> None:
    provider.LiteLLM([])
    import litellm

    assert litellm.telemetry is False
    assert litellm.callbacks == litellm.success_callback == litellm.failure_callback == []


@pytest.mark.parametrize(("version", "said"), [("1.82.7", "compromised release"), ("1.82.8", "compromised")])
def test_a_compromised_release_is_not_imported(
    version: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / f"litellm-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: litellm\nVersion: {version}\n")
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    with pytest.raises(MissingExtra, match=said):
        provider.LiteLLM([])
    monkeypatch.setattr("sys.path", [str(tmp_path / "empty")])
    with pytest.raises(MissingExtra, match="nemo-like"):
        provider.LiteLLM([])


@pytest.mark.parametrize("layout", ["colocate=true", "colocate=false"])
def test_a_run_records_what_it_cost(project: Project, layout: str) -> None:
    write_jsonl(Path("tasks.jsonl"), [{"responses_create_params": {"input": "?"}, "expected_answer": "4"}])
    mock = "+policy_model.responses_api_models.litellm_model.mock_response=It is 4."
    arguments = ("model=litellm", "env=arithmetic", f"+policy_model_name={PRICED}", layout, mock)
    files = ("+input_jsonl_fpath=tasks.jsonl", "+output_jsonl_fpath=r.jsonl", "+num_repeats=2")
    done = project.run("ng_collect_rollouts", *arguments, *files, timeout_s=280)
    assert done.returncode == 0, done.stderr
    rows = project.rows("r.jsonl")
    assert [row["reward"] for row in rows] == [1.0, 1.0]
    assert all(row["response"]["usage"]["cost"] > 0 for row in rows)
    metrics = json.dumps(json.loads(Path("r_aggregate_metrics.json").read_text()))
    assert "usage/cost" in metrics


def streamed(play: Play, use: Callable[[str], Awaitable[Any]], **settings: Any) -> Any:
    """What `use` makes of the URL of a `litellm_model` in front of an endpoint that plays."""
    given = {"litellm_model": PRICED, "litellm_api_key": KEY, "max_retries": 0}

    async def run() -> Any:
        async with upstream(play, "text/event-stream", "") as there:
            settings_there = given | {"litellm_api_base": f"{there}/v1"} | settings
            async with model_server("litellm_model", **settings_there) as url:
                return await use(url)

    return asyncio.run(run())


async def play_chunks(_: str, say: Say) -> None:
    usage = {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100}
    for piece in [FIRST, *REST[:2], encoded(head() | {"choices": [], "usage": usage}, named=False), DONE]:
        await say(piece)


def head() -> Json:
    [first] = Decoder().feed(FIRST)
    return {key: value for key, value in first.items() if key != "choices"}


@pytest.mark.parametrize("path", PATHS)
def test_pieces_arrive_before_the_provider_has_ended(path: str) -> None:
    heard = asyncio.Event()

    async def play(_: str, say: Say) -> None:
        await say(FIRST)
        await heard.wait()
        for piece in REST:
            await say(piece)

    async def use(url: str) -> str:
        stream = b""
        async with asked(url, path) as response:
            async for piece in response.content.iter_any():
                stream += piece
                if text_in(stream) == "Fo":
                    heard.set()
        return text_in(stream)

    assert streamed(play, use) == "Four."


def test_a_stream_ends_with_its_usage_and_its_cost() -> None:
    async def use(url: str) -> tuple[Any, Any, list[Any]]:
        async with openai_sdk(url) as sdk:
            async with sdk.responses.stream(model="x", input="?") as events:
                response = await events.get_final_response()
            ask = {"model": "x", "messages": ASK, "stream": True}
            told = await sdk.chat.completions.create(**ask, stream_options={"include_usage": True})
            plain = await sdk.chat.completions.create(**ask)
            return response, [each async for each in told][-1], [each async for each in plain]

    response, last, plain = streamed(play_chunks, use)
    cost = pytest.approx(1000 * 0.15e-6 + 100 * 0.60e-6)
    assert (response.output_text, response.usage.input_tokens) == ("Four.", 1000)
    assert response.usage.cost == cost and last.usage.cost == cost
    assert all(chunk.choices and not chunk.usage for chunk in plain)


def test_a_mock_response_is_streamed() -> None:
    async def use(url: str) -> str:
        ask = {"model": "x", "max_tokens": 9, "messages": ASK}
        async with anthropic_sdk(url) as sdk, sdk.messages.stream(**ask) as stream:
            return await stream.get_final_text()

    assert streamed(play_chunks, use, mock_response="It is 4.") == "It is 4."


def test_a_refusal_before_the_first_piece_keeps_its_status_and_is_tried_again(world: World) -> None:
    body = {"input": "?", "stream": True}
    status, answer = world.ask((401, {"error": {"message": f"no {KEY}"}}), body=body)
    assert (status, answer["error"]["kind"]) == (401, "unauthorized")
    assert KEY not in json.dumps(answer)
    status, answer = world.ask((503, {"error": {"message": "busy"}}), body=body)
    assert (status, answer["error"]["kind"], len(world.asked)) == (503, "model_error", 3)


@pytest.mark.parametrize("path", PATHS)
def test_a_provider_that_stops_in_mid_stream_is_told_in_an_event(path: str) -> None:
    async def play(_: str, say: Say) -> None:
        await say(FIRST)
        raise ConnectionResetError

    status, stream = streamed(play, lambda url: raw(url, path))
    *_, last = Decoder().feed(stream)
    assert (status, text_in(stream)) == (200, "Fo")
    assert "error" in last or last.get("type") in ("error", "response.failed"), last


def test_a_caller_that_goes_away_gives_its_slot_back() -> None:
    asked_twice = asyncio.Event()

    async def play(_: str, say: Say) -> None:
        await say(FIRST)
        if not asked_twice.is_set():
            asked_twice.set()
            await asyncio.Event().wait()
        for piece in REST:
            await say(piece)

    async def use(url: str) -> str:
        async with asked(url, "/v1/chat/completions") as response:
            await response.content.readany()
        _, stream = await raw(url, "/v1/chat/completions")
        return text_in(stream)

    assert streamed(play, use, max_concurrent_requests=1) == "Four."
