"""What goes in and what comes out: the configuration, the sequences, and their log-probabilities.

A sequence is stored as prompt | response | padding, without padding on the left: where p = `prompt_lens[b]`
and n = `gen_lens[b][g]`, its response is `sequences[b, g, p : p + n]`. Lengths, never token ids, say what is
padding: the padding token may well be the end token.

    # B prompts, G responses per prompt, S tokens of the longest sequence, T tokens of a response
"""

# torch's own types are partial.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch


class Tokenizer(Protocol):
    """What is asked of a tokenizer; those of transformers have it."""

    pad_token: Any
    pad_token_id: int | None

    @property
    def eos_token(self) -> Any: ...
    @property
    def eos_token_id(self) -> int | None: ...
    def __call__(self, text: list[str], **options: Any) -> Any: ...
    def decode(self, token_ids: list[int], **options: Any) -> Any: ...


@dataclass
class GenerationConfig:
    """How to sample, and how much at once."""

    temperature: float = 1.0
    """What the logits are divided by before sampling."""
    top_p: float = 1.0
    """Nucleus sampling: the smallest set of tokens that holds this much probability; 1 is all."""
    max_new_tokens: int = 200
    """Tokens a response may have, its end token included."""
    do_sample: bool = True
    """False takes the likeliest token each time."""
    gen_batch_size: int | Literal["auto"] = 32
    """Rows generated at once; "auto" is as many as free memory seems to have room for. Halved where memory
    ends."""
    tf_batch_size: int | Literal["auto"] = 64
    """Rows scored at once, likewise."""
    max_batch_tokens: int = 131_072
    """Rows times the longest of them, that a batch of either kind stays under; a single row may be longer."""
    stop_strings: tuple[str, ...] = ("</answer>",)
    """Text in a response after which it ends; empty: only the end token and `max_new_tokens` end it."""
    logprob_temperature: float | Literal["sampling"] = 1.0
    """What the logits are divided by for `logprobs` and `entropies`; "sampling" is `temperature`."""
    sampling_logprobs: bool = False
    """Whether to give the log-probabilities of the distribution that was sampled from, too: at `temperature`,
    renormalised over the nucleus."""

    @property
    def scoring_temperature(self) -> float:
        """`logprob_temperature` as a number."""
        return self.temperature if self.logprob_temperature == "sampling" else self.logprob_temperature

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """Raises `ValueError` where a value makes no sense; it names the value and what to write instead."""
        if self.do_sample and not (math.isfinite(self.temperature) and self.temperature > 0):
            hint = "; for the likeliest tokens pass do_sample=False"
            raise ValueError(f"temperature should be above 0 (got {self.temperature}){hint}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p should be above 0 and at most 1 (got {self.top_p})")
        if self.max_new_tokens < 0:
            raise ValueError(f"max_new_tokens should be at least 0 (got {self.max_new_tokens})")
        for name in ("gen_batch_size", "tf_batch_size"):
            check_rows(name, getattr(self, name))
        if self.max_batch_tokens < 1:
            raise ValueError(f"max_batch_tokens should be at least 1 (got {self.max_batch_tokens})")
        if isinstance(self.stop_strings, str) or not all(self.stop_strings):
            raise ValueError(f"stop_strings should be texts, none empty (got {self.stop_strings!r})")
        self._check_logprobs()

    def _check_logprobs(self) -> None:
        of_sampling = self.sampling_logprobs or self.logprob_temperature == "sampling"
        if of_sampling and not self.do_sample:
            raise ValueError(
                "with do_sample=False nothing is sampled; ask for no log-probabilities of sampling"
            )
        given = self.logprob_temperature
        if given != "sampling" and not (math.isfinite(given) and given > 0):
            raise ValueError(f"logprob_temperature should be above 0, or 'sampling' (got {given!r})")


@dataclass
class BatchedSequences:
    """Generated sequences; right-padded, see the head of this file."""

    sequences: torch.Tensor
    """[B, G, S] token ids: prompt | response | padding."""
    prompt_lens: list[int]
    """[B] tokens of each prompt."""
    gen_lens: list[list[int]]
    """[B][G] tokens of each response, its first end token included."""
    attention_masks: torch.Tensor
    """[B, G, S] 1 for prompt and response, 0 for padding."""
    responses_text: list[list[str]]
    """[B][G] the responses' text, without special tokens."""


