"""The simple agent: model, tools, model, … until the model answers."""

from __future__ import annotations

import asyncio
import time
from typing import Any, cast

from pydantic import Field

from nemo_like.errors import PartError
from nemo_like.server import AgentConfig, AgentServer, Calls
from nemo_like.types import Json

TOOLS_AT_ONCE = 32


class SimpleAgentConfig(AgentConfig):
    """Settings of the simple agent."""

    max_steps: int = Field(50, ge=1)
    """Model calls in one rollout; after the last one the rollout is verified as it is, marked incomplete."""


class SimpleAgent(AgentServer[SimpleAgentConfig]):
    """Calls the model, runs the tools it asks for, and shows it their results, until a turn holds no tool
    call.

    It also stops at an incomplete turn, a refusal, a turn of reasoning alone, and where the conversation no
    longer fits the model: a truncation, which is verified like any other answer.
    """

    async def responses(self, params: Json, calls: Calls) -> Json:
        """The trajectory: the last response, with the output items of every step and the usage of all."""
        history = as_items(params.get("input"))
        trajectory, usage = list[Json](), Json()
        response: Json = {"object": "response"}
        for _ in range(self.config.max_steps):
            try:
                response = await calls.model(params | {"input": history + trajectory})
            except PartError as error:
                if error.kind != "context_overflow":
                    raise
                return finished(response, trajectory, usage, cut_off=True)
            turn = cast(list[Json], response["output"])
            trajectory += turn
            usage = added(usage, response.get("usage"))
            asked = [item for item in turn if item.get("type") == "function_call"]
            if response.get("status") == "incomplete" or not asked:
                return finished(response, trajectory, usage)
            trajectory += await self._run_tools(
                asked, calls, at_once=params.get("parallel_tool_calls") is not False
            )
        return finished(response, trajectory, usage, cut_off=True)

    async def _run_tools(self, asked: list[Json], calls: Calls, *, at_once: bool) -> list[Json]:
        """The outputs, in the order of the calls."""
        if not at_once:
            return [await calls.tool(call) for call in asked]
        start, before = time.perf_counter(), calls.tools_s
        free = asyncio.Semaphore(TOOLS_AT_ONCE)

        async def run(call: Json) -> Json:
            async with free:
                return await calls.tool(call)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(run(call)) for call in asked]
        # They ran side by side: what counts is how long that took.
        calls.tools_s = before + time.perf_counter() - start
        return [task.result() for task in tasks]


def finished(response: Json, trajectory: list[Json], usage: Json, *, cut_off: bool = False) -> Json:
    """`response` with the whole trajectory as its output; `cut_off` marks it incomplete."""
    whole = response | {"output": trajectory, "usage": usage or None}
    if cut_off:
        whole |= {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
    return whole


def as_items(given: Any) -> list[Json]:
    """The `input` of a request as items: a string is one user message."""
    return (
        [{"role": "user", "content": given}]
        if isinstance(given, str)
        else list(cast(list[Json], given or []))
    )


def added(total: Json, usage: Any) -> Json:
    """Token counts summed, their details too."""
    total = dict(total)
    for key, value in cast(Json, usage or {}).items():
        if isinstance(value, dict):
            total[key] = added(total.get(key) or {}, value)
        elif isinstance(value, int | float):
            total[key] = total.get(key, 0) + value
    return total
