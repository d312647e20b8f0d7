"""Datasets of questions by name, for whoever samples prompts.

    DATASET_REGISTRY["mine"] = FileDataset(Path("mine.jsonl"), template="Question: {question}\\nAnswer:")

A dataset is called with the split and gives a sequence of `Example`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any, Protocol, cast

import orjson

from nemo_like.config import content_root
from nemo_like.errors import MissingExtra, RowError, UsageError
from nemo_like.registry import load_file
from nemo_like.types import Json, content_text

__all__ = [
    "DATASET_REGISTRY",
    "Dataset",
    "Example",
    "FileDataset",
    "gsm8k_r1_template",
    "word_problems_r1_template",
]

logger = logging.getLogger(__name__)

R1_TEMPLATE = (
    "Solve the math problem below. First reason about it, then give a final answer. The reasoning belongs "
    "between <think> </think> tags and the final answer between <answer> </answer> tags, i.e., "
    "<think> reasoning </think> <answer> final answer </answer>.\nQuestion: {question}\nResponse: <think>"
)
GSM8K = Path("data/gsm8k")
"""Where GSM8K is looked for, from the working directory."""
FIRST_ID = {"train": 0, "test": 1_000_000, "val": 2_000_000}
"""The id of a split's first example; one's own splits count from 0."""
WORD_PROBLEMS = 1000


@dataclass(frozen=True, slots=True)
class Example:
    """A question and what is known about it."""

    text: str
    """The question as prompted, followed by its solution."""
    question: str
    """What a model is prompted with."""
    answer: str
    """The final answer."""
    meta: Json = field(default_factory=dict[str, Any])
    """Whatever else: `id`, `source`, the question as it was."""


class Dataset(Protocol):
    """What the registry holds: a class or a function."""

    def __call__(self, *, split: str) -> Sequence[Example]: ...


@dataclass(frozen=True, slots=True)
class FileDataset:
    """Questions from a JSONL or Parquet file, or from a folder with one for each split.

    A row holds `question` and `answer` or `expected_answer` (`answer` may be a solution that ends in `#### `
    and the answer, as GSM8K has it), or is a task of ours, whose question is its one user message.
    """

    path: Path
    """A file (then `split` is not asked), or a folder of `train.jsonl`, `train-00000-of-00001.parquet`, …"""
    template: str = "{question}"
    """What the model is prompted with; `{question}` stands for the question."""

    def __call__(self, *, split: str) -> list[Example]:
        """The examples, in order.

        Raises:
            UsageError: there is no such file or split; `RowError` for a row without question or answer.
        """
        source = f"{self.path}"
        examples: list[Example] = []
        for file in self._files(split):
            for number, row in enumerate(_rows(file), 1):
                at = f"{file}, row {number}"
                first = FIRST_ID.get(split, 0)
                examples.append(
                    _example(row, self.template, at=at, number=first + len(examples), source=source)
                )
        return examples

    def _files(self, split: str) -> list[Path]:
        if self.path.is_file():
            return [self.path]
        if not self.path.is_dir():
            raise UsageError(f"there is no dataset {self.path}")
        # A folder as it comes from a hub has its Parquet files in `main` or in `data`.
        for folder in (self.path, self.path / "main", self.path / "data"):
            for suffix in ("jsonl", "parquet"):
                files = sorted({*folder.glob(f"{split}.{suffix}"), *folder.glob(f"{split}-*.{suffix}")})
                if files:
                    return files
        raise UsageError(f"{self.path} has no split '{split}': no file {split}.jsonl or {split}*.parquet")


def gsm8k_r1_template(*, split: str, path: Path | None = None) -> list[Example]:
    """School mathematics, asked for with <think> and <answer> tags; the prompt ends in an open <think>.

    Taken from `path`, else from `data/gsm8k` in the working directory (GSM8K as JSONL or Parquet). Without
    either it is a thousand word problems a split, made by a program; a line in the log and
    `meta["source"]` say so.

    Raises:
        UsageError: there is no such split, or a file can't be read.
    """
    if path is not None or GSM8K.exists():
        return FileDataset(path or GSM8K, R1_TEMPLATE)(split=split)
    logger.warning("there is no %s here; gsm8k_r1_template takes word problems made by a program", GSM8K)
    return word_problems_r1_template(split=split)


def word_problems_r1_template(*, split: str) -> list[Example]:
    """The word problems of resources_servers/gsm8k_like, a thousand for each of train, test and val.

    No two splits share a question. Raises `UsageError` for another split.
    """
    if split not in FIRST_ID:
        raise UsageError(f"the word problems have no split '{split}'; there are: {', '.join(FIRST_ID)}")
    place = "resources_servers/gsm8k_like/make_data.py"
    rows: Iterator[Json] = load_file(content_root() / place).tasks(Random(0))
    start = list(FIRST_ID).index(split) * WORD_PROBLEMS
    different = _without_repeats(rows)
    return [
        _example(row, R1_TEMPLATE, at=place, number=FIRST_ID[split] + i, source="gsm8k_like")
        for i, row in enumerate(islice(different, start, start + WORD_PROBLEMS))
    ]


DATASET_REGISTRY: dict[str, Dataset] = {
    "gsm8k_r1_template": gsm8k_r1_template,
    "word_problems_r1_template": word_problems_r1_template,
}
"""Datasets by name; add your own."""


def _without_repeats(rows: Iterator[Json]) -> Iterator[Json]:
    seen: set[str] = set()
    for row in rows:
        if row["question"] not in seen:
            seen.add(row["question"])
            yield row


def _example(row: Json, template: str, *, at: str, number: int, source: str) -> Example:
    question = row.get("question") or _one_user_message(row)
    solution = row.get("solution", row.get("answer", row.get("expected_answer")))
    answer = row.get("expected_answer", row.get("answer"))
    if not isinstance(question, str) or answer is None:
        raise RowError(f"{at}: needs a question and an answer (it has {', '.join(row) or 'nothing'})")
    # Not str.format: questions and templates may hold braces of their own.
    prompt = template.replace("{question}", question)
    return Example(
        text=f"{prompt}{solution}",
        question=prompt,
        answer=str(answer).rpartition("#### ")[2].strip(),
        meta={"id": row.get("id", number), "source": source, "question": question, "solution": str(solution)},
    )


def _one_user_message(row: Json) -> str | None:
    """The question of a task of ours: its input, if that is a text or one message of the user."""
    asked: Any = cast(Json, row.get("responses_create_params") or {}).get("input")
    if isinstance(asked, list):
        items = cast("list[Json]", asked)
        alone = len(items) == 1 and items[0].get("role") == "user"
        return content_text(items[0].get("content")) if alone else None
    return asked


def _rows(file: Path) -> Iterator[Json]:
    if file.suffix == ".parquet":
        try:
            import pyarrow.parquet as pq  # pyright: ignore[reportMissingTypeStubs]  # JSONL does without it
        except ModuleNotFoundError as error:
            raise MissingExtra(f"{file} needs {error.name}: pip install 'nemo-like[all]'") from error
        with cast(Any, pq).ParquetFile(file) as table:
            for batch in table.iter_batches():
                yield from batch.to_pylist()
        return
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    row = orjson.loads(line)
                except orjson.JSONDecodeError as error:
                    raise RowError(f"{file}, line {number}: no JSON: {error}") from error
                if not isinstance(row, dict):
                    raise RowError(f"{file}, line {number}: should be an object (got {line[:60]!r})")
                yield cast(Json, row)
