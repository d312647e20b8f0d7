"""Reward functions in the forms that people already have, called as this project calls its own.

    (task, response, **options)                                     ours
    (data_source, solution_str, ground_truth, extra_info=None, …)   verl
    (data_sources, solution_strs, ground_truths, extra_infos, …)    verl, batched
    (completions, **columns)                                        TRL

Each may be sync or async, and may answer a number, a bool, an object with `reward` or `score`, a list of
these (batched: one item), or None, which is not 0 but says that the task can't be scored.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

from nemo_like.errors import UsageError
from nemo_like.registry import load
from nemo_like.rewards.reward import Reward, Runs, Score, rewards, task_type
from nemo_like.types import Json, Response, Task

Arguments = tuple[list[Any], dict[str, Any]]
TRUTHS = ("ground_truth", "expected_answer", "answer", "solution")
"""Where a row keeps what verl calls the ground truth, if not in `reward_model`."""


@dataclass(frozen=True, slots=True)
class Custom:
    """A function of somebody's own, in any of the forms, by its path; it runs where it can be killed."""

    path: str
    runs: ClassVar[Runs] = "pool"
    imports: ClassVar[str] = __name__

    async def __call__(self, task: Task, response: Response, /, **options: Any) -> Score:
        return await call(self.path, task.model_dump(), response.model_dump(), options)


def find(name_or_path: str) -> Reward:
    """The reward registered under a name, or the function at `file.py:name` or `package.module:name`.

    Raises:
        UsageError: there is none, or it has none of the forms.
    """
    if ":" not in name_or_path:
        return rewards.get(name_or_path)
    place, _, name = name_or_path.rpartition(":")
    path = f"{Path(place).absolute()}:{name}" if place.endswith(".py") else name_or_path
    _form_of(load(path), path)
    return Custom(path)


async def call(path: str, row: Json, response: Json, options: Json) -> Json:
    """The verdict of the function at `path`, `{"reward": …, …}`, in whatever process this is."""
    function = load(path)
    positional, named = _form_of(function, path)(function, row, Response.model_validate(response))
    answer = function(*positional, **named, **options)
    return as_verdict(await answer if inspect.isawaitable(answer) else answer)


def as_verdict(answer: Any) -> Json:
    """What a reward function answered, as an object with `reward`: a float, or None where it is not scored.

    Raises:
        TypeError: it is none of the things that a reward function may answer.
    """
    if isinstance(answer, list | tuple) and len(items := cast(list[Any], answer)) == 1:
        return as_verdict(items[0])
    if isinstance(answer, Mapping):
        fields = dict(cast(Json, answer))
        if "reward" not in fields and "score" not in fields:
            raise TypeError(f"the object has neither 'reward' nor 'score': {sorted(fields)}")
        return {"reward": _number(fields.pop("reward" if "reward" in fields else "score"))} | fields
    return {"reward": _number(answer)}


def _number(value: Any) -> float | None:
    # numpy's and torch's scalars
    value = value.item() if hasattr(value, "item") else value
    if value is None or isinstance(value, int | float):
        return None if value is None else float(value)
    raise TypeError(f"a reward is a number, a bool, None or an object, not {type(value).__name__}")


def _form_of(function: Any, path: str) -> Callable[[Any, Json, Response], Arguments]:
    """How a function is called, told by the names of its parameters."""
    if not callable(function):
        raise UsageError(f"{path} is not a function")
    names = list(inspect.signature(function).parameters)
    if "solution_strs" in names:
        return _verl_batched
    if "solution_str" in names:
        return _verl
    if "completions" in names:
        return _trl
    if len(names) >= 2:
        return _ours
    raise UsageError(
        f"{path} takes ({', '.join(names)}); a reward function takes (task, response), verl's (data_source, "
        "solution_str, ground_truth, extra_info), or TRL's (completions, **columns)"
    )


def _ours(function: Any, row: Json, response: Response) -> Arguments:
    annotation = next(iter(inspect.signature(function, eval_str=True).parameters.values())).annotation
    model = task_type(function) if isinstance(annotation, type) and issubclass(annotation, Task) else Task
    return [model.model_validate(row), response], {}


def _verl(function: Any, row: Json, response: Response) -> Arguments:
    return [], _accepted(function, dict(_verl_columns(row, response)))


def _verl_batched(function: Any, row: Json, response: Response) -> Arguments:
    return [], _accepted(function, {f"{name}s": [value] for name, value in _verl_columns(row, response)})


def _trl(function: Any, row: Json, response: Response) -> Arguments:
    prompt = row["responses_create_params"].get("input")
    is_chat = isinstance(prompt, list)
    completion = [{"role": "assistant", "content": response.text}] if is_chat else response.text
    columns: dict[str, Any] = {name: [row[name]] for name in row if name != "responses_create_params"}
    return [], _accepted(function, columns | {"prompts": [prompt], "completions": [completion]})


def _verl_columns(row: Json, response: Response) -> Iterator[tuple[str, Any]]:
    yield "data_source", str(row.get("data_source", ""))
    yield "solution_str", response.text
    yield "ground_truth", _ground_truth(row)
    # Some functions write into it.
    yield "extra_info", copy.deepcopy(row.get("extra_info"))


def _ground_truth(row: Json) -> Any:
    reward_model = row.get("reward_model")
    if isinstance(reward_model, dict) and "ground_truth" in reward_model:
        return cast(Json, reward_model)["ground_truth"]
    return next((row[name] for name in TRUTHS if name in row), None)


def _accepted(function: Any, named: dict[str, Any]) -> dict[str, Any]:
    """Of the arguments, those that the function has a parameter for."""
    parameters = inspect.signature(function).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return named
    return {name: value for name, value in named.items() if name in parameters}
