"""The agent as its configuration composes it, with a scripted model."""

from __future__ import annotations

import asyncio
import json

from nemo_like.config import load
from nemo_like.supervisor import running
from nemo_like.types import Json

STACK = ["model=scripted", "env=arithmetic", "+config_paths=[agents/my_agent/configs/my_agent.yaml]"]


def rollout(*turns: str) -> Json:
    """The record of a rollout in which the model says `turns`."""

    async def main() -> Json:
        script = {"when": None, "text": turns[1]}
        rules = [{"when": {"contains": "only the final answer"}, "text": script["text"]}, turns[0]]
        params = {"input": "What is 2 + 2?", "metadata": {"script": json.dumps(rules)}}
        row = {"expected_answer": "4", "responses_create_params": params}
        async with running(load([*STACK, "in_process=true"])) as supervisor, supervisor.client() as client:
            return await client.post("arithmetic_my_agent", "/run", row, timeout_s=60)

    return asyncio.run(main())


def test_the_second_answer_counts_and_both_are_in_the_record() -> None:
    record = rollout("Two and two are 5", "4")
    assert record["reward"] == 1.0
    assert len(record["response"]["output"]) == 2
    assert rollout("4", "5")["reward"] == 0.0
