"""Word problems: the rows, that their worked solutions are right, and what earns the reward."""

from __future__ import annotations

import re

import pytest

from nemo_like.types import Json

from .environment import Environment

PROBLEMS = Environment("gsm8k_like")


@pytest.mark.parametrize("row", PROBLEMS.rows)
def test_the_answer_in_a_box_earns_the_reward_and_nothing_else_does(row: Json) -> None:
    gold = row["expected_answer"]
    assert PROBLEMS.rollout(row, rf"{row['solution']} So \boxed{{{gold}}}.")["reward"] == 1.0
    assert PROBLEMS.rollout(row, rf"<answer>{gold}.0</answer>")["reward"] == 1.0
    assert PROBLEMS.rollout(row, row["solution"])["reward"] == 0.0
    assert PROBLEMS.rollout(row, rf"\boxed{{{gold}1}}")["reward"] == 0.0
    assert PROBLEMS.rollout(row, row["question"])["reward"] == 0.0
    spray = " ".join(rf"\boxed{{{number}}}" for number in range(1000) if str(number) != gold)
    assert PROBLEMS.rollout(row, rf"\boxed{{{gold}}} {spray}")["reward"] == 0.0


def test_the_example_is_what_the_generator_makes() -> None:
    assert PROBLEMS.generated(5) == PROBLEMS.rows
    assert PROBLEMS.generated(5, seed=1) != PROBLEMS.rows


def test_every_line_of_every_solution_is_true_and_leads_to_the_answer() -> None:
    rows = PROBLEMS.generated(400)
    for row in rows:
        *lines, last = row["solution"].splitlines()
        assert len(lines) == row["steps"]
        before = re.findall(r"\d+", row["question"])[0]
        for line in lines:
            left, right = line.split(" = ")
            assert re.fullmatch(r"[\d +*/-]+", left)
            assert eval(left) == int(right)
            assert left.startswith(f"{before} ")
            before = right
        assert last == f"#### {before}" == f"#### {row['expected_answer']}"
        assert row["expected_answer"] not in re.findall(r"\d+", row["question"])
    assert {row["steps"] for row in rows} == {2, 3, 4, 5}
    assert len({row["question"] for row in rows}) == 400
