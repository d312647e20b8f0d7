"""The last number of an answer is the one that was expected."""

from __future__ import annotations

import re
from collections import deque
from decimal import Decimal, InvalidOperation
from typing import Annotated

from pydantic import AfterValidator

from nemo_like.rewards.reward import reward
from nemo_like.types import Json, Response, Task

MAX_CHARACTERS = 100
"""A longer number is no answer to anything, and would only be slow."""
TAIL_CHARACTERS = 200
"""Where the last number mostly is."""

# Only ASCII digits, and none that belong to a word ("H2O"; `_` may be emphasis). A sign after a digit
# or a bracket is an operator ("10-2"). Once a digit matched the rest can't fail, so no position is
# tried twice.
NUMBER = re.compile(
    r"(?<![^\W_])"
    r"(?:(?<![)\]])[-+\N{MINUS SIGN}])?"
    r"(?:(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)"
    r"(?:[eE][-+]?[0-9]+)?"
)


def _number(value: str | int | float) -> str | int | float:
    if parse_number(str(value)) is None:
        raise ValueError(f"should be a finite number of at most {MAX_CHARACTERS} characters")
    return value


class NumberTask(Task):
    """A task whose answer is a number."""

    expected_answer: Annotated[str | int | float, AfterValidator(_number)]


@reward("last_number", runs="inline")
def last_number(task: NumberTask, response: Response) -> Json:
    """1.0 iff the last number of the answer equals `expected_answer`; the record has it as
    `extracted_answer`.

    8, 8.0, +8 and 8e0 are equal, as are 1234 and 1,234. Spelled-out numbers, fractions and digits of
    other scripts are not read as numbers.
    """
    extracted = find_last_number(response.text)
    correct = extracted is not None and parse_number(extracted) == parse_number(str(task.expected_answer))
    return {"reward": float(correct), "extracted_answer": extracted}


def find_last_number(text: str) -> str | None:
    """The last number of `text` as it is written there; None where there is none, or it is absurdly long."""
    # No number holds a space, so what stands behind one can be read without what stands before it.
    cut = text.rfind(" ", 0, max(0, len(text) - TAIL_CHARACTERS))
    last = deque(NUMBER.finditer(text, cut + 1), maxlen=1) or deque(NUMBER.finditer(text), maxlen=1)
    if not last or last[0].end() - last[0].start() > MAX_CHARACTERS:
        return None
    return last[0].group()


def parse_number(text: str) -> Decimal | None:
    """The finite number that `text` writes; None where it writes none."""
    if len(text) > MAX_CHARACTERS:
        return None
    try:
        value = Decimal(text.strip().replace(",", "").replace("\N{MINUS SIGN}", "-"))
    except InvalidOperation:
        return None
    return value if value.is_finite() else None
