"""Datasets of questions: files, the word problems, the registry, and sampling from them."""

from __future__ import annotations

import json
import logging
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_like.datasets import (
    DATASET_REGISTRY,
    FIRST_ID,
    Example,
    FileDataset,
    gsm8k_r1_template,
    word_problems_r1_template,
)
from nemo_like.errors import RowError, UsageError
from tests.conftest import write_jsonl

GSM8K_ROW = {"question": "How many {apples}?", "answer": "3 + 4 = <<3+4=7>>7\n#### 7"}


class TestWordProblems:
    def test_they_are_asked_for_with_tags(self):
        example = word_problems_r1_template(split="train")[0]
        assert isinstance(example, Example)
        assert example.question.endswith(f"\nQuestion: {example.meta['question']}\nResponse: <think>")
        assert "<answer>" in example.question
        assert re.fullmatch(r"-?\d+", example.answer)
        assert example.text == example.question + example.meta["solution"]
        assert example.meta["solution"] not in example.question

    def test_splits_share_no_question_and_have_ids_of_their_own(self):
        splits = {split: word_problems_r1_template(split=split) for split in FIRST_ID}
        assert {len(examples) for examples in splits.values()} == {1000}
        assert len({e.question for examples in splits.values() for e in examples}) == 3000
        for split, examples in splits.items():
            first = {"train": 0, "test": 1_000_000, "val": 2_000_000}[split]
            assert [e.meta["id"] for e in examples] == list(range(first, first + 1000))
        assert word_problems_r1_template(split="test") == splits["test"]

    def test_another_split_is_refused(self):
        with pytest.raises(UsageError, match="no split 'dev'; there are: train, test, val"):
            word_problems_r1_template(split="dev")

    def test_they_stand_in_for_gsm8k_and_say_so(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ):
        monkeypatch.chdir(tmp_path)
        with caplog.at_level(logging.WARNING):
            examples = DATASET_REGISTRY["gsm8k_r1_template"](split="test")
        assert examples == word_problems_r1_template(split="test")
        assert "no data/gsm8k here" in caplog.text
        assert {e.meta["source"] for e in examples} == {"gsm8k_like"}


class TestFiles:
    def test_gsm8k_is_taken_from_its_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.chdir(tmp_path)
        write_jsonl(tmp_path / "data/gsm8k/test.jsonl", [GSM8K_ROW])
        [example] = gsm8k_r1_template(split="test")
        assert example.question.endswith("\nQuestion: How many {apples}?\nResponse: <think>")
        assert (example.answer, example.meta["id"]) == ("7", 1_000_000)
        assert example.text == example.question + GSM8K_ROW["answer"]
        with pytest.raises(UsageError, match="data/gsm8k has no split 'train'"):
            gsm8k_r1_template(split="train")
        with pytest.raises(UsageError, match="there is no dataset elsewhere"):
            gsm8k_r1_template(split="train", path=Path("elsewhere"))

    def test_a_folder_as_a_hub_has_it(self, tmp_path: Path):
        pyarrow: Any = pytest.importorskip("pyarrow")
        import pyarrow.parquet as pq

        rows = [{"question": f"{i}?", "answer": f"#### {i}"} for i in range(5)]
        (tmp_path / "main").mkdir()
        for part, some in enumerate((rows[:3], rows[3:])):
            table = pyarrow.Table.from_pylist(some)
            pq.write_table(table, tmp_path / f"main/train-0000{part}-of-00002.parquet")
        write_jsonl(tmp_path / "val.jsonl", rows)
        examples = FileDataset(tmp_path)(split="train")
        assert [(e.question, e.answer, e.meta["id"]) for e in examples] == [
            (f"{i}?", f"{i}", i) for i in range(5)
        ]
        as_jsonl = FileDataset(tmp_path)(split="val")
        assert [e.text for e in as_jsonl] == [e.text for e in examples]

    def test_our_tasks_are_a_dataset(self, tmp_path: Path):
        path = write_jsonl(
            tmp_path / "tasks.jsonl",
            [
                {"responses_create_params": {"input": "1 + 1?"}, "expected_answer": 2},
                {
                    "responses_create_params": {"input": [{"role": "user", "content": "2?"}]},
                    "expected_answer": "2",
                },
            ],
        )
        examples = FileDataset(path, "Q: {question} A:")(split="whatever")
        assert [(e.question, e.answer) for e in examples] == [("Q: 1 + 1? A:", "2"), ("Q: 2? A:", "2")]

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ({"question": "1?"}, r"row 2: needs a question and an answer \(it has question\)"),
            ({"responses_create_params": {"input": [{}, {}]}, "answer": "1"}, "row 2: needs a question"),
            ([1], "line 2: should be an object"),
        ],
    )
    def test_a_row_that_is_none_is_named(self, tmp_path: Path, row: Any, message: str):
        path = write_jsonl(tmp_path / "bad.jsonl", [GSM8K_ROW, row])
        with pytest.raises(RowError, match=message):
            FileDataset(path)(split="train")

    def test_a_torn_line_is_named(self, tmp_path: Path):
        path = tmp_path / "torn.jsonl"
        path.write_text(json.dumps(GSM8K_ROW) + '\n{"question')
        with pytest.raises(RowError, match=r"torn.jsonl, line 2: no JSON"):
            FileDataset(path)(split="train")

    @given(st.text(min_size=1), st.text())
    def test_a_question_is_prompted_with_as_it_is(self, question: str, template: str):
        from nemo_like.datasets import _example  # pyright: ignore[reportPrivateUsage]

        row = {"question": question, "answer": "1"}
        example = _example(
            row, template.replace("{question}", "") + "{question}.", at="", number=0, source=""
        )
        assert example.question == template.replace("{question}", "") + question + "."


class TestSampling:
    """`SequenceProcessor.sample_prompts`, which reads nothing but a dataset."""

    @pytest.fixture
    def processor(self) -> Any:
        pytest.importorskip("torch")
        pytest.importorskip("transformers")
        from nemo_like.sequence_processing import SequenceProcessor
        from tests.sequence_processing import tiny

        def numbers(*, split: str) -> Sequence[Example]:
            return [Example(f"{split} {i} is {i}", f"{split} {i} is", str(i)) for i in range(20)]

        return SequenceProcessor(tiny.model(), tiny.tokenizer(), datasets={"numbers": numbers})

    def test_all_in_order_or_some_by_seed(self, processor: Any):
        everything = [f"train {i} is" for i in range(20)]
        assert processor.sample_prompts("numbers") == everything
        assert processor.sample_prompts("numbers", "train", 20, seed=0) != everything
        some = processor.sample_prompts("numbers", "test", 5, seed=42)
        assert some == random.Random(42).sample([f"test {i} is" for i in range(20)], 5)
        assert processor.sample_prompts("numbers", "test", 0) == []

    def test_without_a_seed_pythons_own_decides(self, processor: Any):
        random.seed(3)
        first = processor.sample_prompts("numbers", "train", 5)
        random.seed(3)
        assert processor.sample_prompts("numbers", "train", 5) == first

    def test_too_few_and_unknown_are_refused(self, processor: Any):
        with pytest.raises(
            ValueError, match="numbers has 20 examples in 'train', and 21 prompts are asked for"
        ):
            processor.sample_prompts("numbers", "train", 21)
        with pytest.raises(ValueError, match="no dataset named 'number'; did you mean 'numbers'"):
            processor.sample_prompts("number", "train", 1)
