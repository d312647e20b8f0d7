"""The OpenAI model server against endpoints that are there, half there, slow, wrong or lying."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

import openai
import orjson
import pytest
import uvicorn
from aiohttp import web

from nemo_like.asgi import ASGIApp, call_app
from nemo_like.client import Client
from nemo_like.errors import ConfigError
from nemo_like.registry import load_file
from nemo_like.types import Json

OpenAIModel = load_file(Path(__file__).parents[2] / "responses_api_models/openai_model/app.py").OpenAIModel

KEY = "sk-very-secret"
RESPONSES, CHAT = "/v1/responses", "/v1/chat/completions"
QUESTION: Json = {"input": "What is 2 + 2?", "model": "whatever", "temperature": None}
CHAT_QUESTION: Json = {"messages": [{"role": "user", "content": "What is 2 + 2?"}], "model": "whatever"}

Reply = tuple[int, Json | str]
"""Status, and JSON or any text."""
NO_SUCH_PATH: Reply = (404, {"detail": "Not Found"})
NO_SUCH_MODEL: Reply = (404, {"error": {"message": "The model `m` does not exist"}})
OVERLOADED: Reply = (503, {"error": {"message": "overloaded"}})
TORN: Reply = (200, '{"id": "resp_1", "output": [{"type": "mess')
HANGS: Reply = (0, "")


def response(text: str = "4", **fields: Any) -> Reply:
    part = {"type": "output_text", "text": text, "annotations": []}
    message = {"type": "message", "id": "msg_1", "role": "assistant", "content": [part]}
    usage = {"input_tokens": 7, "output_tokens": 1, "total_tokens": 8}
    whole = {"id": "resp_1", "object": "response", "status": "completed", "output": [message], "usage": usage}
    return 200, whole | fields


def completion(text: str = "4") -> Reply:
    choices = [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}]
    usage = {"prompt_tokens": 7, "completion_tokens": 1, "total_tokens": 8}
    return 200, {"id": "chatcmpl-1", "object": "chat.completion", "choices": choices, "usage": usage}


class Endpoint:
    """Someone else's endpoint on loopback: plays the replies of a path in order, the last one for ever."""

    def __init__(self, *, responses: list[Reply] | None = None, chat: list[Reply] | None = None) -> None:
        self._replies = {RESPONSES: responses or [NO_SUCH_PATH], CHAT: chat or [NO_SUCH_PATH]}
        self.asked: list[tuple[str, Json]] = []
        self.keys: set[str | None] = set()
        self.metrics, self.metrics_asked = "", 0
        self.in_flight = self.most_in_flight = 0
        self.together = asyncio.Barrier(1)
        """Replies leave in groups of this size."""

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post("/{path:.*}", self._reply)
        app.router.add_get("/metrics", self._tell)
        self._closing = asyncio.Event()
        self._runner = web.AppRunner(app, handle_signals=False)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = "http://{}:{}".format(*self._runner.addresses[0][:2])
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closing.set()
        await self._runner.cleanup()

    async def _tell(self, _: web.Request) -> web.Response:
        self.metrics_asked += 1
        return web.Response(text=self.metrics, status=200 if self.metrics else 404)

    async def _reply(self, request: web.Request) -> web.Response:
        self.asked.append((request.path, await request.json()))
        self.keys.add(request.headers.get("authorization"))
        replies = self._replies[request.path]
        status, body = replies[0] if len(replies) == 1 else replies.pop(0)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        if status == 0:
            await self._closing.wait()
        await self.together.wait()
        self.in_flight -= 1
        text = body if isinstance(body, str) else json.dumps(body)
        headers = {"Retry-After": "0"} if status in (429, 500, 503) else None
        return web.Response(status=status or 200, text=text, headers=headers, content_type="application/json")

    @property
    def paths(self) -> list[str]:
        return [path for path, _ in self.asked]


