"""Facts in five formats: the rows, and what they earn."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import jsonschema
import pytest

from nemo_like.errors import PartError
from nemo_like.registry import load
from nemo_like.rewards.json_schema import SchemaTask, json_schema
from nemo_like.rewards.scoring import Scorer
from nemo_like.types import Json, Response

from .environment import Environment

OUTPUTS = Environment("structured_outputs")
written = load(f"{OUTPUTS.folder}/probes.py:written")


def verdict(row: Json, text: str) -> Json:
    """What the reward says of an answer, without the environment round it."""
    return json_schema(SchemaTask.model_validate(row), answer(text))


def answer(text: str) -> Response:
    return Response(output=[{"type": "message", "role": "assistant", "content": text}])


@pytest.mark.parametrize("row", OUTPUTS.rows, ids=lambda row: row["schema_type"])
def test_the_expected_values_in_the_format_earn_the_reward_and_nothing_else_does(row: Json) -> None:
    text = written(row["expected_object"], row["schema_type"])
    other = written({"a": 1}, "toml" if row["schema_type"] != "toml" else "json")
    prompt = row["responses_create_params"]["input"][0]["content"]
    assert OUTPUTS.rollout(row, text)["reward"] == 1.0
    assert verdict(row, f"```{row['schema_type']}\n{text}\n```")["reward"] == 1.0
    for wrong in ("", other, prompt, row["schema_str"], f"Here it is:\n{text}", text + text):
        assert verdict(row, wrong)["reward"] == 0.0, wrong


def test_a_document_that_fits_the_schema_but_not_the_text_says_so_in_the_record() -> None:
    row = OUTPUTS.rows[0]
    wrong = row["expected_object"] | {"ports": row["expected_object"]["ports"] - 1}
    record = OUTPUTS.rollout(row, json.dumps(wrong))
    assert (record["reward"], record["schema_valid"], record["error_type"]) == (0.0, 1.0, "wrong_value")
    assert (record["extracted_answer"], record["errors"]) == (
        wrong,
        ["$.ports: it is not the expected value"],
    )
    record = OUTPUTS.rollout(row, json.dumps(wrong | {"ports": "many"}))
    assert (record["schema_valid"], record["error_type"]) == (0.0, "validation_error")
    assert record["errors"] == ["$.ports: 'many' is not of type 'integer'"]


def test_a_row_without_the_expected_values_judges_the_form_alone() -> None:
    row = {name: value for name, value in OUTPUTS.rows[0].items() if name != "expected_object"}
    wrong = OUTPUTS.rows[0]["expected_object"] | {"state": "new"}
    assert OUTPUTS.rollout(row, json.dumps(wrong))["reward"] == 1.0
    assert OUTPUTS.rollout(row, json.dumps(wrong | {"state": "odd"}))["reward"] == 0.0


def test_the_example_is_what_the_generator_makes() -> None:
    assert OUTPUTS.generated(5) == OUTPUTS.rows
    assert OUTPUTS.generated(5, seed=1) != OUTPUTS.rows


def test_every_row_tells_its_values_and_their_schema() -> None:
    rows = OUTPUTS.generated(300)
    for row in rows:
        prompt = row["responses_create_params"]["input"][0]["content"]
        assert row["schema_str"] in prompt
        jsonschema.validate(row["expected_object"], json.loads(row["schema_str"]))
        assert all(told in prompt for told in leaves(row["expected_object"]))
    assert {row["domain"] for row in rows} == {"order", "event", "recipe", "device", "visit"}
    assert {row["schema_type"] for row in rows} == {"json", "yaml", "xml", "toml", "csv"}
    assert len({row["schema_str"] for row in rows}) > 200


def test_every_row_is_solved_by_its_own_values() -> None:
    for row in OUTPUTS.generated(200, seed=2):
        said = verdict(row, written(row["expected_object"], row["schema_type"]))
        assert said["reward"] == 1.0, said["errors"]


def leaves(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [leaf for inner in value.values() for leaf in leaves(inner)]
    if isinstance(value, list):
        return [leaf for inner in value for leaf in leaves(inner)]
    return [] if isinstance(value, bool) else [str(value)]


def test_a_pattern_that_takes_for_ever_costs_its_own_rollout_only() -> None:
    task = SchemaTask(responses_create_params={}, schema_str='{"pattern": "^(a+)+$"}')

    async def scores() -> list[Json | BaseException]:
        score = Scorer(timeout_s=3.0)
        texts = [json.dumps("a" * 40 + "!"), json.dumps("a" * 40)]
        return await asyncio.gather(
            *(score(json_schema, task, answer(text)) for text in texts), return_exceptions=True
        )

    hung, fine = asyncio.run(scores())
    assert isinstance(hung, PartError) and hung.kind == "timeout"
    assert isinstance(fine, dict) and fine["reward"] == 1.0
