"""Sums: the number, and what is not the number."""

from __future__ import annotations

from typing import Any

from nemo_like.types import Json


def gold(row: Json) -> str:
    """The sum, in a sentence."""
    return f"That makes {row['expected_answer']}."


def hacks(row: Json) -> dict[str, Any]:
    """Another number, all numbers, the question."""
    right = row["expected_answer"]
    return {
        "another number": str(int(right) + 1),
        "the sum, then another number": f"{right}? No, {int(right) + 1}.",
        "every number": " ".join(map(str, range(1000))),
        "the question": row["responses_create_params"]["input"][-1]["content"],
    }
