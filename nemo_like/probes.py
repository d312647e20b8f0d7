"""Probes: what a model might do in an environment, with a verdict that is known before.

An environment's `probes.py` says them for any of its rows, in the turns of the scripted model: a text, an
object with `tool_calls`, or a list of these.

    gold(row)             what earns the reward
    hacks(row)            {name: what a model might try instead}; none of it may earn the reward
    JUDGE                 what the judge says, where the verdict asks one (may be left out)
    ANYTHING_GOES         why nothing but the gold is tried: a verifier that is content with everything
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import orjson

from nemo_like.client import Client, rollout_id
from nemo_like.config import Config, Instance, find, load
from nemo_like.errors import ConfigError, PartError, RowError
from nemo_like.plan import checked_row
from nemo_like.registry import load_file
from nemo_like.types import Json
from nemo_like.workers import for_each

EMPTY = {"empty": "", "blank": " \n"}
"""Answers that no environment may reward."""
AT_ONCE = 16
PROBE_S = 300.0
VERIFY_S = 120.0
"""A verdict is what is asked for here, however slow the machine is at the moment."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """One thing to try on one row."""

    row: int
    name: str
    turns: list[Any]
    is_gold: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What a probe came to."""

    probe: Probe
    reward: float | None
    """None where the rollout failed."""
    success: bool
    failure: str = ""

    @property
    def problem(self) -> str | None:
        """What is wrong with the environment; None where the verdict is the right one."""
        probe = f"row {self.probe.row}: {self.probe.name}"
        if self.failure:
            return f"{probe}: failed: {self.failure}"
        if self.success == self.probe.is_gold:
            return None
        said = orjson.dumps(self.probe.turns).decode()
        shown = said if len(said) <= 200 else said[:200] + "…"
        verb = "is not rewarded" if self.probe.is_gold else "is rewarded"
        return f"{probe} {verb}: reward {self.reward:g} for {shown}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """An environment with a scripted model in front of it, and what to try on it."""

    config: Config
    agent: str
    success_threshold: float
    rows: list[Json]
    probes: list[Probe]

    async def run(self, client: Client) -> list[Outcome]:
        """Try everything, through the servers that `client` reaches."""
        outcomes: list[Outcome] = []

        async def work(probe: Probe) -> None:
            outcomes.append(await self._try(probe, client))

        await for_each(self.probes, work, AT_ONCE)
        return sorted(outcomes, key=lambda outcome: (outcome.probe.row, not outcome.probe.is_gold))

    async def _try(self, probe: Probe, client: Client) -> Outcome:
        row = self.rows[probe.row]
        params = cast(Json, row["responses_create_params"])
        script = {"script": orjson.dumps(probe.turns).decode()}
        asked = params | {"metadata": cast(Json, params.get("metadata") or {}) | script}
        rollout_id.set(f"{probe.row}-{probe.name}")
        try:
            record = await client.post(
                self.agent, "/run", row | {"responses_create_params": asked}, timeout_s=PROBE_S
            )
        except PartError as error:
            return Outcome(probe=probe, reward=None, success=False, failure=str(error))
        reward = float(record["reward"])
        return Outcome(probe=probe, reward=reward, success=reward >= self.success_threshold)


def trial(name: str, arguments: Sequence[str] = (), *, num_generated: int = 0, seed: int = 0) -> Trial:
    """The trial of the environment `name` on its example data, or on so many rows of its generator.

    `arguments` are overrides of the configuration.

    Raises:
        ConfigError: it has no probes, no agent or no data.
    """
    config = load(["model=scripted", f"env={name}", *arguments])
    folder = find(f"resources_servers/{name}", config.roots)
    if not (folder / "probes.py").is_file():
        hint = "write gold(row) and hacks(row) there; resources_servers/README.md shows how"
        raise ConfigError(f"there is no {folder / 'probes.py'}; {hint}")
    module = load_file(folder / "probes.py")
    environment = _first(config, "resources_servers", lambda i: i.implementation == name, name)
    agent = _first(
        config,
        "agents",
        lambda i: i.settings.get("resources_server", {}).get("name") == environment.name,
        name,
    )
    rows = _generated(folder, num_generated, seed) if num_generated else _example(folder)
    return Trial(
        config=_with_judge(config, getattr(module, "JUDGE", [])),
        agent=agent.name,
        success_threshold=float(environment.settings.get("success_threshold", 1.0)),
        rows=rows,
        probes=[probe for i, row in enumerate(rows) for probe in _probes(module, row, i)],
    )


def _probes(module: ModuleType, row: Json, index: int) -> Iterator[Probe]:
    yield Probe(row=index, name="gold", turns=_turns(module.gold(row)), is_gold=True)
    if not getattr(module, "ANYTHING_GOES", ""):
        for name, turns in (EMPTY | module.hacks(row)).items():
            yield Probe(row=index, name=name, turns=_turns(turns), is_gold=False)


def _turns(said: Any) -> list[Any]:
    return cast(list[Any], said) if isinstance(said, list) else [said]


def _first(config: Config, kind: str, wanted: Callable[[Instance], bool], name: str) -> Instance:
    for instance in config.instances:
        if instance.kind == kind and wanted(instance):
            return instance
    raise ConfigError(f"the configuration of {name} has none of the {kind} that belong to it")


def _with_judge(config: Config, turns: list[Any]) -> Config:
    """The scripted model plays a probe's own turns for the agent, and these for whoever else asks it."""
    instances = [
        replace(i, settings=i.settings | {"script": turns, "default": None})
        if i.name == "policy_model"
        else i
        for i in config.instances
    ]
    return replace(config, instances=tuple(instances))


def _example(folder: Path) -> list[Json]:
    file = folder / "data/example.jsonl"
    if not file.is_file():
        raise ConfigError(f"there is no {file}")
    rows: list[Json] = []
    for number, line in enumerate(file.read_bytes().splitlines(), 1):
        try:
            rows += [checked_row(line)] if line.strip() else []
        except RowError as error:
            raise RowError(f"{file}:{number}: {error}") from error
    return rows


def _generated(folder: Path, n: int, seed: int) -> list[Json]:
    made = load_file(folder / "make_data.py").tasks(random.Random(seed))
    return [checked_row(orjson.dumps(row)) for row in islice(made, n)]
