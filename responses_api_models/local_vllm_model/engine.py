"""An engine as a child process: started, waited for, watched, started again, and never left behind."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from nemo_like.client import Client
from nemo_like.errors import PartError, StackError

log = logging.getLogger(__name__)

LEASH = Path(__file__).parent / "leash.py"
POLL_S = 0.25
POLL_TIMEOUT_S = 5.0
TELL_S = 10.0
"""Seconds between two words on how the start goes."""
LOG_TAIL_CHARACTERS = 2000
NOTICE_S = 0.5
"""Seconds by which a broken connection may be seen before the end of the process that held it."""
STOP_S = 6.0
"""Longer than the leash's own patience."""
PORTS = 3
"""Ports that are tried: a free one may be taken by another before the engine listens on it."""
PORT_TAKEN = ("address already in use", "errno 98", "failed to bind", "couldn't bind")
WITHIN_S = 600.0
"""An engine that dies is started again, unless that happened too often within so many seconds."""


@dataclass(kw_only=True)
class Engine:
    """An engine; `base_url` and `key` are how it is called, `up` waits until it can be."""

    command: Callable[[int], list[str]]
    """The command line for a port."""
    name: str
    """Whose engine it is, for the log and for errors."""
    noun: str
    """What it is called there."""
    environment: Mapping[str, str]
    """Variables of its environment, over those of this process."""
    key_variable: str | None
    """The variable that it takes its key from; None is one without a key."""
    log_file: Path
    """Takes what it prints."""
    ready_path: str
    """Path at its root that answers when it is ready."""
    start_timeout_s: float
    max_restarts: int
    """So often within ten minutes."""
    hint: str
    """What may help where it does not start."""
    tell: Callable[[str], None]
    """Hears how the start goes."""
    key: str = field(default="", init=False, repr=False)
    _process: asyncio.subprocess.Process | None = field(default=None, init=False, repr=False)
    _port: int = field(default=0, init=False)
    _ready: asyncio.Event = field(default_factory=asyncio.Event, init=False, repr=False)
    _failure: str = field(default="", init=False)
    _log_from: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.key = f"sk-{secrets.token_urlsafe(32)}" if self.key_variable else ""

    @property
    def base_url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self._port}/v1"

    @property
    def pid(self) -> int:
        """The process that holds it on the leash."""
        return self._process.pid if self._process else 0

    @asynccontextmanager
    async def running(self, client: Client) -> AsyncGenerator[None]:
        """Started, ready, and started again should it die; stopped at the end.

        Raises:
            StackError: it does not become ready; the message holds the end of its log.
        """
        try:
            await self._start_somewhere(client)
            keeper = asyncio.create_task(self._keep(client))
            try:
                yield
            finally:
                keeper.cancel()
                await asyncio.gather(keeper, return_exceptions=True)
        finally:
            await asyncio.shield(self._stop())

    async def up(self) -> None:
        """Wait until it is ready.

        Raises:
            PartError: `unreachable`: it died too often.
        """
        ended = self._process is not None and self._process.returncode is not None
        if ended and not self._failure:
            self._ready.clear()  # Its keeper may not have been told yet.
        await self._ready.wait()
        if self._failure:
            raise PartError("unreachable", self._failure, where=self.name)

    async def is_gone(self, pid: int) -> bool:
        """Whether the engine that was on the leash `pid` has ended."""
        process = self._process
        if process is not None and process.pid == pid:
            with suppress(TimeoutError):
                async with asyncio.timeout(NOTICE_S):
                    await process.wait()
        return process is None or process.pid != pid or process.returncode is not None

    async def _start_somewhere(self, client: Client) -> None:
        for attempt in range(PORTS):
            self._port = _free_port()
            try:
                await self._start(client)
                return
            except StackError as error:
                taken = any(words in str(error).lower() for words in PORT_TAKEN)
                if not taken or attempt == PORTS - 1:
                    raise
                log.warning("%s: port %d was taken meanwhile; trying another", self.name, self._port)

    async def _start(self, client: Client) -> None:
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, **self.environment}
        if self.key_variable:
            environment[self.key_variable] = self.key
        with self.log_file.open("ab") as output:
            self._log_from = output.tell()
            self._process = process = await asyncio.create_subprocess_exec(
                *(sys.executable, str(LEASH), *self.command(self._port)),
                stdin=asyncio.subprocess.PIPE,
                stdout=output,
                stderr=output,
                env=environment,
                start_new_session=True,
            )
        exited = asyncio.create_task(process.wait())
        try:
            await self._wait_ready(client, exited)
        finally:
            exited.cancel()
        self._ready.set()

    async def _wait_ready(self, client: Client, exited: asyncio.Task[int]) -> None:
        url = f"http://127.0.0.1:{self._port}{self.ready_path}"
        start = told = time.monotonic()
        while True:
            with suppress(PartError):
                if await client.status(url, timeout_s=POLL_TIMEOUT_S) < 500:
                    return
            await asyncio.wait([exited], timeout=POLL_S)
            now = time.monotonic()
            if exited.done():
                raise StackError(f"{self.name}: {self.noun} {_ended(exited.result())}; {self._log_end()}")
            if now - start > self.start_timeout_s:
                patience = f"start_timeout_s={self.start_timeout_s:g}"
                raise StackError(f"{self.name}: {self.noun} is not ready after {patience}; {self._log_end()}")
            if now - told > TELL_S:
                told = now
                last = self._log_text().rpartition("\n")[2][:160]
                self.tell(f"{self.name}: {self.noun} is starting, {now - start:.0f} s: {last}")

    async def _keep(self, client: Client) -> None:
        """Start it again whenever it dies, unless that happens too often."""
        deaths = deque[float](maxlen=self.max_restarts + 1)
        while self._process is not None:
            status = await self._process.wait()
            self._ready.clear()
            _end_session(self._process.pid)
            end = f"{self.noun} {_ended(status)}"
            while True:
                deaths.append(time.monotonic())
                if len(deaths) > self.max_restarts and deaths[-1] - deaths[0] < WITHIN_S:
                    self._failure = f"{end} after {self.max_restarts} restarts; {self._log_end()}"
                    log.error("%s: %s", self.name, self._failure)
                    self._ready.set()
                    return
                log.warning("%s: %s; starting it again; %s", self.name, end, self._log_end())
                try:
                    await self._start(client)
                    break
                except StackError as error:
                    end = str(error).removeprefix(f"{self.name}: ")
                    await self._stop()

    async def _stop(self) -> None:
        process = self._process
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        try:
            async with asyncio.timeout(STOP_S):
                await process.wait()
        except TimeoutError:
            # The kernel ends what is on the leash with it.
            process.kill()
            await process.wait()
            _end_session(process.pid)

    def _log_text(self) -> str:
        with self.log_file.open("rb") as file:
            file.seek(self._log_from)
            text = file.read().decode("utf-8", "replace").strip()
        return text.replace(self.key, "***") if self.key else text

    def _log_end(self) -> str:
        text = self._log_text()
        hint = f"; {self.hint}" if self.hint and "No module named" in text else ""
        if not text:
            return f"its log is {self.log_file}"
        return f"its log ({self.log_file}) ends: {text[-LOG_TAIL_CHARACTERS:]}{hint}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _end_session(leash: int) -> None:
    """End what a leash that was killed itself has left: the children of its command."""
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(ProcessLookupError, PermissionError):
            if os.getsid(pid := int(entry.name)) == leash:
                os.kill(pid, signal.SIGKILL)


def _ended(status: int) -> str:
    number = -status if status < 0 else status - 128
    try:
        return f"was ended by {signal.Signals(number).name}"
    except ValueError:
        return f"exited with status {status}"
