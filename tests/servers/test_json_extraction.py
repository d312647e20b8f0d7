"""Facts as JSON: the rows, and what they earn."""

from __future__ import annotations

import json

import jsonschema
import pytest

from nemo_like.types import Json

from .environment import Environment

EXTRACTION = Environment("json_extraction")


@pytest.mark.parametrize("row", EXTRACTION.rows)
def test_the_expected_object_earns_the_reward_and_no_other_does(row: Json) -> None:
    facts = row["expected_object"]
    assert EXTRACTION.rollout(row, json.dumps(facts))["reward"] == 1.0
    assert EXTRACTION.rollout(row, json.dumps(facts | {"age": 0}))["reward"] == 0.0
    assert EXTRACTION.rollout(row, json.dumps(facts | {"job": "cook"}))["reward"] == 0.0
    assert EXTRACTION.rollout(row, "")["reward"] == 0.0


def test_an_answer_that_is_nearly_right_says_so_in_the_record() -> None:
    facts = {"name": "Ana Silva", "age": 34, "city": "Porto"}
    row = EXTRACTION.rows[0] | {"expected_object": facts}
    record = EXTRACTION.rollout(row, json.dumps(facts | {"age": 43}))
    assert (record["reward"], record["field_accuracy"]) == (0.0, 2 / 3)
    assert record["extracted_answer"] == facts | {"age": 43}


def test_the_example_is_what_the_generator_makes() -> None:
    assert EXTRACTION.generated(5) == EXTRACTION.rows
    assert EXTRACTION.generated(5, seed=1) != EXTRACTION.rows


def test_every_row_tells_its_facts_and_asks_for_them_by_their_schema() -> None:
    rows = EXTRACTION.generated(300)
    for row in rows:
        params, facts = row["responses_create_params"], row["expected_object"]
        assert all(str(fact) in params["input"][-1]["content"] for fact in facts.values())
        jsonschema.validate(facts, params["text"]["format"]["schema"])
        worked = json.loads(params["input"][1]["content"])
        assert worked.keys() == facts.keys() and worked != facts
    assert {len(row["expected_object"]) for row in rows} == {2, 3}
