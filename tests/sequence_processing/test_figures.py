"""What calls amount to, for whoever keeps a log; Weights & Biases without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nemo_like.sequence_processing import GenerationConfig, SequenceProcessor
from tests.sequence_processing import tiny
from tests.wandb_store import logged


def processor(log: Any) -> SequenceProcessor:
    return SequenceProcessor(tiny.model(), tiny.tokenizer(), GenerationConfig(max_new_tokens=6), log=log)


def test_each_call_tells_its_figures():
    figures: list[dict[str, float]] = []
    some = processor(figures.append)
    sequences, results = some.generate_with_logprobs(tiny.PROMPTS, G=3, seed=1)
    generation, logprobs = figures
    lens = [n for group in sequences.gen_lens for n in group]
    end = some.tokenizer.eos_token_id
    cut = [ids for _, _, _, ids in tiny.rows(sequences) if len(ids) == 6 and ids[-1] != end]
    assert generation["generation/prompts"] == 4
    assert generation["generation/responses"] == 12
    assert generation["generation/tokens"] == logprobs["logprobs/tokens"] == sum(lens)
    assert generation["generation/tokens_per_response"] == pytest.approx(sum(lens) / 12)
    assert generation["generation/share_cut_off"] == pytest.approx(len(cut) / 12)
    assert generation["generation/tokens_per_second"] > 0
    total = sum(sum(group) for group in results.sequence_logprobs)
    assert logprobs["logprobs/mean"] == pytest.approx(total / sum(lens))
    entropies = [entropy for group in results.entropies for part in group for entropy in part.tolist()]
    assert logprobs["logprobs/entropy"] == pytest.approx(sum(entropies) / sum(lens), rel=1e-5)


def test_nothing_has_figures_too():
    figures: list[dict[str, float]] = []
    processor(figures.append).generate_with_logprobs([], G=3)
    assert [row["generation/tokens"] for row in figures[:1]] == [0]
    assert figures[1]["logprobs/tokens"] == 0


def test_a_stream_tells_them_part_by_part():
    figures: list[dict[str, float]] = []
    for _ in processor(figures.append).stream(tiny.PROMPTS, G=1, gen_batch_size=3):
        pass
    assert [row["generation/prompts"] for row in figures] == [3, 1]


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore")  # by wandb
def test_weights_and_biases_keeps_them_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    with wandb.init(mode="offline", project="test", dir=tmp_path) as run:
        processor(run.log).generate_with_logprobs(tiny.PROMPTS, G=3, seed=1)
    (store,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    rows, _ = logged(store)
    assert [row["generation/responses"] for row in rows if "generation/responses" in row] == [12]
    assert [row["logprobs/tokens"] > 0 for row in rows if "logprobs/tokens" in row] == [True]
