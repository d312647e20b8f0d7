"""A Hugging Face model in this process: left-padded batches in which a sample depends on its seed alone.

The one trick: tokens are drawn as argmax(log p + Gumbel noise), where each sample has a noise of its own, so
which samples share a batch changes nothing that is drawn. The log-probabilities come from the same step; no
scores are kept.
"""

# B samples of a batch, T tokens, V vocabulary

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
import transformers

from nemo_like.endpoints import Sampling
from nemo_like.errors import Error, PartError, UsageError
from nemo_like.journal import Sample
from nemo_like.prompts import Prompt
from nemo_like.types import Json

# Their Python side is typed loosely; what is taken from it is looked at where it is used.
hf: Any = transformers
log = logging.getLogger(__name__)

Asked = tuple[int, int, Prompt, int]
"""Row of the data, which of its samples, the prompt, the sample's number in the run."""


class LocalModel:
    """A causal language model and its tokenizer."""

    def __init__(self, path: str, sampling: Sampling, *, trust_remote_code: bool = False) -> None:
        """Load both.

        Raises:
            UsageError: there is no such model, or it can't be loaded.
        """
        self.path, self.sampling = path, sampling
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        dtype = torch.float32
        if self.device.type == "cuda":
            dtype = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
        options = {"trust_remote_code": trust_remote_code}
        try:
            self.tokenizer: Any = hf.AutoTokenizer.from_pretrained(path, **options)
            self.model: Any = hf.AutoModelForCausalLM.from_pretrained(path, dtype=dtype, **options)
        except (OSError, ValueError, KeyError) as error:
            looked = "" if Path(path).exists() else " (there is no such folder)"
            raise UsageError(f"the model {path} can't be loaded{looked}: {str(error)[:500]}") from error
        self.model.to(self.device).eval()
        self._ends = _end_tokens(self.model, self.tokenizer)
        self._pad: int = next(i for i in (self.tokenizer.pad_token_id, *self._ends, 0) if i is not None)
        # Only temperature and top_p decide, not what else the model's generation_config.json says.
        self.model.generation_config = hf.GenerationConfig(
            eos_token_id=sorted(self._ends) or None, pad_token_id=self._pad, do_sample=False
        )
        self._limit: int | None = getattr(self.model.config, "max_position_embeddings", None)

    def effective(self, seed: int | None) -> Json:
        """The parameters that a sample with this seed was drawn with."""
        return {
            "temperature": self.sampling.temperature,
            "top_p": self.sampling.top_p,
            "max_tokens": self.sampling.max_tokens,
            "logprobs_mode": "raw_logprobs",
            "seed": seed,
        }

    def sample(self, asked: Sequence[Asked]) -> list[Sample | PartError]:
        """A response to each, in order, or why there is none.

        Raises:
            Error: the device has too little memory for a batch.
        """
        encoded = [self._encode(prompt) for _, _, prompt, _ in asked]
        fitting = [i for i, ids in enumerate(encoded) if isinstance(ids, list)]
        drawn: dict[int, Sample] = {}
        if fitting:
            batch = [ids for ids in encoded if isinstance(ids, list)]
            seeds = [self.sampling.seed_of(asked[i][3]) or 0 for i in fitting]
            for i, seed, ids, (tokens, logprobs) in zip(
                fitting, seeds, batch, self._generate(batch, seeds), strict=True
            ):
                drawn[i] = self._sample(asked[i], seed, ids, tokens, logprobs)
        return [ids if isinstance(ids, PartError) else drawn[i] for i, ids in enumerate(encoded)]

    def _encode(self, prompt: Prompt) -> list[int] | PartError:
        """A prompt's token ids: through the chat template, as a server would, or raw where there is none."""
        if self.sampling.raw and not prompt.plain:
            return PartError(
                "bad_request",
                "a list of messages can't be continued as text",
                where=self.path,
                hint="ask it without --completions",
            )
        if self.tokenizer.chat_template and not self.sampling.raw:
            try:
                text = self.tokenizer.apply_chat_template(
                    prompt.messages, tokenize=False, add_generation_prompt=True
                )
            except Exception as error:  # noqa: BLE001 templates are programs, and raise what they like
                return PartError("bad_request", f"the chat template refused: {error}", where=self.path)
            ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        else:
            ids = self.tokenizer(prompt.text)["input_ids"]
        wanted = len(ids) + self.sampling.max_tokens
        if not ids:
            return PartError("bad_request", "the prompt has no tokens", where=self.path)
        if self._limit is not None and wanted > self._limit:
            message = f"a prompt of {len(ids)} tokens and max_tokens={self.sampling.max_tokens}"
            message += f" are more than the {self._limit} of the model"
            return PartError("context_overflow", message, where=self.path)
        return ids

    def _generate(self, batch: list[list[int]], seeds: list[int]) -> list[tuple[list[int], list[float]]]:
        """Tokens, the end included, and their log-probabilities, for each of a batch of prompts."""
        longest = max(map(len, batch))
        # The prompt stands next to what follows it: padding is on the left.
        ids_BT = torch.tensor([[self._pad] * (longest - len(ids)) + ids for ids in batch])
        mask_BT = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in batch])
        draw = Draw(self.sampling, seeds, self.device)
        try:
            with torch.inference_mode():
                out_BT: torch.Tensor = self.model.generate(
                    input_ids=ids_BT.to(self.device),
                    attention_mask=mask_BT.to(self.device),
                    max_new_tokens=self.sampling.max_tokens,
                    logits_processor=hf.LogitsProcessorList([draw]),
                )
        except torch.OutOfMemoryError as error:
            advice = f"a --batch_size under {len(batch)} resumes"
            raise Error(f"{self.device} has too little memory for the batch; {advice}") from error
        tokens_BT = cast(list[list[int]], _listed(out_BT[:, longest:]))
        logprobs_BT = cast(list[list[float]], _listed(torch.stack(draw.logprobs, 1)))
        cut = zip(tokens_BT, logprobs_BT, map(self._length, tokens_BT), strict=True)
        return [(tokens[:n], logprobs[:n]) for tokens, logprobs, n in cut]

    def _length(self, tokens: list[int]) -> int:
        """Tokens up to and with the first end of sequence; what follows is padding."""
        return next((i + 1 for i, token in enumerate(tokens) if token in self._ends), len(tokens))

    def _sample(
        self, asked: Asked, seed: int, prompt_ids: list[int], tokens: list[int], logprobs: list[float]
    ) -> Sample:
        data_idx, sample_idx, prompt, _ = asked
        wanted = self.sampling.with_token_ids
        return Sample(
            data_idx=data_idx,
            sample_idx=sample_idx,
            key=prompt.key,
            response=str(self.tokenizer.decode(tokens, skip_special_tokens=True)),
            finish_reason="stop" if tokens and tokens[-1] in self._ends else "length",
            prompt_tokens=len(prompt_ids),
            completion_tokens=len(tokens),
            seed=seed,
            prompt_token_ids=prompt_ids if wanted else None,
            response_token_ids=tokens if wanted else None,
            response_logprobs=logprobs if wanted else None,
        )


