"""The turns of a stored rollout as token ids, and those that can be read in one pass.

Each turn holds its whole prompt. Where that begins with the former turns as they were, as it does unless a
chat template rewrites them, one pass over the last and longest of them reads them all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from nemo_like.errors import RowError
from nemo_like.turns import TOKEN_FIELDS
from nemo_like.types import Json

GENERATED_FIELDS = ("prompt_token_ids", "response_token_ids", "response_logprobs")
"""Where rows of `ng_generate_rollouts` have a turn's tokens."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """One answer of the model, as token ids."""

    prompt: list[int]
    tokens: list[int]
    logprobs: list[float] | None
    """Those that the engine gave while it sampled."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Chain:
    """Turns that can be scored in one pass, as each continues the one before it."""

    prompt: list[int]
    rest: list[int] = field(default_factory=list[int])
    """What follows the first prompt: answers, and what was said between them."""
    answers: list[slice] = field(default_factory=list[slice])
    """Where in `rest` each turn's answer stands."""
    turns: list[Turn] = field(default_factory=list[Turn])

    @property
    def ids(self) -> list[int]:
        """The whole of it."""
        return self.prompt + self.rest

    @property
    def mask(self) -> list[int]:
        """Of each token of `rest`: 1 where the model made it."""
        mask = [0] * len(self.rest)
        for answer in self.answers:
            mask[answer] = [1] * (answer.stop - answer.start)
        return mask

    @property
    def logprobs(self) -> list[float] | None:
        """Of each token of `rest`, 0.0 for those that no model made; None where a turn has none."""
        logprobs = [0.0] * len(self.rest)
        for answer, turn in zip(self.answers, self.turns, strict=True):
            if turn.logprobs is None:
                return None
            logprobs[answer] = turn.logprobs
        return logprobs


def turns_of(row: Json, at: str) -> list[Turn]:
    """The turns of a rollout that have token ids.

    Raises:
        RowError: token ids or log-probabilities that are no list of the right numbers, or not as many.
    """
    output: Any = cast(Json, row.get("response") or {}).get("output") if _is_rollout(row) else None
    if output is None:
        return [turn_of(row, GENERATED_FIELDS, at)] if row.get(GENERATED_FIELDS[1]) else []
    items = enumerate(cast("list[Json]", output))
    return [
        turn_of(item, TOKEN_FIELDS, f"{at}, output[{i}]") for i, item in items if item.get(TOKEN_FIELDS[1])
    ]


def chained(turns: Sequence[Turn]) -> list[Chain]:
    """The turns as the fewest chains, in order."""
    chains: list[Chain] = []
    for turn in turns:
        whole = chains[-1].ids if chains else []
        if not chains or turn.prompt[: len(whole)] != whole:
            chains.append(Chain(prompt=turn.prompt))
            whole = turn.prompt
        chain = chains[-1]
        chain.rest.extend(turn.prompt[len(whole) :])
        start = len(chain.rest)
        chain.rest.extend(turn.tokens)
        chain.answers.append(slice(start, start + len(turn.tokens)))
        chain.turns.append(turn)
    return chains


def _is_rollout(row: Json) -> bool:
    response = row.get("response")
    return isinstance(response, dict) and isinstance(cast(Json, response).get("output"), list)


def turn_of(source: Json, names: tuple[str, str, str], at: str) -> Turn:
    """The turn in these fields of an item, or of a row.

    Raises:
        RowError: they hold something else.
    """
    prompt, tokens = (_token_ids(source.get(name), f"{at}: {name}") for name in names[:2])
    if not prompt:
        raise RowError(f"{at}: {names[0]} is empty")
    logprobs: Any = source.get(names[2])
    if logprobs is not None and not _are_logprobs(logprobs, len(tokens)):
        raise RowError(
            f"{at}: {names[2]} should be {len(tokens)} log-probabilities, as many as {names[1]} "
            f"(got {str(logprobs)[:60]})"
        )
    return Turn(prompt=prompt, tokens=tokens, logprobs=logprobs)


def _token_ids(value: Any, at: str) -> list[int]:
    given = cast("list[Any]", value if isinstance(value, list) else [None])
    # A bool is an int, but no token.
    if {*map(type, given)} - {int} or (given and min(given) < 0):
        raise RowError(f"{at} should be a list of token ids (got {str(cast(object, value))[:60]})")
    return given


def _are_logprobs(value: Any, n: int) -> bool:
    given = cast("list[Any]", value if isinstance(value, list) else [None])
    # Engines round: a probability may come out a little above 1.
    return len(given) == n and all(isinstance(x, int | float) and x < 0.01 for x in given)
