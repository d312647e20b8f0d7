"""The list that was extracted last is the expected one, in its order."""

from __future__ import annotations

from typing import Any, cast

from pydantic import Field

from nemo_like.types import Json, Response, Task


class SynonymTask(Task):
    """The values to extract, and the value of the term itself, which should not be among them."""

    expected_synonym_values: list[int] = Field(min_length=1)
    minefield_label_value: int
    document: str = ""


def synonym_values(task: SynonymTask, response: Response) -> Json:
    """1.0 iff the last `extract_synonym_values` call gave exactly `expected_synonym_values`, in that order.

    `set_overlap` is the share of the expected values that it gave; `order_instruction_following_failure`
    says that it gave the right values in another order, `original_term_minefield_hit` that the value of the
    term itself was among them.
    """
    calls = [call for call in response.tool_calls if call.name == "extract_synonym_values"]
    parsed = _integers(calls[-1].arguments or {}) if calls else []
    expected = task.expected_synonym_values
    accuracy = parsed == expected
    return {
        "reward": float(accuracy),
        "parsed_synonym_values": parsed,
        "accuracy": accuracy,
        "set_overlap": len(set(parsed) & set(expected)) / len(set(expected)),
        "original_term_minefield_hit": task.minefield_label_value in parsed,
        "order_instruction_following_failure": not accuracy and sorted(parsed) == sorted(expected),
    }


def _integers(arguments: Json) -> list[int]:
    """The call's list; empty where it is none, or holds anything else than integers."""
    values: Any = arguments.get("synonym_values")
    items = cast(list[Any], values) if isinstance(values, list) else []
    return items if all(type(item) is int for item in items) else []
