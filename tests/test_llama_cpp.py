"""Every token of an answer of llama.cpp, whatever it leaves out of its log-probabilities."""

from __future__ import annotations

import asyncio

import pytest

from nemo_like.errors import PartError
from nemo_like.llama_cpp import lacks_details, token_fields, tokens_of
from nemo_like.types import Json

PROMPT = [1, 2]


def completion(ids: list[int], told: list[int], prompt_tokens: int = 2) -> Json:
    """An answer of `ids`, of which `told` have a log-probability of -0.5."""
    entries = [{"id": token, "token": f"t{token}", "logprob": -0.5, "top_logprobs": []} for token in told]
    details = {"prompt": "<user>?", "tokens": ids}
    choices = [{"logprobs": {"content": entries}}]
    return {
        "choices": choices,
        "usage": {"prompt_tokens": prompt_tokens},
        "timings": {},
        "__verbose": details,
    }


def read(answer: Json) -> tuple[list[float], list[list[int]]]:
    """The log-probabilities, and the prompts asked about; behind n tokens each other has one of -9 - n."""
    asked: list[list[int]] = []

    async def post(path: str, body: Json) -> Json:
        if path == "/tokenize":
            return {"tokens": PROMPT if body["content"] == "<user>?" else [0]}
        asked.append(body["prompt"])
        likely = [{"id": token, "logprob": -9.0 - len(body["prompt"])} for token in range(10)]
        return {"completion_probabilities": [{"id": 0, "top_logprobs": likely}]}

    prompt, entries = asyncio.run(tokens_of(answer, post=post))
    fields = token_fields(prompt, entries)
    assert (fields["prompt_token_ids"], fields["generation_token_ids"]) == (
        PROMPT,
        answer["__verbose"]["tokens"],
    )
    return fields["generation_log_probs"], asked


@pytest.mark.parametrize(
    ("ids", "told", "logprobs"),
    [
        ([3, 4, 3], [3, 4, 3], [-0.5, -0.5, -0.5]),
        ([3, 4, 5], [3, 5], [-0.5, -12.0, -0.5]),
        ([3, 4, 5], [], [-11.0, -12.0, -13.0]),
        # It may be that of the first or of the last: neither is guessed.
        ([3, 4, 3], [3], [-11.0, -12.0, -13.0]),
        ([3, 3, 4], [3, 4], [-11.0, -12.0, -0.5]),
    ],
)
def test_what_is_missing_is_asked_for_at_its_place(
    ids: list[int], told: list[int], logprobs: list[float]
) -> None:
    found, asked = read(completion(ids, told))
    assert found == logprobs
    assert asked == [PROMPT + ids[:at] for at, value in enumerate(logprobs) if value != -0.5]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (completion([3], [4]), "a log-probability of a token that was not drawn: 4"),
        (completion([], [4]), "no token ids"),
        (completion([3], [], prompt_tokens=9), "the prompt is not of text alone"),
        (completion([77], []), "no log-probability of a token that it drew: 77"),
    ],
)
def test_what_does_not_belong_together_is_a_bad_response(answer: Json, words: str) -> None:
    with pytest.raises(PartError, match=words) as raised:
        read(answer)
    assert raised.value.kind == "bad_response"


def test_an_answer_that_was_not_asked_for_its_tokens_is_known() -> None:
    asked = completion([3], [3])
    unasked = {key: value for key, value in asked.items() if key != "__verbose"}
    of_vllm = {key: value for key, value in unasked.items() if key != "timings"}
    assert [lacks_details(each) for each in (asked, unasked, of_vllm)] == [False, True, False]
