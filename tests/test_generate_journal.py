"""The journal: whatever is left of it, what it says is there is there."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nemo_like.errors import StoreError
from nemo_like.journal import Journal, Sample

MADE_WITH = {"model": "m", "temperature": 0.7}

samples = st.builds(
    Sample,
    data_idx=st.integers(0, 3),
    sample_idx=st.integers(0, 2),
    key=st.integers(0, 2**64 - 1),
    response=st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    error=st.none() | st.just("timeout"),
    completion_tokens=st.none() | st.integers(0, 9),
    response_logprobs=st.none() | st.lists(st.floats(-9, 0), max_size=3),
)


def opened(path: Path, num_prompts: int = 4, num_samples: int = 3) -> Journal:
    return Journal(path, MADE_WITH, num_prompts=num_prompts, num_samples=num_samples)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=80)
@given(st.lists(samples, max_size=8), st.floats(0, 1), st.sampled_from([b"", b"\0\0\0", b'{"data_']))
def test_a_journal_cut_anywhere_holds_the_whole_lines_before(
    tmp_path: Path, written: list[Sample], share: float, tail: bytes
) -> None:
    path = tmp_path / "journal.jsonl"
    path.unlink(missing_ok=True)
    with opened(path) as journal:
        for sample in written:
            journal.append(sample)
    data = path.read_bytes()
    cut = data[: round(share * len(data))]
    path.write_bytes(cut + tail if cut.endswith(b"\n") else cut)
    left = written[: max(0, cut.count(b"\n") - 1)]
    last = {(sample.data_idx, sample.sample_idx): sample for sample in left}
    with opened(path) as journal:
        for i in range(4):
            assert journal.read(i) == [last.get((i, j)) for j in range(3)]
            for j in range(3):
                sample = last.get((i, j))
                key = sample.key if sample else 0
                assert journal.done(i, j, key) == (sample is not None and sample.error is None)
                assert not journal.done(i, j, (key + 1) % 2**64)
        journal.append(Sample(data_idx=0, sample_idx=0, key=5, response="new"))
        assert journal.read(0)[0] == Sample(data_idx=0, sample_idx=0, key=5, response="new")
    with opened(path, num_prompts=1, num_samples=1) as journal:
        assert journal.done(0, 0, 5)


def test_a_journal_is_written_by_one_at_a_time(tmp_path: Path) -> None:
    with (
        opened(tmp_path / "j.jsonl") as journal,
        pytest.raises(StoreError, match="being written by another process"),
        opened(tmp_path / "j.jsonl"),
    ):
        pass
    assert journal.path.exists()
    with opened(tmp_path / "j.jsonl"):
        pass
