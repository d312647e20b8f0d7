"""Short answers that can be written in many ways: a model judges whether two mean the same."""

from __future__ import annotations

from nemo_like.rewards.llm_judge import JudgeTask, llm_judge
from nemo_like.server import ResourcesConfig, ResourcesServer
from nemo_like.types import Json, Response


class EquivalenceLLMJudgeConfig(ResourcesConfig):
    """Settings of `equivalence_llm_judge`."""

    check_twice_swap: bool = True
    """Whether the judge is asked again with the answers the other way round, and has to agree with itself."""
    judge_prompt_template: str | None = None
    """What the judge is asked instead of the default; fields in braces: question, mark, a, b."""


class EquivalenceLLMJudge(ResourcesServer[EquivalenceLLMJudgeConfig]):
    """Short answers, judged by a model."""

    async def verify(self, task: JudgeTask, response: Response) -> Json:
        """1.0 iff the answer means the expected one; where both are the same text no judge is asked."""
        if response.text.strip() == str(task.expected_answer).strip():
            return {"reward": 1.0, "judge_evaluations": []}
        return await self.score(
            *(llm_judge, task, response),
            both_orders=self.config.check_twice_swap,
            prompt=self.config.judge_prompt_template,
        )
