"""`SequenceProcessor`: prompts in; responses, log-probabilities and entropies out.

# B prompts, G responses per prompt, S tokens of the longest sequence, T tokens of a response
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, Literal

import torch
from torch import distributed

from nemo_like.datasets import DATASET_REGISTRY, Dataset
from nemo_like.errors import did_you_mean
from nemo_like.sequence_processing.batches import Limits
from nemo_like.sequence_processing.figures import Log, of_generation, of_logprobs
from nemo_like.sequence_processing.generation import Generation, Prompt
from nemo_like.sequence_processing.logprobs import mark_forced, teacher_force
from nemo_like.sequence_processing.memory import Use, free_bytes, limits_that_fit
from nemo_like.sequence_processing.model import CausalModel
from nemo_like.sequence_processing.sequences import (
    BatchedSequences,
    GenerationConfig,
    LogprobResults,
    Tokenizer,
    check,
    check_rows,
    pack,
)
from nemo_like.sequence_processing.stopping import StopAfterAnswer

PROMPTS_A_PART = 32
"""How many `stream` takes at a time where the batch size is found out by itself."""


class SequenceProcessor:
    """Generation and teacher forcing with one model.

    processor = SequenceProcessor(model, tokenizer, GenerationConfig(temperature=0.8))
    sequences, results = processor.generate_with_logprobs(prompts=["Solve: 2+2="], G=8)

    What it touches is as before afterwards: each module's mode, the tokenizer's padding, the model's cache
    settings, and, given a seed, every random number generator. Only a missing pad token is set, to the end
    token. The model's own generation settings (top_k, repetition penalty, …) play no part but for the end
    tokens in them.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        tokenizer: Any,
        config: GenerationConfig | None = None,
        *,
        datasets: Mapping[str, Dataset] = DATASET_REGISTRY,
        log: Log | None = None,
    ) -> None:
        """`model` is a causal model of transformers, also in DDP, `torch.compile` or PEFT.

        `log`, `wandb.log` for one, is given the figures of each call: tokens, seconds, entropy, ….
        """
        self.model, self.config, self.datasets = model, config or GenerationConfig(), datasets
        self.log = log
        self.tokenizer: Tokenizer = tokenizer
        if self.tokenizer.pad_token_id is None and self.tokenizer.eos_token is not None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self._causal = CausalModel(model)

    @property
    def context(self) -> int | None:
        """Tokens that the model has positions for; None where it doesn't say."""
        return self._causal.context

    @property
    def vocabulary(self) -> int:
        """How many token ids the model knows."""
        return self._causal.vocabulary

    def generate_with_logprobs(
        self,
        prompts: Sequence[str] | None = None,
        G: int = 8,
        dataset_name: str | None = None,
        split: str = "train",
        num_prompts: int | None = None,
        seed: int | None = None,
        with_grad: bool = False,
        gen_batch_size: int | Literal["auto"] | None = None,
        tf_batch_size: int | Literal["auto"] | None = None,
    ) -> tuple[BatchedSequences, LogprobResults]:
        """`G` responses to each prompt, and their log-probabilities.

        The prompts are given, or `num_prompts` of them are sampled from a dataset. `seed` fixes both that
        choice and the responses.

        Raises:
            ValueError: neither or both kinds of prompts, or as `sample_prompts`, `generate_batched` and
                `teacher_force_logprobs`.
        """
        if prompts is None:
            if dataset_name is None or num_prompts is None:
                raise ValueError("Must provide either prompts OR (dataset_name + num_prompts)")
            prompts = self.sample_prompts(dataset_name, split, num_prompts, seed)
        elif dataset_name is not None:
            raise ValueError("Must provide either prompts OR (dataset_name + num_prompts), not both")
        sequences = self.generate_batched(prompts, G, gen_batch_size, seed)
        return sequences, self.teacher_force_logprobs(sequences, with_grad, tf_batch_size)

    def generate_batched(
        self,
        prompts: Sequence[str],
        G: int = 8,
        gen_batch_size: int | Literal["auto"] | None = None,
        seed: int | None = None,
    ) -> BatchedSequences:
        """`G` responses to each prompt; no prompts, no responses and no new tokens give empties.

        A response depends on the seed, its prompt, and which of equal prompts and of `G` it is: not on the
        other prompts, their order or the batch size. (Batches differ by rounding, so in bf16 that holds up to
        the first token that rounding decides.) Without a seed, one is drawn from torch's global generator.

        Raises:
            ValueError: a prompt is empty or too long for the model, or its logits are not finite.
            RuntimeError: one response alone does not fit into memory.
        """
        encoded = self._encoded(prompts, 0, Counter())
        return self._packed(encoded, self._responses(encoded, G, gen_batch_size, _seed(seed)))

    def generate_distributed(
        self,
        prompts: Sequence[str],
        G: int = 8,
        gen_batch_size: int | Literal["auto"] | None = None,
        seed: int | None = None,
    ) -> BatchedSequences:
        """As `generate_batched`, with the prompts shared out over the processes of a `torchrun`.

        Each process calls it with all prompts and gets all responses, in order: those that one process alone
        gives. Without a seed, the first process draws it. Needs `torch.distributed.init_process_group`.
        """
        rank, processes = distributed.get_rank(), distributed.get_world_size()
        shared = [_seed(seed)]
        distributed.broadcast_object_list(shared, src=0)
        encoded = self._encoded(prompts, 0, Counter())
        own = self._responses(encoded[rank::processes], G, gen_batch_size, shared[0])
        gathered: list[list[list[list[int]]]] = [[] for _ in range(processes)]
        distributed.all_gather_object(gathered, own)  # pyright: ignore[reportUnknownMemberType]
        everyone = [gathered[i % processes][i // processes] for i in range(len(encoded))]
        return self._packed(encoded, everyone)

    def stream(
        self,
        prompts: Iterable[str],
        G: int = 8,
        gen_batch_size: int | Literal["auto"] | None = None,
        seed: int | None = None,
    ) -> Iterator[BatchedSequences]:
        """As `generate_batched`, a few prompts at a time, in order: for more than memory holds.

        Each part has as many prompts as `gen_batch_size` (32 where that is "auto"); together they are what
        `generate_batched` gives.
        """
        size = gen_batch_size or self.config.gen_batch_size
        check_rows("gen_batch_size", size)
        base, seen = _seed(seed), Counter[tuple[int, ...]]()
        source, first = iter(prompts), 0
        size = PROMPTS_A_PART if size == "auto" else size
        while texts := list(islice(source, size)):
            encoded = self._encoded(texts, first, seen)
            yield self._packed(encoded, self._responses(encoded, G, gen_batch_size, base))
            first += len(texts)

    def teacher_force_logprobs(
        self,
        sequences: BatchedSequences,
        with_grad: bool = False,
        tf_batch_size: int | Literal["auto"] | None = None,
        *,
        through_ddp: bool = True,
    ) -> LogprobResults:
        """The log-probabilities of the responses' tokens, and the entropies they were drawn at.

        With gradients, run one backward pass for a call; a model in DDP then sums them over the processes,
        unless `through_ddp` is false. Every process has to have a response that is not empty.

        Raises:
            ValueError: lengths, masks and shapes do not go together, a sequence is too long for the model,
                or logits are not finite; the message names the row.
            RuntimeError: one row alone does not fit into memory.
        """
        self.config.check()
        check(sequences)
        for b, (start, lens) in enumerate(zip(sequences.prompt_lens, sequences.gen_lens, strict=True)):
            self._check_length(f"prompt {b}", start, max(lens, default=0))
        size = self.config.tf_batch_size if tf_batch_size is None else tf_batch_size
        limits = self._limits("tf_batch_size", size, "gradients" if with_grad else "scores")
        start = time.perf_counter()
        results = teacher_force(
            *(self._causal, sequences, self.config, limits),
            with_grad=with_grad,
            through_wrapper=with_grad and through_ddp,
        )
        if self.log is not None:
            self.log(of_logprobs(results, seconds=time.perf_counter() - start))
        mark_forced(results, sequences, self._was_forced)
        return results

    def sample_prompts(
        self, dataset_name: str, split: str = "train", num_prompts: int | None = None, seed: int | None = None
    ) -> list[str]:
        """Questions of a dataset: `num_prompts` of them drawn without replacement, or all in order.

        The same seed gives the same prompts, and leaves the global generator alone; without one it is drawn
        from.

        Raises:
            ValueError: there is no such dataset, or it has too few examples.
        """
        if dataset_name not in self.datasets:
            raise ValueError(
                f"no dataset named '{dataset_name}'{did_you_mean(dataset_name, list(self.datasets))}"
            )
        examples = self.datasets[dataset_name](split=split)
        if num_prompts is None:
            return [example.question for example in examples]
        if not 0 <= num_prompts <= len(examples):
            have = f"{dataset_name} has {len(examples)} examples in '{split}'"
            raise ValueError(f"{have}, and {num_prompts} prompts are asked for")
        sample = random.sample if seed is None else random.Random(seed).sample
        return [examples[i].question for i in sample(range(len(examples)), num_prompts)]

    def pack(
        self, prompts: Sequence[list[int]], responses: Sequence[Sequence[list[int]]]
    ) -> BatchedSequences:
        """Token ids from elsewhere, `prompts` [B][·] and `responses` [B][G][·], ready for teacher forcing."""
        return pack(prompts, responses, tokenizer=self.tokenizer, device=self._causal.device)

    def _responses(
        self, prompts: list[Prompt], G: int, gen_batch_size: int | Literal["auto"] | None, seed: int
    ) -> list[list[list[int]]]:
        self.config.check()
        if G < 0:
            raise ValueError(f"G should be at least 0 (got {G})")
        size = self.config.gen_batch_size if gen_batch_size is None else gen_batch_size
        generation = Generation(
            *(self._causal, replace(self.config)),
            stop=StopAfterAnswer(self.tokenizer, self.config.stop_strings),
            end_tokens=self._end_tokens(),
            seed=seed,
            limits=self._limits("gen_batch_size", size, "generation"),
        )
        start = time.perf_counter()
        with self._causal.evaluating():
            responses = generation.respond(prompts, G)
        if self.log is not None:
            seconds, ends = time.perf_counter() - start, self._end_tokens()
            room = self.config.max_new_tokens
            self.log(of_generation(responses, end_tokens=ends, room=room, seconds=seconds))
        return responses

    def _limits(self, name: str, size: int | Literal["auto"], use: Use) -> Limits:
        check_rows(name, size)
        tokens = self.config.max_batch_tokens
        if size != "auto":
            return Limits(rows=size, tokens=tokens)
        shape, free = self._causal.shape, free_bytes(self._causal.device)
        if shape is None or free is None:
            raise ValueError(f"{name}='auto': there is no telling what fits; give a number of rows")
        return limits_that_fit(shape, use, free)

    def _packed(self, prompts: list[Prompt], responses: list[list[list[int]]]) -> BatchedSequences:
        return self.pack([prompt.ids for prompt in prompts], responses)

    def _encoded(self, texts: Sequence[str], first: int, seen: Counter[tuple[int, ...]]) -> list[Prompt]:
        """The prompts as token ids, never cut; `first` is the first one's number, `seen` what came before."""
        if isinstance(texts, str):
            raise ValueError("prompts should be a list of texts, not one text")
        encoded: list[list[int]] = self.tokenizer(list(texts), verbose=False)["input_ids"] if texts else []
        prompts: list[Prompt] = []
        for i, ids in enumerate(encoded, first):
            self._check_length(f"prompt {i}", len(ids), self.config.max_new_tokens)
            prompts.append(
                Prompt(ids=ids, name=f"prompt {i} ({len(ids)} tokens)", occurrence=seen[tuple(ids)])
            )
            seen[tuple(ids)] += 1
        return prompts

    def _check_length(self, name: str, prompt: int, response: int) -> None:
        if prompt < 1:
            raise ValueError(f"{name} has no tokens; there is nothing to continue")
        if (context := self._causal.context) is not None and prompt + response > context:
            total = f"{prompt} tokens and {response} new ones"
            raise ValueError(f"{name} is too long: {total} do not fit into the {context} of the model")

    def _end_tokens(self) -> list[int]:
        own = self.tokenizer.eos_token_id
        others = sorted(self._causal.end_tokens - {own})
        return others if own is None else [own, *others]

    def _was_forced(self, response: Sequence[int]) -> bool:
        stop = StopAfterAnswer(self.tokenizer, self.config.stop_strings)
        return response[-1] in self._end_tokens() and stop.answered(response[:-1])


def _seed(seed: int | None) -> int:
    return int(torch.randint(2**62, ())) if seed is None else seed
