"""An environment as its YAML composes it, with its agent and a model that plays a script, in one process."""

from __future__ import annotations

import asyncio
import random
from itertools import islice
from pathlib import Path
from typing import Any

import orjson

from nemo_like.asgi import ASGIApp, call_app
from nemo_like.client import ROLLOUT_HEADER, Client
from nemo_like.config import Instance, load
from nemo_like.plan import checked_row
from nemo_like.registry import load_file
from nemo_like.serve import ServerSpec, load_server
from nemo_like.types import Json

from ..conftest import read_jsonl

ROOT = Path(__file__).parents[2]


class Environment:
    """One of `resources_servers/`, to be tried out."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.folder = ROOT / "resources_servers" / name
        self.rows = read_jsonl(self.folder / "data/example.jsonl")
        [settings] = [i.settings for i in load(["model=scripted", f"env={name}"]).instances if i.name == name]
        self.success_threshold: float = settings.get("success_threshold", 1.0)

    def rollout(self, row: Json, *turns: Any, settings: dict[str, Json] | None = None) -> Json:
        """The record of a rollout in which the model does `turns`; `settings` by instance."""
        apps = self.apps(list(turns), settings)
        return self.post(apps[f"{self.name}_simple_agent"], "/run", row)

    def failure(self, row: Json, *turns: Any) -> tuple[int, Json]:
        """The status and the error of a rollout that fails."""
        status, answer = self.call(self.apps(list(turns))[f"{self.name}_simple_agent"], "/run", row)
        return status, orjson.loads(answer)["error"]

    def apps(self, script: list[Any], changes: dict[str, Json] | None = None) -> dict[str, ASGIApp]:
        apps: dict[str, ASGIApp] = {}
        client = Client({}, apps)
        for instance in load(["model=scripted", f"env={self.name}"]).instances:
            settings = instance.settings | ({"script": script} if instance.name == "policy_model" else {})
            settings |= (changes or {}).get(instance.name, {})
            apps[instance.name] = load_server(_spec(instance, settings), client).app()
        return apps

    @staticmethod
    def post(app: ASGIApp, path: str, body: Json) -> Json:
        status, answer = Environment.call(app, path, body)
        assert status == 200, answer
        return orjson.loads(answer)

    @staticmethod
    def call(app: ASGIApp, path: str, body: Json) -> tuple[int, bytes]:
        return asyncio.run(call_app(app, path, orjson.dumps(body), {ROLLOUT_HEADER: "r1"}))

    def generated(self, n: int, seed: int = 0, script: str = "make_data.py") -> list[Json]:
        """The first rows that the generator makes, as a file would hold them; each is a good one."""
        rows = islice(load_file(self.folder / script).tasks(random.Random(seed)), n)
        return [checked_row(orjson.dumps(row)) for row in rows]


def call(tool: str, **arguments: Any) -> Json:
    """A turn in which the model calls one tool."""
    return {"tool_calls": [{"name": tool, "arguments": arguments}]}


def judge(*says: str) -> list[Json]:
    """Turns of the judge, one after the other, where the policy had one before."""
    mine = "between the marks"
    return [{"when": {"contains": mine, "times": i}, "text": text} for i, text in enumerate(says, 2)]


def _spec(instance: Instance, settings: Json) -> ServerSpec:
    file = instance.folder / str(settings["entrypoint"])
    return ServerSpec(name=instance.name, file=str(file), settings=settings, listener=0)
