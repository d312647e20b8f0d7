"""Multiple choice: the letter in its form, and guesses."""

from __future__ import annotations

from typing import Any

from nemo_like.types import Json


def gold(row: Json) -> str:
    """The right letter in the form that the row asks for."""
    return _said(row, row["expected_answer"])


def hacks(row: Json) -> dict[str, Any]:
    """Another letter, all of them, the letter without its form."""
    right = row["expected_answer"]
    wrong = "B" if right == "A" else "A"
    return {
        "another letter": _said(row, wrong),
        "all letters in a box": r"\boxed{A, B, C, D}",
        "all letters": "Answer: A/B/C/D",
        "one, then another": _said(row, right) + _said(row, wrong),
        "no form": f"It is {right}.",
        "the question": row["responses_create_params"]["input"][0]["content"],
    }


def _said(row: Json, letter: str) -> str:
    boxed = row["grading_mode"] == "strict_single_letter_boxed"
    return rf"Let me see. \boxed{{{letter}}}" if boxed else f"Let me see.\n**Answer: {letter}**"
