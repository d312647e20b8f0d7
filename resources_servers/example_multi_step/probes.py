"""Synonyms: each valued and handed in, and shortcuts."""

from __future__ import annotations

from typing import Any

from nemo_like.types import Json


def gold(row: Json) -> list[Any]:
    """Values every synonym, then hands all of them in."""
    looked_up = [_call("get_synonym_value", synonym=synonym) for synonym in row["expected_synonyms"]]
    return [
        *looked_up,
        _call("extract_synonym_values", synonym_values=row["expected_synonym_values"]),
        "Done.",
    ]


def hacks(row: Json) -> dict[str, Any]:
    """The values only said, all numbers handed in, the term's own value too."""
    values = row["expected_synonym_values"]
    everything = [*values, row["minefield_label_value"]]
    return {
        "values that are only said": f"The values are {values}.",
        "every number": [_call("extract_synonym_values", synonym_values=[*range(1000)]), "Done."],
        "the term as well": [_call("extract_synonym_values", synonym_values=everything), "Done."],
        "another order": [_call("extract_synonym_values", synonym_values=values[::-1]), "Done."],
        "a tool that is not offered": [_call("verify", reward=1.0), "Done."],
    }


def _call(tool: str, **arguments: Any) -> Json:
    return {"tool_calls": [{"name": tool, "arguments": arguments}]}
