"""The answer has one of the accepted strings in it, at its beginning or at its end."""

from __future__ import annotations

from typing import Literal

from nemo_like.rewards.exact_match import StringTask, normalised
from nemo_like.rewards.reward import reward
from nemo_like.types import Json, Response

Mode = Literal["contains", "startswith", "endswith", "equals_any"]


@reward("string_match", runs="inline")
def string_match(
    task: StringTask,
    response: Response,
    *,
    mode: Mode = "contains",
    strip: bool = True,
    ignore_case: bool = False,
    collapse_whitespace: bool = False,
    ignore_punctuation: bool = False,
) -> Json | None:
    """1.0 iff the answer contains, begins with, ends with or equals `expected_answer` or one of its list;
    `extracted_answer` is the first of these that it does.

    An answer that lists every candidate contains the right one: `contains` is for tasks where that is no
    way to guess. Both sides are normalised as in `exact_match`.
    """
    how = (strip, ignore_case, collapse_whitespace, ignore_punctuation)
    answer = normalised(response.text, *how)
    wanted = {string: text for string in task.accepted if (text := normalised(string, *how))}
    found = next((string for string, text in wanted.items() if _matches(mode, answer, text)), None)
    return {"reward": float(found is not None), "extracted_answer": found} if wanted else None


def _matches(mode: Mode, answer: str, text: str) -> bool:
    match mode:
        case "contains":
            return text in answer
        case "startswith":
            return answer.startswith(text)
        case "endswith":
            return answer.endswith(text)
        case "equals_any":
            return answer == text
