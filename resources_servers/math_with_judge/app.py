"""Mathematics: the boxed answer, by math-verify, and by a judge where that says no."""

from __future__ import annotations

from nemo_like.rewards.llm_judge import JudgeTask, llm_judge
from nemo_like.rewards.math import Convention, MathTask, math
from nemo_like.server import ResourcesConfig, ResourcesServer
from nemo_like.types import Json, Response


class MathWithJudgeConfig(ResourcesConfig):
    """Settings of `math_with_judge`."""

    convention: Convention = "last"
    """Which answer is read, and how: `last`, `trl` or `verl`."""
    should_use_judge: bool = False
    """Whether a model is asked where math-verify does not find the answer equal."""


class MathWithJudge(ResourcesServer[MathWithJudgeConfig]):
    """Mathematics with an answer in a box."""

    async def verify(self, task: MathTask, response: Response) -> Json:
        """1.0 iff the boxed answer equals the expected one, by math-verify or in the judge's eyes."""
        verdict = await self.score(math, task, response, convention=self.config.convention)
        verdict["library_reward"] = verdict["reward"]
        if verdict["reward"] == 1.0 or not self.config.should_use_judge:
            return verdict
        return verdict | await self.score(llm_judge, JudgeTask.model_validate(task.model_dump()), response)
