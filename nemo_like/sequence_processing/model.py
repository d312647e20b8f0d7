"""The model as generation and teacher forcing see it, whatever it is wrapped in.

Its one trick: logits of whole sequences are never made. The head's input is caught on its way; the head sees
one position of it, and is applied later to the positions that matter, chunk by chunk. Some models scale or
cap what their head gives: that is tried out once, and their logits are taken whole.

    # N rows, S tokens of the longest row, H width of the hidden states, V vocabulary
"""

# torch's own types are partial.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch.nn.parallel import DistributedDataParallel

from nemo_like.sequence_processing.memory import Shape

Head = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class Hidden:
    """What logits are made of: `head(states[n, s])` are the logits that follow token s of row n."""

    states: torch.Tensor
    """[N, S, H], or [N, S, V] where `head` does nothing."""
    head: Head
    vocabulary: int


class CausalModel:
    """A causal language model of transformers, bare or in DDP, `torch.compile` or PEFT."""

    def __init__(self, model: torch.nn.Module) -> None:
        """Raises `ValueError` for wrappers whose parameters can't be used from outside (FSDP), and for PEFT
        methods that add tokens of their own."""
        self.bare, self._wrapper = _unwrap(model)
        self._inner: Any = self.bare
        if hasattr(self.bare, "get_base_model"):
            peft: Any = self.bare
            if getattr(peft.active_peft_config, "is_prompt_learning", False):
                raise ValueError(
                    "PEFT methods that add virtual tokens are not supported; LoRA and its kin are"
                )
            self._inner = peft.get_base_model()
        parameters = inspect.signature(self._inner.forward).parameters
        self.takes_positions = "position_ids" in parameters
        self._can_keep_few = "logits_to_keep" in parameters
        self._cache_name = ""
        self._head: torch.nn.Module | None = None
        self._vocabulary = 0

    @property
    def device(self) -> torch.device:
        """Where token ids go."""
        embeddings = getattr(self._inner, "get_input_embeddings", lambda: None)()
        weight = getattr(embeddings, "weight", None)
        return weight.device if isinstance(weight, torch.Tensor) else next(self.bare.parameters()).device

    @property
    def context(self) -> int | None:
        """Tokens the model has positions for, where it says so."""
        return getattr(self._config, "max_position_embeddings", None)

    @property
    def shape(self) -> Shape | None:
        """What decides how much memory a token takes, where its configuration tells."""
        itemsize = next(self.bare.parameters()).element_size()
        return Shape.of(self._config, self.vocabulary, itemsize) if self._config is not None else None

    @property
    def _config(self) -> Any:
        config: Any = getattr(self._inner, "config", None)
        return config.get_text_config() if hasattr(config, "get_text_config") else config

    @property
    def vocabulary(self) -> int:
        """How many token ids it has embeddings for."""
        return int(self._inner.get_input_embeddings().weight.shape[0])

    @property
    def end_tokens(self) -> set[int]:
        """The token ids that its generation settings end a response with."""
        ids = getattr(getattr(self._inner, "generation_config", None), "eos_token_id", None)
        return set(cast("list[int]", ids if isinstance(ids, list) else [] if ids is None else [ids]))

    @contextmanager
    def evaluating(self) -> Generator[None]:
        """Every module in evaluation mode, without gradients; afterwards each is as it was."""
        modes = [(module, module.training) for module in self.bare.modules()]
        self.bare.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            for module, training in modes:
                module.training = training

    def step(
        self, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: Any
    ) -> tuple[torch.Tensor, Any]:
        """The logits [N, V] after the last of `ids` [N, ·], and the cache grown by them.

        `mask` [N, cached + ·] and `positions` [N, ·] say what is padding on the left, and where tokens stand.
        """
        options: dict[str, Any] = {"position_ids": positions} if self.takes_positions else {}
        if self._can_keep_few:
            options["logits_to_keep"] = 1
        if cache is not None:
            options[self._cache_name] = cache
        out = self.bare(input_ids=ids, attention_mask=mask, use_cache=True, **options)
        # transformers 5.24 calls it anew, and warns of the name before.
        self._cache_name = "cache" if hasattr(out, "cache") else "past_key_values"
        grown = getattr(out, self._cache_name, None)
        if not hasattr(grown, "batch_select_indices"):
            raise ValueError(f"{type(self._inner).__name__} gives no cache whose rows can be chosen")
        return out.logits[:, -1].contiguous(), grown

    def hidden(self, ids: torch.Tensor, mask: torch.Tensor, *, through_wrapper: bool) -> Hidden:
        """One forward pass over right-padded `ids` [N, S] with their `mask`; it has a graph if one is wanted.

        `through_wrapper` runs it through DDP, which then sums the gradients over the processes.
        """
        head = self._plain_head(ids)
        model = self._wrapper if through_wrapper else self.bare
        with _before_head(head) as caught:
            logits = _logits(model(input_ids=ids, attention_mask=mask, use_cache=False))
        if head is None or not caught:
            return Hidden(states=logits, head=lambda states: states, vocabulary=self._vocabulary)
        return Hidden(states=caught[0], head=head, vocabulary=self._vocabulary)

    def _plain_head(self, ids: torch.Tensor) -> torch.nn.Module | None:
        """The head, if the model's logits are its output; tried once, with a token or two."""
        if not self._vocabulary:
            head = getattr(self.bare, "get_output_embeddings", lambda: None)()
            with self.evaluating(), _before_head(head) as caught:
                logits = _logits(self.bare(input_ids=ids[:1, :2], use_cache=False))
            self._vocabulary = logits.shape[-1]
            if head is not None and caught:
                with self.evaluating():
                    own = head(caught[0][:, -1:])
                same = torch.allclose(own.to(logits.dtype), logits, rtol=0, atol=0, equal_nan=True)
                self._head = head if same else None
        return self._head


def select(cache: Any, rows: torch.Tensor) -> Any:
    """A cache that holds `rows` [N] (indices, repeated ones too) of `cache`, which stays as it is."""
    chosen = copy.copy(cache)
    # Selecting gives every layer new tensors, so copies of the layers themselves can be shallow.
    chosen.layers = [copy.copy(layer) for layer in cache.layers]
    chosen.batch_select_indices(rows)
    return chosen


@contextmanager
def _before_head(head: torch.nn.Module | None) -> Generator[list[torch.Tensor]]:
    """Catches what `head` is given, and gives it the last position only."""
    caught: list[torch.Tensor] = []

    def catch(_: torch.nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if len(args) != 1 or args[0].dim() != 3:
            return None
        caught.append(args[0])
        return (args[0][:, -1:],)

    handle = head.register_forward_pre_hook(catch) if head is not None else None
    try:
        yield caught
    finally:
        if handle is not None:
            handle.remove()


def _unwrap(model: torch.nn.Module) -> tuple[torch.nn.Module, torch.nn.Module]:
    """(The model itself, what gradients have to go through.)"""
    wrapper = None
    while True:
        if isinstance(model, DistributedDataParallel):
            wrapper = wrapper or model
            model = model.module
        elif hasattr(model, "_orig_mod"):
            # Hooks put on after compiling are not seen, so the model is run as it was written.
            model = cast(torch.nn.Module, model._orig_mod)
        elif type(model).__name__.startswith(("FullyShardedDataParallel", "FSDP")):
            raise ValueError("a model in FSDP is not supported; take DDP, or gather its parameters first")
        else:
            return model, wrapper or model


def _logits(out: Any) -> torch.Tensor:
    return out.logits if hasattr(out, "logits") else out[0]
