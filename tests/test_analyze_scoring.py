"""Rows of answers scored: how a row becomes a task, which reward applies, and what can't be scored."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import pyarrow.parquet as pq
import pytest

from nemo_like.answered import REWARD_FN_KEY, response_of, task_of
from nemo_like.errors import UsageError
from nemo_like.rollout_table import RolloutTable, open_rollouts, task_rows
from nemo_like.scored_rows import Outcome, score_table, scorer_for
from nemo_like.types import Json

from .conftest import rollout_row, write_jsonl

FUNCTIONS = """
import os, time

def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    if solution_str == "none":
        return None
    if solution_str == "nan":
        return float("nan")
    if solution_str == "raise":
        raise ValueError("as asked")
    if solution_str == "exit":
        os._exit(1)
    if solution_str == "hang":
        while True:
            pass
    right = solution_str == ground_truth
    return {"score": 0.5 if right else -1, "acc": right, "pred": solution_str}
"""


def generated(data_idx: int, response: str | None, sample_idx: int = 0, **original: Any) -> Json:
    """A row as generate_rollouts writes it."""
    row: Json = {"prompt": "?", "response": response, "sample_idx": sample_idx, "data_idx": data_idx}
    row |= {"temperature": 0.7, "top_p": 0.9, "max_tokens": 512}
    original = {"data_source": "openai/gsm8k", "reward_model": {"ground_truth": "42"}} | original
    return row | {f"original_{name}": value for name, value in original.items() if value is not None}


def scored(
    folder: Path, rows: list[Json], reward_fn: str | None = None, **options: Any
) -> tuple[Outcome, list[Json]]:
    """What scoring says of rows, and what it writes."""
    path = write_jsonl(folder / "rollouts.jsonl", rows)
    with open_rollouts(path, folder) as table:
        key = options.pop("key", REWARD_FN_KEY)
        outcome = score_table(table, scorer_for(table, reward_fn, key, **options), folder / "scored.parquet")
    return outcome, pq.read_table(folder / "scored.parquet").to_pylist()


def rewards_of(folder: Path, rows: list[Json], reward_fn: str | None = None, **options: Any) -> list[Any]:
    return [row["reward"] for row in scored(folder, rows, reward_fn, **options)[1]]


@pytest.fixture
def functions(tmp_path: Path) -> str:
    (tmp_path / "mine.py").write_text(FUNCTIONS)
    return f"{tmp_path}/mine.py:compute_score"


class TestWhatIsScored:
    def test_rows_are_scored_by_the_rule_of_their_data_source(self, tmp_path: Path) -> None:
        dapo = {"data_source": "math_dapo", "reward_model": {"ground_truth": "34"}}
        rows = [generated(0, "#### 42"), generated(0, "#### 41", 1), generated(1, "Answer: 34", **dapo)]
        outcome, written = scored(tmp_path, rows)
        assert [row["reward"] for row in written] == [1.0, 0.0, 1.0]
        assert [row["acc"] for row in written] == [None, None, 1.0]
        assert written[2]["reward_details"] == '{"pred":"34"}'
        assert outcome.statuses == Counter(ok=3)
        assert [row["data_idx"] for row in written] == [0, 0, 1]

    @pytest.mark.parametrize(
        "original",
        [
            {"reward_model": '{"ground_truth": "42"}'},
            {"reward_model": "42"},
            {"reward_model": None, "ground_truth": "42"},
            {"reward_model": None, "reward_spec": {"method": "rule", "ground_truth": "42"}},
            {"reward_model": None, "answer": "6 times 7\n#### 42"},
            {"reward_model": None, "solution": "so \\boxed{42}"},
        ],
    )
    @pytest.mark.parametrize("reward_fn", [None, "last_number"])
    def test_the_right_answer_is_found_where_data_sets_keep_it(
        self, tmp_path: Path, original: Json, reward_fn: str | None
    ) -> None:
        rows = [generated(0, "it is #### 42", **original), generated(0, "it is #### 43", **original)]
        assert rewards_of(tmp_path, rows, reward_fn) == [1.0, 0.0]

    def test_the_key_of_the_ground_truth_can_be_named(self, tmp_path: Path) -> None:
        rows = [generated(0, "#### 7", custom={"ground_truth": "7"}, reward_model={"ground_truth": "42"})]
        assert rewards_of(tmp_path, rows, key="custom") == [1.0]

    def test_ifevals_kwargs_lose_the_nulls_that_a_table_puts_into_them(self, tmp_path: Path) -> None:
        own = {
            "instruction_id_list": ["punctuation:no_comma", "keywords:existence"],
            "kwargs": [{"keywords": None}, {"keywords": ["moon"]}],
        }
        rows = [generated(0, "the moon", **own), generated(1, "the sun, the moon", **own)]
        assert rewards_of(tmp_path, rows, "ifeval") == [1.0, 0.0]
        inside = {"reward_model": {"ground_truth": own}}
        assert rewards_of(tmp_path, [generated(0, "the moon", **inside)], "ifeval") == [1.0]

    def test_rollouts_of_the_collector_are_scored_as_they_are(self, tmp_path: Path) -> None:
        answer = {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "it is 12"}],
        }
        response = {"output": [{"type": "reasoning", "summary": []}, answer], "error": None}
        rows = [rollout_row("a", reward=0.0, expected_answer="12") | {"response": response}]
        assert rewards_of(tmp_path, rows, "last_number") == [1.0]

    def test_rows_without_prefixes_are_their_own_tasks(self, tmp_path: Path) -> None:
        row = {"data_idx": 0, "response": "#### 42", "data_source": "openai/gsm8k", "ground_truth": "42"}
        assert rewards_of(tmp_path, [row]) == [1.0]

    def test_a_function_of_ones_own_is_named_by_path_or_is_custom(
        self, functions: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rows = [generated(0, "42"), generated(0, "41")]
        assert rewards_of(tmp_path, rows, functions) == [0.5, -1.0]
        monkeypatch.chdir(tmp_path)
        with pytest.raises(UsageError, match=r"--reward_fn custom .* in custom_reward.py of this folder"):
            rewards_of(tmp_path, rows, "custom")
        (tmp_path / "custom_reward.py").write_text(FUNCTIONS)
        assert rewards_of(tmp_path, rows, "custom") == [0.5, -1.0]


class TestWhatIsNotScored:
    @pytest.mark.slow
    def test_each_has_a_status_and_no_reward_and_the_others_are_scored(
        self, functions: str, tmp_path: Path
    ) -> None:
        answers = ["42", "none", "nan", "raise", "exit", "hang", "41", None]
        rows = [generated(i, answer) for i, answer in enumerate(answers)]
        rows.append(generated(8, "") | {"error": "the endpoint was down"})
        outcome, written = scored(tmp_path, rows, functions, timeout_s=4.0)
        ended = ["ok", *["unscorable"] * 2, "failed", "crashed", "timeout", "ok", *["no_response"] * 2]
        assert [row["reward_status"] for row in written] == ended
        assert [row["reward"] for row in written] == [0.5, *[None] * 5, -1.0, None, None]
        assert [row["acc"] for row in written][::6] == [1.0, 0.0]
        assert "as asked" in written[3]["reward_message"]
        assert "longer than 4 s" in written[5]["reward_message"]
        assert written[8]["reward_message"] == "the endpoint was down"
        assert (outcome.total, outcome.statuses) == (-0.5, Counter(ended))

    def test_where_none_can_be_scored_the_reason_is_told_and_nothing_written(self, tmp_path: Path) -> None:
        (tmp_path / "scored.parquet").write_text("of before")
        with pytest.raises(
            UsageError, match=r"(?s)none could be scored \(2 rows: 2 unscorable\)\n  2 times: .*schema"
        ):
            scored(tmp_path, [generated(0, "{}"), generated(1, "{}")], "json_schema")
        assert (tmp_path / "scored.parquet").read_text() == "of before"
        assert [path.name for path in tmp_path.glob("*.tmp")] == []

    @pytest.mark.parametrize(
        ("change", "reward_fn", "message"),
        [
            ({"data_source": "nobody"}, None, "column 'original_data_source' is 'nobody' in 1 rows: .*gsm8k"),
            ({"data_source": None}, None, "no column 'original_data_source', which chooses the reward"),
            ({"reward_model": None}, None, "no column 'original_reward_model', nor any of ground_truth"),
            ({}, "exact_mach", "no reward named 'exact_mach'; did you mean 'exact_match'"),
            ({}, "nowhere.py:f", "there is no file .*nowhere.py"),
            ({}, "llm_judge", "llm_judge asks a judge"),
        ],
    )  # fmt: skip
    def test_what_is_missing_is_told_before_anything_is_scored(
        self, tmp_path: Path, change: Json, reward_fn: str | None, message: str
    ) -> None:
        with pytest.raises(UsageError, match=message):
            scored(tmp_path, [generated(0, "#### 42", **change)], reward_fn)

    def test_a_key_that_no_column_has_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="no column 'original_truth', which --reward_fn_key names"):
            scored(tmp_path, [generated(0, "#### 42")], key="truth")

    def test_rows_without_answers_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"rollouts.jsonl has no column 'response', the answers"):
            scored(tmp_path, [{"data_idx": 0}])

    @pytest.mark.slow
    def test_a_verification_that_no_signal_ends_costs_only_its_own_row(self, tmp_path: Path) -> None:
        tower = r"\boxed{\dfrac{5^{\left(5^{\left(5^{\left(5^5\right)}\right)}-4\right)}-5}{16}}"
        truth = {"reward_model": {"ground_truth": r"\frac{1}{2}"}}
        answers = [r"\boxed{0.5}", tower, r"\boxed{\frac{2}{4}}", r"\boxed{3}"]
        rows = [generated(0, a, i, **truth) for i, a in enumerate(answers)]
        # Of an expression, which has to be compared as one.
        rows[1]["original_reward_model"] = {"ground_truth": "x^2"}
        _, written = scored(tmp_path, rows, "math", timeout_s=5.0)
        assert [row["reward"] for row in written] == [1.0, None, 1.0, 0.0]
        assert written[1]["reward_status"] == "timeout"


class TestTables:
    ROWS: ClassVar[list[Json]] = [
        generated(0, "7", ground_truth="007", mixed="a", empty={}, kwargs=[{"a": 1}], big=2**63),
        generated(1, "lone \ud800 half", ground_truth="12", mixed=["a"], empty={}, kwargs=[{}], big=1),
        generated(2, "whole 😀", ground_truth="1e3", mixed=3, empty={}, kwargs=[{"b": "x"}], big=None),
    ]

    def test_what_parquet_has_no_type_for_comes_back_as_it_was(self, tmp_path: Path) -> None:
        write_jsonl(tmp_path / "r.jsonl", self.ROWS)
        with open_rollouts(tmp_path / "r.jsonl", tmp_path) as table:
            rows = [row for batch in table.batches() for row in task_rows(batch)]
        expected = [dict(row) for row in self.ROWS]
        expected[1]["response"] = "lone \ufffd half"
        assert rows == expected

    def test_what_is_scored_keeps_it(self, tmp_path: Path) -> None:
        scored(tmp_path, self.ROWS, "last_number")
        table = RolloutTable(tmp_path / "scored.parquet")
        rows = [row for batch in table.batches() for row in task_rows(batch)]
        for before, after in zip(self.ROWS, rows, strict=True):
            kept = {name: after[name] for name in before if before[name] is not None}
            assert kept | {"response": ""} == before | {"response": ""}

    def test_a_prefix_is_taken_off_once(self) -> None:
        task = task_of({"original_original_x": 1, "original_answer": "2", "response": ""})
        assert (task["original_x"], task["expected_answer"]) == (1, "2")

    def test_a_task_has_the_request_that_it_was_answered_to(self) -> None:
        messages = [{"role": "user", "content": "?"}]
        assert task_of({"original_prompt": messages})["responses_create_params"] == {"input": messages}
        assert task_of({"prompt": "?", "original_a": 1})["responses_create_params"] == {"input": "?"}

    def test_a_response_is_text_or_an_object(self) -> None:
        text, whole = response_of({"response": "a"}), response_of({"response": {"output": []}})
        assert text is not None and text.text == "a"
        assert whole is not None and whole.output == []
        assert response_of({"response": None}) is None

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("a.parquet", b"PAR1 and then nothing", "a.parquet is not a readable Parquet file"),
            ("a.jsonl", b'{"a": 1}\n{"a": \n', "a.jsonl, line 2 is not JSON"),
            ("a.jsonl", b"[1]\n", "should be a JSON object"),
            ("a.csv", b"a,b\n", "should be named .parquet or .jsonl"),
        ],
    )
    def test_a_damaged_file_is_named(self, tmp_path: Path, name: str, content: bytes, message: str) -> None:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UsageError, match=message), open_rollouts(tmp_path / name, tmp_path):
            pass

    def test_parquet_that_is_cut_off_is_named(self, tmp_path: Path) -> None:
        scored(tmp_path, [generated(0, "#### 42")])
        whole = (tmp_path / "scored.parquet").read_bytes()
        (tmp_path / "cut.parquet").write_bytes(whole[: len(whole) // 2])
        with pytest.raises(UsageError, match=r"cut.parquet is not a readable Parquet file"):
            RolloutTable(tmp_path / "cut.parquet")


@pytest.mark.slow
def test_rows_behind_one_that_hangs_are_scored_and_written_in_their_order(
    functions: str, tmp_path: Path
) -> None:
    rows = [generated(i, "hang" if i == 0 else "42") for i in range(300)]
    outcome, written = scored(tmp_path, rows, functions, timeout_s=4.0)
    assert [row["data_idx"] for row in written] == list(range(300))
    assert outcome.statuses == Counter(ok=299, timeout=1)
    assert not any(math.isnan(row["reward"]) for row in written[1:])