class Draw:
    """Draws the next token of each sample: what greedy decoding then takes for the likeliest.

    `logprobs` has a tensor [B] for each step: the drawn token's, at temperature 1 and before top_p.
    """

    def __init__(self, sampling: Sampling, seeds: Sequence[int], device: torch.device) -> None:
        self.logprobs: list[torch.Tensor] = []
        self._sampling = sampling
        self._noise = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores [B, V] of which the largest is the drawn token's."""
        # log_softmax in bf16 would be off by 0.01 to 0.04.
        scores_BV = scores.float()
        drawn_BV = scores_BV
        if self._sampling.temperature > 0:
            drawn_BV = keep_top_p(scores_BV / self._sampling.temperature, self._sampling.top_p)
            drawn_BV = drawn_BV + self._gumbel(drawn_BV.shape[1], drawn_BV.device)
        token_B1 = drawn_BV.argmax(1, keepdim=True)
        logprob_B = scores_BV.log_softmax(1).gather(1, token_B1)[:, 0]
        self.logprobs.append(logprob_B)
        return drawn_BV

    def _gumbel(self, size: int, device: torch.device) -> torch.Tensor:
        # In float64: the largest of 100,000 is what counts, and float32 has only steps of 2^-24 near 1.
        options: Any = {"device": device, "dtype": torch.float64}
        uniform_BV = torch.stack([torch.rand(size, generator=g, **options) for g in self._noise])
        return -torch.log(-torch.log(uniform_BV.clamp(min=torch.finfo(torch.float64).tiny)))


def keep_top_p(logits_BV: torch.Tensor, top_p: float) -> torch.Tensor:
    """The logits [B, V] of the likeliest tokens that together have `top_p` of the probability; others -inf.

    The first token that reaches `top_p` is kept, so there is always one (Holtzman et al. 2020, 1904.09751).
    """
    if top_p >= 1:
        return logits_BV
    sorted_BV, order_BV = logits_BV.sort(dim=1, descending=True)
    before_BV = sorted_BV.softmax(1).cumsum(1) - sorted_BV.softmax(1)
    dropped_BV = torch.zeros_like(before_BV, dtype=torch.bool).scatter(1, order_BV, before_BV >= top_p)
    return logits_BV.masked_fill(dropped_BV, -torch.inf)


def _listed(tensor: torch.Tensor) -> list[Any]:
    return cast(Any, tensor).tolist()


def _end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """What ends a sequence, as the model's generation_config and its tokenizer say."""
    ends: Any = model.generation_config.eos_token_id
    several = cast(list[Any], ends) if isinstance(ends, list) else [ends]
    return frozenset(i for i in (*several, tokenizer.eos_token_id) if i is not None)
