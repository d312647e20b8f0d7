"""Synonyms and their values: the rows, the tools, the search, and what they earn."""

from __future__ import annotations

import json
import re
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_like.registry import load
from nemo_like.types import Json, Response

from ..conftest import read_jsonl
from .environment import Environment, call

MULTI_STEP = Environment("example_multi_step")
LONG_ROWS = read_jsonl(MULTI_STEP.folder / "data/long_document.jsonl")
synonym_values = load(f"{MULTI_STEP.folder}/reward.py:synonym_values")
SynonymTask = load(f"{MULTI_STEP.folder}/reward.py:SynonymTask")
Document = load(f"{MULTI_STEP.folder}/document.py:Document")
TERMS = load(f"{MULTI_STEP.folder}/terms.py:TERMS")
value_of = load(f"{MULTI_STEP.folder}/terms.py:value_of")

TASK = SynonymTask(responses_create_params={}, expected_synonym_values=[711, 407], minefield_label_value=299)


def handed_in(*lists: Any) -> Json:
    """The verdict where the model handed in these lists, one after the other."""
    calls = [
        {"type": "function_call", "name": "extract_synonym_values", "call_id": "c", "arguments": arguments}
        for arguments in (orjson.dumps({"synonym_values": values}).decode() for values in lists)
    ]
    return synonym_values(TASK, Response(output=calls))


def outputs(record: Json) -> list[Json]:
    items = record["response"]["output"]
    return [json.loads(item["output"]) for item in items if item["type"] == "function_call_output"]


@pytest.mark.parametrize("row", MULTI_STEP.rows)
def test_valuing_each_synonym_and_handing_all_in_earns_the_reward(row: Json) -> None:
    values = row["expected_synonym_values"]
    looked_up = [call("get_synonym_value", synonym=synonym) for synonym in row["expected_synonyms"]]
    record = MULTI_STEP.rollout(
        row, *looked_up, call("extract_synonym_values", synonym_values=values), "Done."
    )
    assert [output["synonym_value"] for output in outputs(record)[:-1]] == values
    assert (record["reward"], record["accuracy"], record["set_overlap"]) == (1.0, True, 1.0)
    assert MULTI_STEP.rollout(row, *looked_up, f"The values are {values}.")["reward"] == 0.0
    assert MULTI_STEP.rollout(row, "")["reward"] == 0.0


@pytest.mark.parametrize("row", LONG_ROWS)
def test_the_needles_of_a_long_document_are_found_by_searching(row: Json) -> None:
    searches = [
        call("search_document", query=f'{ordinal} synonym of "{row["minefield_label"]}"')
        for ordinal in ("first", "second", "third")
    ]
    values = row["expected_synonym_values"]
    record = MULTI_STEP.rollout(
        row, *searches, call("extract_synonym_values", synonym_values=values), "Done."
    )
    found = [" ".join(output["passages"]) for output in outputs(record)[:3]]
    for text, ordinal, synonym in zip(
        found, ("first", "second", "third"), row["expected_synonyms"], strict=True
    ):
        assert f'the {ordinal} synonym of "{row["minefield_label"]}" is "{synonym}"' in text
    assert record["reward"] == 1.0
    assert MULTI_STEP.rollout(row, "")["reward"] == 0.0


def test_a_tool_that_the_row_does_not_offer_is_not_run() -> None:
    record = MULTI_STEP.rollout(MULTI_STEP.rows[0], call("search_document", query="Hot"), "Done.")
    assert "no tool 'search_document'" in outputs(record)[0]["error"]


def test_the_last_list_counts_and_the_record_says_how_it_was_wrong() -> None:
    assert handed_in([1], [711, 407])["reward"] == 1.0
    assert handed_in([711, 407], [407, 711]) == {
        "reward": 0.0,
        "parsed_synonym_values": [407, 711],
        "accuracy": False,
        "set_overlap": 1.0,
        "original_term_minefield_hit": False,
        "order_instruction_following_failure": True,
    }
    assert handed_in([711, 299]) == {
        "reward": 0.0,
        "parsed_synonym_values": [711, 299],
        "accuracy": False,
        "set_overlap": 0.5,
        "original_term_minefield_hit": True,
        "order_instruction_following_failure": False,
    }


