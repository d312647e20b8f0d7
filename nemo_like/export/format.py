"""What a format is: a pure function from a rollout, or from the rollouts of a task, to rows, and its columns.

    @rollout_format("kto", {"prompt": MESSAGES, "completion": MESSAGES, "label": "bool"})
    def kto(rollout: Rollout, config: ExportConfig) -> Iterator[Json]: ...

A column whose values differ in shape from row to row (a task's fields, tools) is JSON text, so that no
reader has to guess a schema.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from nemo_like.export.rollout import Rollout
from nemo_like.export.settings import Container, ExportConfig
from nemo_like.registry import Registry
from nemo_like.types import Json

Spec = Any
"""A column's type: the name of one of Arrow's, `[spec]` for a list, `{name: spec}` for an object, `AS_IT_IS`,
`OBJECT`."""
AS_IT_IS = None
"""Values as they are, where one type of Arrow's holds them all unchanged; else JSON text of each."""
OBJECT: Spec = {}
"""An object with those fields that it has, each as it is."""
CALL: Spec = {"id": "string", "type": "string", "function": {"name": "string", "arguments": "string"}}
MESSAGES: Spec = [
    {
        "role": "string",
        "content": "string",
        "reasoning_content": "string",
        "tool_calls": [CALL],
        "tool_call_id": "string",
    }
]
"""Of which a file has only those fields that are used in it."""
SCORE: dict[str, Spec] = {"reward": "double", "task_key": "string", "rollout_index": "int64"}
"""What most rows end with: where they are from, and what they earned."""

RolloutRows = Callable[[Rollout, ExportConfig], Iterable[Json]]
TaskRows = Callable[[list[Rollout], ExportConfig], Iterable[Json]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Format:
    """A way to write rollouts down."""

    name: str
    columns: Mapping[str, Spec]
    """Those that are in no row are left out of the file."""
    of_rollout: RolloutRows | None = None
    of_task: TaskRows | None = None
    needs_reward: bool = False
    extra_numbers: bool = False
    """Whether rows hold further columns, all of them numbers."""
    container: Container = "jsonl"
    """What it is written as, if nobody says."""
    only: tuple[Container, ...] = ("jsonl", "parquet", "hf")
    """What its consumer reads."""
    exact: bool = False
    """Whether a column of values as they are may not become JSON text, as its consumer can't read that."""
    about: str = ""


FORMATS: Registry[Format] = Registry("format")


def rollout_format(
    name: str, columns: Mapping[str, Spec], **more: Any
) -> Callable[[RolloutRows], RolloutRows]:
    """Decorator that registers a format of single rollouts."""

    def add(function: RolloutRows) -> RolloutRows:
        about = (function.__doc__ or "").split("\n\n")[0].strip()
        FORMATS.register(name)(Format(name=name, columns=columns, of_rollout=function, about=about, **more))
        return function

    return add


def task_format(name: str, columns: Mapping[str, Spec], **more: Any) -> Callable[[TaskRows], TaskRows]:
    """Decorator that registers a format of the rollouts of a task."""

    def add(function: TaskRows) -> TaskRows:
        about = (function.__doc__ or "").split("\n\n")[0].strip()
        FORMATS.register(name)(
            Format(name=name, columns=columns, of_task=function, about=about, needs_reward=True, **more)
        )
        return function

    return add


def score_of(rollout: Rollout) -> Json:
    """The columns `SCORE`."""
    return {
        "reward": rollout.reward,
        "task_key": rollout.task_key,
        "rollout_index": rollout.rollout_index,
    }


def with_tools(row: Json, rollout: Rollout) -> Json:
    """The row with the tools as JSON text, if there are any."""
    if rollout.tools:
        row["tools"] = as_text(rollout.tools)
    return row


def as_text(value: Any) -> str:
    """JSON text of any value."""
    return orjson.dumps(value).decode()


def truth_text(value: Any) -> str:
    """A right answer as text: as it is, or as JSON text where it is no text."""
    return value if isinstance(value, str) else "" if value is None else as_text(value)
