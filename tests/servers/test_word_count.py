"""Counting words: the rows, and what they earn."""

from __future__ import annotations

import pytest

from nemo_like.types import Json

from .environment import Environment

WORD_COUNT = Environment("word_count")
COMPONENTS = ("exact_match_reward", "format_reward", "partial_credit_reward")


@pytest.mark.parametrize("row", WORD_COUNT.rows)
def test_the_count_in_its_tag_earns_1_3_without_it_1_1_and_nothing_for_nothing(row: Json) -> None:
    count = row["answer"]
    tagged, bare, empty = (
        WORD_COUNT.rollout(row, text) for text in (f"<word_count>\n{count}\n</word_count>", count, "")
    )
    assert [tagged[name] for name in ("reward", *COMPONENTS)] == [1.3, 1.0, 1.0, 1.0]
    assert [bare[name] for name in ("reward", *COMPONENTS)] == [1.1, 1.0, 0.0, 1.0]
    assert [empty[name] for name in ("reward", *COMPONENTS)] == [0.0, 0.0, 0.0, 0.0]
    assert WORD_COUNT.success_threshold == bare["reward"]


def test_a_wrong_count_is_no_success_however_near_and_well_formed() -> None:
    record = WORD_COUNT.rollout(WORD_COUNT.rows[0] | {"answer": "100"}, "<word_count>99</word_count>")
    assert record["reward"] == 0.299 < WORD_COUNT.success_threshold


def test_the_example_is_what_the_generator_makes() -> None:
    assert WORD_COUNT.generated(5) == WORD_COUNT.rows
    assert WORD_COUNT.generated(5, seed=1) != WORD_COUNT.rows


def test_every_row_asks_for_the_words_of_its_text() -> None:
    rows = WORD_COUNT.generated(300)
    for row in rows:
        info = row["info"]
        assert info["text"] in row["responses_create_params"]["input"][-1]["content"]
        assert len(info["text"].split()) == info["word_count"] == int(row["answer"])
    assert {row["info"]["word_count"] for row in rows} == {3, 4, 5, 6, 7, 8}


def test_the_worked_examples_are_right() -> None:
    *worked, _ = WORD_COUNT.rows[0]["responses_create_params"]["input"]
    for question, answer in zip(worked[::2], worked[1::2], strict=True):
        text = question["content"].partition(": ")[2].partition("\n")[0]
        assert answer["content"] == f"<word_count>{len(text.split())}</word_count>"
