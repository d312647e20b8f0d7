"""Puzzles of the reasoning-gym package, scored by the package."""

from __future__ import annotations

from nemo_like.rewards.reasoning_gym import ReasoningGymTask, reasoning_gym
from nemo_like.rewards.reward import Score
from nemo_like.server import ResourcesConfig, ResourcesServer
from nemo_like.types import Response


class ReasoningGymConfig(ResourcesConfig):
    """Settings of reasoning-gym."""

    partial_credit: bool = True
    """Whether an answer that is nearly right earns what the package gives for it; false makes it 0 or 1."""


class ReasoningGym(ResourcesServer[ReasoningGymConfig]):
    """Puzzles of many kinds."""

    async def verify(self, task: ReasoningGymTask, response: Response) -> Score:
        """What the scorer of the puzzle's data set gives."""
        return await self.score(reasoning_gym, task, response, partial_credit=self.config.partial_credit)
