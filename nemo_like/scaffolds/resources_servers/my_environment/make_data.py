"""Words to be said backwards."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from nemo_like.types import Json

LETTERS = "abdegiklmnoprstu"


def tasks(rng: Random) -> Iterator[Json]:
    """Words of four to seven letters, none of which is its own mirror image."""
    while True:
        word = "".join(rng.choices(LETTERS, k=rng.randint(4, 7)))
        if word != word[::-1]:
            question = {"role": "user", "content": f"Say this word backwards: {word}"}
            yield {"responses_create_params": {"input": [question]}, "expected_answer": word[::-1]}
