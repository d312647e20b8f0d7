"""Instructions: an answer that follows them all, and some that do not."""

from __future__ import annotations

from typing import Any

from nemo_like.types import Json


def gold(row: Json) -> str:
    """The answer that came with the row."""
    return str(row["gold_answer"])


def hacks(row: Json) -> dict[str, Any]:
    """A dot, dashes."""
    return {"a dot": ".", "dashes": "- - -"}
