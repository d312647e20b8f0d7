"""The tool calls that a model made, compared with those that were expected."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from nemo_like.rewards.json_value import same
from nemo_like.rewards.reward import reward
from nemo_like.types import Json, Response, Task, ToolCall, parse_arguments

Order = Literal["strict", "any"]
Arguments = Literal["exact", "subset"]


class ExpectedCall(BaseModel):
    """One call that the model should make."""

    model_config = ConfigDict(extra="forbid")

    name: str
    arguments: Json = {}

    @field_validator("arguments", mode="before")
    @classmethod
    def _parsed(cls, arguments: Any) -> Any:
        """An object, or the JSON text of one, as a call in a conversation has it."""
        return parse_arguments(arguments) if isinstance(arguments, str) else arguments


class ToolCallsTask(Task):
    """A task for which certain tools should be called; none at all where the list is empty."""

    expected_tool_calls: list[ExpectedCall] = Field(max_length=100)


@reward("tool_calls", runs="inline")
def tool_calls(
    task: ToolCallsTask,
    response: Response,
    *,
    order: Order = "strict",
    extra_calls: bool = False,
    arguments: Arguments = "exact",
) -> Json:
    """1.0 iff the calls that were made are the expected ones, names and arguments.

    Expected and made calls are paired, as many as can be, each call in one pair, and with `order="strict"` no
    two pairs crossing. `name_accuracy` counts pairs of the same name, `argument_accuracy` pairs that have the
    same arguments too; both are shares of the expected or the made calls, whichever are more, or of the
    expected ones where `extra_calls` are allowed. With `arguments="subset"` a call may have arguments that
    nobody expected. Where no call is expected, only making none is right, whatever is allowed.
    """
    expected, made = task.expected_tool_calls, response.tool_calls
    if not expected:
        return _verdict(*[float(not made)] * 3)

    def fits(wanted: ExpectedCall, call: ToolCall) -> bool:
        if call.name != wanted.name or call.arguments is None:
            return False
        return same(wanted.arguments, call.arguments, subset=arguments == "subset")

    pairs = longest_common if order == "strict" else most_pairs
    names = pairs([[wanted.name == call.name for call in made] for wanted in expected])
    whole = pairs([[fits(wanted, call) for call in made] for wanted in expected])
    total = len(expected) if extra_calls else max(len(expected), len(made))
    return _verdict(names / total, whole / total, float(whole == total))


def longest_common(fits: list[list[bool]]) -> int:
    """The most pairs (row, column) that fit and don't cross: the longest common subsequence."""
    best = [0] * (len(fits[0]) + 1)
    for row in fits:
        diagonal = 0
        for column, fit in enumerate(row, start=1):
            above = best[column]
            best[column] = diagonal + 1 if fit else max(above, best[column - 1])
            diagonal = above
    return best[-1]


def most_pairs(fits: list[list[bool]]) -> int:
    """The most pairs (row, column) that fit, no row or column in two of them: a maximum matching."""
    row_of: dict[int, int] = {}
    columns = [[column for column, fit in enumerate(row) if fit] for row in fits]

    def place(row: int, tried: set[int]) -> bool:
        free = next((column for column in columns[row] if column not in row_of), None)
        if free is not None:
            row_of[free] = row
            return True
        for column in columns[row]:
            if column not in tried:
                tried.add(column)
                if place(row_of[column], tried):
                    row_of[column] = row
                    return True
        return False

    return sum(place(row, set()) for row in range(len(fits)))


def _verdict(name_accuracy: float, argument_accuracy: float, exact_match: float) -> Json:
    return {
        "reward": exact_match,
        "name_accuracy": name_accuracy,
        "argument_accuracy": argument_accuracy,
        "exact_match": exact_match,
    }
