"""The fingerprint: what decides what an agent's rollouts are, so that one file never mixes two kinds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

from nemo_like import __version__
from nemo_like.errors import StoreError
from nemo_like.head import ServerInfo
from nemo_like.journal import made_with
from nemo_like.settings import is_secret, redacted
from nemo_like.store import Files, write_whole
from nemo_like.types import Json

NOT_IDENTITY = frozenset(
    [
        "host",
        "port",
        "process",
        "num_workers",
        "entrypoint",
        "datasets",
        "description",
        "domain",
        "verified",
        "verified_url",
        "value",
        "license",
        "max_retries",
        "default_headers",
        "max_concurrent_requests",
        "max_batch_rows",
        "max_batch_tokens",
        "batch_wait_s",
        "requests_per_minute",
        "tokens_per_minute",
        "latency_s",
        "threads",
        "parallel",
        "verbose",
        "python",
        "max_restarts",
        "ready_path",
        "health_path",
        "health_interval_s",
    ]
)
"""Settings that may differ between two runs into one file: they change where and how, not what."""

RESCORED = "first_rollout_hash"
"""The key of what was rescored, in a fingerprint of verdicts."""
RECIPE_KEYS = frozenset({"responses_create_params", "prompt_config", "skills", "num_repeats_add_seed"})
"""Parts of a fingerprint that all agents of a run share."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Agent:
    """An agent as the collector knows it."""

    name: str
    resources_server: str
    """Its environment; "" where it has none among the servers of the run."""
    success_threshold: float
    identity: Json
    """The settings of agent, environment and model that decide what its rollouts are."""


def agents_of(servers: Sequence[ServerInfo]) -> dict[str, Agent]:
    """The agents among the servers of a run, with what decides what their rollouts are."""
    by_name = {server.name: server for server in servers}
    agents: dict[str, Agent] = {}
    for server in servers:
        if server.kind != "agents":
            continue
        parts = {"agent": server}
        for key in ("resources_server", "model_server"):
            reference: Json = server.settings.get(key) or {}
            if reference.get("name") in by_name:
                parts[key] = by_name[reference["name"]]
        threshold = parts.get("resources_server", server).settings.get("success_threshold", 1.0)
        identity = {
            f"{part}.{key}": value
            for part, info in parts.items()
            for key, value in {"implementation": info.implementation, **info.settings}.items()
            if is_identity(key)
        }
        agents[server.name] = Agent(
            name=server.name,
            resources_server=parts["resources_server"].name if "resources_server" in parts else "",
            success_threshold=float(threshold),
            identity=identity,
        )
    return agents


def is_identity(key: str) -> bool:
    """Whether a setting says what a server's results are, not where or how they are made."""
    return not (key in NOT_IDENTITY or is_secret(key) or key.endswith(("url", "timeout_s", "ttl_s")))


def settle(files: Files, agents: Sequence[Agent], recipe: Json, run: Json) -> None:
    """Keep the fingerprint, and the redacted configuration `run`, beside the rollouts.

    `recipe` is the identity of what the run makes of a row.

    Raises:
        StoreError: the file holds rollouts of another fingerprint; the message names what differs.
    """
    now: Json = {f"{agent.name}.{key}": value for agent in agents for key, value in agent.identity.items()}
    # Compared as it is kept, or what holds a secret would differ from itself.
    now, before = redacted(now | recipe), _kept(files)
    _refuse(files, before, now, differences(before, now))
    _keep(files, before | now, run)


def what_made(file: Path) -> Json:
    """What decided what the rows of a file are, and those that it was rescored from; empty where that is
    not known.

    Raises:
        OSError, ValueError: what is kept beside it can't be read.
    """
    run = Files(file).run
    if not run.is_file():
        return made_with(file)
    kept = orjson.loads(run.read_bytes())
    return kept.get("rescored", {}) | kept.get("fingerprint", {})


def settle_rescoring(files: Files, now: Json, run: Json, rescored: Path) -> None:
    """Keep what decides the verdicts, what made the rollouts that are `rescored`, and the redacted
    configuration `run`, beside them.

    Raises:
        StoreError: the file holds verdicts of another kind, or rollouts that were not rescored.
    """
    now, before = redacted(now), _kept(files)
    if files.rollouts.stat().st_size and RESCORED not in before:
        raise StoreError(f"{files.rollouts} was not made by ng_rescore; choose another output_jsonl_fpath")
    shared = sorted(before.keys() & now.keys())
    _refuse(files, before, now, [key for key in shared if before[key] != now[key]])
    _keep(files, before | now, run, rescored=redacted(what_made(rescored)))


def differences(before: Json, now: Json) -> list[str]:
    """The keys in which two fingerprints disagree; an agent that only one of them has is no disagreement."""
    if not before:
        return []  # nobody has made anything yet

    def agents(fingerprint: Json) -> set[str]:
        return {key.split(".")[0] for key in fingerprint} - RECIPE_KEYS

    shared = agents(before) & agents(now) | RECIPE_KEYS
    keys = sorted(key for key in {*before, *now} if key.split(".")[0] in shared)
    return [key for key in keys if before.get(key) != now.get(key)]


def _kept(files: Files) -> Json:
    """What made the rollouts that there are; nothing, where there are none."""
    if not files.run.exists() or not files.rollouts.stat().st_size:
        return {}
    return orjson.loads(files.run.read_bytes()).get("fingerprint", {})


def _refuse(files: Files, before: Json, now: Json, differing: Sequence[str]) -> None:
    if differing:
        said = ", ".join(f"{key}={before.get(key)}, now {now.get(key)}" for key in differing)
        advice = (
            "choose another output_jsonl_fpath, go back to what it was, or delete it with +overwrite=true"
        )
        raise StoreError(f"{files.rollouts} was made with {said}; {advice}")


def _keep(files: Files, fingerprint: Json, run: Json, **more: Json) -> None:
    kept = {"fingerprint": fingerprint, **more, "nemo_like": __version__, "config": run}
    write_whole(files.run, orjson.dumps(kept, option=orjson.OPT_INDENT_2))
