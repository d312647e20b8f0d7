"""Multiple choice: the rows, what they earn, and that their right options are right."""

from __future__ import annotations

import calendar
import re
from collections import Counter
from collections.abc import Callable
from datetime import date, datetime
from fractions import Fraction
from itertools import pairwise

import pytest

from nemo_like.types import Json

from .environment import Environment

MCQA = Environment("mcqa")
UNITS = {
    **dict.fromkeys(("hour", "hours", "minute", "minutes"), 60),
    **dict.fromkeys(("day", "days"), 24),
    **dict.fromkeys(("week", "weeks"), 7),
    **dict.fromkeys(("dozen", "dozens"), 12),
    **dict.fromkeys(("metre", "metres"), 100),
    **dict.fromkeys(("kilometre", "kilometres", "kilogram", "kilograms", "litre", "litres"), 1000),
}


def said(row: Json, letter: str) -> str:
    """An answer that chooses `letter` in the form that the row asks for."""
    boxed = row["grading_mode"] == "strict_single_letter_boxed"
    return f"Let me see. \\boxed{{{letter}}}" if boxed else f"Let me see.\n**Answer: {letter}**"


@pytest.mark.parametrize("row", MCQA.rows)
def test_the_right_letter_earns_the_reward_and_no_other_does(row: Json) -> None:
    for letter in "ABCDE":
        record = MCQA.rollout(row, said(row, letter))
        assert record["reward"] == float(letter == row["expected_answer"])
        assert record["extracted_answer"] == (None if letter == "E" else letter)


@pytest.mark.parametrize("row", MCQA.rows)
def test_guessing_at_all_of_them_earns_nothing(row: Json) -> None:
    prompt, right = row["responses_create_params"]["input"][0]["content"], row["expected_answer"]
    wrong = "B" if right == "A" else "A"
    for hack in (
        *("", prompt, right, f"It is {right}.", "\\boxed{A, B, C, D}", "Answer: A/B/C/D", "\\boxed{}"),
        *(said(row, right) + said(row, wrong), f"\\boxed{{{right}", "\\boxed{" * 1000, "Answer: " * 1000),
    ):
        assert MCQA.rollout(row, hack)["reward"] == 0.0


def test_a_row_s_own_pattern_runs_in_the_pool() -> None:
    row = MCQA.rows[0] | {"template_metadata": {"output_regex": r"I choose (\w)"}}
    assert MCQA.rollout(row, f"I choose {row['expected_answer']}")["reward"] == 1.0


def test_the_example_is_what_the_generator_makes() -> None:
    assert MCQA.generated(5) == MCQA.rows
    assert MCQA.generated(5, seed=1) != MCQA.rows


def test_every_row_has_four_different_options_and_the_right_letter_is_as_likely_each() -> None:
    rows = MCQA.generated(2000)
    for row in rows:
        letters = [letter for option in row["options"] for letter in option]
        texts = {text for option in row["options"] for text in option.values()}
        assert (letters, len(texts)) == (["A", "B", "C", "D"], 4)
        [message] = row["responses_create_params"]["input"]
        assert all(
            f"{letter}: {text}\n" in message["content"] for o in row["options"] for letter, text in o.items()
        )
    # Four standard deviations of a fair die of four sides.
    assert all(abs(n - 500) < 78 for n in Counter(row["expected_answer"] for row in rows).values())
    assert len({row["responses_create_params"]["input"][0]["content"] for row in rows}) > 1900


def ints(text: str) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", text)]


def marbles(question: str) -> str:
    bag = {colour: int(n) for n, colour in re.findall(r"(\d+) (\w+)", question)}
    asked = question.rstrip("?").rsplit(" ", 1)[1]
    drawn = [colour for colour, n in bag.items() for _ in range(n)]
    return str(Fraction(drawn.count(asked), len(drawn)))


def dice(question: str) -> str:
    [asked] = ints(question)
    return str(Fraction(6 - abs(asked - 7), 36))


def day_of(text: str) -> date:
    return datetime.strptime(text, "%d %B %Y").date()


def weekday(question: str) -> str:
    day = day_of(question.removeprefix("Which day of the week is ").rstrip("?"))
    return calendar.day_name[calendar.weekday(day.year, day.month, day.day)]


def days_later(question: str) -> str:
    days, start = re.findall(r"is (\d+) days after (.*)\?", question)[0]
    later = date.fromordinal(day_of(start).toordinal() + int(days))
    return f"{later.day} {calendar.month_name[later.month]} {later.year}"


def unit(question: str) -> str:
    whole, name, part = re.findall(r"are (\d+) (\w+) and (\d+)", question)[0]
    return str(int(whole) * UNITS[name] + int(part))


def sets(question: str) -> str:
    a, b = ({*ints(listed)} for listed in re.findall(r"{(.*?)}", question))
    asked = question.rsplit("that are ", 1)[1]
    member: dict[str, Callable[[int], bool]] = {
        "in both A and B?": lambda n: n in a and n in b,
        "in A or in B?": lambda n: n in a or n in b,
        "in A but not in B?": lambda n: n in a and n not in b,
        "in B but not in A?": lambda n: n in b and n not in a,
        "in exactly one of A and B?": lambda n: (n in a) + (n in b) == 1,
    }
    return "{" + ", ".join(str(n) for n in range(40) if member[asked](n)) + "}"


def sequence(question: str) -> str:
    """Constant differences, second differences or ratios."""
    shown = ints(question)
    steps = [b - a for a, b in pairwise(shown)]
    growth = [b - a for a, b in pairwise(steps)]
    if len({*growth}) == 1:
        return str(shown[-1] + steps[-1] + growth[-1])
    assert len({Fraction(b, a) for a, b in pairwise(shown)}) == 1
    return str(shown[-1] * shown[-1] // shown[-2])


SOLVED = {f.__name__: f for f in (marbles, dice, weekday, days_later, unit, sets, sequence)}


def test_the_right_option_is_right_by_another_way_of_reckoning() -> None:
    for row in MCQA.generated(800):
        question = row["responses_create_params"]["input"][0]["content"].partition("\n")[0]
        options = {letter: text for option in row["options"] for letter, text in option.items()}
        right = options[row["expected_answer"]]
        if row["kind"] == "largest":
            values = [float(Fraction(text)) for text in options.values()]
            assert len({*values}) == 4
            assert float(Fraction(right)) == (max(values) if "largest" in question else min(values))
        else:
            assert SOLVED[row["kind"]](question) == right
