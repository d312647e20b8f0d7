"""Drawing tokens: each row from its own stream of random numbers, so that no row depends on its batch.

# N rows, V vocabulary
"""

# torch's own types are partial.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false

from __future__ import annotations

from array import array
from collections.abc import Sequence
from hashlib import sha256

import torch

from nemo_like.sequence_processing.sequences import GenerationConfig

CHUNK = 2**22
"""Elements of [N, V] that are looked at together: 32 MB in float64."""


def uniforms(seed: int, prompt: Sequence[int], occurrence: int, response: int, n: int) -> torch.Tensor:
    """`n` numbers in [0, 1), float64: the stream of one response.

    It depends on the prompt's tokens, on which of equal prompts it is and on which of its responses, on
    nothing else: neither on the batch nor on the order of the prompts.
    """
    key = f"{seed} {occurrence} {response} ".encode() + array("q", prompt).tobytes()
    stream = int.from_bytes(sha256(key).digest()[:8], "little", signed=True)
    return torch.rand(n, generator=torch.Generator().manual_seed(stream), dtype=torch.float64)


def draw(logits: torch.Tensor, uniform: torch.Tensor, config: GenerationConfig) -> torch.Tensor:
    """A token of each row [N], from `logits` [N, V] by `uniform` [N]; -1 where the logits are no numbers."""
    rows = max(1, CHUNK // logits.shape[-1])
    chunks = zip(logits.split(rows), uniform.split(rows), strict=True)
    return torch.cat([_draw(chunk, u, config) for chunk, u in chunks])


def nucleus(
    logits: torch.Tensor, temperature: float, top_p: float
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The distribution that is sampled from: probabilities [N, V], not normalised where tokens are left out.

    With `top_p` < 1 they are sorted downwards and cut to the smallest set that holds `top_p` (Holtzman et al.
    2020, arXiv:1904.09751), and the second value says which tokens they belong to; else it is None.
    """
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    probabilities = torch.softmax(wide / temperature, dim=-1)
    if top_p >= 1:
        return probabilities, None
    ordered, tokens = probabilities.sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(dim=-1, dtype=torch.float64) - ordered
    return ordered.masked_fill(before >= top_p, 0), tokens


def sampling_logprobs(
    logits: torch.Tensor, targets: torch.Tensor, temperature: float, top_p: float
) -> torch.Tensor:
    """The log-probability [N] of `targets` [N] under what is sampled from; -inf outside of it."""
    if top_p >= 1:
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature
        return wide.gather(-1, targets.unsqueeze(-1)).squeeze(-1) - wide.logsumexp(dim=-1)
    kept, tokens = nucleus(logits, temperature, top_p)
    assert tokens is not None
    chosen = kept.masked_fill(tokens != targets.unsqueeze(-1), 0).sum(dim=-1)
    return chosen.log() - kept.sum(dim=-1).log()


def _draw(logits: torch.Tensor, uniform: torch.Tensor, config: GenerationConfig) -> torch.Tensor:
    if not config.do_sample:
        best, tokens = logits.max(dim=-1)
        return tokens.masked_fill(~best.isfinite(), -1)
    kept, order = nucleus(logits, config.temperature, config.top_p)
    cumulative = kept.cumsum(dim=-1, dtype=torch.float64)  # [N, V]
    total = cumulative[:, -1:]
    # Below the total whatever rounding does, or the last token would be drawn although it has no probability.
    target = torch.minimum(uniform.unsqueeze(-1) * total, total * (1 - 2**-52))
    tokens = torch.searchsorted(cumulative, target, right=True).clamp(max=logits.shape[-1] - 1)  # [N, 1]
    if order is not None:
        tokens = order.gather(-1, tokens)
    return tokens.squeeze(-1).masked_fill(~total.squeeze(-1).isfinite(), -1)
