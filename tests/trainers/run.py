"""One step of each trainer, and each reader, on files that `ng_export` wrote; a table of what came out.

    make test-trainers
    .venvs/trainers/bin/python -m tests.trainers.run dpo kto      # some formats only

A tiny random model on the CPU. A library that is not installed is said to be so; anything else that goes
wrong is a failure, and the exit status 1.
"""

from __future__ import annotations

import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, disable_progress_bars, load_dataset, load_from_disk
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2ForSequenceClassification

from tests.exporting import exported, mixed_rows, tokenizer

# What they say of each other's versions is not ours.
warnings.simplefilter("ignore")

CHECKS: list[tuple[str, str, str, Callable[[Path], str]]] = []
TOKENIZER = tokenizer()


def check(
    format: str, consumer: str, package: str
) -> Callable[[Callable[[Path], str]], Callable[[Path], str]]:
    def add(function: Callable[[Path], str]) -> Callable[[Path], str]:
        CHECKS.append((format, consumer, package, function))
        return function

    return add


def model(head: Any = Qwen2ForCausalLM) -> Any:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(TOKENIZER),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        pad_token_id=TOKENIZER.pad_token_id,
        num_labels=1,
    )
    return head(config)


def data(folder: Path, format: str, *, tokens: bool = False, **settings: Any) -> Dataset:
    """The export as a person loads it: parquet for one half of the formats, `save_to_disk` for the other."""
    container = "hf" if format in ("dpo", "prompts") else "parquet"
    exported(folder, mixed_rows(TOKENIZER if tokens else None), format, container=container, **settings)
    out = f"{folder / 'out'}"
    return (
        load_from_disk(out) if container == "hf" else load_dataset(out, cache_dir=f"{folder}/cache")["train"]
    )


def stepped(trainer: Any) -> str:
    """Take a step; the loss, which has to be a number, and weights that have moved."""
    before = [p.detach().clone() for p in trainer.model.parameters()]
    loss = trainer.train().training_loss
    moved = any(not torch.equal(a, b) for a, b in zip(before, trainer.model.parameters(), strict=True))
    assert loss == loss and moved, (loss, moved)
    return f"a step on {len(trainer.train_dataset)} rows, loss {loss:.3f}"


def arguments(folder: Path, **more: Any) -> dict[str, Any]:
    common = {
        "output_dir": f"{folder / 'trained'}",
        "max_steps": 1,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "disable_tqdm": True,
        "save_strategy": "no",
    }
    return common | more


def sft_step(folder: Path, rows: Dataset, **more: Any) -> str:
    from trl import SFTConfig, SFTTrainer

    args = SFTConfig(**arguments(folder, **more))
    return stepped(SFTTrainer(model(), args=args, train_dataset=rows, processing_class=TOKENIZER))


@check("sft", "TRL SFTTrainer, assistant_only_loss", "trl")
def sft(folder: Path) -> str:
    return sft_step(folder, data(folder, "sft"), assistant_only_loss=True)


@check("best_of_n", "TRL SFTTrainer", "trl")
def best_of_n(folder: Path) -> str:
    return sft_step(folder, data(folder, "best_of_n"))


@check("prompt_completion", "TRL SFTTrainer, completion_only_loss", "trl")
def prompt_completion(folder: Path) -> str:
    return sft_step(folder, data(folder, "prompt_completion"))


@check("tokens", "TRL SFTTrainer, on the ids as they are", "trl")
def tokens(folder: Path) -> str:
    from trl import SFTConfig, SFTTrainer

    rows = data(folder, "tokens", tokens=True).select_columns(["input_ids", "assistant_masks"])
    args = SFTConfig(**arguments(folder))
    trainer = SFTTrainer(model(), args=args, train_dataset=rows, processing_class=TOKENIZER)
    result = stepped(trainer)
    labels = next(iter(trainer.get_train_dataloader()))["labels"]
    learned = labels[labels != -100].tolist()
    # Each turn begins with this token, which no model made: only the mask keeps it from the loss.
    assert learned and TOKENIZER.convert_tokens_to_ids("<|im_start|>") not in learned
    return result


@check("dpo", "TRL DPOTrainer", "trl")
def dpo(folder: Path) -> str:
    from trl import DPOConfig, DPOTrainer

    rows = data(folder, "dpo")
    args = DPOConfig(**arguments(folder))
    return stepped(DPOTrainer(model(), model(), args=args, train_dataset=rows, processing_class=TOKENIZER))


@check("kto", "TRL KTOTrainer", "trl")
def kto(folder: Path) -> str:
    try:
        from trl import KTOConfig, KTOTrainer
    except ImportError:
        from trl.experimental.kto import KTOConfig, KTOTrainer
    args = KTOConfig(**arguments(folder))
    rows = data(folder, "kto")
    return stepped(KTOTrainer(model(), model(), args=args, train_dataset=rows, processing_class=TOKENIZER))


@check("reward_pairs", "TRL RewardTrainer", "trl")
def reward_pairs(folder: Path) -> str:
    from trl import RewardConfig, RewardTrainer

    rows = data(folder, "reward_pairs")
    args = RewardConfig(**arguments(folder))
    ranker = model(Qwen2ForSequenceClassification)
    return stepped(RewardTrainer(ranker, args=args, train_dataset=rows, processing_class=TOKENIZER))


