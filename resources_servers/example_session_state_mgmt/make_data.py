"""Numbers to add to a counter, one after another."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from nemo_like.types import Json

from .app import Counter


def tasks(rng: Random) -> Iterator[Json]:
    """One to three positive numbers, so that a counter left alone is never right."""
    while True:
        initial = rng.randint(0, 9)
        steps = [rng.randint(1, 9) for _ in range(rng.randint(1, 3))]
        question = " then ".join([*(f"add {step}" for step in steps), "get the count"])
        yield {
            "responses_create_params": {
                "input": [{"role": "user", "content": question}],
                "tools": Counter.tools(),
            },
            "initial_count": initial,
            "expected_count": initial + sum(steps),
        }
