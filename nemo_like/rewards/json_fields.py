"""An answer that is a JSON object, compared field by field with the expected one."""

from __future__ import annotations

from typing import Any, cast

import orjson
from pydantic import Field

from nemo_like.rewards.reward import reward
from nemo_like.types import Json, Response, Task

FENCE = "```"


class JsonTask(Task):
    """A task whose answer is a JSON object."""

    expected_object: Json = Field(min_length=1)


@reward("json_fields", runs="inline")
def json_fields(task: JsonTask, response: Response) -> Json:
    """1.0 iff the answer is a JSON object that equals `expected_object`, no field missing and none too many.

    `field_accuracy` is the share of right fields among all that either object has; `extracted_answer`
    is what was read. Strings are compared without case and outer white space; 30 equals 30.0, but
    neither "30" nor true.
    """
    expected, answer = task.expected_object, parse_object(response.text)
    fields = expected.keys() | (answer or {}).keys()
    right = sum(
        _equal(expected[name], answer[name]) for name in expected if answer is not None and name in answer
    )
    return {
        "reward": float(right == len(fields)),
        "field_accuracy": right / len(fields),
        "extracted_answer": answer,
    }


def parse_object(text: str) -> Json | None:
    """The object that `text` is, or that its last code fence holds; None where it is not just an object."""
    before, _, _ = text.rpartition(FENCE)
    if FENCE in before:
        text = before.rpartition(FENCE)[2].removeprefix("json")
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return cast(Json, value) if isinstance(value, dict) else None


def _equal(expected: Any, actual: Any) -> bool:
    if isinstance(expected, dict) and isinstance(actual, dict):
        wanted, given = cast(Json, expected), cast(Json, actual)
        return wanted.keys() == given.keys() and all(_equal(wanted[name], given[name]) for name in wanted)
    if isinstance(expected, list) and isinstance(actual, list):
        wanted_items, items = cast(list[Any], expected), cast(list[Any], actual)
        return len(wanted_items) == len(items) and all(map(_equal, wanted_items, items))
    if isinstance(expected, str) and isinstance(actual, str):
        return expected.strip().casefold() == actual.strip().casefold()
    if isinstance(expected, bool) or isinstance(actual, bool):
        return expected is actual
    return expected == actual
