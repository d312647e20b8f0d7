"""Made tool calls against expected ones: what matches, what it earns, and what does not help."""

from __future__ import annotations

import json
from itertools import combinations, permutations
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from nemo_like.rewards import rewards, runs
from nemo_like.rewards.json_value import same
from nemo_like.rewards.tool_calls import ToolCallsTask, tool_calls
from nemo_like.types import Json, Response

OSLO: Json = {"name": "get_weather", "arguments": {"city": "Oslo", "days": 1}}
LIMA: Json = {"name": "get_weather", "arguments": {"city": "Lima", "days": 1}}
MAIL: Json = {"name": "send", "arguments": {"to": ["ana", "bob"], "options": {"urgent": True}}}


def made(*calls: Json) -> Response:
    items: list[Json] = [{"type": "message", "role": "assistant", "content": "Done."}]
    for call in calls:
        text = call["arguments"] if isinstance(call["arguments"], str) else json.dumps(call["arguments"])
        items.append({"type": "function_call", "call_id": "c", "name": call["name"], "arguments": text})
        items.append({"type": "function_call_output", "call_id": "c", "output": json.dumps(MAIL)})
    return Response(output=items)


def score(expected: list[Json], calls: list[Json], **options: Any) -> Json:
    row = {"responses_create_params": {"input": "?"}, "expected_tool_calls": expected}
    return tool_calls(ToolCallsTask.model_validate(row), made(*calls), **options)


def call(base: Json, **changes: Any) -> Json:
    return base | {"arguments": base["arguments"] | changes}


def test_it_is_known_by_its_name_and_runs_inline() -> None:
    assert rewards.get("tool_calls") is tool_calls
    assert runs(tool_calls) == "inline"


@pytest.mark.parametrize(
    "arguments",
    [
        {"days": 1, "city": "Oslo"},
        {"city": "Oslo", "days": 1.0},
        '{"days": 1e0, "city": "Os\\u006co"}',
        ' {"city": "?", "city": "Oslo", "days": 1}\n',
    ],
)
def test_the_expected_call_earns_the_reward_however_its_json_is_written(arguments: Any) -> None:
    assert score([OSLO], [{"name": "get_weather", "arguments": arguments}]) == {
        "reward": 1.0,
        "name_accuracy": 1.0,
        "argument_accuracy": 1.0,
        "exact_match": 1.0,
    }


@pytest.mark.parametrize(
    "arguments",
    [
        *("", "null", "{", "[]", '"Oslo"', "\x00", "\ud800", "1" * 5000, "[" * 100_000, "NaN"),
        *({}, {"city": "Oslo"}, {"city": "Oslo", "days": 1, "unit": "C"}, {"city": "oslo", "days": 1}),
        *({"city": "Oslo", "days": True}, {"city": "Oslo", "days": "1"}, {"city": "Oslo", "days": [1]}),
        *({"city": "Oslo", "days": None}, {"city": "Oslo", "days": {"": 1}}, {"city": " Oslo", "days": 1}),
    ],
)
def test_other_arguments_earn_no_more_than_the_name(arguments: Any) -> None:
    verdict = score([OSLO], [{"name": "get_weather", "arguments": arguments}])
    assert [*verdict.values()] == [0.0, 1.0, 0.0, 0.0]


def test_where_no_call_is_expected_only_making_none_is_right() -> None:
    assert score([], [])["reward"] == 1.0
    for options in ({}, {"extra_calls": True}, {"order": "any"}, {"arguments": "subset"}):
        assert [*score([], [OSLO], **options).values()] == [0.0] * 4
    assert [*score([OSLO], []).values()] == [0.0] * 4


