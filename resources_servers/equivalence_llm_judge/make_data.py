"""Questions with one answer that people write in many ways: dates, times, numbers in words, units."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta
from random import Random

from nemo_like.types import Json

INSTRUCTION = "Answer in a few words."
ONES = [
    *(
        "zero",
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
        "eight",
        "nine",
        "ten",
        "eleven",
        "twelve",
    ),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
]
TENS = ["", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
UNITS = [
    ("kilometres", "metres", 1000),
    ("hours", "minutes", 60),
    ("kilograms", "grams", 1000),
    ("feet", "inches", 12),
]


def tasks(rng: Random) -> Iterator[Json]:
    """Questions of each kind in turn."""
    while True:
        for kind in (days_later, weekday, in_words, time_later, converted):
            question, answer = kind(rng)
            yield {
                "responses_create_params": {
                    "input": [{"role": "user", "content": f"{INSTRUCTION} {question}"}]
                },
                "question": question,
                "expected_answer": answer,
                "kind": kind.__name__,
            }


def days_later(rng: Random) -> tuple[str, str]:
    """A date some weeks after another."""
    start, days = _day(rng), rng.randint(10, 60)
    return f"Which date is {days} days after {start:%-d %B %Y}?", f"{start + timedelta(days):%-d %B %Y}"


def weekday(rng: Random) -> tuple[str, str]:
    """The day of the week of a date."""
    day = _day(rng)
    return f"Which day of the week was {day:%-d %B %Y}?", f"{day:%A}"


def in_words(rng: Random) -> tuple[str, str]:
    """A sum, in words."""
    a, b = rng.randint(10, 49), rng.randint(10, 49)
    return f"Write the sum of {words(a)} and {words(b)} in words.", words(a + b)


def time_later(rng: Random) -> tuple[str, str]:
    """A time of day some minutes after another."""
    start, minutes = rng.randint(0, 1439), rng.randint(25, 300)
    end = (start + minutes) % 1440
    return f"It is {_time(start)}. What time is it {minutes} minutes later?", _time(end)


def converted(rng: Random) -> tuple[str, str]:
    """A quantity in a smaller unit."""
    large, small, factor = rng.choice(UNITS)
    number = rng.randint(2, 40)
    return f"How many {small} are {number} {large}?", f"{number * factor} {small}"


def words(number: int) -> str:
    """A number below one hundred in English."""
    if number < 20:
        return ONES[number]
    return TENS[number // 10] + (f"-{ONES[number % 10]}" if number % 10 else "")


def _day(rng: Random) -> date:
    return date(1990, 1, 1) + timedelta(rng.randint(0, 14_000))


def _time(minutes: int) -> str:
    return f"{minutes // 60:02d}:{minutes % 60:02d}"
