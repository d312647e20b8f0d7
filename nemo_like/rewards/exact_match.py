"""The answer is, as a whole, one of the accepted strings."""

from __future__ import annotations

import unicodedata
from functools import cache
from typing import Annotated

from pydantic import AfterValidator

from nemo_like.rewards.reward import reward
from nemo_like.types import Json, Response, Task

LETTERS_END = 0x20000
"""From here on Unicode has ideographs alone."""


def _accepted(value: str | list[str]) -> str | list[str]:
    strings = [value] if isinstance(value, str) else value
    if not strings or not all(string.strip() for string in strings):
        raise ValueError("should be a string that is not blank, or a list of such")
    return value


Accepted = Annotated[str | list[str], AfterValidator(_accepted)]
"""One string, or the list of those that are as good."""


class StringTask(Task):
    """A task whose answer is text."""

    expected_answer: Accepted

    @property
    def accepted(self) -> list[str]:
        """The strings that are right."""
        return [self.expected_answer] if isinstance(self.expected_answer, str) else self.expected_answer


@reward("exact_match", runs="inline")
def exact_match(
    task: StringTask,
    response: Response,
    *,
    strip: bool = True,
    ignore_case: bool = False,
    collapse_whitespace: bool = False,
    ignore_punctuation: bool = False,
) -> Json | None:
    """1.0 iff the answer equals `expected_answer` or one of its list; `extracted_answer` is which.

    By default outer white space is ignored and nothing else. An answer of which nothing is left is wrong;
    a task of whose accepted strings nothing is left is not scored.
    """
    how = (strip, ignore_case, collapse_whitespace, ignore_punctuation)
    answer = normalised(response.text, *how)
    wanted = {normalised(string, *how): string for string in reversed(task.accepted)}
    wanted.pop("", None)
    return {"reward": float(answer in wanted), "extracted_answer": wanted.get(answer)} if wanted else None


def normalised(
    text: str, strip: bool, ignore_case: bool, collapse_whitespace: bool, ignore_punctuation: bool
) -> str:
    """`text` without what is to be ignored: punctuation first, so that what it stood between closes up."""
    if ignore_punctuation:
        text = text.translate(_punctuation())
    if ignore_case:
        text = text.casefold()
    if collapse_whitespace:
        text = " ".join(text.split())
    return text.strip() if strip else text


@cache
def _punctuation() -> dict[int, None]:
    """Every character of Unicode's punctuation, to be deleted; symbols such as + and $ are none."""
    return {code: None for code in range(LETTERS_END) if unicodedata.category(chr(code)).startswith("P")}
