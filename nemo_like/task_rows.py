"""Rows of other layouts as tasks: verl's and SkyRL's training files, plain columns of prompts and answers.

A row that is a task already stays as it is. Of any other the prompt becomes `responses_create_params.input`:
through a `prompt_config`, or from the column that holds it. Every other column rides along, and the right
answer is put where the rewards look for it, `expected_answer`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import orjson

from nemo_like.errors import RowError, UsageError
from nemo_like.plan import checked_row
from nemo_like.prompt_config import PromptConfig
from nemo_like.prompts import read_prompt
from nemo_like.scored_rows import task_of
from nemo_like.types import RESERVED_FIELDS, Json

PROMPTS = ("prompt", "question", "problem", "instruction", "query", "messages", "input")
"""Columns that may hold the prompt, the likeliest first."""
KEPT_AS = "original_"
"""Before the name of a column that a rollout needs for itself."""


def read_tasks(file: Path, prompt_config: PromptConfig | None = None) -> Iterator[Json]:
    """The tasks in a JSONL or Parquet file, one after the other.

    Raises:
        RowError: a row holds no task; the message names file, row and what was expected.
        UsageError: the file can't be read.
    """
    for number, row in enumerate(_rows(file), 1):
        try:
            yield as_task(row, prompt_config)
        except RowError as error:
            raise RowError(f"{file}:{number}: {error}") from error


def as_task(row: Json, prompt_config: PromptConfig | None = None) -> Json:
    """A row of any layout as a task.

    Raises:
        RowError: there is no prompt in it.
    """
    row = {_kept(name): value for name, value in row.items()}
    if isinstance(row.get("responses_create_params"), dict):
        task = row if prompt_config is None else prompt_config.complete(row)
    else:
        known = task_of(row)
        answers = {
            key: known[key] for key in ("reward_model", "extra_info", "expected_answer") if key in known
        }
        asked = (
            _asked(row) if prompt_config is None else prompt_config.complete(row)["responses_create_params"]
        )
        task = row | answers | {"responses_create_params": asked}
    return checked_row(_json(task))


def _asked(row: Json) -> Json:
    for name in PROMPTS:
        if row.get(name) is not None:
            # verl keeps the prompt as messages, which would stand there twice.
            value = row[name] if isinstance(row[name], str) else row.pop(name)
            return {"input": read_prompt(value).messages}
    raise RowError(
        f"there is no prompt in it (columns: {', '.join(row)}); a prompt_config can make one of them"
    )


def _kept(name: str) -> str:
    return KEPT_AS + name if name in RESERVED_FIELDS or name.startswith("_ng_") else name


def _rows(file: Path) -> Iterator[Json]:
    if file.suffix not in (".jsonl", ".ndjson"):
        # Only these need Arrow.
        from nemo_like.table import read_rows

        yield from read_rows(file)
        return
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row: Any = orjson.loads(line.removeprefix(b"\xef\xbb\xbf"))
            except orjson.JSONDecodeError as error:
                raise RowError(f"{file}:{number}: not JSON: {error}") from error
            if not isinstance(row, dict):
                raise RowError(f"{file}:{number}: expected a JSON object (got {type(row).__name__})")
            yield cast(Json, row)


def _json(task: Json) -> bytes:
    """The task as JSON, with what a table may hold and JSON may not rewritten."""
    try:
        return orjson.dumps(task)
    except TypeError:
        from nemo_like.table import as_json

        return as_json(task)


def check_name(file: Path) -> None:
    """Raises a `UsageError` for a file that is neither JSONL nor Parquet, by its name."""
    if file.suffix.lower() not in (".jsonl", ".ndjson", ".json", ".parquet", ".pq"):
        raise UsageError(f"{file} should be named .jsonl or .parquet (got {file.suffix or 'no suffix'})")
