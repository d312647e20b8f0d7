"""Comparing runs: the figures, against plain arithmetic and what was published; the command and its files."""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_like import compare_commands
from nemo_like.compare import CompareConfig, compare
from nemo_like.errors import UsageError
from nemo_like.estimates import (
    Pairs,
    clustered_error,
    detectable_difference,
    mean_and_error,
    paired_difference,
    tasks_needed,
)
from nemo_like.store import RolloutStore

from .conftest import Json, rollout_row, write_jsonl

A, B = [1, 1, 0, 1, 0, 1, 1, 0], [1, 0, 0, 1, 0, 1, 0, 0]
REWARDS = st.floats(-2, 2, allow_subnormal=False)


def run_of(path: Path, rewards: dict[str, list[float]], **fields: dict[str, object]) -> Path:
    """A rollouts file; `fields` gives each task's own."""
    rows = [
        rollout_row(key, index, reward, **{name: of[key] for name, of in fields.items() if key in of})
        for key, group in rewards.items()
        for index, reward in enumerate(group)
    ]
    return write_jsonl(path, rows)


def compared(*paths: Path, **options: object) -> Json:
    result = compare(CompareConfig.from_mapping({"rollouts": [*paths], **options}, where="here"))
    return result["comparisons"][0]


class TestEstimators:
    def test_clustered_errors_have_the_published_values(self) -> None:
        scores, clusters = [1, 0, 1, 1, 0, 0, 1], [(3, 2.0), (2, 1.0), (2, 1.0)]
        estimate = clustered_error(clusters, statistics.fmean(scores))
        assert estimate.se == pytest.approx(0.0612245, abs=1e-7) and estimate.n == 3
        assert (estimate.se or 0) * math.sqrt(2 / 3) == pytest.approx(0.0499896, abs=1e-7)
        assert mean_and_error(scores).se == pytest.approx(0.202031, abs=1e-6)

    def test_the_power_of_a_comparison_has_the_published_values(self) -> None:
        assert tasks_needed(1 / 9, 0.03) == pytest.approx(968.997, abs=1e-3)
        assert detectable_difference(math.sqrt(1 / 9 / 968.997)) == pytest.approx(0.03, abs=1e-6)
        with pytest.raises(ValueError, match="a difference of 0"):
            tasks_needed(1.0, 0.0)

    def test_one_cluster_says_nothing_of_its_error(self) -> None:
        assert clustered_error([(7, 4.0)], 4 / 7).se is None

    @given(st.lists(REWARDS, min_size=2, max_size=20))
    def test_clusters_of_one_have_the_error_of_independent_tasks(self, values: list[float]) -> None:
        mean = statistics.fmean(values)
        clustered = clustered_error([(1, value) for value in values], mean)
        assert clustered.se == pytest.approx(mean_and_error(values).se, abs=1e-9)

    @given(st.lists(st.tuples(REWARDS, REWARDS), min_size=1, max_size=20), st.integers(1, 7))
    def test_pairs_in_batches_say_what_all_of_them_at_once_say(
        self, values: list[tuple[float, float]], size: int
    ) -> None:
        pairs = Pairs()
        for start in range(0, len(values), size):
            pairs.merge(values[start : start + size])
        a, b = ({str(i): pair[side] for i, pair in enumerate(values)} for side in (0, 1))
        whole = paired_difference(a, b)
        estimate = pairs.difference.estimate()
        assert estimate.value == pytest.approx(whole.difference.value, abs=1e-9)
        assert estimate.se == pytest.approx(whole.difference.se, abs=1e-9)
        if whole.correlation is not None and min(map(statistics.stdev, (a.values(), b.values()))) > 1e-3:
            assert pairs.correlation == pytest.approx(whole.correlation, abs=1e-6)


