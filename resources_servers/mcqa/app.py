"""Questions with lettered options; the letter in the answer is the answer."""

from __future__ import annotations

from nemo_like.rewards.mcqa import GradingMode, McqaTask, mcqa
from nemo_like.rewards.reward import Score
from nemo_like.server import ResourcesConfig, ResourcesServer
from nemo_like.types import Response


class McqaConfig(ResourcesConfig):
    """Settings of multiple choice."""

    grading_mode: GradingMode = "strict_single_letter_boxed"
    """How an answer is read where its row does not say so."""


class Mcqa(ResourcesServer[McqaConfig]):
    """Questions with lettered options."""

    async def verify(self, task: McqaTask, response: Response) -> Score:
        """1.0 iff the answer names the right option's letter."""
        return await self.score(mcqa, task, response, grading_mode=self.config.grading_mode)
