"""What a call amounts to, as figures for a log: `wandb.log`, or any function that takes names and numbers."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from itertools import chain

import numpy as np

from nemo_like.sequence_processing.sequences import LogprobResults

Log = Callable[[dict[str, float]], object]


def of_generation(
    responses: Sequence[Sequence[Sequence[int]]], *, end_tokens: Container[int], room: int, seconds: float
) -> dict[str, float]:
    """Of `responses` [B][G][·], drawn in `seconds`; `room` tokens is where one was cut off."""
    drawn = list(chain.from_iterable(responses))
    tokens = sum(map(len, drawn))
    cut = sum(len(response) >= room and response[-1] not in end_tokens for response in drawn if response)
    return {
        "generation/prompts": len(responses),
        "generation/responses": len(drawn),
        "generation/tokens": tokens,
        "generation/tokens_per_response": tokens / len(drawn) if drawn else 0.0,
        "generation/share_cut_off": cut / len(drawn) if drawn else 0.0,
        "generation/seconds": seconds,
        "generation/tokens_per_second": tokens / seconds if seconds else 0.0,
    }


def of_logprobs(results: LogprobResults, *, seconds: float) -> dict[str, float]:
    """Of log-probabilities that were taken in `seconds`."""
    entropies = np.concatenate([np.zeros(0), *chain.from_iterable(results.entropies)])
    tokens = len(entropies)
    found = {
        "logprobs/tokens": tokens,
        "logprobs/seconds": seconds,
        "logprobs/tokens_per_second": tokens / seconds if seconds else 0.0,
    }
    if tokens:
        found["logprobs/mean"] = sum(chain.from_iterable(results.sequence_logprobs)) / tokens
        found["logprobs/entropy"] = float(entropies.mean())
    return found
