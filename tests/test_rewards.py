"""What counts as the answer, what it earns, and what does not help."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from nemo_like.errors import UsageError
from nemo_like.rewards import Reward, rewards, runs, task_type
from nemo_like.rewards.json_fields import JsonTask, json_fields
from nemo_like.rewards.last_number import NumberTask, last_number
from nemo_like.rewards.word_count import WordCountTask, word_count
from nemo_like.types import Json, Response, Task

LONG = 200_000
PERSON: Json = {"name": "Ana Silva", "age": 34}
ROWS: dict[str, Json] = {
    "last_number": {"expected_answer": "14"},
    "json_fields": {"expected_object": PERSON},
    "word_count": {"answer": "5"},
}
MAXIMUM = {"last_number": 1.0, "json_fields": 1.0, "word_count": 1.3}
FRAGMENTS = [
    *("14", "5", "9" * 5000, "-", ".", ",", "e", "1e309", "1e999999999", "1e99999999999999999999", "nan"),
    *("inf", "٣", "\N{FULLWIDTH DIGIT FIVE}", "\ud800", "\x00", "\n", " ", "=", "x", "_", "\N{MINUS SIGN}"),
    *("<word_count>", "</word_count>", "<word_count>5</word_count>", "```", "```json\n", "{", "}", "[", "]"),
    *('"', ":", json.dumps(PERSON), '{"age": 1e400}', '"\\ud800"'),
]
anything = st.one_of(
    st.text(st.characters(exclude_categories=())),
    st.lists(st.sampled_from(FRAGMENTS)).map("".join),
)
without_digits = st.text(st.characters(exclude_categories=("Nd", "Nl", "No")), max_size=30)


def answer(text: str) -> Response:
    return Response(output=[{"type": "message", "role": "assistant", "content": text}])


def score(name: str, text: str, **fields: Any) -> Json:
    function = rewards.get(name)
    row = {"responses_create_params": {"input": "?"}} | ROWS[name] | fields
    verdict = function(task_type(function).model_validate(row), answer(text))
    assert isinstance(verdict, dict)
    return verdict


def test_the_rewards_are_known_by_name() -> None:
    assert {"last_number", "math", "mcqa", "llm_judge"} <= set(rewards.names())
    assert all(runs(rewards.get(name)) in ("inline", "pool", "judge") for name in rewards.names())
    assert all(issubclass(task_type(rewards.get(name)), Task) for name in rewards.names())
    with pytest.raises(UsageError, match=r"no reward named 'last_numbr'; did you mean 'last_number'\?"):
        rewards.get("last_numbr")


def test_a_reward_says_where_it_runs_and_one_that_does_not_runs_in_a_pool() -> None:
    def mine(task: Task, response: Response) -> float:
        return 1.0

    assert {runs(rewards.get(name)) for name in ROWS} == {"inline"}
    assert runs(mine) == "pool"


def test_a_reward_says_which_rows_it_takes() -> None:
    def careless(task: Any, response: Response) -> float:
        return 1.0

    types = [task_type(function) for function in (last_number, json_fields, word_count)]
    assert types == [NumberTask, JsonTask, WordCountTask]
    with pytest.raises(UsageError, match="careless does not say which rows it takes; annotate"):
        task_type(careless)


@pytest.mark.parametrize(
    ("name", "fields", "said"),
    [
        ("last_number", {"expected_answer": "many"}, "should be a finite number"),
        ("last_number", {"expected_answer": "nan"}, "should be a finite number"),
        ("last_number", {"expected_answer": "9" * 101}, "of at most 100 characters"),
        ("last_number", {"expected_answer": None}, "expected_answer"),
        ("json_fields", {"expected_object": {}}, "at least 1 item"),
        ("json_fields", {"expected_object": [1]}, "valid dictionary"),
        ("word_count", {"answer": "five"}, "valid integer"),
        ("word_count", {"answer": -1}, "greater than or equal to 0"),
    ],
)
def test_a_row_that_can_not_be_scored_is_refused(name: str, fields: Json, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        score(name, "", **fields)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "14",
            " 14.\n",
            "14.0",
            "+14",
            "1.4e1",
            "**14**",
            "_14_",
            "$14$",
            "\\boxed{14}",
            "14 apples",
            "14kg",
        ),
        *(
            "7 + 7 = 14",
            "The answer is 14.",
            "answer:14",
            "(14)",
            "13, no, 14",
            "=14",
            "<b>14</b>",
            "#### 14",
        ),
    ],
)
def test_the_last_number_is_the_answer(text: str) -> None:
    assert score("last_number", text)["reward"] == 1.0


@pytest.mark.parametrize(
    "text",
    [
        *("", "fourteen", "14 or 15", " ".join(map(str, range(100))), "What is 7 + 7?", "14 = 7 + 7"),
        *(
            "-14",
            "= -14",
            "\N{MINUS SIGN}14",
            "140",
            "114",
            "1.14",
            "14.5",
            "14e2",
            "x14",
            "H14",
            "14/2",
            "1 4",
        ),
        *(
            "\N{FULLWIDTH DIGIT ONE}4",
            "١٤",
            "1\N{FULLWIDTH DIGIT FOUR}",
            "9" * 100_000,
            "nan",
            "inf",
            "1e309",
        ),
        *("0" * 200 + "14", "14\x003", "14,000"),
    ],
)
def test_any_other_last_number_is_wrong(text: str) -> None:
    assert score("last_number", text)["reward"] == 0.0


@pytest.mark.parametrize(
    ("expected", "text"),
    [
        ("1234", "1,234"),
        ("1234567.5", "1,234,567.50"),
        ("2", "1,2"),
        ("3", "12,3"),
        ("2", "10-2"),
        ("2", "(10)-2"),
        ("-2", "10 = -2"),
        ("-2", "\N{MINUS SIGN}2"),
        (0.5, ".5"),
        (14, "14"),
        ("1e400", "1e400"),
        ("0", "-0"),
        ("0.1", "0.1000"),
        ("5", "v2.5"),
        ("12345678901234567890123", "12345678901234567890123"),
    ],
)
def test_a_number_is_read_as_people_write_it(expected: str | int | float, text: str) -> None:
    assert score("last_number", text, expected_answer=expected)["reward"] == 1.0


def test_numbers_that_a_float_confuses_are_told_apart() -> None:
    assert score("last_number", "9007199254740993", expected_answer="9007199254740992")["reward"] == 0.0


@given(without_digits, st.decimals(allow_nan=False, allow_infinity=False, places=3), without_digits)
def test_a_number_among_words_is_found(before: str, number: Decimal, after: str) -> None:
    assert score("last_number", f"{before} {number} {after}", expected_answer=str(number))["reward"] == 1.0


@given(st.integers(2, 999))
def test_spraying_numbers_up_to_any_other_end_gains_nothing(end: int) -> None:
    spray = " ".join(map(str, range(end + 1)))
    assert score("last_number", spray, expected_answer=end - 1)["reward"] == 0.0


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(PERSON),
        f"\n{json.dumps(PERSON, indent=4)}\n",
        '{"age": 34.0, "name": " ana SILVA "}',
        '{"name": "Bob", "name": "Ana Silva", "age": 34}',
        f"```json\n{json.dumps(PERSON)}\n```",
        f"Sure:\n```\n{json.dumps(PERSON)}\n```\nDone.",
        f'```\n{{"name": "?"}}\n```\nNo:\n```json\n{json.dumps(PERSON)}\n```',
    ],
)
def test_the_expected_object_earns_the_reward(text: str) -> None:
    assert score("json_fields", text) | {"extracted_answer": 0} == {
        "reward": 1.0,
        "field_accuracy": 1.0,
        "extracted_answer": 0,
    }


@pytest.mark.parametrize(
    ("text", "accuracy"),
    [
        ("", 0.0),
        ("null", 0.0),
        (f"[{json.dumps(PERSON)}]", 0.0),
        (f"Sure: {json.dumps(PERSON)}", 0.0),
        (json.dumps(PERSON) * 2, 0.0),
        (json.dumps(PERSON)[:-1], 0.0),
        (f"```json\n{json.dumps(PERSON)}", 0.0),
        (f"```json\n{json.dumps(PERSON)}\n```\n```", 0.0),
        (f'```\n{json.dumps(PERSON)}\n```\n```\n{{"name": "?"}}\n```', 0.0),
        ('{"name": "Ana Silva"}', 0.5),
        ('{"name": "Ana Silva", "age": 35}', 0.5),
        ('{"name": "Ana Silva", "age": "34"}', 0.5),
        ('{"name": "Ana Silva", "age": true}', 0.5),
        ('{"name": ["Ana Silva"], "age": null}', 0.0),
        ('{"name": "Ana Silva", "age": 34, "city": "Porto"}', 2 / 3),
        ('{"name": "Ana Silva", "age": 34, "a": 1, "b": 1, "c": 1}', 2 / 5),
        ('{"name": "Ana Silva", "age": NaN}', 0.0),
        ('{"name": "\\ud800", "age": 34}', 0.0),
        ('{"name": "Ana Silva\ud800", "age": 34}', 0.0),
        ("[" * 100_000, 0.0),
    ],
)
def test_any_other_object_earns_none_but_says_how_near_it_was(text: str, accuracy: float) -> None:
    verdict = score("json_fields", text)
    assert (verdict["reward"], verdict["field_accuracy"]) == (0.0, accuracy)


def test_nested_values_are_compared_whole() -> None:
    expected = {"tags": ["A", {"b": None}], "on": True}
    for text, reward in [
        ('{"on": true, "tags": ["a", {"b": null}]}', 1.0),
        ('{"on": 1, "tags": ["a", {"b": null}]}', 0.0),
        ('{"on": true, "tags": [{"b": null}, "a"]}', 0.0),
        ('{"on": true, "tags": ["a", {"b": null, "c": 1}]}', 0.0),
        ('{"on": true, "tags": ["a"]}', 0.0),
    ]:
        assert score("json_fields", text, expected_object=expected)["reward"] == reward


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), json_values, min_size=1, max_size=4))
def test_every_object_equals_itself(expected: Json) -> None:
    text = orjson.dumps(expected).decode()
    assert score("json_fields", text, expected_object=expected)["reward"] == 1.0


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        ("<word_count>5</word_count>", 1.3),
        ("<word_count>\n5\n</word_count>", 1.3),
        ("There are <word_count> 5 </word_count> words, of 7.", 1.3),
        ("5", 1.1),
        ("There are 5 words.", 1.1),
        ("<word_count>5", 1.1),
        ("<word_count>five</word_count> 5", 1.1),
        ("<WORD_COUNT>5</WORD_COUNT>", 1.1),
        ("<word_count>4</word_count><word_count>5</word_count>", 1.1),
        ("<word_count>5</word_count> or <word_count>4</word_count>", 0.08),
        ("<word_count>4</word_count> 5", 0.28),
        ("<word_count>4</word_count>", 0.28),
        ("<word_count>10</word_count>", 0.2),
        ("<word_count>" + "9" * 100 + "</word_count>", 0.2),
        ("<word_count>" + "9" * 101 + "</word_count>", 0.0),
        ("4", 0.08),
        ("5.5", 0.09),
        ("-5", 0.0),
        ("1e9999999", 0.0),
        ("five", 0.0),
        ("<word_count>N</word_count>", 0.0),
        ("<word_count>-5</word_count> words", 0.0),
        ("<word_count>\N{FULLWIDTH DIGIT FIVE}</word_count>", 0.0),
        ("", 0.0),
    ],
)
def test_a_count_earns_its_value_form_and_distance(text: str, reward: float) -> None:
    verdict = score("word_count", text)
    assert verdict["reward"] == pytest.approx(reward)
    parts = ("exact_match_reward", "format_reward", "partial_credit_reward")
    assert sum(w * verdict[part] for w, part in zip((1, 0.2, 0.1), parts, strict=True)) == pytest.approx(
        reward
    )


@given(st.integers(0, 10**9))
def test_a_perfect_count_earns_exactly_the_most_and_an_untagged_one_the_threshold(count: int) -> None:
    assert score("word_count", f"<word_count>{count}</word_count>", answer=str(count))["reward"] == 1.3
    assert score("word_count", str(count), answer=str(count))["reward"] == 1.1


@given(st.integers(1, 1000), st.integers(0, 3000))
def test_the_nearer_count_never_earns_less(truth: int, count: int) -> None:
    nearer = count + (truth > count) - (truth < count)
    earned = [score("word_count", str(n), answer=truth)["reward"] for n in (count, nearer)]
    assert earned[0] <= earned[1]


@pytest.mark.parametrize("name", ROWS)
@given(text=anything)
def test_no_answer_makes_a_reward_raise_or_leave_its_range(name: str, text: str) -> None:
    verdict = score(name, text)
    assert 0.0 <= verdict["reward"] <= MAXIMUM[name]
    orjson.dumps(verdict)


@pytest.mark.parametrize("name", ROWS)
def test_only_the_last_assistant_message_is_read(name: str) -> None:
    right = {
        "last_number": "14",
        "json_fields": json.dumps(PERSON),
        "word_count": "<word_count>5</word_count>",
    }
    function: Reward = rewards.get(name)
    row = {"responses_create_params": {"input": right[name]}} | ROWS[name]
    task = task_type(function).model_validate(row)

    def earned(*items: Json) -> float:
        verdict = function(task, Response(output=[*items]))
        assert isinstance(verdict, dict)
        return verdict["reward"]

    def message(text: str) -> Json:
        return {"type": "message", "role": "assistant", "content": text}

    reasoning = {"type": "reasoning", "summary": [{"type": "summary_text", "text": right[name]}]}
    user = {"type": "message", "role": "user", "content": right[name]}
    call = {"type": "function_call_output", "call_id": "c", "output": right[name]}
    assert earned() == 0.0
    assert earned(reasoning, user, call) == 0.0
    assert earned(message(right[name]), message("I do not know.")) == 0.0
    assert earned(message("I do not know."), reasoning, message(right[name])) == MAXIMUM[name]


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize(
    "unit",
    [
        *(
            "1",
            "1 ",
            "1,",
            "1,111,",
            ",111",
            "-",
            "-1",
            ".",
            ".1",
            "1.",
            "1e",
            "e1",
            "1e-",
            "a1",
            "_",
            " ",
            "\ud800",
        ),
        *(
            "<word_count>",
            "<word_count> ",
            "<word_count>1",
            "<word_count>1 ",
            "</word_count>",
            "<",
            "٣",
            "\x00",
        ),
        *("```", "```\n", "`", "{", "[", '{"a":', '"', "\\", '"\\u', "{}", '{"a":1,'),
    ],
)
@pytest.mark.timeout(30)
def test_a_long_answer_of_anything_is_read_in_passing(name: str, unit: str) -> None:
    """A reading that tries positions over and over would take minutes, not milliseconds."""
    text = unit * (LONG // len(unit))
    assert score(name, text)["reward"] <= MAXIMUM[name]
    assert score(name, f"<word_count>{text}")["reward"] <= MAXIMUM[name]
    assert score(name, f"{text}</word_count>")["reward"] <= MAXIMUM[name]
