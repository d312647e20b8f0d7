"""Short texts to count the words of, with three worked examples before each."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from nemo_like.types import Json

NOUNS = ["river", "bread", "paper", "window", "house", "stone", "garden", "train", "moon", "market", "winter"]
VERBS = ["sings", "walks", "reads", "laughs", "grows", "falls", "waits", "turns", "opens", "sleeps"]
OTHERS = [
    "small",
    "green",
    "old",
    "quickly",
    "under",
    "the",
    "and",
    "near",
    "bright",
    "slowly",
    "every",
    "cold",
]
EXAMPLES = ("cold stone under the moon", "she reads every old paper near the window", "small green river")


def tasks(rng: Random) -> Iterator[Json]:
    """Texts of 3 to 8 words. What stands between white space is a word."""
    worked = [message for text in EXAMPLES for message in (_question(text), _answer(text))]
    while True:
        text = " ".join(rng.sample(NOUNS + VERBS + OTHERS, rng.randint(3, 8)))
        count = len(text.split())
        yield {
            "responses_create_params": {"input": [*worked, _question(text)]},
            "answer": str(count),
            "info": {"text": text, "word_count": count},
        }


def _question(text: str) -> Json:
    content = (
        f"Count the number of words in the following text: {text}\n\nAnswer as <word_count>N</word_count>."
    )
    return {"role": "user", "content": content}


def _answer(text: str) -> Json:
    return {"role": "assistant", "content": f"<word_count>{len(text.split())}</word_count>"}
