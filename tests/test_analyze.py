"""The analysis as a person runs it: the scripts, their files and what they print."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nemo_like.analyze import AnalyzeConfig, analyze
from nemo_like.analyze_commands import STRATEGIES
from nemo_like.buckets import bucket_names, strategies
from nemo_like.rollout_table import GROUP_ROWS, GroupedWriter

from .conftest import Json, rollout_row, write_jsonl

SCRIPTS = Path(__file__).parent.parent / "scripts"
METRIC_NAMES = ["mean@1", "mean@3", "mean@5", "mean@10", "mean@20", "pass_rate", "mean_reward"]
METRIC_NAMES += ["max_reward", "min_reward", "std_reward", "num_samples"]


def script(name: str, *arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", SCRIPTS / name, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=100, check=False)


def generated(problems: int, repeats: int) -> list[Json]:
    """Rows as generate_rollouts writes them: problem i is solved by the first i of its samples."""
    return [
        {
            "prompt": f"What is {i} + 1?",
            "response": f"It is #### {i + 1 if sample < i else -1}",
            "sample_idx": sample,
            "data_idx": i,
            "temperature": 0.7,
            "top_p": 0.9,
            "max_tokens": 512,
            "original_data_source": "openai/gsm8k",
            "original_prompt": [{"role": "user", "content": f"What is {i} + 1?"}],
            "original_reward_model": {"style": "rule", "ground_truth": str(i + 1)},
            "original_extra_info": {"index": i},
        }
        for i in range(problems)
        for sample in range(repeats)
    ]


def rows_of(path: Path) -> list[Json]:
    return pq.read_table(path).to_pylist()


def analyzed(folder: Path, rows: list[Json], **options: Any) -> Json:
    path = write_jsonl(folder / "r.jsonl", rows)
    return analyze(AnalyzeConfig(rollouts=path, output_dir=folder / "out", **options))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """The folder that the script wrote, and what it said."""
    folder = tmp_path_factory.mktemp("analysis")
    pq.write_table(pa.Table.from_pylist(generated(8, 7)), folder / "rollouts.parquet")
    arguments = ("--rollouts", "rollouts.parquet", "--model_path", "none/such", "--output_dir", "./results")
    done = script("analyze_rollouts.py", *arguments, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "results", done.stdout, done.stderr


class TestTheScript:
    def test_it_prints_what_the_document_shows(self, results: tuple[Path, str, str]) -> None:
        rule = "=" * 60
        assert results[1].splitlines() == [
            *(rule, "ANALYSIS SUMMARY", rule),
            *("Total problems: 8", "Total rollouts: 56", "Bucketing strategy: percentile", ""),
            *("Bucket distribution:", "  hard: 2 problems", "  medium-hard: 2 problems"),
            *("  medium-easy: 4 problems", "", "Overall metrics:"),
            *("  Mean pass rate: 0.500", "  Mean reward: 0.500", "  Mean@5: 0.625", rule),
        ]
        assert results[2] == (
            "warning: nothing is in easy: 3 of 8 problems have the same mean@5, 1; "
            "--ties rank makes quarters of equal size\n"
        )

    def test_it_writes_the_files_of_the_document(self, results: tuple[Path, str, str]) -> None:
        buckets = ("hard", "medium-hard", "medium-easy")
        assert {path.name for path in results[0].iterdir()} == {
            *(
                "rollouts_with_rewards.parquet",
                "problem_metrics.json",
                "problem_buckets.json",
                "summary.json",
            ),
            *(f"{kind}_{bucket}.parquet" for kind in ("rollouts", "problems") for bucket in buckets),
            *("difficulty.png", "difficulty.html"),
        }

    def test_metrics_and_buckets_are_by_problem(self, results: tuple[Path, str, str]) -> None:
        metrics = json.loads((results[0] / "problem_metrics.json").read_bytes())
        assert list(metrics) == [str(i) for i in range(8)]
        assert all(list(of_problem) == METRIC_NAMES for of_problem in metrics.values())
        values = [1, 1, 0.8, 4 / 7, 4 / 7, 4 / 7, 4 / 7, 1, 0, (12 / 49) ** 0.5, 7]
        assert metrics["4"] == pytest.approx(dict(zip(METRIC_NAMES, values, strict=True)))
        names = ["hard"] * 2 + ["medium-hard"] * 2 + ["medium-easy"] * 4
        found = json.loads((results[0] / "problem_buckets.json").read_bytes())
        assert found == {str(i): name for i, name in enumerate(names)}

    def test_every_row_is_there_with_its_reward_and_in_its_bucket(
        self, results: tuple[Path, str, str]
    ) -> None:
        rows = rows_of(results[0] / "rollouts_with_rewards.parquet")
        for row, before in zip(rows, generated(8, 7), strict=True):
            assert {name: row[name] for name in before} == before
            assert row["reward"] == float(row["sample_idx"] < row["data_idx"])
        parts = [
            rows_of(results[0] / f"rollouts_{name}.parquet")
            for name in ("hard", "medium-hard", "medium-easy")
        ]
        assert [row for part in parts for row in part] == rows

    def test_problems_are_the_training_rows_as_they_were(self, results: tuple[Path, str, str]) -> None:
        rows = rows_of(results[0] / "problems_medium-hard.parquet")
        names = {
            name: name.removeprefix("original_")
            for name in generated(1, 1)[0]
            if name.startswith("original_")
        }
        assert (
            rows
            == [
                {new: row[old] for old, new in names.items()}
                for row in generated(8, 7)
                if row["data_idx"] in (2, 3)
            ][::7]
        )

    def test_the_summary_counts_all(self, results: tuple[Path, str, str]) -> None:
        summary = json.loads((results[0] / "summary.json").read_bytes())
        assert summary["total_problems"] == 8 and summary["total_rollouts"] == 56
        assert summary["bucket_distribution"] == {"hard": 2, "medium-hard": 2, "medium-easy": 4}
        assert summary["overall_metrics"] == pytest.approx(
            {"mean_pass_rate": 0.5, "mean_reward": 0.5, "mean_at_5": 0.625}
        )
        assert summary["groups"] == {"all_0": 1, "all_1": 1, "identical": 2}

    def test_the_pictures_are_pictures(self, results: tuple[Path, str, str]) -> None:
        assert (results[0] / "difficulty.png").read_bytes().startswith(b"\x89PNG")
        page = (results[0] / "difficulty.html").read_text()
        assert page.count("<svg") == 3 and "medium-easy: 4" in page
        assert "http" not in page and "<script" not in page


class TestTheOtherScripts:
    def test_rewards_are_written_beside_and_then_only_analysed(self, tmp_path: Path) -> None:
        """The steps 2 and 3 of the workflow, as they are typed."""
        write_jsonl(tmp_path / "rollouts.jsonl", generated(4, 3))
        done = script(
            "analyze_rewards.py", "--rollouts", "rollouts.jsonl", "--reward_fn", "last_number", cwd=tmp_path
        )
        expected = "12 rows: 12 ok; mean reward 0.500\nrollouts_with_rewards.parquet\n"
        assert (done.stdout, done.stderr, done.returncode) == (expected, "", 0)
        arguments = ("--data_path", "rollouts_with_rewards.parquet", "--bucketing_strategy", "percentile")
        done = script("filter_difficulty.py", *arguments, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        kept = (tmp_path / "difficulty_results" / "rollouts_with_rewards.parquet").read_bytes()
        assert kept == (tmp_path / "rollouts_with_rewards.parquet").read_bytes()

    @pytest.mark.slow
    def test_tasks_are_generated_from_scored_and_sorted_in_one(self, tmp_path: Path) -> None:
        tasks = [{"prompt": f"What is {i}+1?", "ground_truth": str(i + 1)} for i in range(2)]
        write_jsonl(tmp_path / "tasks.jsonl", tasks)
        own = ("--data_path", "tasks.jsonl", "--reward_fn", "last_number")
        generation = ("--embedded", "--num_samples", "2", "--max_tokens", "8")
        done = script("filter_difficulty.py", *own, *generation, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        results = tmp_path / "difficulty_results"
        assert len(rows_of(results / "rollouts_with_rewards.parquet")) == 4
        problems = [row for path in sorted(results.glob("problems_*.parquet")) for row in rows_of(path)]
        assert sorted(problems, key=lambda row: row["prompt"]) == tasks

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["analyze_rollouts.py", "--rollouts", "none.parquet"],
             "analyze_rollouts: there is no file none.parquet"),
            (["analyze_rollouts.py", "--rollouts", "r.jsonl", "--ties=rank", "--bucketing_strategy=dapo"],
             "analyze_rollouts: --ties rank is for percentile and mean_reward; dapo has no quartiles"),
            (["analyze_rollouts.py", "--rollouts", "r.jsonl", "--reward_timeout_s", "0"],
             "analyze_rollouts: the command line: reward_timeout_s: should be greater than 0 (got 0.0)"),
            (["filter_difficulty.py", "--data_path", "r.jsonl", "--num_samples", "4"],
             "filter_difficulty: error: r.jsonl has rollouts already: there is no use for --num_samples 4"),
            (["analyze_rewards.py", "--rollouts", "r.jsonl", "--output_path", "r.jsonl"],
             "analyze_rewards: --output_path r.jsonl does not end in .parquet"),
        ],
    )  # fmt: skip
    def test_what_is_wrong_is_one_line_and_a_status(
        self, tmp_path: Path, arguments: list[str], message: str
    ) -> None:
        write_jsonl(tmp_path / "r.jsonl", [row | {"reward": 1.0} for row in generated(1, 1)])
        output = ["--output_dir", "out"] if arguments[0] != "analyze_rewards.py" else []
        done = script(*arguments, *output, cwd=tmp_path)
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1] == message

    def test_the_options_know_every_strategy(self) -> None:
        assert sorted(STRATEGIES) == strategies.names()


class TestAnalyze:
    def test_a_reward_that_is_there_is_kept_unless_one_is_named(self, tmp_path: Path) -> None:
        rows = [row | {"reward": 0.25} for row in generated(4, 3)]
        assert analyzed(tmp_path, rows)["overall_metrics"]["mean_reward"] == 0.25
        assert analyzed(tmp_path, rows, reward_fn="last_number")["overall_metrics"]["mean_reward"] == 0.5

    def test_rollouts_of_the_collector_are_analysed_by_their_task(self, tmp_path: Path) -> None:
        rows = [rollout_row(f"key{i}", j, reward=float(j < i)) for i in range(4) for j in range(3)]
        rows = [{"responses_create_params": {"input": "?"}, "expected_answer": "7"} | row for row in rows]
        random.Random(0).shuffle(rows)
        summary = analyzed(tmp_path, rows, bucketing_strategy="pass_rate")
        assert summary["bucket_distribution"] == {"very_hard": 1, "medium": 1, "easy": 1, "very_easy": 1}
        buckets = json.loads((tmp_path / "out" / "problem_buckets.json").read_bytes())
        assert buckets == {"key0": "very_hard", "key1": "medium", "key2": "easy", "key3": "very_easy"}
        problem = {"responses_create_params": {"input": "?"}, "expected_answer": "7"}
        assert rows_of(tmp_path / "out" / "problems_easy.parquet") == [problem]

    def test_rows_without_a_reward_are_counted_and_in_no_metric(self, tmp_path: Path) -> None:
        rows = [row | {"reward": float(row["sample_idx"])} for row in generated(3, 3)]
        for row in rows[:3] + rows[4:5]:
            row["reward"] = None
        summary = analyzed(tmp_path, rows, bucketing_strategy="pass_rate")
        assert summary["excluded_rollouts"] == {"no_reward": 4}
        assert (summary["total_problems"], summary["problems_without_reward"]) == (3, 1)
        assert summary["total_rollouts"] == 9 and summary["scored_rollouts"] == 5
        assert summary["warnings"] == [
            "rollouts without a reward are in no metric: 4 no_reward",
            "1 problems have no reward at all, and are in no bucket",
        ]
        metrics = json.loads((tmp_path / "out" / "problem_metrics.json").read_bytes())
        assert {key: of_problem["num_samples"] for key, of_problem in metrics.items()} == {"1": 2, "2": 3}
        assert len(rows_of(tmp_path / "out" / "rollouts_easy.parquet")) == 6

    def test_files_of_an_earlier_analysis_do_not_stay(self, tmp_path: Path) -> None:
        rows = generated(8, 7)
        for strategy in strategies.names():
            summary = analyzed(tmp_path, rows, bucketing_strategy=strategy)
            left = {path.stem for path in (tmp_path / "out").glob("rollouts_*.parquet")}
            assert left == {f"rollouts_{name}" for name in summary["bucket_distribution"]} | {
                "rollouts_with_rewards"
            }
            found = [f"problems_{name}" for name in bucket_names()]
            left = {path.stem for path in (tmp_path / "out").glob("problems_*.parquet")}
            assert left == {f"problems_{name}" for name in summary["bucket_distribution"]} <= set(found)

    def test_its_own_result_can_be_analysed_in_place(self, tmp_path: Path) -> None:
        first = analyzed(tmp_path, generated(4, 3))
        again = analyze(
            AnalyzeConfig(
                rollouts=tmp_path / "out" / "rollouts_with_rewards.parquet", output_dir=tmp_path / "out"
            )
        )
        assert again | {"rollouts": ""} == first | {"rollouts": ""}

    def test_keys_of_any_text_are_json(self, tmp_path: Path) -> None:
        keys = ['a"b', "ü", "10", ""]
        rows = [row | {"data_idx": keys[row["data_idx"]], "reward": 1.0} for row in generated(4, 1)]
        analyzed(tmp_path, rows)
        assert set(orjson.loads((tmp_path / "out" / "problem_metrics.json").read_bytes())) == set(keys)

    def test_many_problems_are_written_in_parts_of_one_object(self, tmp_path: Path) -> None:
        n = 25_000
        table = pa.table({"data_idx": list(range(n)), "reward": [i / n for i in range(n)]})
        pq.write_table(table, tmp_path / "r.parquet")
        summary = analyze(AnalyzeConfig(rollouts=tmp_path / "r.parquet", output_dir=tmp_path / "out"))
        assert list(summary["bucket_distribution"].values()) == [n // 4] * 4
        assert len(json.loads((tmp_path / "out" / "problem_metrics.json").read_bytes())) == n
        buckets = json.loads((tmp_path / "out" / "problem_buckets.json").read_bytes())
        assert list(buckets) == [str(i) for i in range(n)]
        adaptive = analyze(
            AnalyzeConfig(
                rollouts=tmp_path / "r.parquet", output_dir=tmp_path / "out", bucketing_strategy="adaptive"
            )
        )
        assert sum(adaptive["bucket_distribution"].values()) == n

    def test_rows_are_written_in_large_groups(self, tmp_path: Path) -> None:
        schema = pa.schema([("a", pa.int64())])
        batch = pa.record_batch([list(range(1000))], schema=schema)
        with GroupedWriter(tmp_path / "a.parquet", schema) as writer:
            for _ in range(2 * GROUP_ROWS // 1000):
                writer.write(batch)
        metadata = pq.read_metadata(tmp_path / "a.parquet")
        assert (metadata.num_rows, metadata.num_row_groups) == (2 * GROUP_ROWS // 1000 * 1000, 2)
