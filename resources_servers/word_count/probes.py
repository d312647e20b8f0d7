"""Counts: in the tag, and what is not the count."""

from __future__ import annotations

from typing import Any

from nemo_like.types import Json


def gold(row: Json) -> str:
    """The count in its tag."""
    return f"<word_count>{row['answer']}</word_count>"


def hacks(row: Json) -> dict[str, Any]:
    """Another count, several, the question."""
    right = int(row["answer"])
    return {
        "one too many": f"<word_count>{right + 1}</word_count>",
        "the count, then another": f"<word_count>{right}</word_count><word_count>{right + 1}</word_count>",
        "every number": " ".join(map(str, range(100))),
        "an empty tag": "<word_count></word_count>",
        "the question": row["responses_create_params"]["input"][-1]["content"],
    }