class TestCompare:
    def test_the_published_example_comes_out(self, tmp_path: Path) -> None:
        b = run_of(tmp_path / "b.jsonl", {f"k{i}": [float(r)] for i, r in enumerate(B)})
        a = run_of(tmp_path / "a.jsonl", {f"k{i}": [float(r)] for i, r in enumerate(A)})
        overall = compared(b, a)["overall"]
        assert (overall["tasks"], overall["difference"]) == (8, 0.25)
        assert overall["se"] == pytest.approx(0.163663, abs=1e-6)
        assert (overall["won"], overall["lost"], overall["tied"]) == (2, 0, 6)
        assert overall["correlation"] == pytest.approx(statistics.correlation(A, B))
        assert overall["detectable"] == pytest.approx(2.801585 * overall["se"], abs=1e-6)
        assert overall["tasks_needed"] == round(2.801585**2 * overall["se"] ** 2 * 8 / 0.25**2)

    def test_repeats_are_averaged_first_and_failures_stand_beside(self, tmp_path: Path) -> None:
        a = run_of(tmp_path / "a.jsonl", {"x": [1, 0, 0, 0], "y": [1], "only_a": [1]})
        b = run_of(tmp_path / "b.jsonl", {"x": [1], "y": [0, 0], "only_b": [0], "also": [0]})
        failure = {"failure": {"kind": "timeout"}, "_ng_task_key": "z", "_ng_rollout_index": 0}
        write_jsonl(tmp_path / "b_failures.jsonl", [failure, failure])
        result = compare(CompareConfig(rollouts=[a, b]))
        [told] = result["comparisons"]
        assert told["overall"]["difference"] == pytest.approx((0.75 - 1) / 2)
        assert (told["overall"]["tasks"], told["only_baseline"], told["only_run"]) == (2, 1, 2)
        assert [run["failed"] for run in result["runs"]] == [0, 1]
        assert [run["rollouts"] for run in result["runs"]] == [6, 5]

    def test_subsets_are_compared_by_a_field_of_the_tasks(self, tmp_path: Path) -> None:
        level: dict[str, object] = {"p": "easy", "q": "easy", "r": {"n": 3}}
        a = run_of(tmp_path / "a.jsonl", {"p": [0], "q": [0], "r": [1], "s": [1]}, level=level)
        b = run_of(tmp_path / "b.jsonl", {"p": [1], "q": [0], "r": [0], "s": [1]})
        subsets = compared(a, b, by="level")["subsets"]
        assert {name: (of["tasks"], of["difference"]) for name, of in subsets.items()} == {
            "easy": (2, 0.5),
            '{"n":3}': (1, -1.0),
            "(none)": (1, 0.0),
        }
        assert subsets["(none)"]["se"] is None and subsets["(none)"]["detectable"] is None
        assert compared(a, b, by="level.n")["subsets"].keys() == {"3", "(none)"}

    def test_tasks_that_have_something_in_common_widen_the_error(self, tmp_path: Path) -> None:
        clusters: dict[str, object] = {f"k{i}": c for i, c in enumerate("aaabbcc")}
        scores = [1.0, 0, 1, 1, 0, 0, 1]
        a = run_of(tmp_path / "a.jsonl", {f"k{i}": [0.0] for i in range(7)}, passage=clusters)
        b = run_of(tmp_path / "b.jsonl", {f"k{i}": [score] for i, score in enumerate(scores)})
        overall = compared(a, b, cluster_by="passage")["overall"]
        assert overall["se"] == pytest.approx(0.0612245, abs=1e-7) and overall["clusters"] == 3

    def test_any_number_of_a_rollout_can_be_compared(self, tmp_path: Path) -> None:
        a = run_of(tmp_path / "a.jsonl", {"x": [0.5], "y": [1]})
        b = run_of(tmp_path / "b.jsonl", {"x": [1.5], "y": [1]})
        assert compared(a, b, field="success")["overall"]["difference"] == 0.5
        assert compared(a, b, field="usage/output_tokens")["overall"]["tied"] == 2

    def test_generated_rows_are_compared_as_parquet_or_jsonl(self, tmp_path: Path) -> None:
        def rows(*rewards: float | None) -> list[Json]:
            made = {"response": "4", "original_source": "gsm8k"}
            return [{"data_idx": i, "sample_idx": 0, "reward": r, **made} for i, r in enumerate(rewards)]

        a = write_jsonl(tmp_path / "a.jsonl", rows(0, 1, None))
        pq.write_table(pa.Table.from_pylist(rows(1, 1, 1)), tmp_path / "b.parquet")
        told = compared(a, tmp_path / "b.parquet", by="source")
        assert (told["overall"]["tasks"], told["overall"]["difference"], told["only_run"]) == (2, 0.5, 1)
        assert told["subsets"]["gsm8k"]["tasks"] == 2

    def test_an_index_that_is_there_is_read_and_left_as_it_is(self, tmp_path: Path) -> None:
        a, b = tmp_path / "a.jsonl", run_of(tmp_path / "b.jsonl", {"x": [1]})
        with RolloutStore(a) as store:
            store.append("rollouts", rollout_row("x", 0, 0.0))
        before = (tmp_path / "a.index.sqlite").read_bytes()
        assert compared(a, b)["overall"]["difference"] == 1.0
        assert (tmp_path / "a.index.sqlite").read_bytes() == before
        write_jsonl(a, [rollout_row("x", 0, 1.0)])
        assert compared(a, b)["overall"]["difference"] == 0.0
        assert not (tmp_path / "b.index.sqlite").exists()

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"by": "levle"}, "no task has a field 'levle'; did you mean 'level'?"),
            ({"field": "rewrad"}, "no rollout has a number 'rewrad'; did you mean 'reward'?"),
            ({"rollouts": ["a.jsonl", "huge.jsonl"]}, "no rollout has a number 'reward' within ±1e+120"),
            ({"rollouts": ["a.jsonl", "other.jsonl"]}, "have no task in common"),
            ({"rollouts": ["a.jsonl", "none.jsonl"]}, "there is no file none.jsonl"),
            ({"rollouts": ["a.jsonl"]}, "at least 2"),
        ],
    )
    def test_what_is_wrong_is_said(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: Json, message: str
    ) -> None:
        monkeypatch.chdir(tmp_path)
        run_of(Path("a.jsonl"), {"x": [1]}, level={"x": 1})
        run_of(Path("b.jsonl"), {"x": [0]})
        run_of(Path("other.jsonl"), {"z": [0]})
        run_of(Path("huge.jsonl"), {"x": [1e200]})
        with pytest.raises(UsageError) as raised:
            compared(*map(Path, ("a.jsonl", "b.jsonl")), **options)
        assert message in str(raised.value)


