"""Reward functions of every form, each applied where it may run; several of them as a rubric."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from nemo_like.errors import ConfigError, PartError, UsageError
from nemo_like.rewards.forms import as_verdict, find
from nemo_like.rewards.scoring import Component, Rubric, Scorer
from nemo_like.types import Json, Response, Task

FUNCTIONS = """
import asyncio, os
from nemo_like.types import Task

class MyTask(Task):
    limit: int

def ours(task, response):
    return len(response.text) <= task.limit

def ours_typed(task: MyTask, response, *, bonus: float = 0.0):
    return {"reward": float(len(response.text) <= task.limit) + bonus, "length": len(response.text)}

async def ours_async(task, response):
    await asyncio.sleep(0)
    return {"score": 0.25, "acc": True}

def compute_score(data_source, solution_str, ground_truth, extra_info=None, **kwargs):
    extra_info["seen"] = True
    right = solution_str == ground_truth and data_source == "mine"
    return {"score": float(right), "acc": right, "pred": solution_str, "kwargs": kwargs}

def compute_score_plain(data_source, solution_str, ground_truth):
    return solution_str == ground_truth

def compute_score_batched(data_sources, solution_strs, ground_truths, extra_infos, **kwargs):
    return [float(s == g) for s, g in zip(solution_strs, ground_truths)]

def trl(completions, limit, **kwargs):
    texts = [c[0]["content"] if isinstance(c, list) else c for c in completions]
    return [float(len(text) <= most) for text, most in zip(texts, limit)]

def trl_only_what_it_names(prompts, completions):
    return [1.0 if p[-1]["content"] == "?" else 0.0 for p in prompts]

def not_scored(task, response):
    return None

def number_like(task, response):
    class Scalar:
        def item(self): return 0.5
    return Scalar()

