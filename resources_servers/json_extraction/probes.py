"""Facts as JSON: the object, and what is nearly it."""

from __future__ import annotations

import json
from typing import Any

from nemo_like.types import Json


def gold(row: Json) -> str:
    """The object."""
    return json.dumps(row["expected_object"])


def hacks(row: Json) -> dict[str, Any]:
    """Another value, another field, a list of guesses, the schema, the text."""
    facts, params = row["expected_object"], row["responses_create_params"]
    first = next(iter(facts))
    return {
        "another value": json.dumps(facts | {first: "?"}),
        "one field too many": json.dumps(facts | {"job": "cook"}),
        "a list": json.dumps([facts, facts | {first: "?"}]),
        "the schema": json.dumps(params["text"]["format"]["schema"]),
        "the text": params["input"][-1]["content"],
    }
