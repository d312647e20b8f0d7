"""The simple agent: how it goes on, and everything at which it stops."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from nemo_like.client import Client, rollout_id
from nemo_like.errors import PartError
from nemo_like.registry import load_file
from nemo_like.server import ResourcesConfig, ResourcesServer, tool
from nemo_like.types import Json, Response, Task

ROOT = Path(__file__).parents[2]
SIMPLE = load_file(ROOT / "agents/simple_agent/app.py")
SCRIPTED = load_file(ROOT / "responses_api_models/scripted_model/app.py")


class Desk(ResourcesServer):
    """Tools that notice how they are called."""

    running = 0
    most = 0

    @tool
    async def work(self, n: int) -> Json:
        """Take a moment."""
        Desk.running += 1
        Desk.most = max(Desk.most, Desk.running)
        await asyncio.sleep(0.02)
        Desk.running -= 1
        return {"n": n}

    @tool
    async def fail(self) -> None:
        """Fail."""
        raise ValueError("the desk is closed")

    @tool
    async def hang(self) -> None:
        """Never answer."""
        await asyncio.Event().wait()

    @tool
    async def say(self) -> str:
        """Answer with text."""
        return "plain words"

    async def verify(self, task: Task, response: Response) -> Json:
        return {"reward": 1.0, "text": response.text}


@asynccontextmanager
async def stack(script: list[Any], **settings: Any) -> AsyncGenerator[Client]:
    apps: dict[str, Any] = {}
    references = {
        "resources_server": {"type": "resources_servers", "name": "desk"},
        "model_server": {"type": "responses_api_models", "name": "model"},
    }
    async with Client({}, apps) as client:
        apps["desk"] = Desk(ResourcesConfig(tool_timeout_s=0.2), name="desk", client=client).app()
        scripted = SCRIPTED.ScriptedConfig.model_validate({"script": script})
        apps["model"] = SCRIPTED.ScriptedModel(scripted, name="model", client=client).app()
        config = SIMPLE.SimpleAgentConfig.model_validate(references | settings)
        apps["agent"] = SIMPLE.SimpleAgent(config, name="agent", client=client).app()
        yield client


def run(script: list[Any], params: Json | None = None, **settings: Any) -> Json:
    """The record of a rollout in which the model plays `script`."""

    async def main() -> Json:
        rollout_id.set("r1")
        task = {"responses_create_params": {"input": "?", "tools": Desk.tools()} | (params or {})}
        async with stack(script, **settings) as client:
            return await client.post("agent", "/run", task, timeout_s=20)

    return asyncio.run(main())


def calls(*names: str, **arguments: Any) -> Json:
    return {"tool_calls": [{"name": name, "arguments": arguments} for name in names]}


def outputs(row: Json) -> list[str]:
    return [item["output"] for item in row["response"]["output"] if item["type"] == "function_call_output"]


def test_it_runs_tools_until_the_model_answers() -> None:
    row = run([calls("work", n=1), calls("say"), "done"])
    kinds = [item["type"] for item in row["response"]["output"]]
    assert kinds == ["function_call", "function_call_output"] * 2 + ["message"]
    assert outputs(row) == ['{"n":1}', "plain words"]
    assert row["text"] == "done"
    assert row["response"]["status"] == "completed"


def test_usage_is_summed_over_the_steps() -> None:
    usage = {
        "input_tokens": 10,
        "output_tokens": 5,
        "total_tokens": 15,
        "input_tokens_details": {"cached_tokens": 2},
    }
    row = run([calls("work", n=1) | {"usage": usage}, {"text": "done", "usage": usage}])
    summed = row["response"]["usage"]
    assert (summed["input_tokens"], summed["output_tokens"], summed["total_tokens"]) == (20, 10, 30)
    assert summed["input_tokens_details"]["cached_tokens"] == 4


@pytest.mark.parametrize(("allowed", "most"), [(None, 5), (True, 5), (False, 1)])
def test_the_calls_of_one_turn_run_side_by_side_where_the_request_allows_it(
    allowed: bool | None, most: int
) -> None:
    Desk.most = 0
    params = {} if allowed is None else {"parallel_tool_calls": allowed}
    turn = {"tool_calls": [{"name": "work", "arguments": {"n": n}} for n in range(5)]}
    row = run([turn, "done"], params)
    assert Desk.most == most
    assert outputs(row) == [f'{{"n":{n}}}' for n in range(5)]


@pytest.mark.parametrize(
    ("call", "shown"),
    [
        (
            {"name": "work", "arguments": "{not json"},
            "the arguments of work are not a JSON object: {not json",
        ),
        ({"name": "work", "arguments": "[1]"}, "the arguments of work are not a JSON object: [1]"),
        ({"name": "work", "arguments": {}}, "work: n is required"),
        ({"name": "work", "arguments": {"n": "x"}}, "work: n: should be a valid integer"),
        ({"name": "wrok", "arguments": {}}, "there is no tool 'wrok'; did you mean 'work'?"),
        ({"name": "fail", "arguments": {}}, "ValueError: the desk is closed"),
        ({"name": "hang", "arguments": {}}, "a deadline passed"),
    ],
)
def test_a_call_that_goes_wrong_is_shown_to_the_model(call: Json, shown: str) -> None:
    row = run([{"tool_calls": [call]}, "I see"])
    assert shown in outputs(row)[0]
    assert row["text"] == "I see"


@pytest.mark.parametrize("endpoint", ["verify", "seed_session", "health", "metrics", "../verify"])
def test_only_declared_tools_are_called(endpoint: str) -> None:
    row = run([calls(endpoint), "so be it"], {"tools": Desk.tools()[:1]})
    assert f"there is no tool '{endpoint}'" in outputs(row)[0]


def test_a_tool_that_exists_but_is_not_declared_is_not_called() -> None:
    row = run([calls("say"), "so be it"], {"tools": Desk.tools()[:1]})
    assert "there is no tool 'say'" in outputs(row)[0]


@pytest.mark.parametrize(
    ("turn", "status"),
    [
        ({"text": "cut o", "incomplete": "max_output_tokens"}, "incomplete"),
        (calls("work", n=1) | {"incomplete": "max_output_tokens"}, "incomplete"),
        ({"refusal": "I would rather not"}, "completed"),
        ({"reasoning": "hm"}, "completed"),
    ],
)
def test_it_stops_and_verifies_at_a_turn_that_leads_nowhere(turn: Json, status: str) -> None:
    row = run([turn, "never asked for"])
    assert row["reward"] == 1.0
    assert row["response"]["status"] == status
    assert outputs(row) == []


def test_the_step_limit_ends_a_model_that_never_answers() -> None:
    row = run([{"when": {"contains": "?"}, **calls("work", n=1)}], max_steps=3)
    assert len(outputs(row)) == 3
    assert row["response"]["status"] == "incomplete"
    assert row["reward"] == 1.0


@pytest.mark.parametrize("steps", [0, 2])
def test_a_conversation_that_no_longer_fits_is_a_truncation(steps: int) -> None:
    overflow = {"fail": {"status": 400, "message": "maximum context length is 4096 tokens"}}
    row = run([*[calls("work", n=1)] * steps, overflow])
    assert len(outputs(row)) == steps
    assert row["response"]["status"] == "incomplete"
    assert row["response"]["incomplete_details"] == {"reason": "max_output_tokens"}
    assert row["reward"] == 1.0


def test_a_models_failure_is_the_rollouts_failure() -> None:
    with pytest.raises(PartError) as caught:
        run([{"fail": {"status": 401, "message": "wrong key"}}])
    assert (caught.value.kind, caught.value.where, caught.value.status) == ("unauthorized", "model", 401)


def test_a_rollout_ends_at_its_deadline() -> None:
    start = time.monotonic()
    with pytest.raises(PartError) as caught:
        run([{"text": "late", "stall_s": 60}], rollout_timeout_s=0.1)
    assert (caught.value.kind, caught.value.where) == ("timeout", "agent")
    assert time.monotonic() - start < 10
