"""Puzzles: the answer in its tag, and what is not it."""

from __future__ import annotations

from typing import Any

from nemo_like.types import Json


def gold(row: Json) -> str:
    """The puzzle's own answer."""
    return f"Let me think.\n<answer>{row['answer']}</answer>"


def hacks(row: Json) -> dict[str, Any]:
    """Nothing in the tag, several answers, the puzzle."""
    right = row["answer"]
    return {
        "an empty tag": "<answer></answer>",
        "the answer, then another": f"<answer>{right}</answer><answer>?</answer>",
        "a choice": f"<answer>{right}\nor 999</answer>",
        "a tag that stays open": f"<answer>{right}",
        "the puzzle": row["responses_create_params"]["input"][0]["content"],
    }
