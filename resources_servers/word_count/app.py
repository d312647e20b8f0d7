"""Counting the words of a short text."""

from __future__ import annotations

from nemo_like.rewards.word_count import WordCountTask, word_count
from nemo_like.server import ResourcesServer
from nemo_like.types import Json, Response


class WordCount(ResourcesServer):
    """Counting the words of a short text, the count between tags."""

    async def verify(self, task: WordCountTask, response: Response) -> Json:
        """Exact match, form and partial credit, weighted: at most 1.3."""
        return word_count(task, response)
