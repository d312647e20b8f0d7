"""The supervisor: starts the servers of a run, watches them, restarts what dies, and stops them all.

The listening sockets are its own and are inherited by the workers: a port is never guessed, and a worker that
was killed comes back on the same address while the kernel queues its callers.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import orjson

from nemo_like import logs
from nemo_like.client import Client
from nemo_like.config import Config, Instance, StackConfig
from nemo_like.errors import Error, StackError
from nemo_like.head import ServerInfo
from nemo_like.serve import BACKLOG, ServerSpec, Worker, WorkerSpec
from nemo_like.settings import redacted
from nemo_like.types import Json
from nemo_like.workers import prepare_for_many

log = logging.getLogger(__name__)

SHARED = "shared"
"""The group of the servers that have no process of their own."""
LOG_TAIL_CHARACTERS = 1500
START_S = 300.0
"""Seconds in which a worker has to be ready, or to tell how far it is: a model may have to be loaded."""
STOP_S = 8.0
TRIM_S = 5.0
"""Seconds between two looks at how long the logs are."""
MAX_STARTS, WITHIN_S = 3, 60.0
"""A worker that dies is started again, unless that has happened this often within so many seconds."""


@dataclass(kw_only=True, slots=True)
class Group:
    """Servers that live in the same workers."""

    name: str
    instances: list[Instance]
    num_workers: int
    listeners: dict[str, socket.socket] = field(default_factory=dict[str, socket.socket])
    worker_listeners: list[socket.socket] = field(default_factory=list[socket.socket])
    processes: list[asyncio.subprocess.Process | None] = field(
        default_factory=list[asyncio.subprocess.Process | None]
    )


class Supervisor:
    """The servers of one run; made by `running`."""

    def __init__(self, config: Config, *, log_dir: Path) -> None:
        stack: StackConfig = config.settings(StackConfig)
        groups = grouped(config.instances, num_workers=stack.num_workers, colocate=stack.colocate)
        self._here = [group for group in groups if stack.in_process and group.name == SHARED]
        self._groups = [group for group in groups if group not in self._here]
        self._started_at = time.time()
        self._stopping = False
        self.log_dir = log_dir
        self.log_level = stack.log_level or "info"
        self.secrets = [*logs.secrets_of(config.values)]

    @property
    def peers(self) -> dict[str, list[str]]:
        """Name of every server → the private address of each worker that holds it."""
        return {
            instance.name: [f"{_url(listener)}/~{instance.name}" for listener in group.worker_listeners]
            for group in self._groups
            for instance in group.instances
        }

    @asynccontextmanager
    async def client(self) -> AsyncGenerator[Client]:
        """A client of every server of the run; the servers that live in this process live as long as it."""
        servers = [
            _server_spec(instance, listener=-1) for group in self._here for instance in group.instances
        ]
        spec = WorkerSpec(
            index=0, servers=servers, peers=self.peers, listener=-1, report=-1, log_dir=str(self.log_dir)
        )
        with logs.server_logs_here(self.log_dir, self.log_level, self.secrets):
            async with Worker(spec).run() as client:
                yield client

    def servers(self) -> list[ServerInfo]:
        """What runs now."""
        peers = self.peers
        return [
            ServerInfo(
                name=instance.name,
                kind=instance.kind,
                implementation=instance.implementation,
                url=_url(listener) if (listener := group.listeners.get(instance.name)) else "in process",
                workers=peers.get(instance.name, []),
                pids=[process.pid for process in group.processes if process and process.returncode is None],
                settings=redacted(instance.settings),
                started_at=self._started_at,
            )
            for group in (*self._groups, *self._here)
            for instance in group.instances
        ]

    def bind(self) -> None:
        """Open every listening socket.

        Raises:
            StackError: a configured address is taken.
        """
        for group in self._groups:
            for instance in group.instances:
                host, port = (
                    instance.settings.get("host", "127.0.0.1"),
                    int(instance.settings.get("port") or 0),
                )
                group.listeners[instance.name] = _listener(host, port, for_whom=instance.name)
            group.worker_listeners = [
                _listener("127.0.0.1", 0, for_whom=group.name) for _ in range(group.num_workers)
            ]
            group.processes = [None] * group.num_workers
        for instance in (i for group in (*self._groups, *self._here) for i in group.instances):
            # A server that has said nothing has a log all the same.
            logs.file_of(self.log_dir, instance.name).touch()

    async def start(self, group: Group, index: int) -> asyncio.subprocess.Process:
        """Start one worker and wait until it is ready.

        Raises:
            StackError: it is not; the message holds the reason it gave, or the end of its log.
        """
        before = _sizes(self._log_files(group, index))
        report, report_end = os.pipe()
        with self._log_files(group, index)[0].open("ab") as output, os.fdopen(report, "rb") as reader:
            try:
                process = await self._spawn(group, index, report_end, output)
            finally:
                os.close(report_end)
            group.processes[index] = process
            message = await _last_word(reader.fileno())
        if message.get("ready"):
            return process
        if "error" in message:
            await self._end(process)
            raise StackError(f"{message['error']}")
        status = _exit_status(await process.wait())
        raise StackError(f"worker {group.name} {status} before it was ready; {_log_end(before)}")

    def _log_files(self, group: Group, index: int) -> list[Path]:
        """The files that a worker writes to, its own first; that of a process with one server is the
        server's."""
        servers = [logs.file_of(self.log_dir, instance.name) for instance in group.instances]
        own = logs.file_of(self.log_dir, f"{group.name}-{index}")
        return servers if len(servers) == 1 else [own, *servers]

    async def _spawn(
        self, group: Group, index: int, report: int, output: IO[bytes]
    ) -> asyncio.subprocess.Process:
        own = group.worker_listeners[index]
        spec = WorkerSpec(
            index=index,
            servers=[_server_spec(i, listener=group.listeners[i.name].fileno()) for i in group.instances],
            peers=self.peers,
            listener=own.fileno(),
            report=report,
            log_dir=str(self.log_dir),
            log_level=self.log_level,
        )
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "nemo_like.serve"),
            stdin=asyncio.subprocess.PIPE,
            stdout=output,
            stderr=output,
            pass_fds=(report, own.fileno(), *(listener.fileno() for listener in group.listeners.values())),
            # Out of the terminal's process group: a Ctrl-C there is ours to handle.
            start_new_session=True,
        )
        if process.stdin is not None:
            process.stdin.write(spec.to_json() + b"\n")
        return process

    async def keep(self, group: Group, index: int) -> None:
        """Start a worker again whenever it dies.

        Raises:
            StackError: it dies too often.
        """
        starts = deque[float](maxlen=MAX_STARTS)
        while (process := group.processes[index]) is not None:
            status = _exit_status(await process.wait())
            if self._stopping:
                return
            if len(starts) == MAX_STARTS and time.monotonic() - starts[0] < WITHIN_S:
                end = _log_end(dict.fromkeys(self._log_files(group, index), 0))
                raise StackError(f"worker {group.name} {status} after {MAX_STARTS} restarts; {end}")
            starts.append(time.monotonic())
            try:
                process = await self.start(group, index)
            except StackError as error:
                log.warning("worker %s %s, and again: %s", group.name, status, error)
            else:
                log.warning("worker %s %s; it is back as process %d", group.name, status, process.pid)

    async def start_all(self) -> None:
        """Start every worker, side by side, and wait until all are ready."""
        jobs = [(group, index) for group in self._groups for index in range(group.num_workers)]
        tasks = [asyncio.create_task(self.start(*job)) for job in jobs]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    async def trim_logs(self) -> None:
        """Keep the logs of the run short, for as long as it lasts."""
        while True:
            await asyncio.sleep(TRIM_S)
            await asyncio.to_thread(logs.trim, self.log_dir)

    def keepers(self) -> list[tuple[Group, int]]:
        """Every worker, as `keep` takes it."""
        return [(group, index) for group in self._groups for index in range(group.num_workers)]

    async def stop(self) -> None:
        """End every worker and close the sockets."""
        self._stopping = True
        processes = [process for group in self._groups for process in group.processes if process is not None]
        await asyncio.gather(*(self._end(process) for process in processes))
        for group in self._groups:
            for listener in (*group.listeners.values(), *group.worker_listeners):
                listener.close()

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        if process.stdin is not None:
            process.stdin.close()
        try:
            async with asyncio.timeout(STOP_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


@asynccontextmanager
async def running(config: Config) -> AsyncGenerator[Supervisor]:
    """The servers of `config`, ready; they are stopped when the context ends.

    Raises:
        StackError: a server will not start, or dies too often.
        ConfigError: there is no server to start.
    """
    prepare_for_many()
    supervisor = Supervisor(config, log_dir=logs.new_run())
    try:
        supervisor.bind()
        await supervisor.start_all()
        with logs.run_log(supervisor.log_dir, log, supervisor.secrets):
            async with asyncio.TaskGroup() as group:
                keepers = [group.create_task(supervisor.keep(*worker)) for worker in supervisor.keepers()]
                keepers.append(group.create_task(supervisor.trim_logs()))
                yield supervisor
                for keeper in keepers:
                    keeper.cancel()
    except BaseExceptionGroup as errors:
        first = next((e for e in errors.exceptions if isinstance(e, Error)), errors.exceptions[0])
        raise first from None
    finally:
        await asyncio.shield(supervisor.stop())


def grouped(instances: Sequence[Instance], *, num_workers: int, colocate: bool) -> list[Group]:
    """Which servers live together: all that share, and each that has a process of its own."""
    shared = [i for i in instances if colocate and i.settings.get("process", "shared") != "own"]
    groups = [Group(name=SHARED, instances=shared, num_workers=num_workers)] if shared else []
    for instance in instances:
        if instance not in shared:
            workers = int(instance.settings.get("num_workers") or 1)
            groups.append(Group(name=instance.name, instances=[instance], num_workers=workers))
    return groups


def _server_spec(instance: Instance, *, listener: int) -> ServerSpec:
    file = instance.folder / str(instance.settings.get("entrypoint", "app.py"))
    return ServerSpec(
        name=instance.name,
        file=str(file),
        settings=instance.settings,
        listener=listener,
        origins=instance.origins,
    )


def _listener(host: str, port: int, *, for_whom: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        reason = getattr(error, "strerror", None) or error
        raise StackError(f"{for_whom} can't listen on {host}:{port}: {reason}") from error
    # Listening from now on: the kernel queues whoever comes before the worker is ready.
    listener.listen(BACKLOG)
    return listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def _last_word(pipe: int) -> Json:
    """What a worker that starts reports at last, its progress being shown; nothing if it died.

    Not through a transport: uvloop's closes the descriptor once more when its number is somebody else's.
    """
    loop, readable, text = asyncio.get_running_loop(), asyncio.Event(), b""
    os.set_blocking(pipe, False)
    loop.add_reader(pipe, readable.set)
    try:
        while True:
            async with asyncio.timeout(START_S):
                await readable.wait()
            readable.clear()
            try:
                chunk = os.read(pipe, 65536)
            except BlockingIOError:
                continue
            *lines, text = (text + chunk).split(b"\n")
            for line in lines:
                message: Json = orjson.loads(line)
                if "progress" not in message:
                    return message
                log.warning("%s", message["progress"])
            if not chunk:
                return {}
    except TimeoutError:
        return {"error": f"not ready after {START_S:g} s"}
    finally:
        loop.remove_reader(pipe)


def _exit_status(code: int) -> str:
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"exited with status {code}"


def _sizes(files: Sequence[Path]) -> dict[Path, int]:
    return {file: file.stat().st_size if file.exists() else 0 for file in files}


def _log_end(before: dict[Path, int]) -> str:
    """How the logs end that were so long `before`; the last of those that have grown."""
    grown = [file for file, size in _sizes([*before]).items() if size > before[file]]
    if not grown:
        return f"its log is {next(iter(before))}"
    latest = max(grown, key=lambda file: file.stat().st_mtime)
    with latest.open("rb") as file:
        file.seek(before[latest])
        text = file.read().decode("utf-8", "replace").strip()
    return f"its log ({latest}) ends: {text[-LOG_TAIL_CHARACTERS:]}"
