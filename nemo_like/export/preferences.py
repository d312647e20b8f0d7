"""Formats of pairs: two answers to one task, the first of which earned more.

Never equal in reward or in text, never a chosen side that was cut off; the furthest apart come first, and no
rollout stands on one side twice.
"""

from __future__ import annotations

from collections.abc import Iterator

from nemo_like.export.format import MESSAGES, as_text, task_format
from nemo_like.export.rollout import Rollout, Unfit
from nemo_like.export.selection import best_first
from nemo_like.export.settings import ExportConfig
from nemo_like.types import Json

SIDES = {"chosen": MESSAGES, "rejected": MESSAGES, "tools": "string"}
SCORES = {
    "chosen_score": "double",
    "rejected_score": "double",
    "task_key": "string",
    "chosen_index": "int64",
    "rejected_index": "int64",
}


@task_format("dpo", {"prompt": MESSAGES, **SIDES, **SCORES})
def dpo(group: list[Rollout], config: ExportConfig) -> Iterator[Json]:
    """A prompt and two completions of it: TRL's DPOTrainer, and ORPO, CPO and the like."""
    for chosen, rejected in pairs(group, config):
        sides = {"prompt": chosen.prompt, "chosen": chosen.completion, "rejected": rejected.completion}
        yield sides | _tools(chosen) | _scores(chosen, rejected)


@task_format("reward_pairs", {**SIDES, **SCORES})
def reward_pairs(group: list[Rollout], config: ExportConfig) -> Iterator[Json]:
    """Two whole conversations: TRL's RewardTrainer, open-instruct's reward model."""
    for chosen, rejected in pairs(group, config):
        sides = {
            "chosen": chosen.prompt + chosen.completion,
            "rejected": rejected.prompt + rejected.completion,
        }
        yield sides | _tools(chosen) | _scores(chosen, rejected)


@task_format(
    "nemo_rl_dpo",
    {
        "context": MESSAGES,
        "completions": [{"rank": "int64", "completion": MESSAGES}],
        "task_name": "string",
        **SCORES,
    },
)
def nemo_rl_dpo(group: list[Rollout], config: ExportConfig) -> Iterator[Json]:
    """A context and two ranked completions: NeMo RL's preference data, for DPO and reward models."""
    for chosen, rejected in pairs(group, config):
        ranked = [
            {"rank": rank, "completion": side.completion} for rank, side in enumerate((chosen, rejected))
        ]
        about = {"context": chosen.prompt, "completions": ranked, "task_name": chosen.agent or "rollouts"}
        yield about | _scores(chosen, rejected)


def pairs(group: list[Rollout], config: ExportConfig) -> list[tuple[Rollout, Rollout]]:
    """The pairs of a task, the furthest apart first, `pairs_per_task` at most.

    Raises:
        Unfit: there is none; the reason says why.
    """
    best = best_first(group)
    lowest = list(reversed(best))
    found: list[tuple[Rollout, Rollout]] = []
    used: set[int] = set()
    for chosen in best:
        if len(found) == config.pairs_per_task:
            break
        if chosen.truncated:
            continue
        for at, rejected in enumerate(lowest):
            if not _better(chosen, rejected, config.margin):
                break
            if at not in used and _differ(chosen, rejected):
                used.add(at)
                found.append((chosen, rejected))
                break
    if not found:
        raise Unfit(_why_none(group, config))
    return found


def _better(chosen: Rollout, rejected: Rollout, margin: float) -> bool:
    assert chosen.reward is not None and rejected.reward is not None
    return chosen.reward > rejected.reward and chosen.reward - rejected.reward >= margin


def _differ(chosen: Rollout, rejected: Rollout) -> bool:
    """Whether they answer the same prompt, which rollouts of two runs need not, in different words."""
    return chosen.answer_json != rejected.answer_json and chosen.prompt_json == rejected.prompt_json


def _why_none(group: list[Rollout], config: ExportConfig) -> str:
    rewards = {rollout.reward for rollout in group}
    if len(group) == 1:
        return "one rollout alone"
    if len(rewards) == 1:
        return "all rewards equal"
    scores = [reward for reward in rewards if reward is not None]
    if max(scores) - min(scores) < config.margin:
        return "rewards closer than the margin"
    return "no pair of different answers whose better one is whole"


def _tools(rollout: Rollout) -> Json:
    return {"tools": as_text(rollout.tools)} if rollout.tools else {}


def _scores(chosen: Rollout, rejected: Rollout) -> Json:
    return {
        "chosen_score": chosen.reward,
        "rejected_score": rejected.reward,
        "task_key": chosen.task_key,
        "chosen_index": chosen.rollout_index,
        "rejected_index": rejected.rollout_index,
    }
