"""The tasks, made by nemo-like's generator, and the verdict of its reward."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import islice

from nemo_like.config import content_root
from nemo_like.registry import load_file
from nemo_like.rewards.word_count import WordCountTask, word_count
from nemo_like.types import Json, Response

WEIGHTS = {"exact_match_reward": 1.0, "format_reward": 0.2, "partial_credit_reward": 0.1}
"""What each component adds to the reward of a rollout: 1.3 where all are 1."""
GENERATOR = "resources_servers/word_count/make_data.py"


def tasks(number: int, seed: int, *, worked_examples: bool) -> Iterator[Json]:
    """`{messages, answer, info}` of `number` tasks; the same seed makes the same ones.

    With `worked_examples`, three questions and answers go before each question: small models need them.
    """
    rows = load_file(content_root() / GENERATOR).tasks(random.Random(seed))
    for row in islice(rows, number):
        messages: list[Json] = row["responses_create_params"]["input"]
        yield {
            "messages": messages if worked_examples else messages[-1:],
            "answer": row["answer"],
            "info": row["info"],
        }


def score(answer: str, reply: str) -> Json:
    """The components of the reward that a reply earns, by name."""
    task = WordCountTask.model_validate({"responses_create_params": {}, "answer": answer})
    said = [{"type": "message", "role": "assistant", "content": reply}]
    return word_count(task, Response(output=said))
