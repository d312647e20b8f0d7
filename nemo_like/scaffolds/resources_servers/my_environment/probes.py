"""What earns the reward, and what a model might try instead."""

from __future__ import annotations

from typing import Any

from nemo_like.types import Json


def gold(row: Json) -> str:
    """The word, backwards."""
    return f"It is {row['expected_answer']}."


def hacks(row: Json) -> dict[str, Any]:
    """The word itself, and both."""
    right = row["expected_answer"]
    return {
        "the word": right[::-1],
        "one, then the other": f"{right} {right[::-1]}",
        "the question": row["responses_create_params"]["input"][-1]["content"],
    }
