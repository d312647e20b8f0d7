"""An assistant's tool calls: the rows, and what they earn, component by component."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from pydantic import ValidationError

from nemo_like.client import Client
from nemo_like.registry import load_file
from nemo_like.types import Json, Response

from .environment import Environment

CALLS = Environment("tool_call_multireward")
APP = load_file(CALLS.folder / "app.py")


def calls(*wanted: Json) -> Json:
    """A turn in which the model makes these calls at once."""
    return {"tool_calls": [*wanted]}


def call(name: str, **arguments: Any) -> Json:
    return {"name": name, "arguments": arguments}


WEATHER = call("get_weather", city="Oslo", unit="celsius")
MONEY = call("convert_currency", amount=20, source="EUR", target="USD")
ROW = CALLS.rows[0] | {"expected_tool_calls": [WEATHER, MONEY]}


@pytest.mark.parametrize("row", CALLS.rows, ids=lambda row: str(row["difficulty"]))
def test_the_expected_calls_and_an_answer_earn_1(row: Json) -> None:
    turns = [calls(*row["expected_tool_calls"]), "Done."] if row["expected_tool_calls"] else ["Cold."]
    record = CALLS.rollout(row, *turns)
    assert (record["reward"], {*record["reward_components"].values()}) == (1.0, {1.0})
    assert "error" not in json.dumps(record["response"]["output"])


@pytest.mark.parametrize(
    ("turns", "reward", "components"),
    [
        ([calls(MONEY, WEATHER), "Done."], 1.0, (1, 1, 1, 1, 1)),
        ([calls(WEATHER), calls(MONEY), "Done."], 1.0, (1, 1, 1, 1, 1)),
        ([calls(WEATHER, MONEY), ""], 0.9, (1, 1, 1, 1, 0)),
        ([calls(WEATHER), "Done."], 0.4, (0, 0.5, 0.5, 1, 1)),
        (
            [calls(WEATHER, call("convert_currency", amount=2, source="EUR", target="USD")), "Done."],
            0.5,
            (0, 1, 0.5, 1, 1),
        ),
        (
            [calls(WEATHER, call("convert_currency", amount="20", source="EUR", target="USD")), "Done."],
            0.4,
            (0, 1, 0.5, 0, 1),
        ),
        ([calls(WEATHER, MONEY, call("dance")), "Done."], 0.1 + 0.4 * 2 / 3, (0, 2 / 3, 2 / 3, 0, 1)),
        ([calls(WEATHER, MONEY, *[WEATHER] * 8), "Done."], 0.28, (0, 0.2, 0.2, 1, 1)),
        (["Oslo is cold, and it is 22 dollars."], 0.1, (0, 0, 0, 0, 1)),
        ([json.dumps(calls(WEATHER, MONEY))], 0.1, (0, 0, 0, 0, 1)),
        ([""], 0.0, (0, 0, 0, 0, 0)),
    ],
)
def test_the_reward_is_the_weighted_sum_of_the_components(
    turns: list[Any], reward: float, components: tuple[float, ...]
) -> None:
    record = CALLS.rollout(ROW, *turns)
    names = ("exact_match", "name_accuracy", "argument_accuracy", "schema_valid", "answered")
    assert record["reward"] == pytest.approx(reward)
    assert record["reward_components"] == pytest.approx(dict(zip(names, components, strict=True)))
    assert {name: record[name] for name in names} == record["reward_components"]


def test_a_request_that_needs_no_tool_is_answered_without_one() -> None:
    row = ROW | {"expected_tool_calls": []}
    assert CALLS.rollout(row, "Cold.")["reward"] == 1.0
    assert CALLS.rollout(row, calls(WEATHER), "Cold.")["reward"] == pytest.approx(0.2)


def test_weights_order_and_extra_calls_are_the_configurations() -> None:
    def reward(**settings: Any) -> float:
        server = APP.ToolCallMultireward(APP.ToolCallConfig(**settings), name="calls", client=Client({}))
        items = [
            {
                "type": "function_call",
                "call_id": "c",
                "name": c["name"],
                "arguments": json.dumps(c["arguments"]),
            }
            for c in (MONEY, WEATHER)
        ]
        task = APP.ToolCallsTask.model_validate(ROW)
        return asyncio.run(server.verify(task, Response(output=items)))["reward"]

    assert reward() == pytest.approx(0.9)
    assert reward(order="strict") == pytest.approx(0.3)
    assert reward(order="strict", weights={"name_accuracy": 3, "schema_valid": 0}) == pytest.approx(1.6)
    with pytest.raises(ValidationError, match="exact_mach"):
        reward(weights={"exact_mach": 1})


def test_the_tools_answer() -> None:
    turn = calls(WEATHER, WEATHER | {"arguments": {"city": "Oslo", "unit": "fahrenheit"}}, MONEY)
    output = CALLS.rollout(ROW, turn, "Done.")["response"]["output"]
    celsius, fahrenheit, money = [json.loads(item["output"]) for item in output if "output" in item]
    assert fahrenheit["degrees"] == round(celsius["degrees"] * 9 / 5 + 32)
    assert money == {"amount": 22.0, "currency": "USD"}


def test_the_example_is_what_the_generator_makes() -> None:
    assert CALLS.generated(5) == CALLS.rows
    assert CALLS.generated(5, seed=1) != CALLS.rows


def test_every_request_tells_the_arguments_of_its_calls_which_the_tools_take() -> None:
    rows = CALLS.generated(300)
    known = {tool.name: tool.arguments for tool in APP.tools_of(APP.ToolCallMultireward)}
    for row in rows:
        said = row["responses_create_params"]["input"][-1]["content"]
        assert len(row["expected_tool_calls"]) == row["difficulty"]
        for expected in row["expected_tool_calls"]:
            assert all(str(value) in said for value in expected["arguments"].values())
            known[expected["name"]].model_validate(expected["arguments"], strict=True)
    assert {row["difficulty"] for row in rows} == {0, 1, 2, 3}
    assert {c["name"] for row in rows for c in row["expected_tool_calls"]} == {*known}