@pytest.mark.parametrize(
    ("calls", "options", "verdict"),
    [
        ([OSLO, LIMA], {}, [1.0, 1.0, 1.0, 1.0]),
        ([LIMA, OSLO], {}, [0.0, 1.0, 0.5, 0.0]),
        ([LIMA, OSLO], {"order": "any"}, [1.0, 1.0, 1.0, 1.0]),
        ([OSLO], {}, [0.0, 0.5, 0.5, 0.0]),
        ([OSLO, OSLO], {"order": "any"}, [0.0, 1.0, 0.5, 0.0]),
        ([OSLO, MAIL, LIMA], {}, [0.0, 2 / 3, 2 / 3, 0.0]),
        ([OSLO, MAIL, LIMA], {"extra_calls": True}, [1.0, 1.0, 1.0, 1.0]),
        ([LIMA, MAIL, OSLO], {"extra_calls": True}, [0.0, 1.0, 0.5, 0.0]),
        ([LIMA, MAIL, OSLO], {"extra_calls": True, "order": "any"}, [1.0, 1.0, 1.0, 1.0]),
        ([MAIL, MAIL], {"extra_calls": True, "order": "any"}, [0.0, 0.0, 0.0, 0.0]),
        ([call(OSLO, unit="C"), LIMA], {}, [0.0, 1.0, 0.5, 0.0]),
        ([call(OSLO, unit="C"), LIMA], {"arguments": "subset"}, [1.0, 1.0, 1.0, 1.0]),
        ([call(OSLO, days=2), LIMA], {"arguments": "subset"}, [0.0, 1.0, 0.5, 0.0]),
    ],
)
def test_order_extra_calls_and_extra_arguments_count_as_the_options_say(
    calls: list[Json], options: Json, verdict: list[float]
) -> None:
    assert [*score([OSLO, LIMA], calls, **options).values()] == pytest.approx(verdict)


def test_a_subset_goes_into_objects_and_not_into_lists() -> None:
    for arguments, reward in [
        ({"to": ["ana", "bob"], "options": {"urgent": True, "copy": 1}, "text": "?"}, 1.0),
        ({"to": ["ana", "bob", "eve"], "options": {"urgent": True}}, 0.0),
        ({"to": ["bob", "ana"], "options": {"urgent": True}}, 0.0),
        ({"to": ["ana", "bob"], "options": {"urgent": 1}}, 0.0),
        ({"to": ["ana", "bob"], "options": {}}, 0.0),
    ]:
        assert score([MAIL], [MAIL | {"arguments": arguments}], arguments="subset")["reward"] == reward


def test_two_calls_that_the_same_made_call_fits_need_one_each() -> None:
    loose = {"name": "get_weather", "arguments": {"city": "Oslo"}}
    for calls in permutations([OSLO, loose]):
        assert score([loose, OSLO], [*calls], arguments="subset", order="any")["reward"] == 1.0
    assert score([loose, OSLO], [OSLO], arguments="subset", order="any")["reward"] == 0.0


def test_calls_in_the_prompt_or_in_words_are_no_calls() -> None:
    text = json.dumps({"type": "function_call", **OSLO})
    row = {
        "responses_create_params": {"input": [{"type": "function_call", "call_id": "c", **OSLO}]},
        "expected_tool_calls": [OSLO],
    }
    response = Response(output=[{"type": "message", "role": "assistant", "content": text}])
    assert tool_calls(ToolCallsTask.model_validate(row), response)["reward"] == 0.0


def test_making_every_call_there_is_gains_nothing_unless_extra_calls_are_allowed() -> None:
    spray = [call(OSLO, days=days) for days in range(50)]
    verdict = score([OSLO], spray, order="any")
    assert [*verdict.values()] == pytest.approx([0.0, 1 / 50, 1 / 50, 0.0])


@pytest.mark.parametrize("order", ["strict", "any"])
@pytest.mark.timeout(30)
def test_thousands_of_calls_and_a_megabyte_of_arguments_are_read_in_passing(order: str) -> None:
    expected = [call(OSLO, days=days) for days in range(20)]
    assert score(expected, [OSLO] * 10_000, order=order)["reward"] == 0.0
    assert score([OSLO], [call(OSLO, days="9" * 1_000_000)], order=order)["reward"] == 0.0
    deep = '{"city": "Oslo", "days": ' + "[" * 1000 + "]" * 1000 + "}"
    assert score([OSLO], [OSLO | {"arguments": deep}], order=order)["reward"] == 0.0


