"""Requests with instructions that can be checked: IFEval's."""

from __future__ import annotations

from nemo_like.rewards import Score
from nemo_like.rewards.instruction_following import (
    GradingMode,
    InstructionTask,
    Strictness,
    instruction_following,
)
from nemo_like.server import ResourcesConfig, ResourcesServer
from nemo_like.types import Response


class Config(ResourcesConfig):
    """How an answer is graded where its row does not say."""

    grading_mode: GradingMode = "binary"
    """`binary`: 1.0 iff all instructions are followed; `fraction`: the share that is."""
    strictness: Strictness = "strict"
    """`strict`: the answer counts as it is; `loose`: without its first or last line or asterisks too."""


class InstructionFollowing(ResourcesServer[Config]):
    """Requests with one to three of IFEval's instructions."""

    async def verify(self, task: InstructionTask, response: Response) -> Score:
        """All instructions or the share that is followed, strictly or loosely; both are recorded."""
        options = {"grading_mode": self.config.grading_mode, "strictness": self.config.strictness}
        return await self.score(instruction_following, task, response, **options)
