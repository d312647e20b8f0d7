"""Where a prompt leaves the tokens of the step before, and how they are put back."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_like.past_tokens import diverges_at, endings, past_of, spliced

ANSWER = {"role": "assistant", "content": "4", "prompt_token_ids": [1, 2], "generation_token_ids": [3]}
USER = {"role": "user", "content": "?"}


@pytest.mark.parametrize(
    ("history", "past"),
    [
        ([USER, ANSWER, USER], [1, 2, 3]),
        ([ANSWER, USER, ANSWER | {"prompt_token_ids": [1, 2, 3, 4]}, USER], [1, 2, 3, 4, 3]),
        ([USER, ANSWER | {"generation_token_ids": None}], []),
        ([USER, ANSWER | {"prompt_token_ids": 7}], []),
        ([USER | ANSWER | {"role": "user"}], []),
        ([None, 7], []),
        ("What is 2 + 2?", []),
        (None, []),
    ],
)
def test_the_past_is_what_the_last_answer_carries(history: Any, past: list[int]) -> None:
    assert past_of(history) == past


def test_the_endings_differ_in_the_last_answer_alone() -> None:
    said, other = endings([USER, ANSWER, USER, ANSWER, USER])
    assert said == [USER, ANSWER, USER, ANSWER]
    assert other[:-1] == said[:-1] and other[-1]["content"] != "4"


@given(st.lists(st.integers(0, 3)), st.lists(st.integers(0, 3)))
def test_where_a_prompt_leaves_the_past(past: list[int], prompt: list[int]) -> None:
    at = diverges_at(past, prompt)
    if at is None:
        assert prompt[: len(past)] == past
    else:
        assert past[:at] == prompt[:at] and past[at : at + 1] != prompt[at : at + 1]


@given(*[st.lists(st.integers(0, 5)) for _ in range(4)])
def test_what_is_spliced_is_the_past_and_what_the_template_puts_behind_it(
    prompt: list[int], true: list[int], worded: list[int], after: list[int]
) -> None:
    end = 5  # ends an answer, and may stand anywhere else
    prompt = [1, *prompt]
    past, said, other = [*prompt, *true, end], [*prompt, *worded, 7, end], [*prompt, 6, end]
    assert spliced(past, [*said, 8], [*other, 8], [*said, 8, *after]) == [*past, 8, *after]
    # The answer was cut: its last token is no end.
    cut = [*prompt, *true, 7]
    assert spliced(cut, [*said, 8], [*other, 8], [*said, 8, *after]) == [*cut, end, 8, *after]
    # It ended with what the template does not put there.
    assert spliced([*prompt, 4], [*said, 8], [*other, 8], [*said, 8, *after]) is None
