"""What tests run in processes of their own: `ranks.py ddp` in two of torchrun, `memory` under a limit, and
`generation`, `scores`, `gradients` to see what memory they take."""

from __future__ import annotations

import gc
import logging
import os
import resource
import sys
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel
from transformers import LlamaConfig, LlamaForCausalLM

sys.path.insert(0, str(Path(__file__).parents[2]))
from nemo_like.sequence_processing import GenerationConfig, SequenceProcessor
from nemo_like.sequence_processing.memory import Shape, Use
from tests.sequence_processing import tiny


def gradients(model: torch.nn.Module) -> torch.Tensor:
    found = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    model.zero_grad()
    return found


def naive_gradients(rows: list[tuple[list[int], list[int]]]) -> torch.Tensor:
    model = tiny.model()
    for prompt, response in rows:
        tiny.naive(model, prompt, response)[0].sum().backward()
    return gradients(model)


def ddp() -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    as_one_process(distributed.get_rank())
    # DDP has to be gone before the group is. As its last owner it would take the group down with Python's
    # lock held: that waits for gloo's threads, and these, now and then, for the lock.
    gc.collect()
    distributed.destroy_process_group()


def as_one_process(rank: int) -> None:
    model = tiny.model()
    wrapped = DistributedDataParallel(model)
    config = GenerationConfig(max_new_tokens=10)
    processor = SequenceProcessor(wrapped, tiny.tokenizer(), config)
    # Rank 0 has one batch and rank 1 seven, so passes through the wrapper can't be counted on to match.
    prompts = [[[5 + i, 6, 7] for i in range(2)], [[9 + i, 3] for i in range(7)]]
    responses = [[[[8, 9, 10, 11]] for _ in own] for own in prompts]
    sequences = processor.pack(prompts[rank], responses[rank])
    everyone = [
        naive_gradients([(p, group[0]) for p, group in zip(prompts[r], responses[r], strict=True)])
        for r in range(2)
    ]
    for through in (True, False, True):
        results = processor.teacher_force_logprobs(
            sequences, True, tf_batch_size=2 - rank, through_ddp=through
        )
        torch.cat([part for group in results.logprobs for part in group]).sum().backward()
        wanted = sum(everyone) / 2 if through else everyone[rank]
        torch.testing.assert_close(gradients(model), wanted, atol=1e-3, rtol=1e-3)
    shared = processor.generate_distributed([*tiny.PROMPTS, tiny.PROMPTS[0]], G=2, seed=3)
    alone = SequenceProcessor(tiny.model(), tiny.tokenizer(), config)
    assert torch.equal(
        shared.sequences, alone.generate_batched([*tiny.PROMPTS, tiny.PROMPTS[0]], G=2, seed=3).sequences
    )
    drawn = processor.generate_distributed(tiny.PROMPTS, G=1)
    both: list[Any] = [None, None]
    distributed.all_gather_object(both, drawn.sequences.tolist())
    assert both[0] == both[1]
    print("gradients agree; not summed without the wrapper; shared out as by one", flush=True)


def peak_bytes() -> int:
    """Of this program: `ru_maxrss` begins with what the process that started it had."""
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024


def memory() -> None:
    """Scores sequences that fit into memory one by one, but not all at once."""
    logging.basicConfig()
    torch.set_num_threads(1)
    model = tiny.model()
    processor = SequenceProcessor(model, tiny.tokenizer(), GenerationConfig(tf_batch_size=4096))
    rows = 3000
    sequences = processor.pack([[5 + i % 300] * 100 for i in range(rows)], [[[7, 8, 9]] for _ in range(rows)])
    expected = processor.teacher_force_logprobs(sequences, tf_batch_size=32).sequence_logprobs
    status = Path("/proc/self/status").read_text()
    used = int(status.split("VmSize:")[1].split()[0]) * 1024
    resource.setrlimit(resource.RLIMIT_AS, (used + 60 * 2**20, resource.RLIM_INFINITY))
    processor.config.max_batch_tokens = 10**9
    found = processor.teacher_force_logprobs(sequences).sequence_logprobs
    torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), atol=1e-3, rtol=0)
    print("same")


def taken(use: Use) -> None:
    """Prints the bytes that a batch takes at its peak, and what was estimated."""
    torch.set_num_threads(1)
    with torch.random.fork_rng():
        config = LlamaConfig(
            vocab_size=340,
            hidden_size=256,
            intermediate_size=1024,
            num_hidden_layers=8,
            num_attention_heads=4,
            eos_token_id=None,
        )
        model = LlamaForCausalLM(config).eval()
    room = 16 if use == "generation" else 0
    processor = SequenceProcessor(model, tiny.tokenizer(), GenerationConfig(max_new_tokens=room))
    texts, length = ["7" * 240] * 16, 256
    small = processor.pack([[5] * 8], [[[6]]])
    processor.teacher_force_logprobs(small, with_grad=True)
    rows = processor.pack([[5] * (length - 8)] * 16, [[[6] * 8]] * 16)
    before = peak_bytes()
    if use == "generation":
        processor.generate_batched(texts, G=4, gen_batch_size=64)
        tokens = 64 * (length + room)
    else:
        processor.teacher_force_logprobs(rows, with_grad=use == "gradients")
        tokens = 16 * length
    peak = peak_bytes()
    shape = Shape.of(config, 340, 4)
    assert shape is not None
    print(peak - before, shape.bytes_a_token(use) * tokens)


if __name__ == "__main__":
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    uses = {use: partial(taken, use) for use in get_args(Use)}
    ({"ddp": ddp, "memory": memory} | uses)[sys.argv[1]]()
