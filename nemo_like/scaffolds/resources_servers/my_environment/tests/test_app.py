"""The environment as its configuration composes it: what earns the reward, and what does not."""

from __future__ import annotations

import asyncio

from nemo_like.probes import Outcome, trial
from nemo_like.supervisor import running


def test_the_gold_is_rewarded_and_no_hack_is() -> None:
    async def main() -> list[Outcome]:
        tried = trial("my_environment", ["in_process=true"], num_generated=20)
        async with running(tried.config) as supervisor, supervisor.client() as client:
            return await tried.run(client)

    outcomes = asyncio.run(main())
    assert outcomes
    assert [outcome.problem for outcome in outcomes if outcome.problem] == []