@asynccontextmanager
async def model_server(url: str, **settings: Any) -> AsyncIterator[ASGIApp]:
    given = {"openai_base_url": url, "openai_api_key": KEY, "openai_model": "m", "max_retries": 2} | settings
    async with Client({}) as client:
        config = OpenAIModel.config_class().from_mapping(given, where="policy_model")
        yield OpenAIModel(config, name="policy_model", client=client).app()


async def post(app: ASGIApp, body: Json = QUESTION, path: str = RESPONSES) -> tuple[int, Any]:
    status, answer = await call_app(app, path, orjson.dumps(body), {"x-rollout-id": "r1"})
    return status, orjson.loads(answer)


def ask(endpoint: Endpoint, body: Json = QUESTION, path: str = RESPONSES, **settings: Any) -> tuple[int, Any]:
    """What the model server answers to one request."""
    return ask_all(endpoint, [(body, path)], **settings)[0]


def ask_all(endpoint: Endpoint, requests: list[tuple[Json, str]], **settings: Any) -> list[tuple[int, Any]]:
    """What one model server answers to the requests, one after the other."""

    async def run() -> list[tuple[int, Any]]:
        async with endpoint, model_server(endpoint.url, **settings) as app:
            return [await post(app, body, path) for body, path in requests]

    return asyncio.run(run())


def text_of(answer: Json) -> str:
    return answer["output"][-1]["content"][0]["text"]


def test_the_responses_api_is_asked_with_the_configured_model_and_without_nulls() -> None:
    endpoint = Endpoint(responses=[response()])
    status, answer = ask(endpoint)
    assert (status, text_of(answer), answer["usage"]["total_tokens"]) == (200, "4", 8)
    assert endpoint.asked == [(RESPONSES, {"input": "What is 2 + 2?", "model": "m"})]
    assert endpoint.keys == {f"Bearer {KEY}"}


def test_items_are_sent_without_nulls_and_token_ids() -> None:
    endpoint = Endpoint(responses=[response()])
    tokens = {"prompt_token_ids": [1], "generation_token_ids": [2], "generation_log_probs": [-0.5]}
    said = {"type": "message", "role": "assistant", "content": "Hm."}
    history = [{"role": "user", "content": "?"}, said | tokens | {"status": None}]
    ask(endpoint, {"input": history})
    assert endpoint.asked[0][1]["input"] == [{"role": "user", "content": "?"}, said]


def test_an_endpoint_without_the_responses_api_is_found_out_once() -> None:
    endpoint = Endpoint(chat=[completion()])
    answers = ask_all(endpoint, [(QUESTION, RESPONSES)] * 3)
    assert [text_of(answer) for _, answer in answers] == ["4"] * 3
    assert endpoint.paths == [RESPONSES, CHAT, CHAT, CHAT]
    assert endpoint.asked[-1][1] == {"messages": CHAT_QUESTION["messages"], "model": "m"}


@pytest.mark.parametrize(
    "refusal",
    [
        (405, "Method Not Allowed"),
        (501, "not implemented"),
        (400, {"error": {"message": "The model does not support Responses API"}}),
        (200, {"error": "Unexpected endpoint or method. (POST /v1/responses)"}),
    ],
)
def test_the_ways_to_have_no_responses_api(refusal: Reply) -> None:
    endpoint = Endpoint(responses=[refusal], chat=[completion()])
    assert ask(endpoint)[0] == 200
    assert endpoint.paths == [RESPONSES, CHAT]


def test_a_wrong_model_name_is_not_taken_for_a_missing_endpoint() -> None:
    endpoint = Endpoint(responses=[NO_SUCH_MODEL], chat=[NO_SUCH_MODEL])
    answers = ask_all(endpoint, [(QUESTION, RESPONSES)] * 2)
    for status, answer in answers:
        assert (status, answer["error"]["kind"]) == (404, "not_found")
        assert answer["error"]["message"] == "The model `m` does not exist"
        assert "policy_model_name" in answer["error"]["hint"]
    assert endpoint.paths == [RESPONSES, CHAT] * 2


def test_where_chat_is_missing_too_a_lie_of_the_responses_api_is_what_is_told() -> None:
    status, answer = ask(Endpoint(responses=[(200, {"output": "4"})]))
    assert (status, answer["error"]["kind"]) == (502, "bad_response")


