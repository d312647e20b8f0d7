"""The tokens of earlier steps, kept as they were in the prompt of the next.

A trainer needs the tokens that the model saw and said, not those that the text would be cut into again. Each
answer carries them (`TOKEN_FIELDS`), and the next request brings them back: the next prompt should begin with
them. Where a chat template words the past otherwise, `spliced` puts them back.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import takewhile
from typing import Any, cast

from prometheus_client import CollectorRegistry, Counter

from nemo_like.shapes import objects_in
from nemo_like.turns import TOKEN_FIELDS
from nemo_like.types import Json

log = logging.getLogger(__name__)

PROMPT, GENERATION, _ = TOKEN_FIELDS
DIVERGES = "prompt_diverges_at"
"""Key of an item whose prompt does not begin with the tokens of the step before: where it stops to."""
ANOTHER_ANSWER: Json = {"role": "assistant", "content": "…"}
"""Beside the last answer it shows what the chat template puts behind an answer."""


class Divergences:
    """Prompts that leave the tokens of the step before: counted, and told in the log."""

    def __init__(self, server: str, registry: CollectorRegistry) -> None:
        words = "Prompts that did not begin with the tokens of the step before"
        counter = Counter("nemo_like_prompt_divergences", words, ["server"], registry=registry)
        self._counter, self._server = counter.labels(server), server

    def note(self, past: Sequence[int], prompt: Sequence[int]) -> int | None:
        """As `diverges_at`."""
        at = diverges_at(past, prompt)
        if at is not None:
            self._counter.inc()
            log.warning("%s: a prompt leaves the tokens of the step before at %d", self._server, at)
        return at


def past_of(history: Any) -> list[int]:
    """The tokens up to the end of the last answer in items or messages; none where it carries none."""
    for entry in reversed(objects_in(history)):
        prompt, answer = entry.get(PROMPT), entry.get(GENERATION)
        speaks = entry.get("role", "assistant") == "assistant"
        if speaks and isinstance(prompt, list) and isinstance(answer, list):
            return [*cast(list[int], prompt), *cast(list[int], answer)]
    return []


def diverges_at(past: Sequence[int], prompt: Sequence[int]) -> int | None:
    """The index of the first token of `prompt` that is not the one of `past`; None where it begins with
    `past`."""
    if [*prompt[: len(past)]] == [*past]:
        return None
    pairs = zip(past, prompt, strict=False)
    return next((at for at, (was, now) in enumerate(pairs) if was != now), len(prompt))


def endings(messages: Sequence[Json]) -> tuple[list[Json], list[Json]]:
    """A conversation up to its last answer, and the same with another answer, for `spliced`."""
    last = max(at for at, message in enumerate(messages) if message.get("role") == "assistant")
    return [*messages[: last + 1]], [*messages[:last], ANOTHER_ANSWER]


def spliced(past: list[int], said: list[int], other: list[int], whole: list[int]) -> list[int] | None:
    """The prompt `whole` with its past replaced by the tokens that it really was.

    `said` and `other` are what the chat template makes of the two `endings`: what both end with is what the
    template puts behind an answer. The past ends with the first token of that, or, where the answer was cut,
    with the one before it; `whole` goes on from there. None where that is not so.
    """
    pairs = zip(reversed(said), reversed(other), strict=False)
    ending = len(said) - sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    places = (at for at in (ending, ending - 1) if 0 < at < len(said) and said[at] == past[-1])
    end = next(places, None)
    if end is None or whole[: end + 1] != said[: end + 1]:
        return None
    return [*past, *whole[end + 1 :]]
