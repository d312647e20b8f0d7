"""The environment as a taskset of verifiers."""

# No postponed annotations: verifiers and pydantic read them.
from typing import Any

import verifiers.v1 as vf

from word_count.tasks import WEIGHTS, score, tasks


class WordCountData(vf.TaskData):
    """A task: what is asked, and the truth."""

    answer: str
    info: dict[str, Any]


class WordCountTask(vf.Task[WordCountData]):
    """Three rewards, weighted as nemo-like weights them."""

    @vf.reward(weight=WEIGHTS["exact_match_reward"])
    async def exact_match_reward(self, trace: vf.Trace) -> float:
        """1 iff the count is right."""
        return score(self.data.answer, trace.last_reply)["exact_match_reward"]

    @vf.reward(weight=WEIGHTS["format_reward"])
    async def format_reward(self, trace: vf.Trace) -> float:
        """1 iff there is exactly one `<word_count>N</word_count>`."""
        return score(self.data.answer, trace.last_reply)["format_reward"]

    @vf.reward(weight=WEIGHTS["partial_credit_reward"])
    async def partial_credit_reward(self, trace: vf.Trace) -> float:
        """max(0, 1 - |count - truth| / truth)."""
        return score(self.data.answer, trace.last_reply)["partial_credit_reward"]

    async def validate(self, runtime: vf.Runtime) -> bool:
        """Whether the truth, as it should be written, earns everything."""
        return score(self.data.answer, f"<word_count>{self.data.answer}</word_count>")["reward"] == 1.3


class WordCountConfig(vf.TasksetConfig):
    """What can be set under `--env.taskset`."""

    num_tasks: int = 100
    """How many tasks."""
    seed: int = 0
    """The same seed makes the same tasks."""
    worked_examples: bool = True
    """Whether three questions with their answers go before each question."""


class WordCountTaskset(vf.Taskset[WordCountTask, WordCountConfig]):
    """Short texts whose words are to be counted."""

    def load(self) -> list[WordCountTask]:
        """The tasks, as many as are configured."""
        made = tasks(self.config.num_tasks, self.config.seed, worked_examples=self.config.worked_examples)
        return [
            WordCountTask(
                WordCountData(prompt=task["messages"], answer=task["answer"], info=task["info"]),
                self.config.task,
            )
            for task in made
        ]
