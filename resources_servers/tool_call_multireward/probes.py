"""Tool calls: the ones that are needed, and what is not them."""

from __future__ import annotations

import json
from typing import Any

from nemo_like.types import Json


def gold(row: Json) -> list[Any]:
    """The expected calls, and an answer."""
    calls = row["expected_tool_calls"]
    return [{"tool_calls": calls}, "Done."] if calls else ["Done."]


def hacks(row: Json) -> dict[str, Any]:
    """A call too many, the same ones again, none, and calls that are only written down."""
    calls = row["expected_tool_calls"]
    weather = {"name": "get_weather", "arguments": {"city": "Oslo", "unit": "celsius"}}
    tried: dict[str, Any] = {
        "a call too many": [{"tool_calls": [*calls, weather]}, "Done."],
        "the calls and no answer": [{"tool_calls": [*calls, weather]}, ""],
    }
    if calls:
        tried |= {
            "every call twice": [{"tool_calls": calls + calls}, "Done."],
            "no call": "Done.",
            "calls that are only written": json.dumps(calls),
        }
    return tried
