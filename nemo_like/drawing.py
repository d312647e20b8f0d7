"""Drawing tokens in a batch whose rows each have their own way to be sampled, and their own end.

The one trick: tokens are drawn as argmax(log p + Gumbel noise), where each row has a noise of its own, so
which rows share a batch changes nothing that is drawn. The log-probabilities come from the same step; no
scores are kept.
"""

# B rows of a batch, T tokens, V vocabulary

from __future__ import annotations

import math
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import torch

LogprobsMode = Literal["raw_logprobs", "processed_logprobs"]
"""vLLM's words: of the model itself, at temperature 1; or of what is sampled from."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """A prompt to be continued, and how."""

    ids: list[int]
    """The prompt's tokens."""
    max_tokens: int
    temperature: float = 1.0
    """0 takes the likeliest token."""
    top_p: float = 1.0
    top_k: int = 0
    """0 or less is all."""
    min_p: float = 0.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    """Texts that end the answer; it is cut before them, its tokens are not."""
    top_logprobs: int = 0
    """Candidates a token of which the log-probability is wanted."""
    given_up: Callable[[], bool] = field(default=lambda: False)
    """Whether nobody waits for the answer any more."""
    hear: Callable[[int, int], None] | None = None
    """Told each token of the answer as it is drawn, end included, behind how many there are by then."""


class Draw:
    """Draws the next token of each row: what greedy decoding then takes for the likeliest.

    `logprobs` has a tensor [B] for each step, the drawn token's: at temperature 1 and before top_p, or, where
    they are `processed_logprobs`, of the distribution that it was drawn from. `top` has (log-probabilities,
    tokens) [B, n] of the likeliest.
    """

    def __init__(
        self, wanted: Sequence[Wanted], device: torch.device, mode: LogprobsMode = "raw_logprobs"
    ) -> None:
        self.logprobs: list[torch.Tensor] = []
        self.top: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._mode: LogprobsMode = mode
        self._most = max(row.top_logprobs for row in wanted)
        self._limits = Limits.of(wanted, device)
        sampled = [row.temperature > 0 for row in wanted]
        self._sampled_B1 = torch.tensor(sampled, device=device)[:, None] if any(sampled) else None
        # A greedy row is divided by 1, and has no noise.
        temperatures = [row.temperature or 1.0 for row in wanted]
        self._temperature_B1 = torch.tensor(temperatures, device=device)[:, None]
        self._noise = [
            torch.Generator(device).manual_seed(row.seed % 2**63) if row.temperature > 0 else None
            for row in wanted
        ]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores [B, V] of which the largest is the drawn token's."""
        # log_softmax in bf16 would be off by 0.01 to 0.04.
        scores_BV = scores.float()
        drawn_BV = processed_BV = scores_BV
        if self._sampled_B1 is not None:
            limited_BV = self._limits(scores_BV / self._temperature_B1)
            processed_BV = torch.where(self._sampled_B1, limited_BV, scores_BV)
            drawn_BV = processed_BV + self._gumbel(scores_BV.shape[1], scores_BV.device)
        token_B1 = drawn_BV.argmax(1, keepdim=True)
        of_BV = (scores_BV if self._mode == "raw_logprobs" else processed_BV).log_softmax(1)
        self.logprobs.append(of_BV.gather(1, token_B1)[:, 0])
        if self._most:
            likeliest = of_BV.topk(self._most, dim=1)
            self.top.append((likeliest.values, likeliest.indices))
        return drawn_BV

    def _gumbel(self, size: int, device: torch.device) -> torch.Tensor:
        # In float64: the largest of 100,000 is what counts, and float32 has only steps of 2^-24 near 1.
        options: Any = {"device": device, "dtype": torch.float64}
        still_V = torch.zeros(size, **options)
        return torch.stack([still_V if g is None else _gumbel(size, g, options) for g in self._noise])


