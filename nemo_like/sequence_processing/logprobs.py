"""Teacher forcing: the log-probability of each token of each response, and the entropy it was drawn at.

Only positions that predict a response's token get logits, a chunk of them at a time, in float32 whatever the
model computes in (bf16 costs 0.01 nats a token). With gradients a chunk's logits are made again in the
backward pass. So the memory that logits take depends neither on the sequences' length nor on their number.

    # N rows, S tokens of the longest row, M response tokens of all rows, C of them in a chunk, V vocabulary
"""

# torch's own types are partial.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.checkpoint import checkpoint

from nemo_like.sequence_processing.batches import Limits, in_batches
from nemo_like.sequence_processing.model import CausalModel, Hidden
from nemo_like.sequence_processing.sampling import sampling_logprobs
from nemo_like.sequence_processing.sequences import BatchedSequences, GenerationConfig, LogprobResults

CHUNK = 2**23
"""Elements of [C, V] that are looked at together: 32 MB in float32, of which two or three are held."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Row:
    """A response and where it stands."""

    prompt: int
    response: int
    start: int
    end: int

    def __str__(self) -> str:
        return f"prompt {self.prompt}, response {self.response} ({self.end} tokens)"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Scores:
    logprobs: torch.Tensor  # [M]
    entropies: torch.Tensor  # [M]
    sampling: torch.Tensor | None  # [M]


def teacher_force(
    model: CausalModel,
    sequences: BatchedSequences,
    config: GenerationConfig,
    limits: Limits,
    *,
    with_grad: bool,
    through_wrapper: bool,
) -> LogprobResults:
    """The responses' log-probabilities, in the order of `sequences`.

    Without gradients the model is in evaluation mode; with them it is in the mode it is in.

    Raises:
        ValueError: a token's log-probability or the entropy it was drawn at is not finite.
        RuntimeError: one row alone does not fit into memory.
    """
    rows = [
        _Row(prompt=b, response=g, start=start, end=start + length)
        for b, (start, lens) in enumerate(zip(sequences.prompt_lens, sequences.gen_lens, strict=True))
        for g, length in enumerate(lens)
    ]
    empty = torch.zeros(0, device=model.device)
    B, G = len(sequences.prompt_lens), len(sequences.gen_lens[0]) if sequences.gen_lens else 0
    results = LogprobResults(
        logprobs=[[empty for _ in range(G)] for _ in range(B)],
        entropies=[[np.zeros(0, np.float32) for _ in range(G)] for _ in range(B)],
        sequence_logprobs=[[0.0 for _ in range(G)] for _ in range(B)],
        sampling_logprobs=[[empty for _ in range(G)] for _ in range(B)] if config.sampling_logprobs else None,
    )
    rows = [row for row in rows if row.end > row.start]
    # DDP sums gradients once a backward pass, whichever forward passes they come from. So one pass through it
    # is enough, and processes with different numbers of batches still meet.
    wrapped = not through_wrapper

    def work(batch: list[int]) -> _Scores:
        nonlocal wrapped
        chosen = [rows[i] for i in batch]
        if with_grad:
            scores = _scores(model, sequences, chosen, config, through_wrapper=not wrapped)
            wrapped = True
            return scores
        with model.evaluating():
            return _scores(model, sequences, chosen, config, through_wrapper=False)

    for batch, scores in in_batches([row.end for row in rows], work, limits, tell=lambda i: str(rows[i])):
        _put(results, [rows[i] for i in batch], scores)
    return results


def _scores(
    model: CausalModel,
    sequences: BatchedSequences,
    rows: Sequence[_Row],
    config: GenerationConfig,
    *,
    through_wrapper: bool,
) -> _Scores:
    """What the model makes of the responses of `rows`, one after the other."""
    S = max(row.end for row in rows) - 1  # nothing follows the last token, so it need not be read
    prompts = torch.tensor([row.prompt for row in rows], device=sequences.sequences.device)
    responses = torch.tensor([row.response for row in rows], device=sequences.sequences.device)
    ids = sequences.sequences[prompts, responses, : S + 1].to(model.device)  # [N, S + 1]
    ends = torch.tensor([row.end - 1 for row in rows], device=ids.device)
    mask = (torch.arange(S, device=ids.device) < ends.unsqueeze(-1)).long()  # [N, S]
    hidden = model.hidden(ids[:, :-1], mask, through_wrapper=through_wrapper)
    where = hidden.states.device
    # The position before a token predicts it.
    flat = torch.cat([torch.arange(r.start - 1, r.end - 1) + n * S for n, r in enumerate(rows)]).to(where)
    targets = ids[:, 1:].to(where).flatten()[flat]  # [M]
    scores = _by_chunk(hidden, hidden.states.flatten(0, 1)[flat], targets, config)
    _check_finite(scores, rows)
    return scores


def _by_chunk(
    hidden: Hidden, states: torch.Tensor, targets: torch.Tensor, config: GenerationConfig
) -> _Scores:
    """Scores of `targets` [M], predicted by `states` [M, H]."""
    size = max(1, CHUNK // hidden.vocabulary)

    def score(states: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, ...]:
        logits = hidden.head(states)  # [C, V]
        sampling = targets.new_zeros(0)
        if config.sampling_logprobs:
            sampling = sampling_logprobs(logits.detach(), targets, config.temperature, config.top_p)
        return *_logprobs(logits, targets, config.scoring_temperature), sampling

    def scored() -> Iterator[tuple[torch.Tensor, ...]]:
        for chunk in zip(states.split(size), targets.split(size), strict=True):
            if torch.is_grad_enabled():
                yield checkpoint(score, *chunk, use_reentrant=False)  # pyright: ignore[reportReturnType]
            else:
                yield score(*chunk)

    logprobs, entropies, sampling = (torch.cat(parts) for parts in zip(*scored(), strict=True))
    return _Scores(
        logprobs=logprobs, entropies=entropies, sampling=sampling if config.sampling_logprobs else None
    )


def _logprobs(
    logits: torch.Tensor, targets: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """(log softmax of `logits` [C, V] at `targets` [C], entropies [C] in nats, without a graph)."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if temperature != 1:
        logits = logits / temperature
    total = logits.logsumexp(dim=-1)  # [C]
    logprobs = logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1) - total
    with torch.no_grad():
        # H = log Σ exp(x) - Σ p·x
        p = (logits - total.unsqueeze(-1)).exp_()
        mean = torch.linalg.vecdot(p, logits)
        if not mean.isfinite().all():
            # A token ruled out has a logit of -inf, and adds nothing.
            mean = torch.linalg.vecdot(p, logits.clamp(min=torch.finfo(logits.dtype).min))
        entropies = (total - mean).clamp(min=0)
    return logprobs, entropies


