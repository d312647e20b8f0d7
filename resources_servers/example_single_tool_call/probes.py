"""The weather: looked up."""

from __future__ import annotations

from typing import Any

from nemo_like.types import Json

ANYTHING_GOES = "its verifier is an example, and always content"


def gold(row: Json) -> list[Any]:
    """Asks the tool."""
    return [{"tool_calls": [{"name": "get_weather", "arguments": {"city": "Oslo"}}]}, "Cold."]
