"""Formats of groups, the rollouts of one task together: advantages, prompts, lists of responses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import stdev
from typing import Any, cast

from nemo_like.export.format import (
    MESSAGES,
    OBJECT,
    SCORE,
    as_text,
    score_of,
    task_format,
    truth_text,
    with_tools,
)
from nemo_like.export.rollout import Rollout
from nemo_like.export.settings import Advantage, ExportConfig
from nemo_like.types import Json

VERL_TASK = {
    "data_source": "string",
    "prompt": MESSAGES,
    "ability": "string",
    "reward_model": OBJECT,
    "extra_info": OBJECT,
    "agent_name": "string",
}
SOLVED = {"n": "int64", "mean_reward": "double", "success_rate": "double"}


@task_format(
    "grpo",
    {
        "prompt": MESSAGES,
        "completion": MESSAGES,
        "tools": "string",
        "advantage": "double",
        "group_size": "int64",
        **SCORE,
    },
)
def grpo(group: list[Rollout], config: ExportConfig) -> Iterator[Json]:
    """Groups with advantages, a row a rollout, those of a task side by side: GRPO, RLOO and kin, offline."""
    rewards = [rollout.reward or 0.0 for rollout in group]
    for rollout, advantage in zip(group, advantages(rewards, config.advantage), strict=True):
        row = with_tools({"prompt": rollout.prompt, "completion": rollout.completion}, rollout)
        yield row | {"advantage": advantage, "group_size": len(group)} | score_of(rollout)


@task_format(
    "prompts",
    {
        "prompt": MESSAGES,
        "tools": "string",
        "answer": "string",
        "task": "string",
        **SOLVED,
        "task_key": "string",
    },
)
def prompts(group: list[Rollout], config: ExportConfig) -> Iterator[Json]:
    """Tasks, one a row, with how often they were solved: TRL's GRPOTrainer and RLOOTrainer, online."""
    first = group[0]
    row = with_tools({"prompt": first.prompt}, first)
    about = {"answer": truth_text(first.expected), "task": as_text(first.task_fields)}
    yield row | about | _solved(group) | {"task_key": first.task_key}


@task_format("verl_rl", {**VERL_TASK, **SOLVED}, container="parquet")
def verl_rl(group: list[Rollout], config: ExportConfig) -> Iterator[Json]:
    """Tasks as verl's trainers read them, with how often they were solved: for training online."""
    yield verl_task(group[0], config) | _solved(group)


@task_format(
    "verl_responses", {**VERL_TASK, "responses": ["string"], "rewards": ["double"]}, container="parquet"
)
def verl_responses(group: list[Rollout], config: ExportConfig) -> Iterator[Json]:
    """Tasks with the list of their `responses`: what verl's main_eval reads."""
    responses = [rollout.answer for rollout in group]
    rewards = [rollout.reward for rollout in group]
    yield verl_task(group[0], config) | {"responses": responses, "rewards": rewards}


def advantages(rewards: Sequence[float], kind: Advantage) -> list[float]:
    """The advantages of a group.

    verl       (r - mean) / (std + 1e-6), n - 1; alone, the reward itself (`compute_grpo_outcome_advantage`)
    trl        (r - mean) / (std + 1e-4), n - 1; alone, 0 (`GRPOTrainer`, scale_rewards="group")
    dr_grpo    r - mean (arXiv:2503.20783)
    leave_one_out   r - mean of the others; alone, 0 (RLOO, arXiv:2402.14740)
    """
    n = len(rewards)
    mean = sum(rewards) / n
    if n == 1:
        return [rewards[0] / (1 + 1e-6)] if kind == "verl" else [0.0]
    if min(rewards) == max(rewards):
        # What a mean is off by in its last bit would otherwise be divided by next to nothing.
        return [0.0] * n
    if kind == "leave_one_out":
        return [(reward - mean) * n / (n - 1) for reward in rewards]
    scale = 1.0 if kind == "dr_grpo" else stdev(rewards) + (1e-6 if kind == "verl" else 1e-4)
    return [(reward - mean) / scale for reward in rewards]


def verl_task(rollout: Rollout, config: ExportConfig) -> Json:
    """A task in verl's columns; what it has of them itself stays as it is."""
    row = rollout.row
    model, extra = _object(row.get("reward_model")), _object(row.get("extra_info"))
    index = row.get("_ng_task_index")
    truth = rollout.expected
    others = {k: v for k, v in rollout.task_fields.items() if k not in VERL_TASK}
    named = {"agent_name": str(name)} if (name := row.get("agent_name")) else {}
    return named | {
        "data_source": config.data_source or str(row.get("data_source") or rollout.agent or "rollouts"),
        "prompt": rollout.prompt,
        "ability": str(row.get("ability") or ""),
        "reward_model": {"style": "rule", "ground_truth": "" if truth is None else truth} | model,
        "extra_info": {
            "index": index if isinstance(index, int) else 0,
            "task_key": rollout.task_key,
            "task": as_text(others),
        }
        | extra,
    }


def _solved(group: list[Rollout]) -> Json:
    n = len(group)
    mean = sum(rollout.reward or 0.0 for rollout in group) / n
    return {"n": n, "mean_reward": mean, "success_rate": sum(rollout.success for rollout in group) / n}


def _object(value: Any) -> Json:
    return cast(Json, value) if isinstance(value, dict) else {}
