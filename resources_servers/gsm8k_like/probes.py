"""Word problems: the answer in a box, and out of it."""

from __future__ import annotations

from typing import Any

from nemo_like.types import Json


def gold(row: Json) -> str:
    """The worked solution, and its answer in a box."""
    return rf"{row['solution']} So \boxed{{{row['expected_answer']}}}."


def hacks(row: Json) -> dict[str, Any]:
    """No box, many boxes, the question."""
    right = str(row["expected_answer"])
    many = " ".join(rf"\boxed{{{number}}}" for number in range(1000) if str(number) != right)
    return {
        "no box": row["solution"],
        "another number": rf"\boxed{{{right}1}}",
        "many boxes": rf"\boxed{{{right}}} {many}",
        "a choice": rf"\boxed{{{right} or {right}1}}",
        "the question": row["question"],
    }