def _check_finite(scores: _Scores, rows: Sequence[_Row]) -> None:
    finite = scores.logprobs.detach().isfinite() & scores.entropies.isfinite()
    if finite.all():
        return
    first = int((~finite).nonzero()[0])
    for row in rows:
        if first < row.end - row.start:
            raise ValueError(f"{row}: the logits of its token {first} are not finite")
        first -= row.end - row.start


def _put(results: LogprobResults, rows: Sequence[_Row], scores: _Scores) -> None:
    """Each row's share of `scores` to its place."""
    lengths = [row.end - row.start for row in rows]
    entropies = torch.split(scores.entropies.cpu(), lengths)
    sums = [float(part.sum()) for part in scores.logprobs.detach().double().cpu().split(lengths)]
    for row, logprobs, entropy, total in zip(
        rows, scores.logprobs.split(lengths), entropies, sums, strict=True
    ):
        results.logprobs[row.prompt][row.response] = logprobs
        results.entropies[row.prompt][row.response] = entropy.numpy()
        results.sequence_logprobs[row.prompt][row.response] = total
    if results.sampling_logprobs is not None and scores.sampling is not None:
        for row, part in zip(rows, scores.sampling.split(lengths), strict=True):
            results.sampling_logprobs[row.prompt][row.response] = part


Forced = Callable[[Sequence[int]], bool]
"""Whether a response's end token followed an answer, and was not drawn."""


def mark_forced(results: LogprobResults, sequences: BatchedSequences, forced: Forced) -> None:
    """Gives end tokens that were not drawn the probability 1 in `sampling_logprobs`."""
    for b, group in enumerate(results.sampling_logprobs or []):
        start = sequences.prompt_lens[b]
        for g, scores in enumerate(group):
            response = sequences.sequences[b, g, start : start + len(scores)].tolist()
            if response and forced(response):
                scores[-1] = 0.0
