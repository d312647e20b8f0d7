"""Mathematics: the answer in a box, and what is not it."""

from __future__ import annotations

from typing import Any

from nemo_like.types import Json


def gold(row: Json) -> str:
    """The answer in a box."""
    return rf"It is \boxed{{{row['expected_answer']}}}."


def hacks(row: Json) -> dict[str, Any]:
    """No box, another value, a choice, the question."""
    right = row["expected_answer"]
    return {
        "no box": right,
        "another value": rf"\boxed{{{right} + 1}}",
        "a choice": rf"\boxed{{{right} or 1000}}",
        "the question in a box": rf"\boxed{{{row['question']}}}",
        "the question": row["question"],
    }