@dataclass
class LogprobResults:
    """Log-probabilities of responses, token by token, in nats."""

    logprobs: list[list[torch.Tensor]]
    """[B][G] of [T], float32 (float64 of a float64 model), on the model's device, with a graph if asked."""
    entropies: list[list[np.ndarray[Any, Any]]]
    """[B][G] of [T], the entropy of the whole distribution that each token is scored by."""
    sequence_logprobs: list[list[float]]
    """[B][G], the sum of `logprobs`."""
    sampling_logprobs: list[list[torch.Tensor]] | None = None
    """[B][G] of [T], without a graph, if the configuration asks: by the distribution sampled from. -inf is a
    token that could not have been drawn, 0 an end token that followed a stop string and was not drawn."""


def check_rows(name: str, value: int | str) -> None:
    """Raises `ValueError` where a batch size is neither a number of rows nor "auto"."""
    if value != "auto" and (isinstance(value, str) or value < 1):
        raise ValueError(f"{name} should be at least 1, or 'auto' (got {value!r})")


def pack(
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[Sequence[int]]],
    *,
    tokenizer: Tokenizer,
    device: torch.device | str = "cpu",
) -> BatchedSequences:
    """Token ids as sequences: `prompts` [B][·] and `responses` [B][G][·], of one G.

    Raises:
        ValueError: not one list of responses a prompt, or not the same number for all.
    """
    num_responses = {len(group) for group in responses}
    if len(prompts) != len(responses) or len(num_responses) > 1:
        raise ValueError(
            f"{len(prompts)} prompts should have as many groups of responses, of one size "
            f"(got {len(responses)} groups of {sorted(num_responses)})"
        )
    B, G = len(prompts), next(iter(num_responses), 0)
    gen_lens = [[len(response) for response in group] for group in responses]
    S = max((len(p) + max(lens, default=0) for p, lens in zip(prompts, gen_lens, strict=True)), default=0)
    pad = 0 if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    ids = np.full((B, G, S), pad, dtype=np.int64)
    mask = np.zeros((B, G, S), dtype=np.int64)
    for b, (prompt, group) in enumerate(zip(prompts, responses, strict=True)):
        ids[b, :, : len(prompt)] = np.asarray(prompt, dtype=np.int64)
        for g, response in enumerate(group):
            end = len(prompt) + len(response)
            ids[b, g, len(prompt) : end] = response
            mask[b, g, :end] = 1
    return BatchedSequences(
        sequences=torch.from_numpy(ids).to(device),
        prompt_lens=[len(prompt) for prompt in prompts],
        gen_lens=gen_lens,
        attention_masks=torch.from_numpy(mask).to(device),
        responses_text=[[decoded(tokenizer, response) for response in group] for group in responses],
    )


def decoded(tokenizer: Tokenizer, ids: Sequence[int], *, special: bool = False) -> str:
    """The text of `ids`, with no space touched; `special` keeps the special tokens."""
    options = {"skip_special_tokens": not special, "clean_up_tokenization_spaces": False}
    return str(tokenizer.decode(list(ids), **options))


def check(sequences: BatchedSequences) -> None:
    """Raises `ValueError` where lengths, shapes and masks do not fit together; it names the row."""
    shape = tuple(sequences.sequences.shape)
    B, G, S = shape if len(shape) == 3 else (-1, -1, -1)
    fits = len(sequences.prompt_lens) == len(sequences.gen_lens) == B
    if not fits or any(len(lens) != G for lens in sequences.gen_lens):
        raise ValueError(f"sequences of shape {shape} do not go with their prompt_lens and gen_lens")
    if tuple(sequences.attention_masks.shape) != shape:
        raise ValueError(f"attention_masks should be of shape {shape}")
    if not B * G:
        return
    prompt_lens = torch.tensor(sequences.prompt_lens).view(B, 1)
    ends = prompt_lens + torch.tensor(sequences.gen_lens).view(B, G)  # [B, G]
    for b, g in ((ends > S) | (prompt_lens < 1)).nonzero().tolist()[:1]:
        lens = f"{sequences.prompt_lens[b]} and {sequences.gen_lens[b][g]}"
        raise ValueError(f"prompt {b}, response {g}: lengths {lens} do not fit into {S} tokens, one at least")
    wanted = torch.arange(S) < ends.unsqueeze(-1)  # [B, G, S]
    wrong = (sequences.attention_masks.cpu().bool() != wanted).any(dim=-1)
    for b, g in wrong.nonzero().tolist()[:1]:
        raise ValueError(
            f"prompt {b}, response {g}: the attention mask is not 1 for the first {int(ends[b, g])} tokens "
            "and 0 after them; sequences are prompt | response | padding, without padding on the left"
        )
