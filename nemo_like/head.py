"""The head of a run: tells other commands which servers there are, and where.

It listens beside the supervisor and is found through `.nemo_like/head.json` in the working directory, a list
of the runs started there.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson
import yaml
from aiohttp import web

from nemo_like.client import Client
from nemo_like.config import HeadConfig
from nemo_like.errors import PartError, StackError
from nemo_like.types import Json

HEAD_FILE = Path(".nemo_like") / "head.json"
PROBE_S = 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerInfo:
    """One server of a run, as other commands see it."""

    name: str
    kind: str
    implementation: str
    url: str
    """Its public address."""
    workers: list[str]
    """The private address of each worker that holds it; a rollout's id says which is asked."""
    pids: list[int]
    settings: Json
    """Its settings, redacted."""
    started_at: float
    """Unix seconds."""


@asynccontextmanager
async def serve_head(
    config: HeadConfig, servers: Callable[[], list[ServerInfo]], values: Json
) -> AsyncGenerator[str]:
    """Answer for a run, whose redacted configuration is `values`, until the context ends; the head's URL."""

    async def list_servers(_: web.Request) -> web.Response:
        body = orjson.dumps([asdict(server) for server in servers()])
        return web.Response(body=body, content_type="application/json")

    async def config_yaml(_: web.Request) -> web.Response:
        return web.Response(text=yaml.safe_dump(values, sort_keys=False), content_type="text/yaml")

    async def health(_: web.Request) -> web.Response:
        return web.json_response({"instance": "head", "kind": "head", "state": "ready"})

    app = web.Application()
    app.router.add_get("/servers", list_servers)
    app.router.add_get("/server_instances", list_servers)
    app.router.add_get("/global_config_dict_yaml", config_yaml)
    app.router.add_get("/health", health)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, config.host, config.port)
        try:
            await site.start()
        except OSError as error:
            raise StackError(
                f"the head can't listen on {config.host}:{config.port}: {error.strerror}"
            ) from error
        host, port = runner.addresses[0][:2]
        with _published({"url": f"http://{host}:{port}", "pid": os.getpid(), "started_at": time.time()}):
            yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


async def find_servers(config: HeadConfig, client: Client) -> list[ServerInfo]:
    """The servers of the run that answers at `config`, or of the only one started in this directory.

    Raises:
        StackError: there is none, or several.
    """
    urls = [f"http://{config.host}:{config.port}"] if config.port else [h["url"] for h in _heads()]
    found: dict[str, list[ServerInfo]] = {}
    for url in urls:
        try:
            found[url] = [
                ServerInfo(**server) for server in await client.get(f"{url}/servers", timeout_s=PROBE_S)
            ]
        except (PartError, TimeoutError, TypeError):
            continue
    if len(found) > 1:
        raise StackError(f"{len(found)} runs live here: {', '.join(found)}; say which: +head_server.port=…")
    if not found:
        where = f"at {urls[0]}" if config.port else f"in this directory ({HEAD_FILE})"
        raise StackError(f"no run answers {where}; start one with ng_run, or name a stack: model=… env=[…]")
    return next(iter(found.values()))


def _heads() -> list[Json]:
    try:
        return orjson.loads(HEAD_FILE.read_bytes())
    except (FileNotFoundError, orjson.JSONDecodeError):
        return []


@contextmanager
def _published(head: Json) -> Generator[None]:
    """Stand in `head.json` while the context lasts; entries of processes that died are swept out."""
    HEAD_FILE.parent.mkdir(parents=True, exist_ok=True)
    with _edited() as heads:
        heads[:] = [other for other in heads if _is_alive(other["pid"])] + [head]
    try:
        yield
    finally:
        with _edited() as heads:
            heads[:] = [other for other in heads if other["url"] != head["url"]]


@contextmanager
def _edited() -> Generator[list[Any]]:
    with HEAD_FILE.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        heads = _heads()
        yield heads
        if heads:
            fresh = HEAD_FILE.with_suffix(".tmp")
            fresh.write_bytes(orjson.dumps(heads))
            fresh.rename(HEAD_FILE)
        else:
            HEAD_FILE.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
