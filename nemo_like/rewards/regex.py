"""The last match of the row's own pattern is what was expected."""

from __future__ import annotations

import re
from collections import deque
from typing import Annotated

from pydantic import AfterValidator

from nemo_like.rewards.exact_match import Accepted
from nemo_like.rewards.reward import reward
from nemo_like.types import Json, Response, Task


def _pattern(value: str) -> str:
    try:
        re.compile(value)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"should be a pattern of Python's re: {error}") from error
    return value


class RegexTask(Task):
    """A task whose answer matches a pattern."""

    pattern: Annotated[str, AfterValidator(_pattern)]
    expected_answer: Accepted | None = None
    """What the match should be, or a list of what it may be; null accepts any match."""


@reward("regex", runs="pool")
def regex(
    task: RegexTask, response: Response, *, group: int | str | None = None, ignore_case: bool = False
) -> Json:
    """1.0 iff `pattern` is found in the answer and its last match is `expected_answer`, or one of its list.

    What is compared, and recorded as `extracted_answer`, is the group that `group` numbers or names; by
    default the first, or the whole match where the pattern has none. Outer white space is ignored. An empty
    answer is wrong even where the pattern matches it.

    Raises:
        ValueError: the pattern has no such group.
    """
    pattern = re.compile(task.pattern, re.IGNORECASE if ignore_case else 0)
    if group is None:
        group = min(pattern.groups, 1)
    if group not in pattern.groupindex and group not in range(pattern.groups + 1):
        raise ValueError(f"the pattern {task.pattern!r} has no group {group!r}")
    last = deque(pattern.finditer(response.text), maxlen=1) if response.text.strip() else ()
    found = last[0][group] if last else None
    accepted = [task.expected_answer] if isinstance(task.expected_answer, str) else task.expected_answer
    if accepted is None:
        correct = bool(last)
    else:
        fold = str.casefold if ignore_case else str
        correct = found is not None and fold(found.strip()) in {fold(string.strip()) for string in accepted}
    # Half a surrogate pair is no JSON.
    shown = None if found is None else found.encode(errors="replace").decode()
    return {"reward": float(correct), "extracted_answer": shown}