@pytest.mark.parametrize(
    "values", [None, 711, "711, 407", ["711", "407"], [711.0, 407.0], [True], {}, [[711]]]
)
def test_what_is_no_list_of_integers_is_an_empty_list(values: Any) -> None:
    verdict = handed_in(values)
    assert (verdict["reward"], verdict["parsed_synonym_values"], verdict["set_overlap"]) == (0.0, [], 0.0)


@pytest.mark.parametrize("arguments", ["", "{", "[711, 407]", '{"values": [711, 407]}', None])
def test_arguments_that_hold_no_list_earn_nothing(arguments: Any) -> None:
    item = {"type": "function_call", "name": "extract_synonym_values", "arguments": arguments}
    assert synonym_values(TASK, Response(output=[item]))["reward"] == 0.0


@given(st.lists(st.integers(0, 1000) | st.sampled_from([711, 407, 299])))
def test_only_the_expected_list_earns_the_reward(values: list[int]) -> None:
    verdict = handed_in(values)
    assert verdict["reward"] == float(values == [711, 407])
    assert 0.0 <= verdict["set_overlap"] <= 1.0
    assert handed_in(values, [711, 407])["reward"] == 1.0


def test_handing_in_every_number_gains_nothing() -> None:
    assert handed_in(list(range(1000)))["reward"] == 0.0


def test_a_search_finds_few_passages_and_rare_words_weigh_more() -> None:
    passages = [f"The day {day} was long." for day in range(20)]
    document = Document("\n\n".join([*passages, "The needle lies here."]))
    assert document.search("the day of the NEEDLE")[0] == "The needle lies here."
    assert len(document.search("the day")) == 3
    assert document.search("day 7") == ["The day 7 was long.", "The day 0 was long.", "The day 1 was long."]


@pytest.mark.parametrize(
    ("text", "query"), [("", "a"), ("a b", ""), ("a b", "?!"), ("a b", "c"), ("\n\n\n", "a")]
)
def test_a_search_for_what_is_not_there_finds_nothing(text: str, query: str) -> None:
    assert Document(text).search(query) == []


@given(st.text(max_size=200), st.text(max_size=20))
def test_a_search_gives_passages_of_the_document_that_hold_a_word_of_the_query(text: str, query: str) -> None:
    for passage in Document(text).search(query):
        assert passage in text
        assert {*re.findall(r"\w+", passage.casefold())} & {*re.findall(r"\w+", query.casefold())}


def test_the_examples_are_what_the_generators_make() -> None:
    assert MULTI_STEP.generated(5) == MULTI_STEP.rows
    assert MULTI_STEP.generated(5, script="make_long_document.py") == LONG_ROWS
    assert MULTI_STEP.generated(5, seed=1) != MULTI_STEP.rows


def test_every_row_expects_the_values_of_synonyms_that_it_tells_in_order() -> None:
    for row in MULTI_STEP.generated(200):
        system = row["responses_create_params"]["input"][0]["content"]
        assert f"- {row['minefield_label']}: {', '.join(row['expected_synonyms'])}" in system.splitlines()
        assert [value_of(synonym) for synonym in row["expected_synonyms"]] == row["expected_synonym_values"]
        assert row["minefield_label_value"] not in row["expected_synonym_values"]


def test_long_documents_are_long_and_not_in_the_prompt() -> None:
    for row in MULTI_STEP.generated(20, script="make_long_document.py"):
        assert 1000 <= len(row["document"].split()) <= 2100
        assert len(json.dumps(row["responses_create_params"])) < 3000
        assert all(f'"{synonym}"' in row["document"] for synonym in row["expected_synonyms"])


def test_no_question_names_a_term() -> None:
    names = {term.name.casefold() for term in TERMS}
    for term in TERMS:
        for question in term.questions:
            assert not names & {*re.findall(r"\w+", question.casefold())}, question


def test_the_value_of_a_word_is_the_sum_of_its_code_points() -> None:
    assert [value_of(word) for word in ("Blazing", "Warm", "Hot", "")] == [711, 407, 299, 0]
