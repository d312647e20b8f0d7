"""Which answer is read, when two expressions are equal, and what does not help."""

from __future__ import annotations

import asyncio
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from math_verify import parse, verify
from pydantic import ValidationError

from nemo_like.errors import PartError
from nemo_like.rewards.math import MathTask, last_answer, math, settled
from nemo_like.rewards.scoring import Scorer
from nemo_like.types import Json, Response

HANG = r"\dfrac{5^{\left(5^{\left(5^{\left(5^5\right)}\right)}-4\right)}-5}{16}"
"""Math-Verify issue 65: sympy computes it in C, for longer than anybody waits."""


def answer(text: str) -> Response:
    reasoning = {"type": "reasoning", "summary": [{"type": "summary_text", "text": r"\boxed{99}"}]}
    message = {"type": "message", "role": "assistant", "content": text}
    return Response(output=[reasoning, message])


def task(expected: str | float) -> MathTask:
    return MathTask(responses_create_params={"input": "?"}, expected_answer=expected)


def score(expected: str | float, text: str, **options: Any) -> Json:
    verdict = math(task(expected), answer(text), **options)
    assert isinstance(verdict, dict)
    return verdict


def reward(expected: str | float, inside: str, **options: Any) -> float | None:
    return score(expected, f"So \\boxed{{{inside}}}.", **options)["reward"]


