"""Sums of two numbers, with one worked example before each question."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle
from random import Random

from nemo_like.types import Json

EXAMPLE = [
    {"role": "user", "content": "What is 2 + 3?"},
    {"role": "assistant", "content": "2 + 3 = 5"},
]


def tasks(rng: Random) -> Iterator[Json]:
    """Sums of two numbers of `difficulty` digits: twice 1, then 2, and so on.

    No term is 0, so the question itself never ends with the answer.
    """
    for difficulty in cycle((1, 1, 2)):
        a, b = (rng.randint(10 ** (difficulty - 1), 10**difficulty - 1) for _ in range(2))
        question = {"role": "user", "content": f"What is {a} + {b}?"}
        yield {
            "responses_create_params": {"input": [*EXAMPLE, question]},
            "expected_answer": str(a + b),
            "difficulty": difficulty,
        }
