"""A Hugging Face model in this process: left-padded batches, and weights that can be replaced.

model = LocalModel("path/of/a/model")
ids = model.encode([{"role": "user", "content": "Hi"}])
[answer] = model.generate([Wanted(ids=ids, max_tokens=64)])
model.replace_weights(model.read_weights("path/of/a/checkpoint"))
"""

# B samples of a batch, T tokens, V vocabulary

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
import transformers
from safetensors import SafetensorError
from transformers.convert_slow_tokenizer import bytes_to_unicode

from nemo_like.drawing import Draw, Ends, LogprobsMode, Wanted, listed
from nemo_like.errors import PartError, UsageError, did_you_mean
from nemo_like.types import Json

# Their Python side is typed loosely; what is taken from it is looked at where it is used.
hf: Any = transformers

UNREADABLE = (OSError, ValueError, KeyError, RuntimeError, EOFError, ImportError, SafetensorError)
"""What transformers raises where a model can't be loaded."""

NO_CHARACTER = "\ufffd"
BYTE_PIECE = re.compile("<0x([0-9A-F]{2})>")
BYTE_OF: dict[str, int] = {letter: byte for byte, letter in bytes_to_unicode().items()}
"""GPT-2's alphabet: a letter for each byte."""

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Weights = dict[str, torch.Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What a prompt was continued with."""

    text: str
    """Without special tokens, and without a stop text and what follows it."""
    tokens: list[int]
    """All that were drawn, the end of sequence included."""
    logprobs: list[float]
    top_logprobs: list[list[tuple[int, float]]]
    """(token, log-probability) of the likeliest of each step, where they were wanted."""
    finish_reason: Literal["stop", "length"]


def bytes_of(tokenizer: Any, token: int) -> bytes:
    """A token's bytes; the vocabulary has parts of characters in GPT-2's alphabet, or as `<0xE6>`."""
    text = str(tokenizer.decode([token]))
    if NO_CHARACTER not in text:
        return text.encode()
    piece = str(tokenizer.convert_ids_to_tokens(token))
    if found := BYTE_PIECE.fullmatch(piece):
        return bytes.fromhex(found[1])
    if all(letter in BYTE_OF for letter in piece):
        return bytes(BYTE_OF[letter] for letter in piece)
    return text.encode()


class OutOfMemory(Exception):
    """The device has too little memory for the batch; the message says which."""


class LocalModel:
    """A causal language model and its tokenizer."""

    def __init__(
        self,
        path: str,
        *,
        device: str = "auto",
        dtype: Dtype = "auto",
        chat_template: str | None = None,
        logprobs_mode: LogprobsMode = "raw_logprobs",
        trust_remote_code: bool = False,
    ) -> None:
        """Load both. `auto` is CUDA in bfloat16 where there is any, else the processor in float32.

        Raises:
            UsageError: there is no such model or device, or it can't be loaded.
        """
        self.path = path
        self._mode: LogprobsMode = logprobs_mode
        self._options = {"trust_remote_code": trust_remote_code}
        try:
            self.device = torch.device(_best_device() if device == "auto" else device)
            self.tokenizer: Any = hf.AutoTokenizer.from_pretrained(path, **self._options)
            self.model: Any = self._load(path, getattr(torch, _best_dtype(self.device, dtype)))
            self.model.to(self.device).eval()
        except UNREADABLE as error:
            looked = "" if Path(path).exists() else " (there is no such folder)"
            raise UsageError(f"the model {path} can't be loaded{looked}: {str(error)[:500]}") from error
        if chat_template is not None:
            self.tokenizer.chat_template = chat_template
        self._ends = _end_tokens(self.model, self.tokenizer)
        self._pad: int = next(i for i in (self.tokenizer.pad_token_id, *self._ends, 0) if i is not None)
        # Only what is wanted decides, not what else the model's generation_config.json says.
        self.model.generation_config = hf.GenerationConfig(
            eos_token_id=sorted(self._ends) or None, pad_token_id=self._pad, do_sample=False
        )

    @property
    def context_tokens(self) -> int | None:
        """Tokens that a conversation may have, where the model says so."""
        config: Any = self.model.config
        text: Any = config.get_text_config() if hasattr(config, "get_text_config") else config
        return getattr(text, "max_position_embeddings", None)

    @property
    def chat_template(self) -> str:
        """The chat template's text; "" where there is none."""
        template: Any = self.tokenizer.chat_template
        if isinstance(template, dict):
            template = cast(Json, template).get("default")
        return str(template or "")

    @property
    def vocabulary(self) -> int:
        """How many tokens it knows."""
        return int(self.model.get_input_embeddings().num_embeddings)

    def encode(
        self, messages: list[Json], *, add_generation_prompt: bool = True, **options: Any
    ) -> list[int]:
        """The token ids of a conversation in the words of the chat template; `options` (`tools`, …) go to it.

        Raises:
            PartError: `bad_request`, where the template refuses it.
        """
        try:
            text = self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=add_generation_prompt, **options
            )
        except Exception as error:  # templates are programs, and raise what they like
            raise PartError("bad_request", f"the chat template refused: {error}", where=self.path) from error
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def encode_text(self, text: str) -> list[int]:
        """The token ids of a text that is to be continued."""
        return self.tokenizer(text)["input_ids"]

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens, without special ones."""
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True))

    def token_text(self, token: int) -> str:
        """One token as text, special ones too."""
        return str(self.tokenizer.decode([token]))

    def token_bytes(self, token: int) -> bytes:
        """The bytes of a token; of a part of a character its own, which are no text."""
        return bytes_of(self.tokenizer, token)

    def generate(self, wanted: Sequence[Wanted]) -> list[Answer | PartError]:
        """A batch of prompts continued, each until its own end, or why one is not; a prompt has a token at
        least.

        Raises:
            OutOfMemory: the device has too little memory for them.
        """
        if not wanted:
            return []
        longest = max(len(row.ids) for row in wanted)
        # The prompt stands next to what follows it: padding is on the left.
        ids_BT = torch.tensor([[self._pad] * (longest - len(row.ids)) + row.ids for row in wanted])
        mask_BT = torch.tensor([[0] * (longest - len(row.ids)) + [1] * len(row.ids) for row in wanted])
        draw, ends = Draw(wanted, self.device, self._mode), Ends(wanted, longest, self.decode, self._ends)
        try:
            with torch.inference_mode():
                out_BT: torch.Tensor = self.model.generate(
                    input_ids=ids_BT.to(self.device),
                    attention_mask=mask_BT.to(self.device),
                    max_new_tokens=max(row.max_tokens for row in wanted),
                    logits_processor=hf.LogitsProcessorList([draw]),
                    stopping_criteria=hf.StoppingCriteriaList([ends]),
                )
        except torch.OutOfMemoryError as error:
            raise OutOfMemory(f"{self.device} has too little memory for a batch of {len(wanted)}") from error
        tokens_BT = cast(list[list[int]], listed(out_BT[:, longest:]))
        logprobs_BT = cast(list[list[float]], listed(torch.stack(draw.logprobs, 1)))
        tops = _tops(draw, wanted)
        return [
            self._answer(row, tokens[: ends.lengths[i]], logprobs, tops[i])
            for i, (row, tokens, logprobs) in enumerate(zip(wanted, tokens_BT, logprobs_BT, strict=True))
        ]

    def _answer(
        self, wanted: Wanted, tokens: list[int], logprobs: list[float], top: list[list[tuple[int, float]]]
    ) -> Answer | PartError:
        n = next((i + 1 for i, token in enumerate(tokens) if token in self._ends), len(tokens))
        if not all(map(math.isfinite, logprobs[:n])):
            return PartError("model_error", "the model's scores are no numbers", where=self.path)
        text = self.decode(tokens[:n])
        cut = min((at for stop in wanted.stop if (at := text.find(stop)) >= 0), default=len(text))
        ended = bool(n) and tokens[n - 1] in self._ends
        return Answer(
            text=text[:cut],
            tokens=tokens[:n],
            logprobs=logprobs[:n],
            top_logprobs=top[:n],
            finish_reason="stop" if ended or cut < len(text) else "length",
        )

    def read_weights(self, path: str) -> Weights:
        """The weights of another checkpoint of this model, in the memory of the processor.

        Raises:
            UsageError: there are none that fit; the message says what differs.
        """
        if not Path(path).is_dir():
            raise UsageError(f"there is no folder {path}")
        try:
            other: Any = self._load(path, self.model.dtype)
        except UNREADABLE as error:
            raise UsageError(f"the weights in {path} can't be loaded: {str(error)[:500]}") from error
        weights: Weights = other.state_dict()
        held: Weights = self.model.state_dict()
        _check_fit(path, weights, held)
        return weights

    def replace_weights(self, weights: Weights) -> None:
        """Take over what `read_weights` read. Nothing may be generated meanwhile."""
        held: Weights = self.model.state_dict()
        with torch.no_grad():
            for name, tensor in held.items():
                tensor.copy_(weights[name])

    def _load(self, path: str, dtype: torch.dtype) -> Any:
        return hf.AutoModelForCausalLM.from_pretrained(path, dtype=dtype, **self._options)


def _best_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _best_dtype(device: torch.device, dtype: Dtype) -> str:
    if dtype != "auto":
        return dtype
    if device.type != "cuda":
        return "float32"
    return "bfloat16" if torch.cuda.is_bf16_supported() else "float16"


def _check_fit(path: str, weights: Weights, held: Weights) -> None:
    """Raises a `UsageError` where `weights` can't take the place of those `held`."""
    for name, tensor in held.items():
        if name not in weights:
            hint = did_you_mean(name, [*weights])
            raise UsageError(f"{path} is another model: it has no weights {name}{hint}")
        if weights[name].shape != tensor.shape:
            shapes = f"{[*weights[name].shape]}, and not {[*tensor.shape]}"
            raise UsageError(f"{path} is another model: its weights {name} are {shapes}")
        if not bool(weights[name].isfinite().all()):
            raise UsageError(f"the weights {name} in {path} are not finite")
    if more := weights.keys() - held.keys():
        raise UsageError(f"{path} is another model: it has weights {min(more)}")


def _tops(draw: Draw, wanted: Sequence[Wanted]) -> list[list[list[tuple[int, float]]]]:
    """The likeliest tokens of every row and step, as many as the row wanted."""
    found: list[list[list[tuple[int, float]]]] = [[] for _ in wanted]
    for logprobs_Bn, tokens_Bn in draw.top:
        steps = zip(listed(tokens_Bn), listed(logprobs_Bn), strict=True)
        for i, (tokens, logprobs) in enumerate(steps):
            found[i].append([*zip(tokens, logprobs, strict=True)][: wanted[i].top_logprobs])
    return found


def _end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """What ends a sequence, as the model's generation_config and its tokenizer say."""
    ends: Any = model.generation_config.eos_token_id
    several = cast(list[Any], ends) if isinstance(ends, list) else [ends]
    return frozenset(i for i in (*several, tokenizer.eos_token_id) if i is not None)
