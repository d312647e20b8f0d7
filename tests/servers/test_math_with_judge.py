"""Mathematics in a box: the rows, what earns the reward, and when a judge is asked."""

from __future__ import annotations

from typing import Any

import pytest

from nemo_like.rewards.llm_judge import DIFFERENT, EQUAL
from nemo_like.types import Json

from .environment import Environment, judge

MATH = Environment("math_with_judge")


def boxed(answer: str) -> str:
    return rf"It is \boxed{{{answer}}}."


@pytest.mark.parametrize("row", MATH.rows)
def test_the_expected_answer_in_a_box_earns_the_reward_and_no_other_does(row: Json) -> None:
    gold = row["expected_answer"]
    assert MATH.rollout(row, boxed(gold))["reward"] == 1.0
    assert MATH.rollout(row, gold)["reward"] == 0.0
    assert MATH.rollout(row, boxed(f"{gold} + 1"))["reward"] == 0.0
    assert MATH.rollout(row, row["question"])["reward"] == 0.0
    assert MATH.rollout(row, boxed(f"{gold} or 1000"))["reward"] == 0.0


def test_another_way_to_write_it_is_right() -> None:
    row = MATH.rows[0] | {"expected_answer": r"\frac{35}{8}"}
    record = MATH.rollout(row, boxed("4.375"))
    assert (record["reward"], record["library_reward"], record["match"]) == (1.0, 1.0, "math_verify")


def judged(row: Json, answer: str, *says: str) -> Json:
    settings: Json = {"math_with_judge": {"should_use_judge": True}}
    return MATH.rollout(row, answer, *judge(*says), settings=settings)


def test_a_judge_is_asked_only_where_mathematics_says_no() -> None:
    row = MATH.rows[0] | {"expected_answer": "a circle"}
    assert judged(row, boxed("a circle"))["reward"] == 1.0
    record = judged(row, boxed("the round one"), EQUAL, EQUAL)
    assert (record["reward"], record["library_reward"]) == (1.0, 0.0)
    assert [evaluation["equal"] for evaluation in record["judge_evaluations"]] == [True, True]
    assert judged(row, boxed("a square"), DIFFERENT)["reward"] == 0.0


def test_the_example_is_what_the_generator_makes() -> None:
    assert MATH.generated(5) == MATH.rows
    assert MATH.generated(5, seed=1) != MATH.rows


def test_every_problem_has_an_answer_that_its_text_does_not_hold_in_a_box() -> None:
    rows: list[Any] = MATH.generated(120)
    assert {row["kind"] for row in rows} == {
        "fractions",
        "linear",
        "quadratic",
        "area",
        "derivative",
        "remainder",
    }
    assert all(row["question"] in row["responses_create_params"]["input"][0]["content"] for row in rows)
