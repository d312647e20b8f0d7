"""Every format in every container, read by the libraries that its consumers read it with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import polars as pl
import pyarrow.parquet as pq
import pytest
import torch

from nemo_like.export import FORMATS
from nemo_like.export.groups import advantages

from .exporting import exported, mixed_rows, tokenizer

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
CASES = [(name, container) for name in FORMATS.names() for container in FORMATS.get(name).only]
ROLES = {"messages", "prompt", "completion", "chosen", "rejected", "context"}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def rows_for(name: str) -> list[dict[str, Any]]:
    return mixed_rows(tokenizer() if name.endswith("tokens") else None)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "container"), CASES)
def test_datasets_loads_it(tmp_path: Path, name: str, container: str) -> None:
    rows = rows_for(name)
    if name == "verl_sft":
        rows = [row for row in rows if row["responses_create_params"].get("tools")]
    _, done = exported(tmp_path, rows, name, container=container, validation_share=0.3)
    out = f"{tmp_path / 'out'}"
    loaded = datasets.load_from_disk(out) if container == "hf" else datasets.load_dataset(out)
    assert {split: len(part) for split, part in loaded.items()} == done.facts["rows"]
    train = loaded["train"]
    assert set(train.column_names) == set(done.facts["columns"])
    for column in ROLES & set(train.column_names):
        assert all(m["role"] and m["content"] is not None for m in train[0][column])
    if container == "parquet":
        path = tmp_path / "out" / "train.parquet"
        assert pq.read_metadata(path).num_rows == pl.read_parquet(path).height == len(train)


def test_messages_read_back_as_they_were_written(tmp_path: Path) -> None:
    said, _ = exported(tmp_path, mixed_rows(), "sft")
    exported(tmp_path, mixed_rows(), "sft", output=tmp_path / "x.parquet")
    for row, back in zip(said, pq.read_table(tmp_path / "x.parquet").to_pylist(), strict=True):
        messages = [{k: v for k, v in message.items() if v is not None} for message in back["messages"]]
        assert messages == row["messages"] and back["tools"] == row.get("tools")


def test_advantages_are_verls_own() -> None:
    core = pytest.importorskip("verl.trainer.ppo.core_algos", reason="verl is not importable here")
    rewards = torch.tensor([[0.0], [1.0], [1.0], [0.25], [3.0]])
    uid = ["a", "a", "a", "a", "alone"]
    for kind, norm in (("verl", True), ("dr_grpo", False)):
        theirs, _ = core.compute_grpo_outcome_advantage(
            rewards, torch.ones(5, 1), uid, norm_adv_by_std_in_grpo=norm
        )
        ours = advantages([0.0, 1.0, 1.0, 0.25], kind)
        assert ours == pytest.approx(theirs[:4, 0].tolist(), abs=1e-5)
    assert advantages([3.0], "verl") == pytest.approx([3.0], abs=1e-5)
