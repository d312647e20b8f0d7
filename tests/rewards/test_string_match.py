"""`exact_match` and `string_match`, against what Python's own strings say."""

from __future__ import annotations

import string
from collections.abc import Callable
from typing import Any, get_args

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from nemo_like.rewards import rewards, runs
from nemo_like.rewards.exact_match import StringTask, exact_match
from nemo_like.rewards.string_match import Mode, string_match
from nemo_like.types import Json, Response

MODES = get_args(Mode)
PYTHON: dict[Mode, Callable[[str, str], bool]] = {
    "contains": lambda answer, text: text in answer,
    "startswith": str.startswith,
    "endswith": str.endswith,
    "equals_any": str.__eq__,
}
few_letters = st.text(st.sampled_from("aAb .,\n"), max_size=8)
not_blank = few_letters.filter(str.strip)
any_text = st.text(st.characters(exclude_categories=()))


def task(expected: str | list[str]) -> StringTask:
    return StringTask.model_validate({"responses_create_params": {"input": "?"}, "expected_answer": expected})


def verdict(function: Any, expected: str | list[str], text: str, **options: Any) -> Json:
    found = function(task(expected), Response(output=[{"role": "assistant", "content": text}]), **options)
    orjson.dumps(found)
    return found


def exact(expected: str | list[str], text: str, **options: Any) -> float:
    return verdict(exact_match, expected, text, **options)["reward"]


def test_both_run_on_the_loop() -> None:
    assert (rewards.get("exact_match"), rewards.get("string_match")) == (exact_match, string_match)
    assert runs(exact_match) == runs(string_match) == "inline"


@pytest.mark.parametrize(
    ("expected", "text", "options", "reward"),
    [
        ("Paris", "Paris", {}, 1.0),
        ("Paris", " Paris\n", {}, 1.0),
        ("Paris", " Paris\n", {"strip": False}, 0.0),
        ("Paris", "paris", {}, 0.0),
        ("Paris", "PARIS", {"ignore_case": True}, 1.0),
        ("Straße", "STRASSE", {"ignore_case": True}, 1.0),
        ("New York", "New\n  York", {}, 0.0),
        ("New York", "New\n  York", {"collapse_whitespace": True}, 1.0),
        ("Paris", "Paris.", {}, 0.0),
        ("Paris", "«Paris»!", {"ignore_punctuation": True}, 1.0),
        ("don't", "dont", {"ignore_punctuation": True}, 1.0),
        ("C++", "C", {"ignore_punctuation": True}, 0.0),
        ("नमस्ते", "नमसत", {"ignore_punctuation": True}, 0.0),
        (["Paris", "City of Light"], "City of Light", {}, 1.0),
        (["Paris", "City of Light"], "Paris, City of Light", {}, 0.0),
        ("Paris", "It is Paris", {}, 0.0),
        ("Paris", "", {}, 0.0),
        ("1", "\N{FULLWIDTH DIGIT ONE}", {}, 0.0),
    ],
)
def test_the_answer_equals_one_of_the_accepted_strings(
    expected: str | list[str], text: str, options: Json, reward: float
) -> None:
    assert exact(expected, text, **options) == reward
    assert verdict(string_match, expected, text, mode="equals_any", **options)["reward"] == reward


def test_the_record_says_which_of_the_accepted_strings_it_is() -> None:
    assert verdict(exact_match, ["Rome", "Roma"], "ROMA", ignore_case=True)["extracted_answer"] == "Roma"
    assert verdict(exact_match, ["Rome", "rome"], "ROME", ignore_case=True)["extracted_answer"] == "Rome"
    assert verdict(exact_match, "Rome", "Paris")["extracted_answer"] is None
    assert verdict(string_match, ["b", "a"], "ab")["extracted_answer"] == "b"


@pytest.mark.parametrize("function", [exact_match, string_match])
def test_a_task_of_which_nothing_is_left_is_not_scored(function: Any) -> None:
    response = Response(output=[{"role": "assistant", "content": "..."}])
    assert function(task("?!"), response, ignore_punctuation=True) is None
    assert verdict(function, ["?!", "x"], "...", ignore_punctuation=True)["reward"] == 0.0


@pytest.mark.parametrize("expected", ["", " \n", [], ["x", ""]])
def test_a_blank_string_is_not_accepted(expected: Any) -> None:
    with pytest.raises(ValidationError, match="not blank"):
        task(expected)


@pytest.mark.parametrize("mode", MODES)
@given(accepted=st.lists(not_blank, min_size=1, max_size=3), text=few_letters)
def test_the_modes_are_python_s(mode: Mode, accepted: list[str], text: str) -> None:
    earned = verdict(string_match, accepted, text, mode=mode, strip=False)["reward"]
    assert earned == float(any(PYTHON[mode](text, one) for one in accepted))


@pytest.mark.parametrize("mode", MODES)
@given(one=not_blank, text=few_letters)
def test_the_options_are_python_s(mode: Mode, one: str, text: str) -> None:
    def same(value: str) -> str:
        kept = "".join(c for c in value if c not in string.punctuation)
        return " ".join(kept.lower().split())

    options = {"ignore_case": True, "collapse_whitespace": True, "ignore_punctuation": True}
    found = string_match(
        task(one), Response(output=[{"role": "assistant", "content": text}]), mode=mode, **options
    )
    expected = float(PYTHON[mode](same(text), same(one))) if same(one) else None
    assert (found and found["reward"]) == expected


@given(expected=any_text.filter(str.strip), text=any_text)
def test_exactly_means_what_python_says(expected: str, text: str) -> None:
    for answer in (text, expected, f" {expected}\n"):
        found = exact_match(task(expected), Response(output=[{"role": "assistant", "content": answer}]))
        assert found is not None and found["reward"] == float(answer.strip() == expected.strip())


def test_only_the_last_assistant_message_is_read() -> None:
    right: Json = {"role": "assistant", "content": "Paris"}
    for output in (
        [],
        [right, {"role": "assistant", "content": "I do not know."}],
        [{"role": "user", "content": "Paris"}],
        [{"type": "reasoning", "summary": [{"type": "summary_text", "text": "Paris"}]}],
    ):
        for function in (exact_match, string_match):
            found = function(task("Paris"), Response(output=output))
            assert found is not None and found["reward"] == 0.0


@pytest.mark.parametrize("unit", ["Paris", ".", " ", "\n", "\x00", "\ud800", "é", "\u202e", "a." * 10])
@pytest.mark.timeout(30)
def test_a_megabyte_of_anything_is_read_in_passing(unit: str) -> None:
    text = unit * (1_000_000 // len(unit))
    options = {"ignore_case": True, "collapse_whitespace": True, "ignore_punctuation": True}
    assert exact("Paris", text, **options) == 0.0
    contains = verdict(string_match, "Paris", text, **options)["reward"]
    assert contains == float(unit == "Paris")
