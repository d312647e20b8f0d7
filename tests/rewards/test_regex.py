"""`regex`: the row's pattern, its last match, and a pool that outlives a pattern without end."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from nemo_like.errors import PartError
from nemo_like.rewards import rewards, runs
from nemo_like.rewards.regex import RegexTask, regex
from nemo_like.rewards.scoring import Scorer
from nemo_like.types import Json, Response


def task(pattern: Any, expected: str | list[str] | None = None) -> RegexTask:
    row = {"responses_create_params": {"input": "?"}, "pattern": pattern, "expected_answer": expected}
    return RegexTask.model_validate(row)


def answer(text: str) -> Response:
    return Response(output=[{"role": "assistant", "content": text}])


def verdict(pattern: str, expected: str | list[str] | None, text: str, **options: Any) -> Json:
    found = regex(task(pattern, expected), answer(text), **options)
    orjson.dumps(found)
    return found


@pytest.mark.parametrize(
    ("pattern", "expected", "text", "extracted", "reward"),
    [
        (r"\d+", "14", "7 + 7 = 14", "14", 1.0),
        (r"\d+", "7", "7 + 7 = 14", "14", 0.0),
        (r"\d+", ["13", "14"], "14", "14", 1.0),
        (r"\d+", None, "14", "14", 1.0),
        (r"\d+", None, "fourteen", None, 0.0),
        (r"\d+", "14", "fourteen", None, 0.0),
        (r"Answer: (\w+)", "B", "Answer: A Answer: B", "B", 1.0),
        (r"Answer: (.*)", "B", "Answer:  B \n", " B ", 1.0),
        (r"(a)|b", "a", "ab", None, 0.0),
        (r"(a)|b", None, "ab", None, 1.0),
        (r"(?s)^Dear.*Yours$", None, "Dear you,\nMe.\nYours", "Dear you,\nMe.\nYours", 1.0),
        (r"x*", None, "", None, 0.0),
        (r"x*", None, " \n", None, 0.0),
        (r"^(?=.*fox)(?=.*dog)", None, "a dog and a fox", "", 1.0),
        (r".", None, "\ud800", "?", 1.0),
    ],
)
def test_the_last_match_is_what_was_expected(
    pattern: str, expected: str | list[str] | None, text: str, extracted: str | None, reward: float
) -> None:
    assert verdict(pattern, expected, text) == {"reward": reward, "extracted_answer": extracted}


def test_a_group_can_be_numbered_and_named() -> None:
    pattern = r"(?P<day>\d+)\.(?P<month>\d+)\."
    assert verdict(pattern, "3", "3.4.")["reward"] == 1.0
    assert verdict(pattern, "4", "3.4.", group=2)["reward"] == 1.0
    assert verdict(pattern, "4", "3.4.", group="month")["reward"] == 1.0
    assert verdict(pattern, "3.4.", "3.4.", group=0)["reward"] == 1.0
    for group in (3, "year"):
        with pytest.raises(ValueError, match=f"has no group {group!r}"):
            verdict(pattern, "3", "", group=group)


def test_case_can_be_ignored_in_both_the_pattern_and_the_value() -> None:
    assert verdict("answer: (.*)", "PARIS", "Answer: Paris")["reward"] == 0.0
    assert verdict("answer: (.*)", "PARIS", "Answer: Paris", ignore_case=True)["reward"] == 1.0


@pytest.mark.parametrize("pattern", ["([", "(?P<x", "a{99999999999999999999}", "(" * 5000, 3, None])
def test_what_is_no_pattern_is_refused(pattern: Any) -> None:
    with pytest.raises(ValidationError, match="pattern"):
        task(pattern)


@given(
    pattern=st.sampled_from([r"\w+", r"(\d)", r"a(b?)", r"(a)(b)", r"[ab]{2}", r"^.", r"b$", r"(a)|(b)"]),
    text=st.text(st.sampled_from("ab1 \n"), max_size=12),
    expected=st.sampled_from(["a", "b", "ab", "1", "aa"]),
)
def test_it_agrees_with_findall(pattern: str, text: str, expected: str) -> None:
    found: list[Any] = re.findall(pattern, text) if text.strip() else []
    values: list[str] = [match[0] if isinstance(match, tuple) else match for match in found]
    value = values[-1] if values else None
    earned = verdict(pattern, expected, text)
    assert earned["reward"] == float(value is not None and value.strip() == expected)
    assert (earned["extracted_answer"] or "") == (value or "")
    assert verdict(pattern, None, text)["reward"] == float(value is not None)


@given(text=st.text(st.characters(exclude_categories=())), expected=st.text().filter(str.strip))
def test_no_answer_makes_it_raise(text: str, expected: str) -> None:
    assert verdict(r"(?i)answer\s*:\s*(.+)", expected, text)["reward"] in (0.0, 1.0)


def test_it_runs_where_it_can_be_killed() -> None:
    assert (rewards.get("regex"), runs(regex)) == (regex, "pool")


def test_a_pattern_without_end_costs_one_verdict() -> None:
    bomb, text = task(r"^(\w+\s?)*$"), answer("a" * 60 + "!")
    scorer = Scorer(timeout_s=0.2)

    async def both() -> Json:
        with pytest.raises(PartError, match=r"longer than 0\.2 s") as failed:
            await scorer(regex, bomb, text)
        assert failed.value.kind == "timeout"
        return await Scorer()(regex, task(r"\d+", "14"), answer("14"))

    assert asyncio.run(both())["reward"] == 1.0
