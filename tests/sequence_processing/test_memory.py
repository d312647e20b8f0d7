"""Batch sizes that are found out: from the memory that is free, and with the same results."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nemo_like.sequence_processing import GenerationConfig, SequenceProcessor
from nemo_like.sequence_processing.memory import Shape, Use, free_bytes, limits_that_fit
from nemo_like.sequence_processing.model import CausalModel
from tests.sequence_processing import tiny

USES = get_args(Use)
SHAPE = Shape(layers=28, hidden=1536, inner=8960, keys_and_values=512, vocabulary=151_936, itemsize=2)
"""Qwen2.5-1.5B in bf16."""


def test_the_results_are_those_of_any_batch_size():
    some = SequenceProcessor(tiny.model(), tiny.tokenizer(), GenerationConfig(max_new_tokens=8))
    expected, scores = some.generate_with_logprobs(tiny.PROMPTS, G=3, seed=1)
    sequences, results = some.generate_with_logprobs(
        tiny.PROMPTS, G=3, seed=1, gen_batch_size="auto", tf_batch_size="auto", with_grad=True
    )
    assert torch.equal(sequences.sequences, expected.sequences)
    for group, others in zip(results.logprobs, scores.logprobs, strict=True):
        torch.testing.assert_close(torch.cat(group).detach(), torch.cat(others), atol=1e-5, rtol=0)
    some.config = GenerationConfig(max_new_tokens=8, gen_batch_size="auto", tf_batch_size="auto")
    assert sum(len(part.prompt_lens) for part in some.stream(tiny.PROMPTS, G=1)) == len(tiny.PROMPTS)


def test_a_gpu_of_80_gb_holds_what_one_expects_of_it():
    free = 76 * 2**30
    generation, scores, gradients = (limits_that_fit(SHAPE, use, free) for use in USES)
    assert generation.tokens > 256 * 700
    assert generation.rows > 256
    assert scores.tokens > gradients.tokens > 16 * 700


@given(st.sampled_from(USES), st.integers(0, 2**40), st.integers(0, 2**40))
def test_more_memory_never_holds_less_and_a_row_is_always_tried(use: Use, some: int, more: int):
    less, larger = (limits_that_fit(SHAPE, use, free) for free in sorted((some, more)))
    assert 1 <= less.rows <= larger.rows
    assert 1 <= less.tokens <= larger.tokens
    wider = limits_that_fit(replace(SHAPE, vocabulary=10 * SHAPE.vocabulary), use, some)
    assert wider.rows <= limits_that_fit(SHAPE, use, some).rows


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_every_architecture_tells_its_shape(architecture: str):
    shape = CausalModel(tiny.model(architecture)).shape
    assert shape is not None
    assert (shape.layers, shape.hidden, shape.vocabulary, shape.itemsize) == (2, 32, 340, 4)
    assert shape.inner == (128 if architecture == "gpt2" else 64)


def test_where_it_can_not_be_told_one_is_asked_for_a_number():
    some = SequenceProcessor(tiny.model(), tiny.tokenizer(), GenerationConfig(max_new_tokens=8))
    some.model.config.num_hidden_layers = 0
    with pytest.raises(
        ValueError, match="gen_batch_size='auto': there is no telling what fits; give a number"
    ):
        some.generate_batched(["7"], gen_batch_size="auto")
    for wrong in (0, "large"):
        with pytest.raises(ValueError, match="gen_batch_size should be at least 1, or 'auto'"):
            GenerationConfig(gen_batch_size=wrong)
        with pytest.raises(ValueError, match="gen_batch_size should be at least 1, or 'auto'"):
            next(some.stream(["7"], gen_batch_size=wrong))


def test_the_machines_memory_is_known():
    free = free_bytes(torch.device("cpu"))
    assert free is None or 2**24 < free < 2**45
    assert free_bytes(torch.device("meta")) is None


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("use", USES)
def test_what_a_token_really_takes_is_within_the_estimate(use: str):
    ranks = Path(__file__).with_name("ranks.py")
    done = subprocess.run([sys.executable, ranks, use], capture_output=True, text=True, timeout=290)
    assert done.returncode == 0, done.stderr
    taken, estimated = map(int, done.stdout.split())
    assert taken < estimated * 2, "half of the free memory is left for what the estimate misses"
    assert taken > estimated / 8, "an estimate that leaves memory idle is of little use"
