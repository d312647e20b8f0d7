"""The weather: one tool, and a verdict that is always the same."""

from __future__ import annotations

import json

import pytest

from nemo_like.types import Json

from .environment import Environment, call

WEATHER = Environment("example_single_tool_call")


@pytest.mark.parametrize("row", WEATHER.rows)
def test_the_tool_tells_the_weather_and_the_verdict_is_1(row: Json) -> None:
    record = WEATHER.rollout(row, call("get_weather", city="Oslo"), "Cold.")
    output = json.loads(record["response"]["output"][1]["output"])
    assert output == {"city": "Oslo", "weather_description": "The weather in Oslo is cold."}
    assert record["reward"] == 1.0


def test_an_empty_answer_earns_as_much() -> None:
    assert WEATHER.rollout(WEATHER.rows[0], "")["reward"] == 1.0


def test_the_example_is_what_the_generator_makes() -> None:
    assert WEATHER.generated(5) == WEATHER.rows
    assert WEATHER.generated(5, seed=1) != WEATHER.rows


def test_every_row_offers_the_tool() -> None:
    for row in WEATHER.generated(20):
        [tool] = row["responses_create_params"]["tools"]
        assert (tool["name"], tool["parameters"]["required"]) == ("get_weather", ["city"])
