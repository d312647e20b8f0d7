"""A disk that fails at any byte: a record is in the file whole, or not at all."""

from __future__ import annotations

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nemo_like.errors import StoreError
from nemo_like.store import RolloutStore

from ..conftest import read_jsonl, rollout_row


@contextmanager
def file_size_limit(limit_bytes: int) -> Iterator[None]:
    """No file of this process may grow beyond it: a write up to it is short, the next one fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


def write(path: Path, *keys: str) -> None:
    with RolloutStore(path) as store:
        for key in keys:
            store.append("rollouts", rollout_row(key, text="x" * 200_000))
            store.flush()


@pytest.mark.slow
def test_a_write_that_fails_or_is_short_at_any_byte_leaves_whole_rows(tmp_path: Path) -> None:
    whole = tmp_path / "whole.jsonl"
    write(whole, "a", "b")
    first, both = whole.read_bytes().index(b"\n") + 1, whole.stat().st_size
    step = (both - first) // 40
    for limit in [first, first + 1, *range(first + 2, both, step), both - 1]:
        path = tmp_path / f"{limit}.jsonl"
        write(path, "a")
        # The index of this size stays below the limit, so what fails is the record.
        with file_size_limit(limit), pytest.raises(StoreError, match="can't be written"):
            write(path, "b")
        assert [row["_ng_task_key"] for row in read_jsonl(path)] == ["a"], limit
        write(path, "b")
        assert [row["_ng_task_key"] for row in read_jsonl(path)] == ["a", "b"], limit