def test_once_the_responses_api_has_answered_its_refusals_are_final() -> None:
    endpoint = Endpoint(responses=[response(), NO_SUCH_MODEL], chat=[completion()])
    statuses = [status for status, _ in ask_all(endpoint, [(QUESTION, RESPONSES)] * 2)]
    assert statuses == [200, 404]
    assert CHAT not in endpoint.paths


def test_the_api_can_be_chosen() -> None:
    both = {"responses": [response("by responses")], "chat": [completion("by chat")]}
    assert text_of(ask(Endpoint(**both), api="chat")[1]) == "by chat"
    assert text_of(ask(Endpoint(**both), api="responses")[1]) == "by responses"
    assert ask(Endpoint(chat=[completion()]), api="responses")[0] == 404


@pytest.mark.parametrize("api", ["auto", "responses", "chat"])
def test_chat_completions_are_answered_whatever_the_endpoint_speaks(api: str) -> None:
    endpoint = Endpoint(responses=[response()], chat=[completion()])
    status, answer = ask(endpoint, CHAT_QUESTION | {"stream": False}, CHAT, api=api)
    assert (status, answer["choices"][0]["message"]["content"]) == (200, "4")
    [(path, sent)] = endpoint.asked
    assert path == (CHAT if api == "chat" else RESPONSES)
    assert sent["model"] == "m" and "stream" not in sent


def test_a_completion_that_is_none_is_a_bad_response() -> None:
    status, answer = ask(Endpoint(chat=[(200, {"choices": []})]), CHAT_QUESTION, CHAT, api="chat")
    assert (status, answer["error"]["kind"]) == (502, "bad_response")


def test_extra_body_is_merged_over_every_request() -> None:
    endpoint = Endpoint(responses=[response()])
    extra = {"reasoning": {"summary": "auto"}, "top_k": 20, "store": None}
    body = {"input": "?", "reasoning": {"effort": "low"}, "store": True}
    ask(endpoint, body, extra_body=extra)
    sent = {"input": "?", "model": "m", "reasoning": {"effort": "low", "summary": "auto"}, "top_k": 20}
    assert endpoint.asked == [(RESPONSES, sent)]


def test_a_refused_key_says_what_to_check_and_never_shows_the_key() -> None:
    refusal = (401, {"error": {"message": f"Incorrect API key provided: {KEY}"}})
    endpoint = Endpoint(responses=[refusal])
    status, answer = ask(endpoint)
    assert (status, answer["error"]["kind"]) == (401, "unauthorized")
    assert answer["error"]["message"] == "Incorrect API key provided: ***"
    assert "policy_api_key" in answer["error"]["hint"]
    assert answer["error"]["where"] == f"{endpoint.url}/v1"
    assert endpoint.paths == [RESPONSES]


def test_no_key_sends_no_header() -> None:
    endpoint = Endpoint(responses=[response()])
    ask(endpoint, openai_api_key="")
    assert endpoint.keys == {None}


@pytest.mark.parametrize(
    "message",
    [
        "This model's maximum context length is 8192 tokens",
        "prompt is too long: 214315 tokens > 200000 maximum",
        "The input token count (9000) exceeds the maximum number of tokens allowed (8192).",
        "`inputs` must have less than 4096 tokens. Given: 5000",
        "the conversation has 900 tokens, and the model's context 512",
    ],
)
def test_a_context_overflow_is_called_that_and_not_tried_again(message: str) -> None:
    endpoint = Endpoint(responses=[(400, {"error": {"message": message, "code": "context_length_exceeded"}})])
    status, answer = ask(endpoint)
    assert (status, answer["error"]["kind"], answer["error"]["message"]) == (400, "context_overflow", message)
    assert endpoint.paths == [RESPONSES]


