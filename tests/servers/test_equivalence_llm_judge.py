"""Short answers before a judge: the rows, and whose word counts."""

from __future__ import annotations

from datetime import datetime

import pytest

from nemo_like.rewards.llm_judge import DIFFERENT, EQUAL
from nemo_like.types import Json

from .environment import Environment, judge

JUDGED = Environment("equivalence_llm_judge")


@pytest.mark.parametrize("row", JUDGED.rows)
def test_the_expected_words_need_no_judge_and_other_words_do(row: Json) -> None:
    assert JUDGED.rollout(row, row["expected_answer"])["reward"] == 1.0
    assert JUDGED.rollout(row, f"It is {row['expected_answer']}", *judge(EQUAL, EQUAL))["reward"] == 1.0
    assert JUDGED.rollout(row, "something else", *judge(DIFFERENT))["reward"] == 0.0
    assert JUDGED.rollout(row, "something else", *judge(EQUAL, DIFFERENT))["reward"] == 0.0
    assert JUDGED.rollout(row, "")["reward"] == 0.0


def test_a_judge_that_does_not_judge_is_a_failure() -> None:
    status, error = JUDGED.failure(JUDGED.rows[0], "something", *judge("hm", "hm", "hm"))
    assert (status, error["kind"]) == (502, "bad_response")
    assert "gave no verdict" in error["message"]


def test_one_order_is_enough_if_the_configuration_says_so() -> None:
    settings: Json = {"equivalence_llm_judge": {"check_twice_swap": False}}
    record = JUDGED.rollout(JUDGED.rows[0], "the same", *judge(EQUAL, DIFFERENT), settings=settings)
    assert record["reward"] == 1.0


def test_the_example_is_what_the_generator_makes() -> None:
    assert JUDGED.generated(5) == JUDGED.rows
    assert JUDGED.generated(5, seed=1) != JUDGED.rows


def test_the_answers_are_true() -> None:
    for row in JUDGED.generated(100):
        if row["kind"] == "weekday":
            written = row["question"].removeprefix("Which day of the week was ").removesuffix("?")
            assert datetime.strptime(written, "%d %B %Y").strftime("%A") == row["expected_answer"]