@check("prompts", "TRL GRPOTrainer, online, reward from our columns", "trl")
def prompts(folder: Path) -> str:
    from trl import GRPOConfig, GRPOTrainer

    asked: list[str] = []

    def reward(completions: list[Any], answer: list[str], **columns: Any) -> list[float]:
        asked.extend(answer)
        return [float(i) for i in range(len(completions))]

    args = GRPOConfig(**arguments(folder, num_generations=2, max_completion_length=8))
    rows = data(folder, "prompts")
    trainer = GRPOTrainer(model(), reward, args=args, train_dataset=rows, processing_class=TOKENIZER)
    result = stepped(trainer)
    assert set(asked) == {"4"}
    return result


@check("verl_rl", "verl RLHFDataset", "verl")
def verl_rl(folder: Path) -> str:
    from omegaconf import OmegaConf
    from verl.utils.dataset.rl_dataset import RLHFDataset

    exported(folder, mixed_rows(), "verl_rl")
    config = OmegaConf.create(
        {"max_prompt_length": 256, "cache_dir": f"{folder}", "filter_overlong_prompts_workers": 1}
    )
    rows = RLHFDataset(f"{folder}/out/train.parquet", TOKENIZER, config)
    row = rows[0]
    assert row["raw_prompt"][0]["content"] == "What is task 0?" and row["reward_model"]["ground_truth"] == "4"
    return f"{len(rows)} prompts, ground truth {row['reward_model']['ground_truth']}"


@check("verl_sft", "verl MultiTurnSFTDataset", "verl")
def verl_sft(folder: Path) -> str:
    from omegaconf import OmegaConf
    from verl.utils.dataset.multiturn_sft_dataset import MultiTurnSFTDataset

    exported(folder, mixed_rows(), "verl_sft", query='tool == "add"')
    config = OmegaConf.create({"max_length": 1024, "pad_mode": "no_padding"})
    rows = MultiTurnSFTDataset([f"{folder}/out/train.parquet"], TOKENIZER, config)
    row = rows[0]
    text = TOKENIZER.decode(row["input_ids"][row["loss_mask"].bool()])
    assert "Let me add 0." in text and "What is" not in text and "☃" not in text, text
    return f"{len(rows)} conversations; loss on: {text[:40]!r}…"


@check("grpo", "verl compute_grpo_outcome_advantage", "verl")
def grpo(folder: Path) -> str:
    from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage

    rows, _ = exported(folder, mixed_rows(), "grpo")
    rewards = torch.tensor([[row["reward"]] for row in rows])
    theirs, _ = compute_grpo_outcome_advantage(
        rewards, torch.ones_like(rewards), [row["task_key"] for row in rows]
    )
    worst = max(abs(row["advantage"] - float(t)) for row, t in zip(rows, theirs[:, 0], strict=True))
    assert worst < 1e-5
    return f"{len(rows)} advantages, at most {worst:.0e} apart"


@check("verl_tokens", "verl AgentLoopOutput", "verl")
def verl_tokens(folder: Path) -> str:
    from verl.experimental.agent_loop.agent_loop import AgentLoopMetrics, AgentLoopOutput

    rows, _ = exported(folder, mixed_rows(TOKENIZER), "verl_tokens")
    known = AgentLoopOutput.model_fields.keys()
    outputs = [
        AgentLoopOutput(**{k: v for k, v in row.items() if k in known}, metrics=AgentLoopMetrics())
        for row in rows
    ]
    assert outputs[0].response_mask and outputs[0].response_logprobs
    return f"{len(outputs)} outputs"


@check("skyrl_tokens", "SkyRL validate_generator_output", "skyrl")
def skyrl_tokens(folder: Path) -> str:
    import typing

    import typing_extensions

    # It hands these to pydantic, which takes those of the library only from Python 3.12 on.
    typing.TypedDict = typing_extensions.TypedDict
    from skyrl.train.utils.trainer_utils import validate_generator_output

    rows, _ = exported(folder, mixed_rows(TOKENIZER), "skyrl_tokens")
    output = {name: [row[name] for row in rows] for name in rows[0]} | {"rollout_metrics": {}}
    validate_generator_output(len(rows), output)
    return f"{len(rows)} trajectories"


def main() -> int:
    disable_progress_bars()
    print("| format | read by | | seconds |\n|---|---|---|---|")
    failed = 0
    for format, consumer, package, function in CHECKS:
        if sys.argv[1:] and format not in sys.argv[1:]:
            continue
        start = time.monotonic()
        try:
            consumer += f" ({version(package)})"
            with tempfile.TemporaryDirectory() as folder:
                said = function(Path(folder))
        except PackageNotFoundError:
            said = f"not run: {package} does not install here"
        except Exception:  # noqa: BLE001  # printed, and counted
            traceback.print_exc()
            said, failed = "**failed**", failed + 1
        print(f"| `{format}` | {consumer} | {said} | {time.monotonic() - start:.1f} |", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
