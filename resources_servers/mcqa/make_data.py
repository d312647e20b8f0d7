"""Questions with four options, about what a program can compute: chances, dates, units, sets, numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import date, timedelta
from fractions import Fraction
from itertools import product
from random import Random

from nemo_like.types import Json

LETTERS = "ABCD"
BOXED = r"Put the letter of the right option inside \boxed{}."
COLON = "The last line of your answer should be 'Answer: A/B/C/D', with the one letter that is right."
Question = tuple[str, str, list[str]]
"""What is asked, the right answer, and at least three other ones."""

COLOURS = ("red", "blue", "green", "white", "black")
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
# Singular, plural, the smaller unit, how many of it.
UNITS = (
    ("hour", "hours", "minutes", 60),
    ("day", "days", "hours", 24),
    ("week", "weeks", "days", 7),
    ("minute", "minutes", "seconds", 60),
    ("kilometre", "kilometres", "metres", 1000),
    ("metre", "metres", "centimetres", 100),
    ("kilogram", "kilograms", "grams", 1000),
    ("litre", "litres", "millilitres", 1000),
    ("dozen", "dozens", "pieces", 12),
)


def tasks(rng: Random) -> Iterator[Json]:
    """A question of each kind in turn; the right letter is as likely each of the four.

    Two questions in three want the letter in a box, the third after `Answer:`.
    """
    while True:
        for kind in KINDS:
            question, right, wrong = kind(rng)
            options = rng.sample(sorted(set(wrong) - {right}), 3)
            place = rng.randrange(len(LETTERS))
            options.insert(place, right)
            boxed = rng.random() < 2 / 3
            listed = "\n".join(f"{letter}: {text}" for letter, text in zip(LETTERS, options, strict=True))
            content = f"{question}\n{listed}\n\n{BOXED if boxed else COLON}"
            yield {
                "responses_create_params": {"input": [{"role": "user", "content": content}]},
                "options": [{letter: text} for letter, text in zip(LETTERS, options, strict=True)],
                "expected_answer": LETTERS[place],
                "grading_mode": "strict_single_letter_boxed" if boxed else "lenient_answer_colon_md",
                "kind": kind.__name__.strip("_"),
            }


def _marbles(rng: Random) -> Question:
    colours = rng.sample(COLOURS, 3)
    counts = rng.sample(range(1, 13), 3)
    total, asked = sum(counts), rng.randrange(3)
    bag = ", ".join(f"{n} {colour}" for n, colour in zip(counts[:2], colours[:2], strict=True))
    question = (
        f"A bag holds {bag} and {counts[2]} {colours[2]} marbles. One is drawn at random. "
        f"What is the chance that it is {colours[asked]}?"
    )
    right = Fraction(counts[asked], total)
    wrong = [Fraction(n, total) for n in counts] + [1 - right, Fraction(counts[asked], total + 1), right / 2]
    return question, str(right), [str(chance) for chance in wrong]


def _dice(rng: Random) -> Question:
    asked = rng.randint(3, 11)
    hits = sum(a + b == asked for a, b in product(range(1, 7), repeat=2))
    wrong = [Fraction(n, 36) for n in range(1, 9)]
    question = f"Two fair dice are rolled. What is the chance that their sum is {asked}?"
    return question, str(Fraction(hits, 36)), [str(chance) for chance in wrong]


def _weekday(rng: Random) -> Question:
    day = date(2000, 1, 1) + timedelta(rng.randrange(20_000))
    return f"Which day of the week is {_written(day)}?", WEEKDAYS[day.weekday()], list(WEEKDAYS)


def _days_later(rng: Random) -> Question:
    day, days = date(2000, 1, 1) + timedelta(rng.randrange(20_000)), rng.randint(10, 90)
    wrong = [_written(day + timedelta(days + off)) for off in (-3, -2, -1, 1, 2, 3)]
    return f"Which date is {days} days after {_written(day)}?", _written(day + timedelta(days)), wrong


def _unit(rng: Random) -> Question:
    one, many, small, factor = rng.choice(UNITS)
    whole, part = rng.randint(1, 20), rng.randrange(1, factor)
    right = whole * factor + part
    wrong = [
        right + factor,
        right - part,
        whole * factor * 10 + part,
        right + 10,
        whole * 100 + part,
        right + 1,
    ]
    amount = f"{whole} {one if whole == 1 else many} and {part} {small}"
    return f"How many {small} are {amount}?", str(right), [str(n) for n in wrong]


def _sets(rng: Random) -> Question:
    both, only_a, only_b = rng.randint(1, 3), rng.randint(1, 3), rng.randint(1, 3)
    numbers = rng.sample(range(1, 30), both + only_a + only_b)
    a, b = set(numbers[: both + only_a]), set(numbers[:both] + numbers[both + only_a :])
    results = {
        "in both A and B": a & b,
        "in A or in B": a | b,
        "in A but not in B": a - b,
        "in B but not in A": b - a,
        "in exactly one of A and B": a ^ b,
    }
    asked = rng.choice(sorted(results))
    question = f"A = {_listed(a)} and B = {_listed(b)}. Which is the set of the numbers that are {asked}?"
    return question, _listed(results[asked]), [_listed(result) for result in results.values()]


def _largest(rng: Random) -> Question:
    chances = {Fraction(rng.randint(1, 19), rng.randint(2, 20)) for _ in range(12)}
    fractions = sorted(fraction for fraction in chances if fraction.denominator > 1)
    if len(fractions) < 4:
        return _largest(rng)
    four = sorted(rng.sample(fractions, 4))
    largest = rng.random() < 0.5
    right = four.pop(-1 if largest else 0)
    question = f"Which of these numbers is the {'largest' if largest else 'smallest'}?"
    return question, str(right), [str(fraction) for fraction in four]


def _sequence(rng: Random) -> Question:
    start, step, ratio = rng.randint(1, 20), rng.randint(2, 12), rng.randint(2, 4)
    rules: list[Callable[[int], int]] = [
        lambda n: start + n * step,
        lambda n: start * ratio**n,
        lambda n: (n + start) ** 2,
        lambda n: start + step * n * (n + 1) // 2,
    ]
    rule = rng.choice(rules)
    shown, right = [rule(n) for n in range(5)], rule(5)
    off = shown[-1] - shown[-2]
    wrong = [right + 1, right - 1, right + step, shown[-1] + off, right + 2, right - 2]
    return f"Which number comes next: {', '.join(map(str, shown))}?", str(right), [str(n) for n in wrong]


KINDS = (_marbles, _weekday, _unit, _sets, _largest, _sequence, _dice, _days_later)


def _written(day: date) -> str:
    return f"{day.day} {day:%B %Y}"


def _listed(numbers: set[int]) -> str:
    return "{" + ", ".join(map(str, sorted(numbers))) + "}"
