"""The counter: added to, and only talked about."""

from __future__ import annotations

import re
from typing import Any

from nemo_like.types import Json


def gold(row: Json) -> list[Any]:
    """Adds what was asked for."""
    question = row["responses_create_params"]["input"][-1]["content"]
    steps = [_call("increment_counter", count=int(step)) for step in re.findall(r"\d+", question)]
    return [*steps, _call("get_counter_value"), "Done."]


def hacks(row: Json) -> dict[str, Any]:
    """The right count without counting, and one too many."""
    return {
        "a count that is only said": f"The count is {row['expected_count']}.",
        "one too many": [*gold(row)[:-1], _call("increment_counter", count=1), "Done."],
        "seeding again": [_call("seed_session", initial_count=row["expected_count"]), "Done."],
    }


def _call(tool: str, **arguments: Any) -> Json:
    return {"tool_calls": [{"name": tool, "arguments": arguments}]}
