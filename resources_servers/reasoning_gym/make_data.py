"""Entries of reasoning-gym's data sets, as rows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from random import Random
from typing import Any, cast

import reasoning_gym  # pyright: ignore[reportMissingTypeStubs]  # it has none

from nemo_like.types import Json

FORM = "Put the final answer, and nothing else, in <answer></answer> tags."
# Of each subject what is quick to make, has a short answer, and is the same under another PYTHONHASHSEED
# (isomorphic_strings, list_functions and ransom_note are not).
DATA_SETS = (
    *("simple_equations", "simple_geometry", "basic_arithmetic", "chain_sum", "decimal_chain_sum"),
    *("products", "gcd", "lcm", "prime_factorization", "leg_counting", "count_bits", "bitwise_arithmetic"),
    *("dice", "calendar_arithmetic", "base_conversion", "caesar_cipher", "count_primes", "letter_counting"),
    *("number_filtering", "palindrome_generation", "binary_alternation", "rotate_matrix", "course_schedule"),
    *("string_manipulation", "string_splitting", "word_sequence_reversal", "needle_haystack", "acre"),
    *("number_sequence", "rectangle_count", "aiw", "circuit_logic", "self_reference", "syllogism", "maze"),
    *("mini_sudoku", "tower_of_hanoi", "family_relationships", "largest_island", "shortest_path", "arc_1d"),
)


def tasks(rng: Random) -> Iterator[Json]:
    """One entry of a data set drawn at random, and so on."""
    while True:
        name, seed = rng.choice(DATA_SETS), rng.getrandbits(31)
        # What is no JSON, a tuple say, becomes what it will be for the verifier.
        entry = cast(Json, json.loads(json.dumps(_entry(name, seed))))
        question = {"role": "user", "content": f"{entry['question'].strip()}\n\n{FORM}"}
        # An empty answer is right in a few entries, and can't be told from no answer.
        if entry["answer"].strip():
            yield {
                "responses_create_params": {"input": [question]},
                "question": entry["question"],
                "answer": entry["answer"],
                "reasoning_gym_metadata": entry["metadata"],
            }


def _entry(name: str, seed: int) -> Any:
    return reasoning_gym.create_dataset(name, seed=seed, size=1)[0]  # pyright: ignore[reportUnknownMemberType]
