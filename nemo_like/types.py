"""The nouns that cross a border: tasks, responses, verify requests, and what a finished rollout amounts to.

What people write handlers for is pydantic with unknown fields riding along; what only passes through stays
the JSON it was (`Json`), parsed once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import orjson
from pydantic import BaseModel, ConfigDict

Json = dict[str, Any]
"""A JSON object."""

RESERVED_FIELDS = frozenset({"output", "response", "reward", "success", "metadata"})
"""Fields of a rollout that no task may bring along; `_ng_*` is reserved too."""


class Row(BaseModel):
    """JSON that people read by attribute; unknown fields are kept."""

    model_config = ConfigDict(extra="allow")


class Response(Row):
    """A Responses-API object: the `output` items of every step, in order."""

    output: list[Json]
    status: str = "completed"
    incomplete_details: Json | None = None

    @property
    def text(self) -> str:
        """The answer: the last assistant message's text, or ""; never reasoning, never the prompt."""
        for item in reversed(self.output):
            if item.get("type", "message") == "message" and item.get("role") == "assistant":
                return content_text(item.get("content"))
        return ""

    @property
    def tool_calls(self) -> list[ToolCall]:
        """The function calls that the model made, in order; arguments that are no JSON object are `None`."""
        return [
            ToolCall(
                name=str(item.get("name", "")),
                arguments=parse_arguments(item.get("arguments")),
                call_id=str(item.get("call_id", "")),
            )
            for item in self.output
            if item.get("type") == "function_call"
        ]

    def tool_output(self, call_id: str) -> str | None:
        """What the tool answered to the call `call_id`; None where it was never run."""
        for item in self.output:
            if item.get("type") == "function_call_output" and item.get("call_id") == call_id:
                return str(item.get("output", ""))
        return None


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolCall:
    """One function call of the model."""

    name: str
    arguments: Json | None
    call_id: str


class Task(Row):
    """A row of the dataset: the request and whatever the verifier needs. Environments subclass it to declare
    that."""

    responses_create_params: Json


@dataclass(frozen=True, kw_only=True, slots=True)
class Scored:
    """One finished rollout as the metrics see it: who, which, and its numbers."""

    agent: str
    task_key: str
    rollout_index: int
    success: bool
    numbers: dict[str, float]
    """Every numeric field by its path: `reward`, the verifier's, `usage/output_tokens`, `metadata/total_s`, …
    """


def content_text(content: Any) -> str:
    """The text of a message's content, which is a string or a list of parts; a refusal counts as text."""
    if isinstance(content, str):
        return content
    return "".join(str(part.get("text") or part.get("refusal") or "") for part in _objects(content))


def parse_arguments(arguments: Any) -> Json | None:
    """The arguments of a function call as an object; None where they are not one."""
    if isinstance(arguments, dict):
        return cast(Json, arguments)
    try:
        value = orjson.loads(arguments)
    except (orjson.JSONDecodeError, TypeError):
        return None
    return cast(Json, value) if isinstance(value, dict) else None


def merged(values: Json, over: Json) -> Json:
    """`over` merged deeply over `values`, which stays as it is."""
    result = dict(values)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], cast(Json, value)) if both else value
    return result


def _objects(value: Any) -> Iterator[Json]:
    if isinstance(value, list):
        yield from (cast(Json, part) for part in cast(list[Any], value) if isinstance(part, dict))