def test_the_command_prints_a_table_and_leaves_json_and_a_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    level: dict[str, object] = {f"k{i:02}": "hard" if i % 3 else "easy" for i in range(20)}
    run_of(Path("a.jsonl"), {key: [0.0, 1.0] for key in level}, level=level)
    run_of(Path("b.jsonl"), {key: [1.0, float(i % 2)] for i, key in enumerate(level)})
    run_of(Path("c.jsonl"), {key: [float(i % 2)] for i, key in enumerate([*level][1:])})
    monkeypatch.setattr(sys, "argv", ["ng_compare", "+rollouts=[a.jsonl,b.jsonl,c.jsonl]", "+by=level"])
    assert compare_commands.compare() == 0
    out = capsys.readouterr().out
    [whole] = [line.split() for line in out.splitlines() if line.startswith("b vs a")]
    assert whole[3:9] == ["20", "0.500", "0.750", "+0.250", "±", "0.057"]
    assert whole[-4:] == ["10", "0", "10", "0.161"]
    assert "  level=hard" in out and "b is above a." in out
    assert "c and a: no difference could be seen; one of 0.330 would be found 80 % of the time; " in out
    assert "it takes about 2,983 tasks to see this one." in out
    assert "Not compared: 1 tasks only a has, 0 tasks only c has." in out
    result = json.loads(Path("comparison/comparison.json").read_text())
    assert [c["run"] for c in result["comparisons"]] == ["b", "c"]
    assert Path("comparison/comparison.png").read_bytes().startswith(b"\x89PNG")


def test_the_command_is_installed(tmp_path: Path) -> None:
    shown = subprocess.run(
        [Path(sys.executable).parent / "ng_compare", "--help"], capture_output=True, text=True, check=True
    )
    assert "cluster_by" in shown.stdout