@pytest.mark.parametrize(
    ("expected", "said"),
    [
        (None, "valid list"),
        ([{"arguments": {}}], "name"),
        ([{"name": "f", "arguments": "{"}], "valid dictionary"),
        ([{"name": "f", "arguments": [1]}], "valid dictionary"),
        ([{"name": "f", "argument": {}}], "Extra inputs"),
        ([OSLO] * 101, "at most 100 items"),
    ],
)
def test_a_row_that_can_not_be_scored_is_refused(expected: Any, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        score(expected, [])


def test_the_arguments_of_a_row_may_be_json_text() -> None:
    assert score([OSLO | {"arguments": json.dumps(OSLO["arguments"])}], [OSLO])["reward"] == 1.0
    assert score([{"name": "now"}], [{"name": "now", "arguments": {}}])["reward"] == 1.0


values = st.recursive(
    st.sampled_from([None, True, False, 0, 1, 1.0, "", "a", "1"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
    max_leaves=4,
)


@given(values, values)
def test_two_values_are_the_same_exactly_where_their_canonical_json_is(one: Any, other: Any) -> None:
    def canonical(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: canonical(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [*map(canonical, value)]
        return float(value) if isinstance(value, int) and not isinstance(value, bool) else value

    texts = [json.dumps(canonical(value), sort_keys=True) for value in (one, other)]
    assert same(one, other) == (texts[0] == texts[1])
    if same(one, other):
        assert same(one, other, subset=True)


calls_of_few_kinds = st.lists(
    st.builds(
        lambda name, arguments: {"name": name, "arguments": arguments},
        st.sampled_from("fg"),
        st.dictionaries(st.sampled_from("ab"), st.sampled_from([1, True]), max_size=2),
    ),
    max_size=4,
)


@given(
    expected=calls_of_few_kinds,
    calls=calls_of_few_kinds,
    order=st.sampled_from(["strict", "any"]),
    extra_calls=st.booleans(),
    arguments=st.sampled_from(["exact", "subset"]),
)
def test_the_verdict_is_that_of_trying_every_way_to_pair_the_calls(
    expected: list[Json], calls: list[Json], order: str, extra_calls: bool, arguments: str
) -> None:
    def named(wanted: Json, call: Json) -> bool:
        return wanted["name"] == call["name"]

    def whole(wanted: Json, call: Json) -> bool:
        pairs = {(key, repr(value)) for key, value in wanted["arguments"].items()}
        given = {(key, repr(value)) for key, value in call["arguments"].items()}
        return named(wanted, call) and (pairs <= given if arguments == "subset" else pairs == given)

    def most(fits: Any) -> int:
        choose = combinations if order == "strict" else permutations
        return max(
            size
            for size in range(min(len(expected), len(calls)) + 1)
            for wanted in combinations(expected, size)
            for chosen in choose(calls, size)
            if all(map(fits, wanted, chosen))
        )

    if expected:
        total = len(expected) if extra_calls else max(len(expected), len(calls))
        parts = [most(named) / total, most(whole) / total, float(most(whole) == total)]
    else:
        parts = [float(not calls)] * 3
    options = {"order": order, "extra_calls": extra_calls, "arguments": arguments}
    assert [*score(expected, calls, **options).values()] == [parts[2], *parts]


@given(st.lists(st.dictionaries(st.sampled_from(["type", "name", "arguments"]), st.text() | values)))
def test_no_trajectory_makes_it_raise(items: list[Json]) -> None:
    task = ToolCallsTask(responses_create_params={}, expected_tool_calls=[])
    for kind in ({}, {"type": "function_call"}):
        verdict = tool_calls(task, Response(output=[item | kind for item in items]))
        assert verdict["reward"] in (0.0, 1.0)
        orjson.dumps(verdict)