class Limits:
    """Which tokens of each row may be drawn: of the `top_k` likeliest, the likeliest that together have
    `top_p` of their probability, and at least `min_p` of the likeliest one's.

    The first token that reaches `top_p` is kept, so there is always one (Holtzman et al. 2020, 1904.09751).
    """

    def __init__(
        self, top_p: Sequence[float], top_k: Sequence[int], min_p: Sequence[float], **on: Any
    ) -> None:
        # Infinite where there is no limit: rounding must not take the last tokens away.
        ps = [math.inf if p >= 1 else p for p in top_p]
        ks = [math.inf if k <= 0 else k for k in top_k]
        self._top_p_B1 = torch.tensor(ps, **on)[:, None] if min(ps) < math.inf else None
        self._top_k_B1 = torch.tensor(ks, **on)[:, None] if min(ks) < math.inf else None
        self._min_B1 = torch.tensor(min_p, **on)[:, None].log() if max(min_p) > 0 else None

    @classmethod
    def of(cls, wanted: Sequence[Wanted], device: torch.device) -> Limits:
        """The limits of rows."""
        rows = [(row.top_p, row.top_k, row.min_p) for row in wanted]
        top_p, top_k, min_p = zip(*rows, strict=True)
        return cls(top_p, top_k, min_p, device=device)

    def __call__(self, logits_BV: torch.Tensor) -> torch.Tensor:
        """The logits [B, V], -inf where a token may not be drawn."""
        if self._min_B1 is not None:
            floor_B1 = logits_BV.amax(1, keepdim=True) + self._min_B1
            logits_BV = logits_BV.masked_fill(logits_BV < floor_B1, -torch.inf)
        if self._top_p_B1 is None and self._top_k_B1 is None:
            return logits_BV
        sorted_BV, order_BV = logits_BV.sort(dim=1, descending=True)
        beyond_BV = torch.zeros_like(sorted_BV, dtype=torch.bool)
        if self._top_k_B1 is not None:
            ranks_V = torch.arange(sorted_BV.shape[1], device=sorted_BV.device)
            beyond_BV = ranks_V >= self._top_k_B1
        if self._top_p_B1 is not None:
            p_BV = sorted_BV.masked_fill(beyond_BV, -torch.inf).softmax(1)
            beyond_BV = beyond_BV | (p_BV.cumsum(1) - p_BV >= self._top_p_B1)
        dropped_BV = torch.zeros_like(beyond_BV).scatter(1, order_BV, beyond_BV)
        return logits_BV.masked_fill(dropped_BV, -torch.inf)


class Ends:
    """Says after each step which rows are at their end: of their tokens, at a stop text, or given up.

    A row that is at its end is drawn on, unlooked at, until all are.
    """

    def __init__(
        self,
        wanted: Sequence[Wanted],
        start: int,
        decode: Callable[[list[int]], str],
        end_tokens: Set[int] = frozenset(),
    ) -> None:
        """`start` is where the answers begin; `decode` words tokens; a row draws none behind `end_tokens`."""
        self._wanted, self._start, self._decode = wanted, start, decode
        self._end_tokens = end_tokens
        self._heard = {row: each.hear for row, each in enumerate(wanted) if each.hear is not None}
        # A token is a byte of text at least, or none of it, as an end is.
        self._reach = [max((len(text.encode()) for text in row.stop), default=0) + 4 for row in wanted]
        self.lengths: list[int | None] = [None] * len(wanted)
        """Tokens that each row had at its end; None where it was another end, or is none yet."""

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        """Whether each row [B] is at its end; `input_ids` are [B, T], the prompts included."""
        drawn_BT = input_ids[:, self._start :]
        self._tell(drawn_BT)
        for row, wanted in enumerate(self._wanted):
            if self.lengths[row] is None and self._ends(wanted, drawn_BT[row], self._reach[row]):
                self.lengths[row] = drawn_BT.shape[1]
                self._heard.pop(row, None)
        return torch.tensor([length is not None for length in self.lengths], device=input_ids.device)

    def _tell(self, drawn_BT: torch.Tensor) -> None:
        """Tell those who hear their token of this step."""
        for row, hear in [*self._heard.items()]:
            token = int(drawn_BT[row, -1])
            hear(drawn_BT.shape[1], token)
            if token in self._end_tokens:
                del self._heard[row]

    def _ends(self, wanted: Wanted, drawn_T: torch.Tensor, reach: int) -> bool:
        if len(drawn_T) >= wanted.max_tokens or wanted.given_up():
            return True
        if not wanted.stop:
            return False
        tail = self._decode(listed(drawn_T[-reach:]))
        return any(text in tail for text in wanted.stop)


def listed(tensor: torch.Tensor) -> list[Any]:
    """A tensor's values as Python's own."""
    return cast(Any, tensor).tolist()


def _gumbel(size: int, generator: torch.Generator, options: Any) -> torch.Tensor:
    uniform_V = torch.rand(size, generator=generator, **options)
    return -torch.log(-torch.log(uniform_V.clamp(min=torch.finfo(torch.float64).tiny)))
