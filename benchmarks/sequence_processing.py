"""Generation and log-probabilities against transformers: `python benchmarks/sequence_processing.py`.

The other side is `transformers.generate` on each prompt G times, then a padded forward pass, `log_softmax`
of all its logits and the entropies, with as many rows at once. Both get the same model, prompts and numbers.
Each run has a process of its own; its memory is the peak beyond what that holds with the model in it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

PARTS = ("generate", "score", "gradients")


def make(vocabulary: int, width: int, layers: int) -> Any:
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        initializer_range=0.05,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    return Qwen2ForCausalLM(config).eval()


class Ids:
    """A tokenizer for prompts that are numbers already, as text."""

    pad_token, pad_token_id, eos_token, eos_token_id = "0", 0, None, None

    def __call__(self, texts: list[str], **_: Any) -> dict[str, list[list[int]]]:
        return {"input_ids": [[int(i) for i in text.split()] for text in texts]}

    def decode(self, token_ids: list[int], **_: Any) -> str:
        return " ".join(map(str, token_ids))


def memory_mb(of: str) -> float:
    """What Linux says of this process's memory: VmRSS is now, VmHWM the peak since `forget_peak`."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{of}:")[1].split()[0]) / 1024


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def one(side: str, part: str, wanted: argparse.Namespace) -> None:
    """Runs one part on one side, and prints its seconds, its peak of memory and a checksum."""
    import torch

    from nemo_like.sequence_processing import GenerationConfig, SequenceProcessor

    torch.set_num_threads(wanted.threads)
    model = make(wanted.vocabulary, wanted.width, wanted.layers)
    draw = torch.Generator().manual_seed(1)
    shape = (wanted.prompts, wanted.length)
    prompts: list[list[int]] = torch.randint(1, wanted.vocabulary, shape, generator=draw).tolist()
    config = GenerationConfig(
        max_new_tokens=wanted.new,
        do_sample=False,
        stop_strings=(),
        gen_batch_size=wanted.rows,
        tf_batch_size=wanted.rows,
    )
    processor = SequenceProcessor(model, Ids(), config)
    shape = (wanted.prompts, wanted.G, wanted.new)
    responses = torch.randint(1, wanted.vocabulary, shape, generator=draw).tolist()
    sequences = processor.pack(prompts, responses)
    model(torch.tensor([[1, 2]]))
    forget_peak()
    before, start = memory_mb("VmRSS"), time.perf_counter()
    if part == "generate" and side == "ours":
        out = processor.generate_batched([" ".join(map(str, p)) for p in prompts], wanted.G).sequences
        checksum = float(out.double().mean())
    elif part == "generate":
        parts = [
            model.generate(
                torch.tensor(prompts[i : i + wanted.rows // wanted.G]).repeat_interleave(wanted.G, dim=0),
                attention_mask=torch.ones(wanted.rows, wanted.length, dtype=torch.long),
                max_new_tokens=wanted.new,
                do_sample=False,
            )
            for i in range(0, wanted.prompts, wanted.rows // wanted.G)
        ]
        checksum = float(torch.cat(parts).double().mean())
    elif side == "ours":
        results = processor.teacher_force_logprobs(sequences, with_grad=part == "gradients")
        logprobs = torch.cat([p for group in results.logprobs for p in group])
        if part == "gradients":
            logprobs.mean().backward()
        checksum = float(logprobs.detach().double().mean())
    else:
        ids = sequences.sequences.flatten(0, 1)
        total: list[Any] = []
        with torch.set_grad_enabled(part == "gradients"):
            for rows in ids.split(wanted.rows):
                logits = model(rows, attention_mask=torch.ones_like(rows), use_cache=False).logits[:, :-1]
                full = logits.log_softmax(-1)
                total.append(full.gather(-1, rows[:, 1:, None])[:, wanted.length - 1 :, 0])
                _ = -(full.detach().exp() * full.detach()).sum(-1)[:, wanted.length - 1 :]
        logprobs = torch.cat(total)
        if part == "gradients":
            logprobs.mean().backward()
        checksum = float(logprobs.detach().double().mean())
    seconds = time.perf_counter() - start
    print(json.dumps({"s": seconds, "mb": memory_mb("VmHWM") - before, "checksum": checksum}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    sizes = {"G": 8, "prompts": 2, "length": 512, "new": 64, "rows": 8}
    sizes |= {"vocabulary": 150_000, "width": 256, "layers": 6, "threads": 1}
    for name, value in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--part", choices=PARTS)
    parser.add_argument("--side", choices=("ours", "theirs"))
    wanted = parser.parse_args()
    if wanted.part and wanted.side:
        one(wanted.side, wanted.part, wanted)
        return
    print("| | ours, s | transformers, s | | ours, MB | transformers, MB | |\n|---|---|---|---|---|---|---|")
    for part in PARTS:
        found: dict[str, Any] = {}
        for side in ("theirs", "ours"):
            command = [sys.executable, __file__, *sys.argv[1:], "--part", part, "--side", side]
            found[side] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        ours, theirs = found["ours"], found["theirs"]
        assert abs(ours["checksum"] / theirs["checksum"] - 1) < 1e-4, "both should give the same"
        print(
            f"| {part} | {ours['s']:.1f} | {theirs['s']:.1f} | {theirs['s'] / ours['s']:.1f}× "
            f"| {ours['mb']:,.0f} | {theirs['mb']:,.0f} | {theirs['mb'] / ours['mb']:.1f}× |"
        )


if __name__ == "__main__":
    main()