def nonsense(task, response): return "good"
def no_reward(task, response): return {"acc": 1}
def boom(task, response): raise ValueError("as asked")
def exits(task, response): os._exit(1)
def takes_nothing(): return 1.0
NOT_A_FUNCTION = 1
"""
ROW: Json = {
    "responses_create_params": {"input": [{"role": "user", "content": "?"}]},
    "data_source": "mine",
    "reward_model": {"style": "rule", "ground_truth": "four"},
    "extra_info": {"index": 7},
    "limit": 4,
}


@pytest.fixture
def functions(tmp_path: Path) -> str:
    (tmp_path / "mine.py").write_text(FUNCTIONS)
    return f"{tmp_path}/mine.py"


def answer(text: str) -> Response:
    return Response(output=[{"type": "message", "role": "assistant", "content": text}])


def apply(function: Any, row: Json = ROW, text: str = "four", **options: Any) -> Json:
    async def main() -> Json:
        return await Scorer(timeout_s=20)(find(function), row, answer(text), **options)

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("name", "text", "verdict"),
    [
        ("ours", "four", {"reward": 1.0}),
        ("ours", "fourteen", {"reward": 0.0}),
        ("ours_typed", "four", {"reward": 1.0, "length": 4}),
        ("ours_async", "", {"reward": 0.25, "acc": True}),
        ("compute_score", "four", {"reward": 1.0, "acc": True, "pred": "four", "kwargs": {}}),
        ("compute_score", "five", {"reward": 0.0, "acc": False, "pred": "five", "kwargs": {}}),
        ("compute_score_plain", "four", {"reward": 1.0}),
        ("compute_score_batched", "four", {"reward": 1.0}),
        ("trl", "four", {"reward": 1.0}),
        ("trl", "fourteen", {"reward": 0.0}),
        ("trl_only_what_it_names", "x", {"reward": 1.0}),
        ("not_scored", "x", {"reward": None}),
        ("number_like", "x", {"reward": 0.5}),
    ],
)
def test_functions_in_the_forms_that_people_have_are_called_as_they_expect(
    functions: str, name: str, text: str, verdict: Json
) -> None:
    assert apply(f"{functions}:{name}", text=text) == verdict


def test_a_plain_prompt_makes_trl_completions_plain_text(functions: str) -> None:
    row = ROW | {"responses_create_params": {"input": "?"}}
    assert apply(f"{functions}:trl", row) == {"reward": 1.0}


def test_options_reach_the_function(functions: str) -> None:
    assert apply(f"{functions}:ours_typed", bonus=0.5)["reward"] == 1.5
    assert apply(f"{functions}:compute_score", tolerance=1)["kwargs"] == {"tolerance": 1}


def test_the_row_stays_as_it_is_whatever_a_function_writes_into_it(functions: str) -> None:
    apply(f"{functions}:compute_score")
    assert ROW["extra_info"] == {"index": 7}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nonsense", "not str"),
        ("no_reward", "neither 'reward' nor 'score'"),
        ("boom", "ValueError: as asked"),
        ("exits", "died"),
    ],
)
def test_a_function_that_fails_is_a_failure_and_no_zero(functions: str, name: str, words: str) -> None:
    with pytest.raises(PartError, match=words) as caught:
        apply(f"{functions}:{name}")
    assert caught.value.kind == "verifier_error"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("takes_nothing", r"takes \(\); a reward function takes \(task, response\)"),
        ("NOT_A_FUNCTION", "is not a function"),
        ("trll", "has no 'trll'; did you mean 'trl'"),
    ],
)
def test_what_is_no_reward_function_is_refused_before_anything_runs(
    functions: str, name: str, words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        find(f"{functions}:{name}")


def test_a_row_that_lacks_what_a_reward_needs_is_named() -> None:
    with pytest.raises(PartError, match="expected_answer is required") as caught:
        apply("last_number")
    assert caught.value.kind == "bad_request"


@pytest.mark.parametrize(
    ("said", "reward"), [(True, 1.0), (0, 0.0), (None, None), ([0.5], 0.5), ({"score": 1, "a": 2}, 1.0)]
)
def test_whatever_stands_for_a_reward_becomes_a_float_or_none(said: Any, reward: float | None) -> None:
    assert as_verdict(said)["reward"] == reward


class Rubrics:
    def __init__(self, functions: str) -> None:
        self.functions = functions

    def __call__(self, own: Json, text: str = "four", **components: Any) -> Json:
        rubric = Rubric({name: Component.model_validate(c) for name, c in components.items()})

        async def main() -> Json:
            return await rubric.complete(
                own, ROW | {"answer": 4, "expected_answer": "4"}, answer(text), Scorer()
            )

        return asyncio.run(main())


@pytest.fixture
def rubric(functions: str) -> Rubrics:
    return Rubrics(functions)


def test_a_rubric_sums_weighted_rewards_and_records_each_by_name(rubric: Rubrics) -> None:
    verdict = rubric(
        {"reward": 1.0, "extracted_answer": "4"},
        short={"reward": f"{rubric.functions}:ours_typed", "weight": 0.5, "options": {"bonus": 1.0}},
        last_number={"weight": 2.0},
        text="4",
    )
    assert verdict == {
        "reward": 1.0 + 0.5 * 2.0 + 2.0 * 1.0,
        "extracted_answer": "4",
        "reward_components": {"environment": 1.0, "short": 2.0, "last_number": 1.0},
        "reward_details": {"short": {"length": 1}, "last_number": {"extracted_answer": "4"}},
    }


def test_the_environments_own_verdict_can_be_weighted_too(rubric: Rubrics) -> None:
    assert rubric({"reward": 1.0}, environment={"weight": 0.0}, last_number={}, text="5")["reward"] == 0.0


def test_a_component_that_does_not_score_counts_for_nothing_and_is_seen(rubric: Rubrics) -> None:
    verdict = rubric({"reward": 1.0}, mine={"reward": f"{rubric.functions}:not_scored"})
    assert (verdict["reward"], verdict["reward_components"]) == (1.0, {"environment": 1.0, "mine": None})
    assert rubric({"reward": None}, mine={"reward": f"{rubric.functions}:not_scored"})["reward"] is None


def test_a_component_that_fails_fails_the_whole(rubric: Rubrics) -> None:
    with pytest.raises(PartError, match="as asked"):
        rubric({"reward": 1.0}, mine={"reward": f"{rubric.functions}:boom"})


@pytest.mark.parametrize(
    ("component", "words"),
    [
        (
            {"reward": "last_numbr"},
            r"rewards.mine: no reward named 'last_numbr'; did you mean 'last_number'\?",
        ),
        ({"reward": "math", "options": {"convension": 1}}, "there is no option 'convension'; did you mean"),
        ({"reward": "nowhere.py:f"}, "there is no file"),
    ],
)
def test_a_component_that_is_not_there_is_refused_when_the_server_starts(component: Json, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Rubric({"mine": Component.model_validate(component)})


def test_a_judge_is_needed_where_a_reward_asks_one() -> None:
    async def main() -> Json:
        task = Task.model_validate(ROW | {"expected_answer": "4"})
        return await Scorer()(find("llm_judge"), task, answer("4"))

    with pytest.raises(PartError, match="asks a judge, and there is none"):
        asyncio.run(main())
