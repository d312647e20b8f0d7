"""What a reward function is, and the registry of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Protocol, TypeVar, get_type_hints

from nemo_like.errors import UsageError
from nemo_like.registry import Registry
from nemo_like.types import Json, Response, Task

Runs = Literal["inline", "pool"]
"""Where a reward may run: in the caller's thread, being linear in the answer; or only where it can be
killed."""


class Reward(Protocol):
    """A pure function of a task and the response to it.

    It gives the reward, or an object that holds `reward` and whatever else belongs in the record. The
    annotation of its first parameter, a subclass of `Task`, declares the fields that it needs of a row.
    No answer, however odd, makes it raise: what can't be read is wrong.
    """

    def __call__(self, task: Any, response: Response, /) -> float | Json: ...


RewardT = TypeVar("RewardT", bound=Callable[..., float | Json])

rewards: Registry[Reward] = Registry("reward")


def reward(name: str, *, runs: Runs) -> Callable[[RewardT], RewardT]:
    """Decorator that registers a reward function as `name` and notes where it `runs`."""

    def add(function: RewardT) -> RewardT:
        function.__dict__["runs"] = runs
        rewards.register(name)(function)
        return function

    return add


def runs(function: Reward) -> Runs:
    """Where `function` may run; one that was never registered says nothing of its cost, so only in a pool."""
    return getattr(function, "runs", "pool")


def task_type(function: Reward) -> type[Task]:
    """The subclass of `Task` that `function` takes: what a row must hold to be scored by it.

    Raises:
        UsageError: its first parameter is not annotated with one.
    """
    annotation = next(iter(get_type_hints(function).values()), None)
    if not (isinstance(annotation, type) and issubclass(annotation, Task)):
        name = getattr(function, "__qualname__", repr(function))
        raise UsageError(
            f"{name} does not say which rows it takes; "
            "annotate its first parameter with a subclass of nemo_like.types.Task"
        )
    return annotation
