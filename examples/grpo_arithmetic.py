"""A policy that learns sums: Dr.GRPO with `SequenceProcessor` and the rewards of `arithmetic`, on two cores.

    python examples/grpo_arithmetic.py --seeds 0 1 2

Every step draws G responses to each of B questions, rewards them with the environment's own verifier, and
takes one gradient step along their advantages: the reward less its group's mean, neither divided by a
standard deviation nor by the response's length (Liu et al. 2025, arXiv:2503.20783). As there is one step a
batch, the policy that is improved is the one that was sampled from, and nothing needs to be clipped.

Two things that change nothing but the time: equal responses to a question are scored once, with their
advantages summed, and responses whose advantages come to 0 are not scored at all.

    # B questions, G responses to each, T tokens of a response
"""

# torch's and matplotlib's own types are partial.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from random import Random
from statistics import fmean, stdev
from typing import Any

import torch

from nemo_like.config import content_root
from nemo_like.registry import load_file
from nemo_like.rewards.last_number import NumberTask, last_number
from nemo_like.sequence_processing import BatchedSequences, GenerationConfig, SequenceProcessor
from nemo_like.sequence_processing.weights import EMBEDDED, load_model
from nemo_like.types import Response

HELD_OUT_SEED = 1_000_000
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "<|im_start|>assistant\n"
)
"""The model's own chat template, less the system message that it puts in front: a third fewer tokens."""
ROWS_A_PASS = 8
"""Responses whose graph is held at once: some 0.1 GB each."""


def main() -> None:
    options = parsed()
    options.output.mkdir(parents=True, exist_ok=True)
    for seed in options.seeds:
        train(seed, options)
    print(summary(options.output))
    plot(options.output)


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--seeds", type=int, nargs="*", default=[0, 1, 2], help="one run each, one after the other")
    add("--steps", type=int, default=20)
    add("--questions", type=int, default=8, help="B")
    add("--responses", type=int, default=8, help="G")
    add("--max_new_tokens", type=int, default=12)
    add("--learning_rate", type=float, default=4e-5)
    add("--trained_layers", type=int, default=10, help="the last so many; the others stay as they are")
    add("--held_out", type=int, default=64, help="questions to evaluate on, none of which is trained on")
    add("--held_out_responses", type=int, default=2)
    add("--evaluate_every", type=int, default=5, help="steps; before the first and after the last, too")
    add("--model", default=EMBEDDED, help="a folder of transformers, or 'embedded'")
    add("--output", type=Path, default=Path("results/grpo_arithmetic"))
    return parser.parse_args(arguments)


def train(seed: int, options: argparse.Namespace) -> None:
    """One run; its figures go to `seed_N.jsonl`, a line a step and a line an evaluation.

    At each evaluation what was trained is kept as `seed_N.pt`, from which the same command goes on, and one
    that asks for more steps too.
    """
    log, kept = options.output / f"seed_{seed}.jsonl", options.output / f"seed_{seed}.pt"
    if any(row["step"] >= options.steps for row in evaluations(log)):
        return
    model, tokenizer = load_model(options.model)
    trained = freeze(model, options.trained_layers)
    optimizer = torch.optim.AdamW(trained.values(), lr=options.learning_rate, weight_decay=0.0)
    went_on = resumed(kept, log, model, optimizer)
    first = went_on or 0
    config = GenerationConfig(
        max_new_tokens=options.max_new_tokens,
        gen_batch_size=options.questions * options.responses,
        tf_batch_size=ROWS_A_PASS,
        stop_strings=(),
    )
    processor = SequenceProcessor(model, tokenizer, config)
    held_out = list(islice(different(tasks(HELD_OUT_SEED)), options.held_out))
    source = islice(without(tasks(seed), held_out), first * options.questions, None)
    for step in range(first, options.steps + 1):
        if (step % options.evaluate_every == 0 or step == options.steps) and step != went_on:
            record(log, {"step": step, **evaluate(processor, held_out, options)}, seed)
            state = {"step": step, "model": trained, "optimizer": optimizer.state_dict()}
            torch.save(state, kept.with_suffix(".tmp"))
            kept.with_suffix(".tmp").replace(kept)
        if step < options.steps:
            asked = list(islice(source, options.questions))
            figures = improve(processor, optimizer, asked, options.responses, seed * 10_000 + step)
            record(log, {"step": step, **figures}, seed)


