"""verl's `default_compute_score`: a data set's own scoring rule, by its `data_source`.

    from nemo_like.rewards.verl import default_compute_score
    default_compute_score("openai/gsm8k", "… #### 72", "72")["score"]      # 1.0

The same import line serves scripts written for `verl.utils.reward_score`.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from nemo_like import pool
from nemo_like.errors import UsageError
from nemo_like.rewards.reward import reward
from nemo_like.rewards.verl_rules import Score, route
from nemo_like.types import Json, Response, Task

TIMEOUT_S = 120.0
"""Ten tests of a program may take so long."""


class RewardModel(BaseModel):
    """Where verl's data keeps the ground truth."""

    model_config = ConfigDict(extra="allow")

    ground_truth: Any


class VerlTask(Task):
    """A row of verl's training data."""

    data_source: str
    reward_model: RewardModel
    extra_info: Json | None = None


def default_compute_score(
    data_source: str,
    solution_str: str | None = None,
    ground_truth: Any = None,
    extra_info: Json | None = None,
    *,
    solution: str | None = None,
    timeout_s: float = TIMEOUT_S,
    **_: Any,
) -> Score:
    """The score of an answer (`solution_str` or `solution`) by the rule of its data set.

    A float that can also be asked for `["score"]` and whatever else the rule says. Rules that need more than
    reading (mathematics, programs) run in a process that is killed after `timeout_s`. Arguments that only
    verl's own sandboxes need are taken and not used.

    Raises:
        UsageError: no rule is known for `data_source`, or there is no answer among the arguments.
        PartError: the rule failed (`verifier_error`) or took too long (`timeout`), which is not a score of 0.
    """
    text = solution if solution_str is None else solution_str
    if text is None:
        raise UsageError("default_compute_score needs solution_str (or solution)")
    scorer, runs = route(data_source)
    if runs == "inline":
        return Score.of(scorer(text, ground_truth, dict(extra_info or {})))

    async def in_pool() -> float | Json:
        arguments = (data_source, text, ground_truth, dict(extra_info or {}))
        return await pool.shared().run(f"{__name__}:apply_rule", *arguments, timeout_s=timeout_s)

    return Score.of(pool.wait_for(in_pool()))


def apply_rule(data_source: str, solution: str, ground_truth: Any, extra_info: Json) -> float | Json:
    """What the rule of `data_source` answers, in this process."""
    scorer, _ = route(data_source)
    return scorer(solution, ground_truth, extra_info)


def _inline(task: VerlTask, response: Response) -> Json | None:
    return _verdict(task, response) if route(task.data_source)[1] == "inline" else None


@reward("verl", runs="pool", shortcut=_inline)
def verl(task: VerlTask, response: Response) -> Json:
    """The score by the rule of the row's `data_source`, against `reward_model.ground_truth`."""
    return _verdict(task, response)


def _verdict(task: VerlTask, response: Response) -> Json:
    ground_truth = task.reward_model.ground_truth
    verdict = apply_rule(task.data_source, response.text, ground_truth, dict(task.extra_info or {}))
    fields = verdict if isinstance(verdict, dict) else {"score": verdict}
    return {"reward": fields["score"]} | {name: value for name, value in fields.items() if name != "score"}
