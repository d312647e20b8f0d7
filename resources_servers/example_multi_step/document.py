"""A document that can be searched by words."""

from __future__ import annotations

import re
from collections import Counter

WORD = re.compile(r"\w+")
MAX_PASSAGES = 3


class Document:
    """The paragraphs of a text, found by the words in them."""

    def __init__(self, text: str) -> None:
        self._passages = [passage.strip() for passage in text.split("\n\n") if passage.strip()]
        self._words = [words_of(passage) for passage in self._passages]
        self._holding = Counter(word for words in self._words for word in words)

    def search(self, query: str) -> list[str]:
        """The few passages that hold most of the query's words, best first.

        A word weighs the less the more passages hold it, so `the` hardly counts.
        """
        wanted = words_of(query)
        scores = [sum(1 / self._holding[word] for word in wanted & words) for words in self._words]
        best = sorted(range(len(scores)), key=lambda at: (-scores[at], at))
        return [self._passages[at] for at in best[:MAX_PASSAGES] if scores[at] > 0]


def words_of(text: str) -> set[str]:
    """The distinct words of a text, without case."""
    return set(WORD.findall(text.casefold()))
