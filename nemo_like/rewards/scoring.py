"""Applying reward functions, each where it may run; and several of them as a rubric."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from pydantic import Field, ValidationError, field_validator

from nemo_like import pool
from nemo_like.errors import ConfigError, PartError, UsageError, did_you_mean
from nemo_like.rewards.forms import Custom, as_verdict, find
from nemo_like.rewards.reward import Reward, reference, runs, task_type
from nemo_like.settings import Settings, explain
from nemo_like.types import Json, Response, Task

Ask = Callable[[Json], Awaitable[Json]]
"""A judge: a Responses-API request → its response object."""

ENVIRONMENT = "environment"
"""The component of a rubric that is the environment's own verdict."""


class Component(Settings):
    """One reward of a rubric."""

    reward: str | None = None
    """A reward's name, or `file.py:function`; null is the name of the component."""
    weight: float = 1.0
    """What its reward is multiplied by."""
    options: Json = Field(default_factory=dict)
    """Keyword arguments for it."""


class RewardsConfig(Settings):
    """The settings by which an environment's verdict is completed."""

    rewards: dict[str, Component] = Field(default_factory=dict)
    """A rubric: further rewards by name, each a weight or {reward, weight, options}; the environment's own
    verdict is the component `environment`, of weight 1 if it is not listed."""
    verify_timeout_s: float = Field(10.0, gt=0)
    """Seconds that a reward which runs in a process of the pool may take."""

    @field_validator("rewards", mode="before")
    @classmethod
    def _numbers_are_weights(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        given = cast(Mapping[str, Any], value)
        return {name: {"weight": v} if isinstance(v, int | float) else v for name, v in given.items()}


@dataclass(frozen=True, kw_only=True, slots=True)
class Scorer:
    """What reward functions are applied by."""

    timeout_s: float = 10.0
    """Seconds that one in the pool may take."""
    ask: Ask | None = None
    """The judge, for the rewards that need one."""

    async def __call__(self, function: Reward, row: Json | Task, response: Response, **options: Any) -> Json:
        """The verdict, `{"reward": …, …}`; its reward is None where the task can't be scored.

        Raises:
            PartError: the row lacks what the reward needs (`bad_request`), the reward raised, its process
                died, or it took too long.
        """
        if isinstance(function, Custom):
            return await self._in_pool(function, row, response, options)
        task = _task(function, row)
        if (shortcut := getattr(function, "shortcut", None)) is not None:
            verdict = shortcut(task, response, **options)
            if verdict is not None:
                return as_verdict(verdict)
        where = runs(function)
        if where == "pool":
            return await self._in_pool(function, row, response, options)
        if where == "judge":
            if self.ask is None:
                raise PartError("bad_request", f"{reference(function)} asks a judge, and there is none")
            options = {"ask": self.ask, **options}
        answer = function(task, response, **options)
        return as_verdict(await answer if inspect.isawaitable(answer) else answer)

    async def _in_pool(self, function: Reward, row: Json | Task, response: Response, options: Json) -> Json:
        return await pool.shared().run(
            "nemo_like.rewards.forms:call",
            *(reference(function), _as_json(row), response.model_dump(), options),
            timeout_s=self.timeout_s,
            imports=getattr(function, "imports", ""),
        )


class Rubric:
    """Several rewards, weighted: the sum of weight times reward over those that score the task."""

    def __init__(self, components: Mapping[str, Component]) -> None:
        """Raises `ConfigError` where a component names no reward, or one that does not take its options."""
        self._components = {ENVIRONMENT: Component()} | dict(components)
        self._functions: dict[str, Reward] = {}
        for name, component in components.items():
            if name == ENVIRONMENT:
                continue
            try:
                self._functions[name] = find(component.reward or name)
                _check_options(self._functions[name], component.options)
            except UsageError as error:
                raise ConfigError(f"rewards.{name}: {error}") from error

    async def complete(self, own: Json, row: Json, response: Response, scorer: Scorer) -> Json:
        """The environment's verdict with the components in it: `reward`, `reward_components` by name (None
        where one did not score the task), and `reward_details`, what else they said.

        Raises:
            PartError: as the scorer; a component that fails is a failure of the whole.
        """
        verdicts = {ENVIRONMENT: own}
        for name, function in self._functions.items():
            verdicts[name] = await scorer(function, row, response, **self._components[name].options)
        scores: dict[str, float | None] = {name: verdict["reward"] for name, verdict in verdicts.items()}
        scored = [self._components[n].weight * score for n, score in scores.items() if score is not None]
        details = {
            name: {key: value for key, value in verdict.items() if key != "reward"}
            for name, verdict in verdicts.items()
            if name != ENVIRONMENT and len(verdict) > 1
        }
        components: Json = own.get("reward_components", {}) | scores
        total = {"reward": sum(scored) if scored else None, "reward_components": components}
        return own | total | ({"reward_details": details} if details else {})


def _as_json(row: Json | Task) -> Json:
    return row if isinstance(row, dict) else row.model_dump()


def _task(function: Reward, row: Json | Task) -> Task:
    wanted = task_type(function)
    if isinstance(row, wanted):
        return row
    try:
        return wanted.model_validate(_as_json(row))
    except ValidationError as error:
        known = list(wanted.model_fields)
        raise PartError("bad_request", explain(error, where="the row", known=known, noun="field")) from error


def _check_options(function: Reward, options: Json) -> None:
    if isinstance(function, Custom):
        return
    parameters = inspect.signature(function).parameters.values()
    known = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "ask"]
    for name in options:
        if name not in known:
            raise UsageError(f"there is no option '{name}'{did_you_mean(name, known)}")
