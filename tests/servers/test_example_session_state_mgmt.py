"""The counter: its tools, its sessions, and what it earns."""

from __future__ import annotations

import json
import re

import pytest

from nemo_like.types import Json

from .environment import Environment, call

COUNTER = Environment("example_session_state_mgmt")


def steps(row: Json) -> list[int]:
    question = row["responses_create_params"]["input"][-1]["content"]
    return [int(number) for number in re.findall(r"\d+", question)]


def outputs(record: Json) -> list[Json]:
    items = record["response"]["output"]
    return [json.loads(item["output"]) for item in items if item["type"] == "function_call_output"]


@pytest.mark.parametrize("row", COUNTER.rows)
def test_adding_what_was_asked_earns_the_reward_and_doing_nothing_does_not(row: Json) -> None:
    added = [call("increment_counter", count=step) for step in steps(row)]
    record = COUNTER.rollout(row, *added, call("get_counter_value"), "Done.")
    assert (record["reward"], record["final_count"]) == (1.0, row["expected_count"])
    assert outputs(record)[-1] == {"count": row["expected_count"]}
    assert COUNTER.rollout(row, *added, call("increment_counter", count=1), "Done.")["reward"] == 0.0
    assert COUNTER.rollout(row, f"The count is {row['expected_count']}.")["reward"] == 0.0
    assert COUNTER.rollout(row, "")["reward"] == 0.0


def test_calls_made_side_by_side_are_all_counted() -> None:
    row = COUNTER.rows[0] | {"initial_count": 0, "expected_count": 40}
    turn = {"tool_calls": [{"name": "increment_counter", "arguments": {"count": 1}}] * 40}
    assert COUNTER.rollout(row, turn, "Done.")["reward"] == 1.0


def test_a_counter_starts_at_0_unless_the_row_says_otherwise() -> None:
    row = {key: value for key, value in COUNTER.rows[0].items() if key != "initial_count"}
    record = COUNTER.rollout(row | {"expected_count": 2}, call("increment_counter", count=2), "Done.")
    assert record["reward"] == 1.0


@pytest.mark.parametrize("count", [10**15, -(10**15), 1e300, "many", None])
def test_a_count_beyond_sense_is_an_error_that_the_model_is_shown(count: object) -> None:
    record = COUNTER.rollout(COUNTER.rows[0], call("increment_counter", count=count), "Done.")
    assert "error" in outputs(record)[0]
    assert record["final_count"] == COUNTER.rows[0]["initial_count"]


def test_the_example_is_what_the_generator_makes() -> None:
    assert COUNTER.generated(5) == COUNTER.rows
    assert COUNTER.generated(5, seed=1) != COUNTER.rows


def test_every_row_expects_what_it_asks_for_and_never_what_it_starts_with() -> None:
    for row in COUNTER.generated(300):
        assert row["initial_count"] + sum(steps(row)) == row["expected_count"] != row["initial_count"]
