"""Sums of small numbers: the rows, and what they earn."""

from __future__ import annotations

import re

import pytest

from nemo_like.rewards.last_number import find_last_number
from nemo_like.types import Json

from .environment import Environment

ARITHMETIC = Environment("arithmetic")


@pytest.mark.parametrize("row", ARITHMETIC.rows)
def test_the_sum_earns_the_reward_and_nothing_else_does(row: Json) -> None:
    right, wrong = row["expected_answer"], str(int(row["expected_answer"]) + 1)
    assert ARITHMETIC.rollout(row, f"That makes {right}.")["reward"] == 1.0
    assert ARITHMETIC.rollout(row, f"{right}? No, {wrong}.")["reward"] == 0.0
    assert ARITHMETIC.rollout(row, "")["reward"] == 0.0


def test_the_record_holds_the_row_and_what_was_judged() -> None:
    record = ARITHMETIC.rollout(ARITHMETIC.rows[0], "7 + 7 = 14.0")
    assert record | ARITHMETIC.rows[0] == record
    assert record["extracted_answer"] == "14.0"


def test_the_example_is_what_the_generator_makes() -> None:
    assert ARITHMETIC.generated(5) == ARITHMETIC.rows
    assert ARITHMETIC.generated(5, seed=1) != ARITHMETIC.rows


def test_every_row_is_a_sum_of_its_difficulty_and_never_ends_with_its_answer() -> None:
    for row in ARITHMETIC.generated(300):
        question = row["responses_create_params"]["input"][-1]["content"]
        terms = re.findall(r"\d+", question)
        assert sum(map(int, terms)) == int(row["expected_answer"])
        assert {len(term) for term in terms} == {row["difficulty"]}
        assert find_last_number(question) != row["expected_answer"]


def test_a_row_without_an_answer_is_refused_by_name() -> None:
    with pytest.raises(AssertionError, match="expected_answer is required"):
        ARITHMETIC.rollout({"responses_create_params": {"input": "?"}}, "5")