@pytest.mark.parametrize("api", ["responses", "chat"])
@pytest.mark.parametrize("trouble", [(429, {"error": {"message": "slow down"}}), OVERLOADED, TORN])
def test_what_another_try_may_mend_is_tried_again(api: str, trouble: Reply) -> None:
    endpoint = Endpoint(responses=[trouble, response()], chat=[trouble, completion()])
    status, answer = ask(endpoint, api=api)
    assert (status, text_of(answer), len(endpoint.asked)) == (200, "4", 2)


@pytest.mark.parametrize(
    ("trouble", "status", "kind"),
    [
        ((429, {"error": {"message": "slow down"}}), 429, "rate_limited"),
        ((500, {"error": {"message": "boom"}}), 500, "model_error"),
    ],
)
def test_tries_are_bounded_and_the_last_words_are_told(trouble: Reply, status: int, kind: str) -> None:
    endpoint = Endpoint(responses=[trouble], chat=[completion()])
    told, answer = ask(endpoint)
    assert (told, answer["error"]["kind"]) == (status, kind)
    assert answer["error"]["message"] in ("slow down", "boom")
    assert endpoint.paths == [RESPONSES] * 3


def test_an_endpoint_that_hangs_is_a_timeout() -> None:
    endpoint = Endpoint(responses=[HANGS])
    status, answer = ask(endpoint, timeout_s=0.05, max_retries=1)
    assert (status, answer["error"]["kind"]) == (504, "timeout")
    assert "within 0.05 s" in answer["error"]["message"]
    assert len(endpoint.asked) == 2


def test_an_endpoint_that_is_not_there_is_unreachable() -> None:
    async def run() -> tuple[int, Any]:
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))
            url = "http://{}:{}".format(*nobody.getsockname())
            async with model_server(url, max_retries=0) as app:
                return await post(app)

    status, answer = asyncio.run(run())
    assert (status, answer["error"]["kind"]) == (502, "unreachable")


@pytest.mark.parametrize(
    "body",
    [
        {"object": "response", "output": "not a list", "choices": {}},
        {"output": ["text"]},
        {"status": "in_progress", "output": []},
        {"detail": "x" * 10_000},
    ],
)
def test_an_answer_of_another_shape_is_a_bad_response(body: Json) -> None:
    status, answer = ask(Endpoint(responses=[(200, body)]), api="responses")
    assert (status, answer["error"]["kind"]) == (502, "bad_response")
    assert len(answer["error"]["message"]) < 500


def test_a_response_that_failed_is_a_model_error_in_its_words() -> None:
    failed = response(
        status="failed", error={"code": "server_error", "message": "The GPU is on fire"}, output=[]
    )
    status, answer = ask(Endpoint(responses=[failed], chat=[completion()]))
    assert (status, answer["error"]["kind"]) == (500, "model_error")
    assert answer["error"]["message"] == "The GPU is on fire"


def test_an_incomplete_response_is_an_answer() -> None:
    cut = response(status="incomplete", incomplete_details={"reason": "max_output_tokens"})
    status, answer = ask(Endpoint(responses=[cut]))
    assert (status, answer["incomplete_details"]["reason"]) == (200, "max_output_tokens")


def test_as_many_requests_are_in_flight_as_allowed() -> None:
    async def run(endpoint: Endpoint) -> list[tuple[int, Any]]:
        endpoint.together = asyncio.Barrier(2)
        async with endpoint, model_server(endpoint.url, max_concurrent_requests=2) as app:
            return await asyncio.gather(*(post(app) for _ in range(12)))

    endpoint = Endpoint(responses=[response()])
    answers = asyncio.run(run(endpoint))
    assert {status for status, _ in answers} == {200}
    assert len(endpoint.asked) == 12
    assert endpoint.most_in_flight == 2


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"openai_base_url": "api.openai.com"}, "openai_base_url: should begin with http:// or https://"),
        ({"api": "completions"}, "api: should be 'auto', 'responses' or 'chat' (got 'completions')"),
        ({"max_retry": 3}, "there is no setting 'max_retry'; did you mean 'max_retries'?"),
        ({"max_concurrent_requests": 0}, "max_concurrent_requests: should be greater than or equal to 1"),
    ],
)
def test_a_wrong_setting_is_named(settings: Json, complaint: str) -> None:
    given = {"openai_base_url": "http://x", "openai_model": "m", "openai_api_key": KEY} | settings
    with pytest.raises(ConfigError) as caught:
        OpenAIModel.config_class().from_mapping(given, where="policy_model")
    assert complaint in str(caught.value)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
