"""Watching a run: which rollouts have been in flight longest, and where each of them is; how busy its model
servers are."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nemo_like.client import Client
from nemo_like.errors import PartError
from nemo_like.head import ServerInfo
from nemo_like.window import Load

ASK_S = 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class InFlight:
    """A rollout that is not done, and the innermost call that it waits for."""

    rollout: str
    age_s: float
    stage: str
    """The server and the endpoint; "" where nobody says so."""
    stage_s: float
    """Seconds that it has been there."""

    def __str__(self) -> str:
        stage = f", {self.stage_s:,.1f} s of it in {self.stage}" if self.stage else ""
        return f"{self.rollout}: {self.age_s:,.1f} s{stage}"


async def oldest(
    began: Mapping[str, float], servers: Sequence[ServerInfo], client: Client, n: int = 10
) -> list[InFlight]:
    """The `n` rollouts longest in flight; `began` maps each to the monotonic second in which it began."""
    stages: dict[str, tuple[float, str]] = {}

    async def ask(server: ServerInfo, url: str) -> None:
        try:
            calls = await client.get(f"{url}/in_flight", timeout_s=ASK_S)
        except (PartError, TimeoutError):
            return
        for call in calls:
            # Of the calls inside each other the innermost began last.
            here = (float(call["age_s"]), f"{server.name}{call['path']}")
            stages[call["rollout"]] = min(here, stages.get(call["rollout"], here))

    await asyncio.gather(*(ask(server, url) for server in servers for url in server.workers))
    now = time.monotonic()
    first = sorted(began.items(), key=lambda item: item[1])[:n]
    return [
        InFlight(rollout=name, age_s=now - start, stage=stage, stage_s=stage_s)
        for name, start in first
        for stage_s, stage in [stages.get(name, (0.0, ""))]
    ]


async def model_load(servers: Sequence[ServerInfo], client: Client) -> Load:
    """How the model servers of a run are doing; one that does not answer now says nothing."""
    throttled: dict[str, int] = {}
    queued: dict[str, int] = {}

    async def ask(name: str, url: str | None) -> None:
        try:
            if url is None:
                load = await client.post(name, "/load", {}, timeout_s=ASK_S)
            else:
                load = await client.post_once(f"{url}/load", {}, timeout_s=ASK_S)
        except PartError:
            return
        # Servers of one worker share its count; the workers of one server ask the same engine.
        process = name if url is None else url.partition("/~")[0]
        throttled[process] = int(load.get("throttled") or 0)
        queued[name] = max(queued.get(name, 0), int(load.get("queued") or 0))

    models = [server for server in servers if server.kind == "responses_api_models"]
    await asyncio.gather(*(ask(server.name, url) for server in models for url in server.workers or [None]))
    return Load(sum(throttled.values()), sum(queued.values()))
