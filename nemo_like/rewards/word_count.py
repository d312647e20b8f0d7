"""A count between `<word_count>` tags, scored by its value, its form and its distance from the truth."""

from __future__ import annotations

import math
import re

from pydantic import Field

from nemo_like.rewards.last_number import MAX_CHARACTERS, find_last_number, parse_number
from nemo_like.rewards.reward import reward
from nemo_like.types import Json, Response, Task

# A tag without a whole number in it is no tag. Possessive, so that nothing is tried twice.
TAG = re.compile(rf"<word_count>\s*+([0-9]{{1,{MAX_CHARACTERS}}}+)\s*+</word_count>")


class WordCountTask(Task):
    """A task that asks for the number of words of a text."""

    answer: int = Field(ge=0, lt=2**53)


@reward("word_count", runs="inline")
def word_count(task: WordCountTask, response: Response) -> Json:
    """`exact_match_reward` + 0.2 `format_reward` + 0.1 `partial_credit_reward`: at most 1.3, without
    the tag 1.1.

    The count is the last tag's; where there is no tag, the last number of the answer. `format_reward`
    wants exactly one tag. `partial_credit_reward` is max(0, 1 - |count - truth| / truth).
    """
    tags = TAG.findall(response.text)
    extracted = tags[-1] if tags else find_last_number(response.text)
    count = None if extracted is None else parse_number(extracted)
    exact = float(count == task.answer)
    form = float(len(tags) == 1)
    off = math.inf if count is None else abs(float(count) - task.answer) / max(task.answer, 1)
    partial = max(0.0, 1.0 - off)
    return {
        "reward": round(exact + 0.2 * form + 0.1 * partial, 6),
        "exact_match_reward": exact,
        "format_reward": form,
        "partial_credit_reward": partial,
        "extracted_answer": extracted,
    }
