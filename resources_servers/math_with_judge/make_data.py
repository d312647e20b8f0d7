"""Problems whose answer a program knows: fractions, areas, equations, sets, derivatives."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from random import Random

from nemo_like.types import Json

INSTRUCTION = "Solve the problem. Put the final answer, and only that, inside \\boxed{}."
Problem = tuple[str, str]


def tasks(rng: Random) -> Iterator[Json]:
    """Problems of each kind in turn; none can be solved by repeating what it says."""
    while True:
        for kind in (fractions, linear, quadratic, area, derivative, remainder):
            question, answer = kind(rng)
            yield {
                "responses_create_params": {
                    "input": [{"role": "user", "content": f"{INSTRUCTION}\n\n{question}"}]
                },
                "question": question,
                "expected_answer": answer,
                "kind": kind.__name__,
            }


def fractions(rng: Random) -> Problem:
    """A sum of two fractions."""
    a, b = (Fraction(rng.randint(1, 9), rng.choice([2, 3, 4, 5, 6, 7, 8])) for _ in range(2))
    return f"What is ${_latex(a)} + {_latex(b)}$?", _latex(a + b)


def linear(rng: Random) -> Problem:
    """An equation with one unknown."""
    a, b, c = rng.choice([2, 3, 4, 5, 6, 7]), rng.randint(-9, 9), rng.randint(-30, 30)
    return f"Solve ${a}x {_signed(b)} = {c}$ for $x$.", _latex(Fraction(c - b, a))


def quadratic(rng: Random) -> Problem:
    """The two roots of a polynomial."""
    r, s = rng.sample([n for n in range(-9, 10) if n], 2)
    polynomial = f"x^2 {_signed(-(r + s))}x {_signed(r * s)}"
    return f"Find the set of all real $x$ with ${polynomial} = 0$.", rf"\{{{min(r, s)}, {max(r, s)}\}}"


def area(rng: Random) -> Problem:
    """A triangle by its corners."""
    (ax, ay), (bx, by), (cx, cy) = rng.sample([(x, y) for x in range(-6, 7) for y in range(-6, 7)], 3)
    twice = abs((bx - ax) * (cy - ay) - (cx - ax) * (by - ay))
    question = (
        f"What is the area of the triangle with corners $({ax}, {ay})$, $({bx}, {by})$ and $({cx}, {cy})$?"
    )
    return question, _latex(Fraction(twice, 2))


def derivative(rng: Random) -> Problem:
    """The slope of a cubic at a point."""
    a, b, x = rng.randint(1, 5), rng.randint(-5, 5), rng.randint(-3, 3)
    return f"Let $f(t) = {a}t^3 {_signed(b)}t + 1$. What is $f'({x})$?", str(3 * a * x * x + b)


def remainder(rng: Random) -> Problem:
    """A power modulo a small prime."""
    base, exponent, modulus = rng.randint(2, 12), rng.randint(20, 99), rng.choice([7, 11, 13, 17])
    question = f"What is the remainder when ${base}^{{{exponent}}}$ is divided by {modulus}?"
    return question, str(pow(base, exponent, modulus))


def _latex(number: Fraction) -> str:
    sign = "-" if number < 0 else ""
    top, bottom = abs(number.numerator), number.denominator
    return f"{sign}{top}" if bottom == 1 else rf"{sign}\frac{{{top}}}{{{bottom}}}"


def _signed(number: int) -> str:
    return f"- {-number}" if number < 0 else f"+ {number}"
