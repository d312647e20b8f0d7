"""Rollouts files put together and in order: against the slow obvious version, and as a person does it."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nemo_like.environment_metrics import PAGE, pages
from nemo_like.errors import RowError, StoreError, UsageError
from nemo_like.merge import aggregate, merge, sort
from nemo_like.shards import Shards, rollouts_files
from nemo_like.store import Files, RolloutStore
from nemo_like.types import Scored

from .conftest import Json, Project, read_jsonl, rollout_row, write_jsonl

PLACES = st.tuples(st.sampled_from("abcd"), st.integers(0, 2))


def row(place: tuple[str, int], reward: float = 1.0, **fields: object) -> Json:
    key, index = place
    return rollout_row(key, index, reward, _ng_task_index="abcd".index(key), **fields)


def failure(key: str, index: int = 0, kind: str = "timeout") -> Json:
    return {
        "agent_ref": {"name": "agent"},
        "_ng_task_key": key,
        "_ng_rollout_index": index,
        "failure": {"kind": kind},
    }


def run_file(output: Path, **fingerprint: object) -> None:
    run = {"fingerprint": fingerprint, "nemo_like": "0", "config": {}}
    Files(output).run.write_text(json.dumps(run))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(
    shards=st.lists(st.lists(PLACES, max_size=8), min_size=1, max_size=4),
    failed=st.lists(st.lists(st.sampled_from("abcd"), max_size=4), max_size=4),
)
def test_each_rollout_is_there_exactly_once_and_the_metrics_are_those_of_one_run(
    tmp_path_factory: pytest.TempPathFactory, shards: list[list[tuple[str, int]]], failed: list[list[str]]
) -> None:
    folder = tmp_path_factory.mktemp("merge")
    files = [
        write_jsonl(folder / f"{number}.jsonl", [row(place, float(place[0] == "a")) for place in shard])
        for number, shard in enumerate(shards)
    ]
    for file, keys in zip(files, failed, strict=False):
        write_jsonl(Files(file).failures, [failure(key) for key in keys])
    merged = merge(files, folder / "all.jsonl")
    everything = [place for shard in shards for place in shard]
    found = [(r["_ng_task_key"], r["_ng_rollout_index"]) for r in read_jsonl(folder / "all.jsonl")]
    assert found == list(dict.fromkeys(everything))
    assert (merged.rollouts, merged.left_out) == (len(found), len(everything) - len(found))
    failures = {key for _, keys in zip(files, failed, strict=False) for key in keys}
    assert {r["_ng_task_key"] for r in read_jsonl(folder / "all_failures.jsonl")} == failures
    for given_files in (files, [folder / "all.jsonl"]):
        with Shards(given_files, with_numbers=True) as read:
            summaries = aggregate(read)
        if found or failures:
            [summary] = summaries
            assert summary["num_rollouts"] == len(found)
            assert summary["num_failed"] == len({(key, 0) for key in failures} - set(found))
            assert summary["failures"] == ({"timeout": len(failures)} if failures else {})
    with RolloutStore(folder / "all.jsonl"):
        pass  # what was made can be opened for resuming


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(places=st.lists(PLACES, max_size=12), in_place=st.booleans())
def test_sorting_loses_nothing_and_keeps_the_order_of_equals(
    tmp_path_factory: pytest.TempPathFactory, places: list[tuple[str, int]], in_place: bool
) -> None:
    folder = tmp_path_factory.mktemp("sort")
    rows = [row(place, n=number) for number, place in enumerate(places)]
    file = write_jsonl(folder / "r.jsonl", rows)
    output = None if in_place else folder / "sorted.jsonl"
    assert sort(file, output) == len(rows)
    wanted = sorted(rows, key=lambda r: (r["_ng_task_index"], r["_ng_rollout_index"]))
    assert read_jsonl(output or file) == wanted


def test_a_line_cut_off_at_the_end_is_left_out_and_named(tmp_path: Path) -> None:
    a, b = (
        write_jsonl(tmp_path / "a.jsonl", [row(("a", 0))]),
        write_jsonl(tmp_path / "b.jsonl", [row(("b", 0))]),
    )
    with b.open("a") as file:
        file.write('{"reward": 1')
    merged = merge([a, b], tmp_path / "all.jsonl")
    assert (merged.rollouts, merged.torn) == (2, [(b, 12)])
    assert merged.without_run == [a, b]
    with pytest.raises(StoreError, match=r"the last line of .*b\.jsonl was cut off"):
        sort(b, None)


def test_an_index_of_odd_shape_is_none_and_a_repeat_of_odd_shape_is_named(tmp_path: Path) -> None:
    odd = row(("a", 0)) | {"_ng_task_index": [3], "failure": []}
    a = write_jsonl(tmp_path / "a.jsonl", [odd, row(("b", 0))])
    assert merge([a], tmp_path / "all.jsonl").rollouts == 2
    assert read_jsonl(tmp_path / "all.jsonl")[0] == odd
    b = write_jsonl(tmp_path / "b.jsonl", [row(("c", 0)), row(("d", 0)) | {"_ng_rollout_index": "x"}])
    with pytest.raises(RowError, match=r"b\.jsonl:2: _ng_rollout_index should be whole \(got 'x'\)"):
        merge([b], tmp_path / "more.jsonl")


def test_a_whole_last_line_without_a_newline_is_a_row(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps(row(("a", 0))) + "\n" + json.dumps(row(("b", 0))))
    merge([file], tmp_path / "all.jsonl")
    assert len(read_jsonl(tmp_path / "all.jsonl")) == 2


def test_a_line_in_the_middle_that_is_no_row_is_named(tmp_path: Path) -> None:
    (file := tmp_path / "a.jsonl").write_text('{"a": 1}\n{oops\n{"a": 2}\n')
    with pytest.raises(RowError, match=r"a\.jsonl:2: not JSON"):
        merge([file], tmp_path / "all.jsonl")
    assert not (tmp_path / "all.jsonl").exists()


def test_two_different_rollouts_in_one_place_are_refused_or_the_first_is_kept(tmp_path: Path) -> None:
    a, b = (
        write_jsonl(tmp_path / "a.jsonl", [row(("a", 1))]),
        write_jsonl(tmp_path / "b.jsonl", [row(("a", 1), 0.0)]),
    )
    with pytest.raises(StoreError) as caught:
        merge([a, b], tmp_path / "all.jsonl")
    assert str(caught.value).startswith(
        f"repeat 1 of task a is in {a} and, other, in {b}; +on_duplicate=first"
    )
    merge([a, b], tmp_path / "all.jsonl", keep_first=True)
    assert [r["reward"] for r in read_jsonl(tmp_path / "all.jsonl")] == [1.0]


def test_files_made_in_different_ways_are_refused_and_agents_add_up(tmp_path: Path) -> None:
    files = [write_jsonl(tmp_path / f"{n}.jsonl", [row((n, 0))]) for n in "abc"]
    run_file(files[0], **{"x.model": "m", "responses_create_params.temperature": 1})
    run_file(files[1], **{"x.model": "m", "responses_create_params.temperature": 0.5})
    run_file(files[2], **{"y.model": "n", "responses_create_params.temperature": 1})
    with pytest.raises(
        StoreError, match=r"a\.jsonl and .*b\.jsonl were made in different ways: .*temperature=1 and 0\.5"
    ):
        merge(files[:2], tmp_path / "all.jsonl")
    merge([files[0], files[2]], tmp_path / "all.jsonl")
    kept = json.loads((tmp_path / "all_run.json").read_text())["fingerprint"]
    assert kept == {"x.model": "m", "y.model": "n", "responses_create_params.temperature": 1}


def test_nothing_is_overwritten_or_read_while_it_is_written(tmp_path: Path) -> None:
    a = write_jsonl(tmp_path / "a.jsonl", [row(("a", 0))])
    there = write_jsonl(tmp_path / "there.jsonl", [row(("b", 0))])
    with pytest.raises(StoreError, match="exists; add \\+overwrite=true"):
        merge([a], there)
    with pytest.raises(StoreError, match="exists; add \\+overwrite=true"):
        sort(a, there)
    with pytest.raises(UsageError, match="is one of the files to merge"):
        merge([a], a, overwrite=True)
    with RolloutStore(a), pytest.raises(StoreError, match="is being written by another process"):
        merge([a], tmp_path / "all.jsonl")


def test_rows_of_nemo_gym_go_by_their_task_index(tmp_path: Path) -> None:
    rows = [
        {"reward": 1.0, "_ng_task_index": i, "_ng_rollout_index": j, "agent_ref": {"name": "a"}}
        for i in (1, 0)
        for j in (1, 0)
    ]
    file = write_jsonl(tmp_path / "a.jsonl", rows)
    assert sort(file, None) == 4
    assert [(r["_ng_task_index"], r["_ng_rollout_index"]) for r in read_jsonl(file)] == [
        (0, 0),
        (0, 1),
        (1, 0),
        (1, 1),
    ]
    with Shards([file], with_numbers=True) as shards:
        [summary] = aggregate(shards)
    assert (summary["num_tasks"], summary["num_rollouts"]) == (2, 4)
    assert summary["key_metrics"]["success_rate"] == 1.0


def test_globs_name_rollouts_and_leave_out_what_lies_beside_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b", "a_failures", "a_skipped", "b_reward_profiling"):
        write_jsonl(tmp_path / f"out/{name}.jsonl", [])
    assert rollouts_files("out/*.jsonl") == [Path("out/a.jsonl"), Path("out/b.jsonl")]
    assert rollouts_files("out/b.jsonl, out/a*.jsonl") == [Path("out/a.jsonl"), Path("out/b.jsonl")]
    assert rollouts_files([str(tmp_path / "out/a.jsonl")]) == [tmp_path / "out/a.jsonl"]
    with pytest.raises(UsageError, match=r"no rollouts file is named out/c\*"):
        rollouts_files("out/a.jsonl,out/c*")


@given(sizes=st.lists(st.integers(1, 5), max_size=12), size=st.integers(1, 7))
def test_an_environment_sees_every_rollout_once_and_a_task_on_one_page(sizes: list[int], size: int) -> None:
    rollouts = [
        Scored(agent="a", task_key=str(task), rollout_index=i, success=i == 0, numbers={"reward": float(i)})
        for task, count in enumerate(sizes)
        for i in range(count)
    ]
    seen = [*pages(rollouts, size)]
    assert [(r["task_key"], r["rollout_index"]) for page in seen for r in page] == [
        (r.task_key, r.rollout_index) for r in rollouts
    ]
    on_pages = Counter(key for page in seen for key in {r["task_key"] for r in page})
    assert set(on_pages.values()) <= {1}
    assert all(len(page) >= size for page in seen[:-1]) and PAGE > 1


def test_the_commands_as_a_person_types_them(project: Project) -> None:
    rng = random.Random(0)
    rows = [rollout_row(f"t{i}", j, float(i > j), _ng_task_index=i) for i in range(4) for j in range(2)]
    tasks = [{"responses_create_params": {"input": f"{i}"}} for i in range(3)]
    rng.shuffle(rows)
    write_jsonl(project.path / "s1.jsonl", rows[:5])
    write_jsonl(project.path / "s2.jsonl", rows[4:])
    merged = project.run("ng_merge", "+input_glob=s?.jsonl", "+output_jsonl_fpath=all/r.jsonl")
    assert merged.returncode == 0, merged.stderr
    assert merged.stdout.startswith(
        "8 rollouts of 2 files in all/r.jsonl, 0 failed attempts beside\n1 were there"
    )
    assert json.loads((project.path / "all/r_aggregate_metrics.json").read_text())[0]["num_rollouts"] == 8
    again = project.run("ng_merge", "+input_glob=s?.jsonl", "+output_jsonl_fpath=all/r.jsonl")
    assert again.returncode == 1 and "all/r.jsonl exists" in again.stderr
    assert project.run("ng_sort", "+jsonl_fpath=all/r.jsonl").stdout == "8 rows in order in all/r.jsonl\n"
    assert [r["_ng_task_index"] for r in project.rows("all/r.jsonl")] == [0, 0, 1, 1, 2, 2, 3, 3]
    of_both = project.run("ng_aggregate_rollouts", "+input_glob=s?.jsonl", "+output_jsonl_fpath=both.jsonl")
    assert "1 rollouts are there more than once" in of_both.stdout
    one, both = (
        json.loads((project.path / name).read_text())
        for name in ("all/r_aggregate_metrics.json", "both_aggregate_metrics.json")
    )
    assert one == both
    write_jsonl(project.path / "tasks.jsonl", tasks)
    missing = project.run("ng_sort", "+jsonl_fpath=no.jsonl")
    assert (missing.returncode, missing.stderr) == (2, "ng_sort: there is no file no.jsonl\n")
