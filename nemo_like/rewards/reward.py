"""What a reward function is, and the registry of them."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from functools import cache
from typing import Literal, TypeVar, get_type_hints

from nemo_like.errors import UsageError
from nemo_like.registry import Registry
from nemo_like.types import Json, Task

Runs = Literal["inline", "pool", "judge"]
"""Where a reward may run: in the caller's thread, being linear in the answer; only where it can be killed; on
the caller's loop, asking a model (its keyword `ask`)."""

Score = float | Json | None
"""The reward, or an object that holds `reward` and whatever else belongs in the record. A reward of None says
that this task can't be scored, which is not 0."""


Reward = Callable[..., Score | Awaitable[Score]]
"""A pure function `(task, response, *, options…)` of a task and the response to it.

The annotation of its first parameter, a subclass of `Task`, declares the fields that it needs of a row; its
keyword parameters, which have defaults, are its options. No answer, however odd, makes it raise: what can't
be read is wrong."""

RewardT = TypeVar("RewardT", bound=Reward)

rewards: Registry[Reward] = Registry("reward")


def reward(
    name: str, *, runs: Runs, shortcut: Callable[..., Score] | None = None, imports: str = ""
) -> Callable[[RewardT], RewardT]:
    """Decorator that registers a reward function as `name` and notes where it `runs`.

    `shortcut` takes the same arguments and is tried first, inline: what it answers is the score, unless that
    is None. `imports` names the heavy module that the processes of the pool should have ready.
    """

    def add(function: RewardT) -> RewardT:
        function.__dict__.update(runs=runs, shortcut=shortcut, imports=imports)
        rewards.register(name)(function)
        return function

    return add


def runs(function: Reward) -> Runs:
    """Where `function` may run; one that was never registered says nothing of its cost, so only in a pool."""
    return getattr(function, "runs", "pool")


@cache
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


def reference(function: Reward) -> str:
    """What another process loads `function` by: `package.module:name`, or `file.py:name` of a folder."""
    if (path := getattr(function, "path", None)) is not None:
        return str(path)
    module = sys.modules[function.__module__]
    # A folder of content is a package only in this process.
    place = module.__file__ if module.__name__.startswith(("_nemo_like_", "__main__")) else module.__name__
    return f"{place}:{getattr(function, '__qualname__', '')}"
