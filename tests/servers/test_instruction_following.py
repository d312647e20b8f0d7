"""Instructions that can be checked: the rows, and what they earn."""

from __future__ import annotations

from collections import Counter

import langdetect
import pytest
from if_verifiable.common import evaluate_instructions
from if_verifiable.ifeval.instructions_registry import (
    INSTRUCTION_CONFLICTS,
    INSTRUCTION_DICT,
    conflict_make,
)

from nemo_like.types import Json

from .environment import Environment

FOLLOWING = Environment("instruction_following")
ROWS = FOLLOWING.generated(400)
NEED_DATA = {"length_constraints:number_sentences", "change_case:capital_word_frequency"}


@pytest.mark.parametrize("row", FOLLOWING.rows)
def test_an_answer_that_follows_earns_the_reward_and_an_empty_one_does_not(row: Json) -> None:
    assert FOLLOWING.rollout(row, row["gold_answer"])["reward"] == 1.0
    assert FOLLOWING.rollout(row, "")["reward"] == 0.0
    assert FOLLOWING.rollout(row, " \n")["instruction_loose"] == 0.0


def test_the_record_holds_the_row_and_both_verdicts_side_by_side() -> None:
    instructions = ["punctuation:no_comma", "startend:end_checker"]
    row = FOLLOWING.rows[0] | {"instruction_id_list": instructions, "kwargs": [{}, {"end_phrase": "Bye."}]}
    record = FOLLOWING.rollout(row, "Well, no.\nYes. *Bye.*")
    assert record | row == record
    assert record["follow_instruction_list"] == record["follow_instruction_list_strict"] == [False, False]
    assert record["follow_instruction_list_loose"] == [True, True]
    assert (record["reward"], record["prompt_strict"], record["prompt_loose"]) == (0.0, 0.0, 1.0)


def test_a_row_may_ask_for_the_share_or_the_loose_verdict() -> None:
    instructions = ["punctuation:no_comma", "startend:end_checker"]
    row = FOLLOWING.rows[0] | {"instruction_id_list": instructions, "kwargs": [{}, {"end_phrase": "Bye."}]}
    answer = "Well.\n*Bye.*"
    assert FOLLOWING.rollout(row, answer)["reward"] == 0.0
    assert FOLLOWING.rollout(row | {"grading_mode": "fraction"}, answer)["reward"] == 0.5
    assert FOLLOWING.rollout(row | {"strictness": "loose"}, answer)["reward"] == 1.0


def test_a_row_that_can_not_be_checked_is_refused_by_name() -> None:
    row = FOLLOWING.rows[0]
    with pytest.raises(AssertionError, match=r"no instruction .*startend:quotaton.*; did you mean"):
        FOLLOWING.rollout(row | {"instruction_id_list": ["startend:quotaton"], "kwargs": [{}]}, "?")
    with pytest.raises(AssertionError, match="keywords:existence: keywords is required"):
        FOLLOWING.rollout(row | {"instruction_id_list": ["keywords:existence"], "kwargs": [{}]}, "?")


def test_the_example_is_what_the_generator_makes() -> None:
    assert FOLLOWING.generated(5) == FOLLOWING.rows
    assert FOLLOWING.generated(5, seed=1) != FOLLOWING.rows


def test_the_rows_hold_all_25_instructions_up_to_three_together_and_differ() -> None:
    counts = Counter(name for row in ROWS for name in row["instruction_id_list"])
    assert counts.keys() == INSTRUCTION_DICT.keys()
    assert min(counts.values()) >= len(ROWS) // 25
    assert {len(row["kwargs"]) for row in ROWS} == {1, 2, 3}
    assert len({row["prompt"] for row in ROWS}) > 0.9 * len(ROWS)


def test_no_row_asks_for_what_is_published_not_to_go_together() -> None:
    conflicts = conflict_make(INSTRUCTION_CONFLICTS)
    for row in ROWS:
        names = row["instruction_id_list"]
        assert not any(b in conflicts[a] for i, a in enumerate(names) for b in names[i + 1 :]), names


def test_the_answers_of_the_rows_pass_the_published_checks() -> None:
    langdetect.DetectorFactory.seed = 0
    judged = 0
    for row in ROWS:
        pairs = zip(row["instruction_id_list"], row["kwargs"], strict=True)
        names, kwargs = zip(*[pair for pair in pairs if pair[0] not in NEED_DATA] or [((), ())], strict=True)
        if all(names):
            results, _ = evaluate_instructions(
                row["gold_answer"], list(names), list(kwargs), row["prompt"], INSTRUCTION_DICT
            )
            assert all(result.strict_pass for result in results), row
            judged += len(results)
    assert judged > 600


@pytest.mark.parametrize(
    "name",
    [
        *("detectable_format:title", "detectable_format:constrained_response", "combination:two_responses"),
        *("startend:end_checker", "startend:quotation", "detectable_format:json_format"),
        *("detectable_content:number_placeholders", "detectable_format:number_highlighted_sections"),
        *("detectable_format:multiple_sections", "detectable_format:number_bullet_lists"),
        *("length_constraints:number_paragraphs", "length_constraints:nth_paragraph_first_word"),
        *("change_case:english_capital", "change_case:english_lowercase", "language:response_language"),
    ],
)
def test_repeating_the_request_gains_nothing_where_a_form_is_asked_for(name: str) -> None:
    row = next(row for row in ROWS if name in row["instruction_id_list"])
    assert FOLLOWING.rollout(row, row["prompt"])["reward"] == 0.0