def test_the_base_url_is_taken_with_and_without_its_version(suffix: str) -> None:
    async def run(endpoint: Endpoint) -> int:
        async with endpoint, model_server(endpoint.url + suffix) as app:
            return (await post(app))[0]

    assert asyncio.run(run(Endpoint(responses=[response()]))) == 200


def served(endpoint: Endpoint, use: Callable[[openai.AsyncOpenAI], Any]) -> Any:
    """What `use` makes of the OpenAI SDK, talking over HTTP to a model server in front of the endpoint."""

    async def run() -> Any:
        async with endpoint, model_server(endpoint.url) as app:
            listener = socket.create_server(("127.0.0.1", 0))
            server = uvicorn.Server(uvicorn.Config(app, lifespan="off", ws="none", log_config=None))
            serving = asyncio.create_task(server.serve([listener]))
            url = "http://{}:{}/v1".format(*listener.getsockname())
            try:
                async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as sdk:
                    return await use(sdk)
            finally:
                server.should_exit = True
                await serving

    return asyncio.run(run())


def test_the_openai_sdk_reads_both_apis() -> None:
    async def use(sdk: openai.AsyncOpenAI) -> tuple[str, str | None]:
        answer = await sdk.responses.create(model="x", input="What is 2 + 2?")
        messages: Any = CHAT_QUESTION["messages"]
        whole = await sdk.chat.completions.create(model="x", messages=messages)
        return answer.output_text, whole.choices[0].message.content

    assert served(Endpoint(responses=[response()]), use) == ("4", "4")
    assert served(Endpoint(chat=[completion()]), use) == ("4", "4")


def test_the_openai_sdk_sees_a_refused_key_as_one() -> None:
    async def use(sdk: openai.AsyncOpenAI) -> str:
        with pytest.raises(openai.AuthenticationError) as caught:
            await sdk.responses.create(model="x", input="?")
        return str(caught.value)

    refusal = (401, {"error": {"message": f"no such key {KEY}"}})
    assert "no such key ***" in served(Endpoint(responses=[refusal]), use)


def test_a_rate_holds_requests_back_and_the_answer_says_for_how_long() -> None:
    """One a second: the first goes at once, the second a second after it."""
    start = time.monotonic()
    answers = ask_all(Endpoint(responses=[response()]), [(QUESTION, RESPONSES)] * 2, requests_per_minute=60)
    took_s = time.monotonic() - start
    first_s, second_s = (answer.get("_ng_queued_s", 0.0) for _, answer in answers)
    assert took_s >= 1 and first_s == 0
    assert second_s <= 1 and (second_s > 0 or took_s > 1.5)


def test_a_rate_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="tokens_per_minute: should be greater than 0"):
        ask(Endpoint(responses=[response()]), tokens_per_minute=0)


def test_how_often_the_provider_refused_and_the_queue_of_its_engine_are_told() -> None:
    endpoint = Endpoint(responses=[OVERLOADED, OVERLOADED, response()])
    endpoint.metrics = 'vllm:num_requests_waiting{model_name="m"} 5.0'
    before, answered, after = ask_all(endpoint, [({}, "/load"), (QUESTION, RESPONSES), ({}, "/load")])
    assert before == (200, {"throttled": 0, "queued": 5})
    assert answered[0] == 200
    assert after == (200, {"throttled": 2, "queued": 5})


def test_an_engine_that_tells_no_queue_is_asked_a_few_times() -> None:
    endpoint = Endpoint(responses=[response()])
    loads = ask_all(endpoint, [({}, "/load")] * 9)
    assert loads == [(200, {"throttled": 0, "queued": None})] * 9
    assert endpoint.metrics_asked == 5
