"""What people write on top of the base classes, called through the whole ASGI path."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest

from nemo_like.asgi import call_app
from nemo_like.client import ROLLOUT_HEADER, Client
from nemo_like.errors import PartError, from_wire
from nemo_like.server import (
    AgentConfig,
    AgentServer,
    Calls,
    ModelConfig,
    ModelServer,
    ResourcesConfig,
    ResourcesServer,
    Server,
    tool,
)
from nemo_like.types import Json, Response, Task


class CounterTask(Task):
    initial_count: int = 0
    expected_count: int


class State:
    def __init__(self, count: int) -> None:
        self.count = count


class CounterConfig(ResourcesConfig):
    step: int = 1
    """How far one increment goes."""


class Counter(ResourcesServer[CounterConfig]):
    async def seed(self, task: CounterTask) -> State:
        return State(task.initial_count)

    @tool
    async def increment(self, state: State, times: int = 1) -> Json:
        """Add to the counter."""
        before = state.count
        await asyncio.sleep(0)
        state.count = before + times * self.config.step
        return {"count": state.count}

    @tool
    def in_thread(self) -> str:
        """Say where this runs."""
        return threading.current_thread().name

    @tool
    async def fail(self) -> None:
        """Always fail."""
        raise ValueError("no such city: Atlantis")

    @tool
    async def hang(self) -> None:
        """Never answer."""
        await asyncio.Event().wait()

    async def verify(self, task: CounterTask, response: Response, state: State) -> Json:
        right = state.count == task.expected_count
        return {"reward": right, "count": state.count, "said": response.text}


def message(text: str) -> Json:
    return {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]}


def counter(**settings: Any) -> Counter:
    return Counter(CounterConfig(**settings), name="counter", client=Client({}))


def post(server: Server[Any], *calls: tuple[str, Json], rollout: str = "r1") -> list[Any]:
    """The answers to POSTs of one rollout, one after the other; an error as a PartError."""
    app = server.app()

    async def run() -> list[Any]:
        answers: list[Any] = []
        for path, body in calls:
            status, answer = await call_app(app, path, orjson.dumps(body), {ROLLOUT_HEADER: rollout})
            answers.append(orjson.loads(answer) if status < 400 else from_wire(status, answer, where="?"))
        return answers

    return asyncio.run(run())


TASK = {"responses_create_params": {"input": "?"}, "initial_count": 3, "expected_count": 6, "other": [1]}


def test_a_session_keeps_its_state_until_the_verdict() -> None:
    response = {"output": [message("six")]}
    _, one, two, verdict, after = post(
        counter(),
        ("/seed_session", TASK),
        ("/increment", {}),
        ("/increment", {"times": 2}),
        ("/verify", TASK | {"response": response}),
        ("/increment", {}),
    )
    assert (one, two) == ({"count": 4}, {"count": 6})
    assert verdict.pop("_ng_verifier").startswith("counter@")
    assert verdict == TASK | {"response": response, "reward": 1.0, "count": 6, "said": "six"}
    assert after.kind == "session_lost"


def test_a_session_that_is_never_verified_is_freed_by_age() -> None:
    server = counter(session_ttl_s=0.0)
    for number in range(5):
        post(server, ("/seed_session", TASK), rollout=f"r{number}")
    assert len(server._sessions) == 1


def test_calls_of_one_session_that_touch_its_state_run_one_at_a_time() -> None:
    server = counter()
    app = server.app()

    async def run() -> bytes:
        headers = {ROLLOUT_HEADER: "r"}
        await call_app(app, "/seed_session", orjson.dumps(TASK), headers)
        async with asyncio.TaskGroup() as group:
            for _ in range(50):
                group.create_task(call_app(app, "/increment", b"{}", headers))
        return (await call_app(app, "/increment", b"{}", headers))[1]

    assert orjson.loads(asyncio.run(run())) == {"count": 3 + 51}


def test_settings_are_those_the_class_was_declared_with() -> None:
    assert Counter.config_class() is CounterConfig
    _, answer = post(counter(step=5), ("/seed_session", TASK), ("/increment", {}))
    assert answer == {"count": 8}


def test_a_plain_def_runs_in_a_thread() -> None:
    [name] = post(counter(), ("/in_thread", {}))
    assert name != threading.main_thread().name


def test_tools_are_defined_by_their_signature_and_docstring() -> None:
    [definition] = [tool for tool in Counter.tools() if tool["name"] == "increment"]
    assert definition == {
        "type": "function",
        "name": "increment",
        "description": "Add to the counter.",
        "parameters": {
            "type": "object",
            "properties": {"times": {"default": 1, "type": "integer"}},
            "required": [],
            "additionalProperties": False,
        },
        "strict": False,
    }


@pytest.mark.parametrize(
    ("path", "body", "kind", "words"),
    [
        ("/increment", {"times": "many"}, "bad_arguments", "increment: times: should be a valid integer"),
        ("/increment", {"time": 1}, "bad_arguments", "there is no parameter 'time'; did you mean 'times'?"),
        ("/fail", {}, "tool_error", "ValueError: no such city: Atlantis"),
        ("/hang", {}, "timeout", "a deadline passed"),
        ("/increment", {}, "session_lost", "no session 'r1'"),
        ("/seed_session", {"responses_create_params": {}}, "bad_request", "expected_count is required"),
        ("/verify", TASK, "bad_request", "there is no 'response' to verify"),
    ],
)
def test_what_goes_wrong_has_a_name_and_a_place(path: str, body: Json, kind: str, words: str) -> None:
    [error] = post(counter(tool_timeout_s=0.05), (path, body))
    assert error.kind == kind
    assert words in error.message
    assert error.where.startswith("counter")


def test_a_body_that_is_no_json_object_is_a_bad_request() -> None:
    app = counter().app()
    status, answer = asyncio.run(call_app(app, "/verify", b"[1", {}))
    assert (status, from_wire(status, answer, where="").kind) == (400, "bad_request")


@pytest.mark.parametrize("verdict", [None, "1", float("nan"), float("inf"), {}, {"reward": None}])
def test_a_verdict_without_a_finite_reward_is_the_verifiers_error(verdict: Any) -> None:
    class Odd(ResourcesServer):
        async def verify(self, task: Task, response: Response) -> Any:
            return verdict

    server = Odd(ResourcesConfig(), name="odd", client=Client({}))
    [error] = post(server, ("/verify", {"responses_create_params": {}, "response": {"output": []}}))
    assert (error.kind, error.where) == ("verifier_error", "odd")


class Parrot(ModelServer[ModelConfig]):
    """Speaks Chat Completions only."""

    async def chat_completions(self, body: Json) -> Json:
        said = body["messages"][-1]["content"]
        choice = {"index": 0, "message": {"role": "assistant", "content": said}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
        return {
            "id": "c",
            "object": "chat.completion",
            "created": 1,
            "model": "p",
            "choices": [choice],
            "usage": usage,
        }


def test_a_model_server_that_speaks_one_api_answers_the_other() -> None:
    server = Parrot(ModelConfig(), name="parrot", client=Client({}))
    [response] = post(server, ("/v1/responses", {"input": "hello"}))
    assert Response.model_validate(response).text == "hello"
    assert response["usage"]["output_tokens"] == 2


class OneShot(AgentServer[AgentConfig]):
    """One model call, no tools."""

    async def responses(self, params: Json, calls: Calls) -> Json:
        return await calls.model(params)


@asynccontextmanager
async def together(*servers: type[Server[Any]], **settings: Json) -> AsyncGenerator[Client]:
    """Servers in this process, wired as a worker does it."""
    apps: dict[str, Any] = {}
    async with Client({}, apps) as client:
        for cls in servers:
            name = cls.__name__.lower()
            config = cls.config_class().model_validate(settings.get(name, {}))
            apps[name] = cls(config, name=name, client=client).app()
        yield client


REFS: Json = {
    "resources_server": {"type": "resources_servers", "name": "counter"},
    "model_server": {"type": "responses_api_models", "name": "parrot"},
}


def test_an_agent_seeds_answers_and_verifies() -> None:
    async def run() -> Json:
        async with together(Counter, Parrot, OneShot, oneshot=REFS) as client:
            return await client.post("oneshot", "/run", TASK | {"expected_count": 3}, timeout_s=5)

    row = asyncio.run(run())
    assert (row["reward"], row["said"], row["other"]) == (1.0, "?", [1])
    assert set(row["metadata"]) == {"model_s", "tools_s", "verify_s"}


def test_a_rollout_that_takes_too_long_is_a_timeout_of_its_agent() -> None:
    class Sleepy(Parrot):
        async def chat_completions(self, body: Json) -> Json:
            await asyncio.Event().wait()
            return body

    async def run() -> None:
        settings = REFS | {"rollout_timeout_s": 0.05, "model_server": {"type": "x", "name": "sleepy"}}
        async with together(Counter, Sleepy, OneShot, oneshot=settings) as client:
            await client.post("oneshot", "/run", TASK, timeout_s=5)

    start = time.monotonic()
    with pytest.raises(PartError) as caught:
        asyncio.run(run())
    assert (caught.value.kind, caught.value.where) == ("timeout", "oneshot")
    assert time.monotonic() - start < 2


def test_an_error_three_servers_away_still_says_who_failed() -> None:
    class Refused(Parrot):
        async def chat_completions(self, body: Json) -> Json:
            raise PartError("unauthorized", "bad key", where="https://api.example/v1", status=403)

    async def run() -> None:
        settings = REFS | {"model_server": {"type": "x", "name": "refused"}}
        async with together(Counter, Refused, OneShot, oneshot=settings) as client:
            await client.post("oneshot", "/run", TASK, timeout_s=5)

    with pytest.raises(PartError) as caught:
        asyncio.run(run())
    error = caught.value
    assert (error.kind, error.where, error.status) == ("unauthorized", "https://api.example/v1", 403)


def test_health_says_which_instance_answers_and_metrics_count() -> None:
    server = counter()
    app = server.app()

    async def get(path: str) -> bytes:
        parts: list[bytes] = []

        async def send(message: Json) -> None:
            parts.append(message.get("body", b""))

        async def receive() -> Json:
            return {"type": "http.request", "body": b""}

        scope = {"type": "http", "method": "GET", "path": path, "query_string": b"", "headers": []}
        await app(scope, receive, send)  # type: ignore[arg-type]
        return b"".join(parts)

    post(server, ("/fail", {}))
    assert orjson.loads(asyncio.run(get("/health"))) == {
        "instance": "counter",
        "kind": "resources_servers",
        "state": "starting",
    }
    assert b'nemo_like_errors_total{kind="tool_error",path="/fail",server="counter"} 1.0' in asyncio.run(
        get("/metrics")
    )
