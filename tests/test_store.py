"""The rollouts file and its index: whole rows, exactly once, whatever happened before."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nemo_like.errors import StoreError
from nemo_like.index import Index, numbers_of
from nemo_like.store import Files, RolloutStore
from nemo_like.types import Scored

from .conftest import Json, read_jsonl, rollout_row, write_jsonl

slow_fixture = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def entries(path: Path) -> list[tuple[str, int, int, int]]:
    """What the index says: key, rollout index, offset, length."""
    db = sqlite3.connect(Files(path).index)
    try:
        return db.execute(
            "SELECT task_key, rollout_index, offset, length FROM rollouts ORDER BY offset"
        ).fetchall()
    finally:
        db.close()


def true_entries(path: Path) -> list[tuple[str, int, int, int]]:
    """What stands in the file."""
    offset, found = 0, []
    for line in path.read_bytes().splitlines(keepends=True):
        row = json.loads(line)
        found.append((row["_ng_task_key"], row["_ng_rollout_index"], offset, len(line)))
        offset += len(line)
    return found


def append(path: Path, rows: list[Json]) -> list[Scored]:
    durable: list[Scored] = []
    with RolloutStore(path) as store:
        store.on_durable = durable.extend
        for row in rows:
            store.append("rollouts", row)
    return durable


def test_what_was_appended_is_in_the_file_and_in_the_index(tmp_path: Path) -> None:
    path = tmp_path / "new" / "r.jsonl"
    rows = [rollout_row("a"), rollout_row("a", 1), rollout_row("é", text="\n\u2028\x00")]
    durable = append(path, rows)
    assert read_jsonl_lines(path) == rows
    assert entries(path) == true_entries(path)
    assert [(s.task_key, s.rollout_index) for s in durable] == [("a", 0), ("a", 1), ("é", 0)]


def test_a_row_that_is_no_json_is_an_error_and_nobody_waits_for_it(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="64-bit"):
        append(tmp_path / "r.jsonl", [rollout_row("a", huge=2**70)])
    assert (tmp_path / "r.jsonl").read_bytes() == b""


def read_jsonl_lines(path: Path) -> list[Json]:
    return [json.loads(line) for line in path.read_bytes().split(b"\n") if line]


@slow_fixture
@given(cut=st.integers(0, 10_000), again=st.integers(0, 3))
def test_a_file_cut_off_at_any_byte_keeps_its_whole_rows(
    tmp_path_factory: pytest.TempPathFactory, cut: int, again: int
) -> None:
    path = tmp_path_factory.mktemp("cut") / "r.jsonl"
    rows = [rollout_row(f"k{i}", text="x" * i) for i in range(8)]
    append(path, rows)
    size = path.stat().st_size
    kept = cut % (size + 1)
    os.truncate(path, kept)
    whole = path.read_bytes().count(b"\n")
    append(path, [rollout_row(f"new{i}") for i in range(again)])
    keys = [row["_ng_task_key"] for row in read_jsonl(path)]
    assert keys == [f"k{i}" for i in range(whole)] + [f"new{i}" for i in range(again)]
    assert entries(path) == true_entries(path)


@slow_fixture
@given(
    steps=st.lists(
        st.sampled_from(["append", "outside", "rewrite", "delete index", "cut", "copy away"]), max_size=6
    )
)
def test_the_index_is_right_after_anything_that_happens_to_the_files(
    tmp_path_factory: pytest.TempPathFactory, steps: list[str]
) -> None:
    path = tmp_path_factory.mktemp("steps") / "r.jsonl"
    append(path, [rollout_row("first")])
    for number, step in enumerate(steps):
        match step:
            case "append":
                append(path, [rollout_row(f"a{number}")])
            case "outside":
                with path.open("a") as file:
                    file.write(json.dumps(rollout_row(f"o{number}")) + "\n")
            case "rewrite":
                write_jsonl(path, [rollout_row(f"w{number}{i}") for i in range(3)])
            case "delete index":
                Files(path).index.unlink(missing_ok=True)
            case "cut":
                os.truncate(path, path.stat().st_size // 2)
            case _:
                path.write_bytes(path.read_bytes())
        append(path, [])
        assert entries(path) == true_entries(path)


def test_a_row_edited_in_place_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    append(path, [rollout_row("a", reward=0.0), *(rollout_row(f"k{i}", text="x" * 900) for i in range(20))])
    content = path.read_bytes()
    middle = content.replace(b'"_ng_task_key":"k9"', b'"_ng_task_key":"K9"')
    path.write_bytes(middle)
    append(path, [])
    assert entries(path) == true_entries(path)


def test_a_broken_index_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    append(path, [rollout_row("a")])
    Files(path).index.write_bytes(b"this is no database" * 1000)
    append(path, [rollout_row("b")])
    assert entries(path) == true_entries(path)


def test_the_tail_of_zeros_that_a_power_cut_leaves_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    append(path, [rollout_row("a")])
    with path.open("ab") as file:
        file.write(b"\0" * 5000 + b'"}\n' + b"\0" * 300)
    append(path, [rollout_row("b")])
    assert [row["_ng_task_key"] for row in read_jsonl(path)] == ["a", "b"]


@pytest.mark.parametrize("content", ["notes\nof mine", "{}\nnot json\n", "[1]\n"])
def test_a_file_that_holds_no_rollouts_is_left_alone(tmp_path: Path, content: str) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text(content)
    with pytest.raises(StoreError, match="is not a rollouts file"):
        append(path, [rollout_row("a")])
    assert path.read_text() == content


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    with RolloutStore(path):
        code = (
            "import sys, pathlib, nemo_like.store as s; s.RolloutStore(pathlib.Path(sys.argv[1])).__enter__()"
        )
        done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "is being written by another process" in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(os.getuid() != 0, reason="mounting a small tmpfs needs root")
def test_a_full_disk_loses_no_whole_row_and_tears_none(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", disk], check=False)
    if mounted.returncode:
        pytest.skip("this machine mounts no tmpfs")
    try:
        path = disk / "r.jsonl"
        durable: list[Scored] = []
        with pytest.raises(StoreError, match="can't be written"):
            fill_up(path, durable)
        keys = [row["_ng_task_key"] for row in read_jsonl(path)]
        assert keys == [f"k{i}" for i in range(len(keys))]
        assert {s.task_key for s in durable} <= set(keys)
        assert len(keys) > 50
    finally:
        subprocess.run(["umount", disk], check=True)


def fill_up(path: Path, durable: list[Scored]) -> None:
    with RolloutStore(path) as store:
        store.on_durable = durable.extend
        for number in range(3000):
            store.append("rollouts", rollout_row(f"k{number}", text="x" * 1000))
            store.flush()


def test_a_row_is_durable_before_it_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    seen: list[int] = []

    def on_durable(scored: list[Scored]) -> None:
        seen.append(path.read_bytes().count(b"\n"))
        assert seen[-1] >= len(scored)

    with RolloutStore(path) as store:
        store.on_durable = on_durable
        store.append("rollouts", rollout_row("a"))
        store.flush()
        assert seen == [1]


def test_the_numbers_of_a_rollout_go_by_their_paths() -> None:
    row = rollout_row("a", exact=1.0, ok=True, name="x")
    row["response"]["usage"] = {"output_tokens": 7, "output_tokens_details": {"reasoning_tokens": 2}}
    numbers = numbers_of(row)
    assert numbers["exact"] == 1.0 and numbers["ok"] == 1.0 and "name" not in numbers
    assert numbers["usage/output_tokens"] == 7 and numbers["usage/reasoning_tokens"] == 2
    assert numbers["metadata/truncated"] == 0.0 and "_ng_task_index" not in numbers


def test_characters_stand_in_where_usage_is_missing() -> None:
    row = rollout_row(
        "a", output=[{"role": "assistant", "content": "12345"}, {"role": "tool", "content": "no"}]
    )
    row["response"]["usage"] = None
    assert numbers_of(row)["metadata/output_characters"] == 5


def test_the_index_of_an_older_version_is_made_again(tmp_path: Path) -> None:
    file = tmp_path / "r.index.sqlite"
    db = sqlite3.connect(file)
    db.execute("PRAGMA user_version=999")
    db.close()
    log = write_jsonl(tmp_path / "r.jsonl", [rollout_row("a")])
    with Index(file) as index:
        assert index.catch_up(log, "rollouts") == log.stat().st_size
        assert index.catch_up(log, "rollouts") == 0
