"""The reward profile: what the rollouts of each task amount to, beside the task; a task at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean, median, stdev

from nemo_like.columns import CLOCKS, LARGEST
from nemo_like.plan import Plan
from nemo_like.types import Json, Scored


def reward_profile(plan: Plan) -> Iterator[Json]:
    """A row a task, in the order of the input, those without a rollout too.

    `mean/ max/ min/ median/ std/` of every number its rollouts have (`std` with n - 1, null for one), how
    many rollouts there are, were to be and are missing, and the task's row as `sample`.
    """
    for job, expected, rollouts in plan.groups():
        yield {
            "sample": plan.task(job),
            "agent_ref": {"name": rollouts[0].agent if rollouts else job.agent},
            "_ng_task_key": job.task_key,
            "_ng_task_index": job.task_index,
            **counts(expected, rollouts),
            **fields(rollouts),
            "rollout_infos": [info(rollout) for rollout in rollouts],
        }


def counts(expected: int, rollouts: Sequence[Scored]) -> Json:
    """How many rollouts a task has, was to have and lacks."""
    return {
        "num_rollouts": len(rollouts),
        "expected_num_rollouts": expected,
        "missing_num_rollouts": max(0, expected - len(rollouts)),
        "reward_profile_completion_pct": 100 * min(1.0, len(rollouts) / expected),
    }


def fields(rollouts: Sequence[Scored]) -> Json:
    """The five figures of every number, over the rollouts that have it."""
    columns: dict[str, list[float]] = {}
    for rollout in rollouts:
        for path, value in measured(rollout.numbers).items():
            columns.setdefault(path, []).append(value)
    profile: Json = {}
    for path, values in sorted(
        columns.items(), key=lambda item: (item[0] != "reward", "/" in item[0], item[0])
    ):
        profile |= {
            f"mean/{path}": fmean(values),
            f"max/{path}": max(values),
            f"min/{path}": min(values),
            f"median/{path}": median(values),
            f"std/{path}": stdev(values) if len(values) > 1 else None,
        }
    return profile


def info(rollout: Scored) -> Json:
    """One rollout in a line: which it is, whether it was a success, and the verifier's numbers."""
    own = {path: value for path, value in measured(rollout.numbers).items() if "/" not in path}
    return {"_ng_rollout_index": rollout.rollout_index, "success": rollout.success, **own}


def measured(numbers: Mapping[str, float | None]) -> dict[str, float]:
    """The numbers that are measurements, as the metrics have it."""
    return {
        path: value
        for path, value in numbers.items()
        if path not in CLOCKS and value is not None and -LARGEST <= value <= LARGEST
    }
