"""One worker process: the servers it holds, behind one door.

The supervisor writes a `WorkerSpec` to standard input and keeps the pipe open; its end is the order to stop.
Sockets are inherited, so an address outlives the process behind it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
import sys
import threading
import traceback
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field
from http.cookies import SimpleCookie
from pathlib import Path
from typing import IO, Any

import orjson
import uvicorn
import uvloop

from nemo_like.asgi import (
    ASGIApp,
    Message,
    Receive,
    Scope,
    Send,
    read_body,
    received,
    send_json,
    send_pieces,
    until_gone,
)
from nemo_like.client import ROLLOUT_HEADER, Client, owner, pieces_of
from nemo_like.errors import ConfigError, Error, PartError, did_you_mean
from nemo_like.logs import at_work, secrets_of, write_worker_logs
from nemo_like.registry import load_file
from nemo_like.server import Server
from nemo_like.types import Json
from nemo_like.workers import prepare_for_many

log = logging.getLogger(__name__)

COOKIE = "session_id"
BACKLOG = 8192
KEEPALIVE_S = 75
STOP_S = 5.0
"""Seconds after the order to stop at which a worker that is still busy is ended."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerSpec:
    """One server in a worker: its code, its settings, and its inherited public listener."""

    name: str
    file: str
    settings: Json
    listener: int
    origins: Mapping[str, str] = field(default_factory=dict[str, str])
    """The key of a setting → the `file:line` it was written at."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerSpec:
    """What a worker needs to know, secrets included: it travels through a pipe, never in argv or the
    environment."""

    index: int
    servers: Sequence[ServerSpec]
    peers: dict[str, list[str]]
    """Name of every server of the run → the private address of each worker that holds it."""
    listener: int
    """The worker's own listener, on which a server is found at `/~name`."""
    report: int
    """Where the worker reports, in JSON lines: how far the start is, and at last ready, or why not."""
    log_dir: str
    """The folder for the logs of the run."""
    log_level: str = "info"
    """The least that is logged."""

    def to_json(self) -> bytes:
        """As it travels."""
        return orjson.dumps(asdict(self))

    @classmethod
    def from_json(cls, data: bytes) -> WorkerSpec:
        """As it arrives."""
        fields = orjson.loads(data)
        servers = [ServerSpec(**server) for server in fields.pop("servers")]
        return cls(servers=servers, **fields)


class Worker:
    """Servers that share a process call each other's app; `app` is the door for everybody else."""

    def __init__(self, spec: WorkerSpec, *, tell: Callable[[str], None] | None = None) -> None:
        self.spec = spec
        self.apps: dict[str, ASGIApp] = {}
        self._tell = tell

    @asynccontextmanager
    async def run(self) -> AsyncGenerator[Client]:
        """Load the servers and hold their resources open; the client that reaches them."""
        async with AsyncExitStack() as stack:
            client = await stack.enter_async_context(Client(self.spec.peers, self.apps))
            for spec in self.spec.servers:
                with at_work(spec.name):
                    server = load_server(spec, client)
                    server.tell = self._tell or server.tell
                    self.apps[spec.name] = server.app()
                    await stack.enter_async_context(server.lifespan())
                    server.state = "ready"
            yield client


class Door:
    """The app behind every listener of a worker: finds the server, and the worker that holds the session.

    A request is for the server whose listener it came in by; on the worker's own listener `/~name` says so.
    One without a rollout id gets an id that this worker owns, and keeps it as a cookie from `/seed_session`
    on. A caller that goes away before its answer ends the call.
    """

    def __init__(
        self, spec: WorkerSpec, apps: dict[str, ASGIApp], ports: dict[int, str], client: Client
    ) -> None:
        self._spec, self._apps, self._ports, self._client = spec, apps, ports, client
        self._workers = len(spec.peers[spec.servers[0].name])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        name, path = self._ports.get(scope["server"][1]), scope["path"]
        if name is None:
            name, _, rest = path.removeprefix("/~").partition("/")
            path = "/" + rest
        if name not in self._apps:
            await _answer(send, PartError("not_found", f"there is no server {name!r} here"))
            return
        rollout, given = _rollout_of(scope["headers"])
        if not rollout:
            rollout = self._own_id()
        if not given:
            scope["headers"] = [*scope["headers"], (ROLLOUT_HEADER.encode(), rollout.encode())]
            if path == "/seed_session":
                send = _with_cookie(send, rollout)
        scope["path"] = path
        scope["raw_path"] = path.encode()
        if scope["method"] != "POST":
            await self._apps[name](scope, receive, send)
            return
        body = await read_body(receive)
        async with until_gone(receive):
            if self._workers > 1 and owner(rollout, self._workers) != self._spec.index:
                await self._pass_on(name, path, rollout, body, send)
            else:
                await self._apps[name](scope, received(body), send)

    def _own_id(self) -> str:
        while owner(rollout := secrets.token_hex(12), self._workers) != self._spec.index:
            pass
        return rollout

    async def _pass_on(self, name: str, path: str, rollout: str, body: bytes, send: Send) -> None:
        """Another worker holds this session: ask it, and hand on what it answers, as it comes."""
        url = self._spec.peers[name][owner(rollout, self._workers)] + path
        async with AsyncExitStack() as stack:
            try:
                opening = self._client.open(url, body, {ROLLOUT_HEADER: rollout})
                answer = await stack.enter_async_context(opening)
            except OSError as error:
                lost = f"the worker of this session: {error}"
                await _answer(send, PartError("unreachable", lost, where=name))
                return
            kind = answer.headers.get("content-type", "application/json")
            await send_pieces(send, answer.status, kind, pieces_of(answer))


