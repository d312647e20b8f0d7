"""Small models with random weights, a small tokenizer, and the slow obvious version of what is tested."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from nemo_like.sequence_processing import BatchedSequences

ARCHITECTURES = ("llama", "qwen2", "gpt2", "gemma2")
CONTEXT = 192
END = "<|end|>"
PAD = "<|pad|>"
CORPUS = [
    "What is 2 + 3? The answer is 5. <think> add them </think> <answer>5</answer>.",
    "Amara has 12 apples and gives 4 of them to Ben. How many apples does Amara have now?",
    "<answer> 7 </answer>\n<answer>8</answer>.\n Solve: 5*3= and 7-2= for me, please.",
]
PROMPTS = [
    "What is 2 + 3?",
    "Amara has 12 apples and gives 4 of them to Ben. How many apples does Amara have now? <answer> </answer>",
    "7",
    "Solve: 5*3=",
]


@cache
def _trained() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=340,
        special_tokens=[END, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS * 20, trainer)
    return tokenizer


def tokenizer(*, pad: str | None = PAD) -> Any:
    """ByteLevel BPE of 340 tokens, in which `>` has merged with what stands beside it."""
    options = {"eos_token": END} | ({"pad_token": pad} if pad else {})
    return PreTrainedTokenizerFast(tokenizer_object=copy.deepcopy(_trained()), **options)


@cache
def _made(architecture: str, dtype: torch.dtype, vocabulary: int, seed: int) -> Any:
    shape = {"vocab_size": vocabulary, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    shape |= {"intermediate_size": 64, "num_key_value_heads": 2, "max_position_embeddings": CONTEXT}
    ends = {"eos_token_id": 0, "bos_token_id": None, "pad_token_id": None}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        # Spread out, so that distributions are neither flat nor certain, and positions matter.
        wide = {"initializer_range": 0.3}
        model = {
            "llama": lambda: LlamaForCausalLM(LlamaConfig(**shape, **ends, **wide)),
            "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**shape, **ends, **wide)),
            "gpt2": lambda: GPT2LMHeadModel(
                GPT2Config(
                    vocab_size=vocabulary, n_embd=32, n_layer=2, n_head=4, n_positions=CONTEXT, **ends, **wide
                )
            ),
            "gemma2": lambda: Gemma2ForCausalLM(
                Gemma2Config(**shape, **ends, **wide, head_dim=8, final_logit_softcapping=2.0)
            ),
        }[architecture]()
    return model.to(dtype).eval()


def model(
    architecture: str = "llama", dtype: torch.dtype = torch.float32, vocabulary: int = 340, seed: int = 0
) -> Any:
    """A model of two layers with random weights, one's own to change."""
    return copy.deepcopy(_made(architecture, dtype, vocabulary, seed))


def rows(sequences: BatchedSequences) -> list[tuple[int, int, list[int], list[int]]]:
    """(b, g, prompt's ids, response's ids) of every response."""
    found: list[tuple[int, int, list[int], list[int]]] = []
    for b, (start, lens) in enumerate(zip(sequences.prompt_lens, sequences.gen_lens, strict=True)):
        for g, length in enumerate(lens):
            ids: list[int] = sequences.sequences[b, g, : start + length].tolist()
            found.append((b, g, ids[:start], ids[start:]))
    return found


def naive(
    model: Any, prompt: list[int], response: list[int], temperature: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """(log-probabilities [T], entropies [T]): one sequence, unpadded, the whole softmax, in float64."""
    ids = torch.tensor([prompt + response])
    logits = model(ids).logits[0, len(prompt) - 1 : -1].double() / temperature
    full = logits.log_softmax(dim=-1)
    entropies = -(full.exp() * full).sum(dim=-1)
    return full.gather(-1, ids[0, len(prompt) :, None])[:, 0], entropies.detach()
