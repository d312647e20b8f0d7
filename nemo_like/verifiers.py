"""Verifiers that can be asked again: the servers of environments, and reward functions."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import orjson

from nemo_like.answered import VERIFIER
from nemo_like.client import Client
from nemo_like.errors import UsageError, blame
from nemo_like.identity import verifier_id
from nemo_like.rewards.forms import Custom
from nemo_like.rewards.reward import Reward, reference
from nemo_like.rewards.scoring import Scorer
from nemo_like.server import finite
from nemo_like.types import Json, Response

ASK_S = 30.0


class Verifier(Protocol):
    """What gives a verdict on a task and a response to it."""

    @property
    def id(self) -> str:
        """What identifies it: another one where its code or its settings are others."""
        ...

    @property
    def success_threshold(self) -> float:
        """The reward from which on a rollout is a success."""
        ...

    async def verdict(self, task: Json, response: Json) -> Json:
        """`{"reward": …, …}` and whose verdict it is.

        Raises:
            PartError: there is none.
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Environment:
    """The verifier of an environment that runs."""

    server: str
    id: str
    mode: Literal["stateless", "seeded"]
    client: Client
    success_threshold: float
    timeout_s: float

    async def verdict(self, task: Json, response: Json) -> Json:
        """What the environment's `/verify` adds to the row."""
        row = task | {"response": response}
        if self.mode == "seeded":
            await self.client.post(self.server, "/seed_session", row, timeout_s=self.timeout_s)
        answer = await self.client.post(self.server, "/verify", row, timeout_s=self.timeout_s)
        verdict = {name: of for name, of in answer.items() if name not in row or of != row[name]}
        return finite(verdict) | {VERIFIER: self.id}


@dataclass(frozen=True, kw_only=True, slots=True)
class Function:
    """A reward function."""

    id: str
    """Its name, with a hash of the file that it stands in, and of its options."""
    function: Reward
    options: Json
    scorer: Scorer
    success_threshold: float

    async def verdict(self, task: Json, response: Json) -> Json:
        """What the function says."""
        with blame(self.id.partition("@")[0], "verifier_error"):
            parsed = Response.model_validate(response)
            verdict = await self.scorer(self.function, task, parsed, **self.options)
            # What is no JSON is the function's fault, and is said of it.
            orjson.dumps(verdict)
            return finite(verdict) | {VERIFIER: self.id}


def function_id(function: Reward, asked: str, options: Json) -> str:
    """What identifies a reward function that was asked for as `asked`: a name, or file.py:function."""
    name = Path(reference(function)).name if ":" in asked else asked
    return verifier_id(name, [_file_of(function)], options)


async def environment(
    server: str, settings: Mapping[str, object], client: Client, timeout_s: float, threshold: float | None
) -> Environment | str:
    """The verifier of an environment's server; or why stored rollouts can't be verified again by it.

    Raises:
        PartError: the server does not answer.
    """
    told = await client.post(server, "/reverify_mode", {}, timeout_s=ASK_S)
    if told["mode"] == "unsupported":
        return f"{server} can't verify stored rollouts again: {told['reason']}"
    own = settings.get("success_threshold", 1.0)
    return Environment(
        server=server,
        id=told["verifier"],
        mode=told["mode"],
        client=client,
        success_threshold=threshold if threshold is not None else float(str(own)),
        timeout_s=timeout_s,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Verifiers:
    """Whose verdict a rollout gets, by the agent that made it."""

    by_agent: Mapping[str, Verifier | str]
    """Agent → its environment's verifier, or why that can't be asked again."""
    otherwise: Verifier | str | None
    """The verifier of all other rollouts, if there is one."""

    def of(self, agent: str) -> Verifier:
        """The verifier for an agent's rollouts.

        Raises:
            UsageError: there is none, or it can't be asked again.
        """
        found = self.by_agent.get(agent, self.otherwise)
        if found is None:
            whose = f"the agent '{agent}'" if agent else "no agent"
            there = f" (there are the agents {', '.join(self.by_agent)})" if self.by_agent else ""
            raise UsageError(
                f"rollouts of {whose} are among them, whose environment is not here{there}; "
                "name the verifier: +resources_server=… or +reward_fn=…"
            )
        if isinstance(found, str):
            raise UsageError(found)
        return found


def _file_of(function: Reward) -> Path:
    if isinstance(function, Custom):
        place = function.path.rpartition(":")[0]
        return Path(place if place.endswith(".py") else str(sys.modules[place].__file__))
    return Path(inspect.getfile(inspect.unwrap(function)))