def load_server(spec: ServerSpec, client: Client) -> Server[Any]:
    """The server instance that `spec` describes.

    Raises:
        ConfigError: its settings are wrong, or its file holds no server class.
    """
    path, _, wanted = spec.file.partition(".py:")
    module = load_file(Path(path if not wanted else path + ".py"))
    classes: dict[str, type[Server[Any]]] = {
        name: cls
        for name, cls in vars(module).items()
        if isinstance(cls, type) and issubclass(cls, Server) and cls.__module__ == module.__name__
    }
    if wanted and wanted not in classes:
        hint = did_you_mean(wanted, [*classes])
        raise ConfigError(f"{spec.file}: there is no server class '{wanted}'{hint}")
    if not wanted and len(classes) != 1:
        found = ", ".join(classes) or "none"
        hint = "or write entrypoint: app.py:Name"
        raise ConfigError(f"{spec.file} should hold one server class (got {found}); {hint}")
    cls = classes[wanted] if wanted else next(iter(classes.values()))
    config = cls.config_class().from_mapping(spec.settings, where=spec.name, origins=spec.origins)
    return cls(config, name=spec.name, client=client)


def main() -> None:
    """Run the worker that standard input describes, until standard input ends."""
    spec = WorkerSpec.from_json(sys.stdin.buffer.readline())
    secrets = [secret for server in spec.servers for secret in secrets_of(server.settings)]
    write_worker_logs(Path(spec.log_dir), spec.log_level, secrets)
    prepare_for_many()
    report = Report(spec.report)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(spec, report))
    except Error as error:
        report.end({"error": str(error)})
        sys.exit(1)
    except Exception as error:  # noqa: BLE001 the process's one boundary: the supervisor has to hear of anything
        traceback.print_exc()
        report.end({"error": f"{type(error).__name__}: {error}"})
        sys.exit(1)


class Report:
    """The pipe to the supervisor, open until the worker is ready, or is not."""

    def __init__(self, descriptor: int) -> None:
        self._pipe: IO[bytes] | None = os.fdopen(descriptor, "wb", buffering=0)

    def tell(self, progress: str) -> None:
        """How far the start is; what is told later is only logged."""
        log.info("%s", progress)
        if self._pipe is not None:
            self._pipe.write(orjson.dumps({"progress": progress}) + b"\n")

    def end(self, message: Json) -> None:
        """The last word; what comes behind it is not sent."""
        if self._pipe is not None:
            with self._pipe as pipe:
                pipe.write(orjson.dumps(message) + b"\n")
            self._pipe = None


async def _serve(spec: WorkerSpec, report: Report) -> None:
    worker = Worker(spec, tell=report.tell)
    own = socket.socket(fileno=spec.listener)
    public = {server.name: socket.socket(fileno=server.listener) for server in spec.servers}
    async with worker.run() as client:
        ports = {listener.getsockname()[1]: name for name, listener in public.items()}
        config = uvicorn.Config(
            Door(spec, worker.apps, ports, client),
            http="httptools",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            backlog=BACKLOG,
            timeout_keep_alive=KEEPALIVE_S,
            timeout_graceful_shutdown=1,
        )
        server = _Uvicorn(config, report)
        _stop_with_parent(server)
        await server.serve(sockets=[own, *public.values()])


class _Uvicorn(uvicorn.Server):
    """uvicorn that tells the supervisor when it accepts requests."""

    def __init__(self, config: uvicorn.Config, report: Report) -> None:
        super().__init__(config)
        self._report = report

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._report.end({"ready": True})


def _stop_with_parent(server: uvicorn.Server) -> None:
    """End with standard input: cleanly, or after `STOP_S` at once, whatever the event loop is busy with."""

    def watch() -> None:
        while sys.stdin.buffer.read(4096):
            pass
        server.should_exit = True
        threading.Event().wait(STOP_S)
        os._exit(1)

    threading.Thread(target=watch, name="stop-with-parent", daemon=True).start()


def _rollout_of(headers: Sequence[tuple[bytes, bytes]]) -> tuple[str, bool]:
    """The rollout that a request belongs to, and whether its header said so (or its cookie, or nothing)."""
    cookie = b""
    for key, value in headers:
        if key == b"x-rollout-id":
            return value.decode("latin-1"), True
        if key == b"cookie":
            cookie = value
    morsel = SimpleCookie(cookie.decode("latin-1")).get(COOKIE) if cookie else None
    return (morsel.value if morsel else ""), False


def _with_cookie(send: Send, rollout: str) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            cookie = f"{COOKIE}={rollout}; Path=/; HttpOnly; SameSite=Lax".encode()
            message = {**message, "headers": [*message.get("headers", []), (b"set-cookie", cookie)]}
        await send(message)

    return sending


async def _answer(send: Send, error: PartError) -> None:
    await send_json(send, error.status, error.to_wire())


if __name__ == "__main__":
    main()