def resumed(kept: Path, log: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> int | None:
    """The step that a run which was cut off goes on from; what it did after it was kept is done again."""
    if not kept.exists():
        log.unlink(missing_ok=True)
        return None
    state = torch.load(kept)
    model.load_state_dict(state["model"], strict=False)
    optimizer.load_state_dict(state["optimizer"])
    step = state["step"]
    done = [r for r in rows_of(log) if r["step"] < step or (r["step"] == step and "held_out" in r)]
    log.write_text("".join(json.dumps(row) + "\n" for row in done))
    return step


def rows_of(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def evaluations(log: Path) -> list[dict[str, Any]]:
    return [row for row in rows_of(log) if "held_out" in row]


def freeze(model: Any, trained_layers: int) -> dict[str, torch.nn.Parameter]:
    """Leaves all but the last layers as they are, which halves the work; what is trained, by name."""
    model.requires_grad_(False)
    for layer in model.model.layers[-trained_layers:]:
        layer.requires_grad_(True)
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def improve(
    processor: SequenceProcessor, optimizer: torch.optim.Optimizer, asked: list[NumberTask], G: int, seed: int
) -> dict[str, float]:
    """One step of Dr.GRPO."""
    start = time.monotonic()
    sequences = processor.generate_batched(prompts(processor, asked), G, seed=seed)
    sampled = time.monotonic()
    rewards_BG = rewards(asked, sequences)
    advantages_BG = rewards_BG - rewards_BG.mean(dim=1, keepdim=True)
    rows = weighted(sequences, advantages_BG)
    B, room = len(asked), processor.config.max_new_tokens
    loss, entropies = 0.0, list[float]()
    optimizer.zero_grad()
    for first in range(0, len(rows), ROWS_A_PASS):
        some = rows[first : first + ROWS_A_PASS]
        packed = processor.pack([prompt for prompt, _, _ in some], [[response] for _, response, _ in some])
        results = processor.teacher_force_logprobs(packed, with_grad=True)
        # Over B * G and the longest length allowed, constants both, so that no length is favoured.
        parts = [w * group[0].sum() for group, (_, _, w) in zip(results.logprobs, some, strict=True)]
        share = -torch.stack(parts).sum() / (B * G * room)
        share.backward()
        loss += share.item()
        entropies += [float(group[0].mean()) for group in results.entropies]
    norm = torch.nn.utils.clip_grad_norm_(processor.model.parameters(), 1.0)
    optimizer.step()
    return {
        "reward": rewards_BG.mean().item(),
        "mixed_groups": (rewards_BG.std(dim=1) > 0).double().mean().item(),
        "loss": loss,
        "grad_norm": norm.item(),
        "entropy": fmean(entropies) if entropies else 0.0,
        "tokens": fmean(n for lens in sequences.gen_lens for n in lens),
        "rows": len(rows),
        "sampling_s": sampled - start,
        "update_s": time.monotonic() - sampled,
    }


def weighted(
    sequences: BatchedSequences, advantages_BG: torch.Tensor
) -> list[tuple[list[int], list[int], float]]:
    """(prompt's ids, response's ids, summed advantage) of each different response that matters."""
    sums: dict[tuple[int, tuple[int, ...]], float] = defaultdict(float)
    for b, (start, lens) in enumerate(zip(sequences.prompt_lens, sequences.gen_lens, strict=True)):
        for g, length in enumerate(lens):
            response = tuple(sequences.sequences[b, g, start : start + length].tolist())
            sums[b, response] += advantages_BG[b, g].item()
    return [
        (sequences.sequences[b, 0, : sequences.prompt_lens[b]].tolist(), list(response), weight)
        for (b, response), weight in sums.items()
        if abs(weight) > 1e-6
    ]


def rewards(asked: Sequence[NumberTask], sequences: BatchedSequences) -> torch.Tensor:
    """[B, G], as the environment's verifier gives them."""
    return torch.tensor(
        [
            [reward(task, text) for text in texts]
            for task, texts in zip(asked, sequences.responses_text, strict=True)
        ],
        dtype=torch.float64,
    )


def reward(task: NumberTask, text: str) -> float:
    message = {"type": "message", "role": "assistant", "content": text}
    return last_number(task, Response(output=[message]))["reward"]


def evaluate(
    processor: SequenceProcessor, held_out: list[NumberTask], options: argparse.Namespace
) -> dict[str, Any]:
    """The mean reward of responses sampled to the held-out questions, and its error over questions."""
    G = options.held_out_responses
    sequences = processor.generate_batched(prompts(processor, held_out), G, seed=HELD_OUT_SEED)
    means = rewards(held_out, sequences).mean(dim=1).tolist()
    return {"held_out": fmean(means), "error": error(means), "means": means}


def prompts(processor: SequenceProcessor, asked: Sequence[NumberTask]) -> list[str]:
    """The conversations as the model's own chat template writes them."""
    tokenizer: Any = processor.tokenizer
    return [
        tokenizer.apply_chat_template(
            task.responses_create_params["input"], chat_template=CHATML, tokenize=False
        )
        for task in asked
    ]


def tasks(seed: int) -> Iterator[NumberTask]:
    """The tasks that `ng_make_data +resources_server=arithmetic` makes of this seed, without end."""
    make_data = load_file(content_root() / "resources_servers/arithmetic/make_data.py")
    return map(NumberTask.model_validate, make_data.tasks(Random(seed)))


def question(task: NumberTask) -> str:
    return task.responses_create_params["input"][-1]["content"]


def different(source: Iterator[NumberTask]) -> Iterator[NumberTask]:
    seen: set[str] = set()
    for task in source:
        if question(task) not in seen:
            seen.add(question(task))
            yield task


def without(source: Iterator[NumberTask], others: Sequence[NumberTask]) -> Iterator[NumberTask]:
    questions = {question(task) for task in others}
    return (task for task in source if question(task) not in questions)


def record(log: Path, figures: dict[str, Any], seed: int) -> None:
    with log.open("a") as file:
        file.write(json.dumps(figures) + "\n")
    shown = [f"{name} {value:.3g}" for name, value in figures.items() if not isinstance(value, list)]
    print(f"seed {seed}:", ", ".join(shown), flush=True)


def summary(folder: Path) -> str:
    """A row a seed: the held-out reward at each evaluation, and what it rose by, paired by question."""
    lines: list[str] = []
    for log in sorted(folder.glob("seed_*.jsonl")):
        found = evaluations(log)
        if len(found) < 2:
            continue
        gains = [after - before for before, after in zip(found[0]["means"], found[-1]["means"], strict=True)]
        shown = ", ".join(f"step {row['step']}: {row['held_out']:.3f} ± {row['error']:.3f}" for row in found)
        lines.append(f"{log.stem}: {shown}; rose by {fmean(gains):+.3f} ± {error(gains):.3f}")
    return "\n".join(lines)


def error(values: Sequence[float]) -> float:
    """The standard error of a mean."""
    return stdev(values) / len(values) ** 0.5


def plot(folder: Path) -> None:
    """`rewards.png`: each seed's held-out reward with its error, and the reward of its batches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.4), dpi=80, layout="constrained")
    axes = figure.subplots()
    for i, log in enumerate(sorted(folder.glob("seed_*.jsonl"))):
        found = evaluations(log)
        steps, means, errors = ([row[key] for row in found] for key in ("step", "held_out", "error"))
        axes.errorbar(
            steps, means, errors, color=f"C{i}", marker="o", capsize=3, label=log.stem.replace("_", " ")
        )
        batches = [row for row in rows_of(log) if "reward" in row]
        axes.plot([r["step"] for r in batches], [r["reward"] for r in batches], color=f"C{i}", alpha=0.25)
    axes.set(
        xlabel="step", ylabel="reward", ylim=(0, 1), title="held-out questions (faint: those trained on)"
    )
    axes.legend(loc="lower right")
    figure.savefig(folder / "rewards.png")


if __name__ == "__main__":
    main()