@pytest.mark.parametrize(
    ("text", "read"),
    [
        (r"\boxed{41} no, \boxed{42}", "42"),
        (r"<answer>41</answer> \boxed{42}", "42"),
        (r"\boxed{41} <answer>42</answer>", "42"),
        (r"<answer>\boxed{42}</answer>", "42"),
        (r"\boxed{\boxed{42}}", "42"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed {42}", "42"),
        (r"\fbox{42}", "42"),
        (r"\boxed{42} and then \boxed{7", "42"),
        (r"<answer>42</answer> <answer>7", "42"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{}", ""),
        (r"\boxed{42", None),
        ("the answer is 42", None),
        ("", None),
        ("\x00\ud800٤٢", None),
    ],
)
def test_the_last_complete_box_or_tag_is_the_answer(text: str, read: str | None) -> None:
    assert last_answer(text) == read


EQUAL = [
    *(("42", "42.0"), ("42", "+42"), ("42", "$42$"), ("1,000", "1000"), ("1000", "1{,}000"), ("0.5", ".5")),
    *((r"\frac{1}{2}", "0.5"), (r"\frac12", "1/2"), (r"\dfrac{3}{4}", r"\frac34"), ("1/3", "0.333333")),
    *((r"\sqrt{2}", "2^{1/2}"), (r"x^2+2x+1", "(x+1)^2"), (r"2\pi", r"\pi\cdot 2"), ("3", "x=3")),
    *(
        ("10", r"10\%"),
        ("18", r"\$18"),
        ("5", r"5\text{ cm}"),
        (r"90^\circ", "90"),
        ("-3", "\N{MINUS SIGN}3"),
    ),
    *((r"\{1,2\}", "2, 1"), ("(1, 2)", r"\left(1,2\right)"), (r"x \le 3", r"(-\infty, 3]")),
    *(("blue", r"\text{Blue}"), ("not enough", r"\text{Not enough}"), ("B", r"\text{(B)}")),
    *(
        (r"\boxed{42}", "42"),
        ("602000", r"6.02 \times 10^5"),
        (r"\log 8", r"3\log 2"),
        (42, "42"),
        (0.5, "1/2"),
    ),
    *((r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{bmatrix}1\\2\end{bmatrix}"),),
]
DIFFERENT = [
    *(("42", "41"), ("42", "42.1"), (r"\frac12", "0.51"), ("x+1", "x+2"), ("3.14", r"\pi"), ("1/3", "0.33")),
    *(
        ("(1,2)", "(2,1)"),
        (r"\{1,2\}", "1"),
        ("blue", "red"),
        ("blue", "blue and red"),
        ("B", "C"),
        ("", "42"),
    ),
    *(("True", "False"), ("True", "1"), ("1", "True"), ("yes", "sye"), ("10", "0.1"), ("42", r"\emptyset")),
]
HACKS = [
    *(("42", "41, 42"), ("42", r"\{41, 42\}"), ("42", "41=42=43"), ("5", "1=2=5"), ("1", r"1 \text{ or } 3")),
    *(("42", "42 or 43"), ("42", r"6\times7"), ("42", "6*7"), ("42", r"\sqrt{1764}"), ("42", "40+2")),
    *(("1024", "2^{10}"), ("120", "5!"), ("42", "42" + " " * 2000 + "43"), ("42", "4" * 100_000)),
    *(("1", "42/42 or 1"), ("42", "84-42"),  ("42", r"\text{the expected answer}"), ("42", "\x0042")),
    *(("42", "__import__('os').system('true')"), (r"\frac56", r"\frac12+\frac13")),
]  # fmt: skip


@pytest.mark.parametrize(("gold", "given"), EQUAL)
def test_equal_expressions_are_right(gold: str | float, given: str) -> None:
    assert reward(gold, given) == 1.0


@pytest.mark.parametrize(("gold", "given"), [pair for pair in DIFFERENT if pair[0]])
def test_different_expressions_are_wrong(gold: str, given: str) -> None:
    assert reward(gold, given) == 0.0


@pytest.mark.parametrize(("gold", "given"), HACKS)
def test_hacks_earn_nothing(gold: str, given: str) -> None:
    assert reward(gold, given) == 0.0


@pytest.mark.parametrize(
    "text",
    [
        "42",
        "What is 6 * 7? 42 is in the question.",
        " ".join(f"#### {i}" for i in range(100)),
        " ".join(rf"\boxed{{{i}}}" for i in range(100)),
        r"\boxed{" * 1000 + "42",
        "<answer>" * 1000 + "42",
        "<answer>42",
        r"\boxed{42}" + "x" * 30_000,
        "4" * 1_000_000,
        "",
        " \x00\ud800",
        r"\boxed{42, 43, 44}",
        r"\boxed{٤٢}x\boxed{}",
    ],
)
def test_answers_that_say_the_number_without_answering_earn_nothing(text: str) -> None:
    assert score("42", text)["reward"] == 0.0


def test_a_box_inside_the_reasoning_is_not_the_answer() -> None:
    assert score("99", "I am done.") == {"reward": 0.0, "extracted_answer": None, "match": "no answer"}


def test_an_expected_answer_that_is_no_mathematics_can_only_be_matched_as_text() -> None:
    assert reward(r"\unknowncommand{", "7") is None
    with pytest.raises(ValidationError, match="should not be empty"):
        task("  ")


def test_work_that_is_left_counts_where_it_is_allowed() -> None:
    assert reward("42", r"6\times7", worked_out=False) == 1.0


@pytest.mark.parametrize(
    ("convention", "gold", "text", "expected"),
    [
        ("trl", "42", r"so $\boxed{42}$", 1.0),
        ("trl", "$5$", r"\boxed{1=2=5}", 1.0),
        ("trl", "42", "so 42", 0.0),
        ("trl", "nothing at all", r"\boxed{42}", None),
        ("verl", "42", "so 42", 1.0),
        ("verl", "42", r"\boxed{43}", 0.0),
    ],
)
def test_the_conventions_of_trl_and_verl_can_be_had(
    convention: Any, gold: str, text: str, expected: float | None
) -> None:
    assert score(gold, text, convention=convention)["reward"] == expected


def written(number: Fraction) -> st.SearchStrategy[str]:
    """Ways in which people write a number."""
    top, bottom = number.numerator, number.denominator
    forms = [f"{top}/{bottom}", rf"\frac{{{top}}}{{{bottom}}}", rf"\dfrac{{{3 * top}}}{{{3 * bottom}}}"]
    forms += [
        rf"${top}/{bottom}$",
        rf"\left(\frac{{{top}}}{{{bottom}}}\right)",
        rf" \tfrac{{{top}}}{{{bottom}}} ",
    ]
    if bottom == 1:
        forms += [str(top), f"{top}.0", f"{top:,}", rf"{top}\%", rf"{top}\text{{ km}}", f"x={top}", f"{top}."]
    if 100 % bottom == 0:
        forms.append(f"{float(number)}")
    return st.sampled_from(forms)


numbers = st.builds(Fraction, st.integers(-2000, 2000), st.sampled_from([1, 1, 1, 2, 3, 4, 5, 7]))


@settings(max_examples=150, deadline=None)
@given(st.data(), numbers, numbers, st.booleans())
def test_numbers_are_equal_however_they_are_written(
    data: st.DataObject, gold: Fraction, other: Fraction, same: bool
) -> None:
    given = gold if same else other
    assert reward(data.draw(written(gold)), data.draw(written(given))) == float(gold == given)


EXPRESSIONS = [
    *("x", "x+1", "1+x", "2x", "x^2", r"\frac{x}{2}", r"0.5x", r"\sqrt{x}", "x^{0.5}", r"\sin x", "x-1"),
    *("(x+1)(x-1)", "x^2-1", r"\pi", r"2\pi", "e", r"\frac{1}{x}", "x^{-1}", r"\{1,2\}", r"\{2,1\}"),
    *("-(1-x)", "(1,2)", "[1,2]"),
]  # fmt: skip


@pytest.mark.parametrize("gold", EXPRESSIONS)
def test_expressions_get_the_verdict_of_math_verify(gold: str) -> None:
    for other in EXPRESSIONS:
        theirs = verify(parse(rf"\boxed{{{gold}}}"), parse(rf"\boxed{{{other}}}"))
        assert reward(gold, other) == float(theirs), other


@settings(max_examples=300)
@given(st.text(st.characters(exclude_categories=())), st.sampled_from(["42", r"\frac12", "blue", "x+1"]))
def test_no_answer_makes_the_inline_part_raise(text: str, gold: str) -> None:
    for shown in (text, rf"\boxed{{{text}}}", f"<answer>{text}</answer>"):
        verdict = settled(task(gold), answer(shown))
        assert verdict is None or verdict["reward"] in (0.0, 1.0)


def test_an_expression_that_hangs_costs_itself_and_delays_nothing() -> None:
    scorer = Scorer(timeout_s=4)

    async def all_of_them() -> list[Any]:
        good = [scorer(math, task("1/2"), answer(rf"\boxed{{{i}/{2 * i}}}")) for i in range(1, 40)]
        return await asyncio.gather(
            scorer(math, task(r"x+\frac{7}{8}"), answer(rf"\boxed{{{HANG}}}")), *good, return_exceptions=True
        )

    hung, *good = asyncio.run(all_of_them())
    assert isinstance(hung, PartError)
    assert hung.kind == "timeout"
    assert [verdict["reward"] for verdict in good] == [1.0] * 39


@pytest.mark.parametrize(
    "expression",
    ["9^{9^9}", "10^9!", "3^{10^8}", r"\prod_{i=1}^{100000} i", r"\binom{10^9}{5\cdot10^8}", "{" * 5000],
)
def test_towers_and_factorials_never_pass(expression: str) -> None:
    async def verdict() -> tuple[Json | BaseException]:
        verdict = Scorer(timeout_s=1)(math, task(r"x+\frac12"), answer(rf"\boxed{{{expression}}}"))
        return await asyncio.gather(verdict, return_exceptions=True)

    [result] = asyncio.run(verdict())
    assert isinstance(result, PartError) or result["reward"] == 0.0
