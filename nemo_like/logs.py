"""Logs: a folder for each run, a file for each server, bounded, and nothing secret in them.

A worker holds several servers: what is logged or printed goes into the file of the server that is at work
then, and where none is, into the worker's own. Every text is searched for secrets before it is written.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TextIO, cast
from urllib.parse import quote

from nemo_like.settings import REDACTED, is_secret
from nemo_like.types import Json

LOG_DIR = Path(".nemo_like") / "logs"
LATEST = LOG_DIR / "latest"
KEPT_RUNS = 20
MAX_BYTES = 32 * 2**20
"""Of one file; what is older stands in `.log.1`, and what is older than that is gone."""
FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
NO_SECRETS = frozenset({"", "none", "null", "empty", "dummy", "true", "false"})
"""What people write for a key where none is needed."""
LOOKS_SECRET = re.compile(
    r"""(?ix)
      ((?: authorization | bearer | basic ) ["']? [:\s]+ ["']? (?:bearer\s+|basic\s+)?) [\w\-+/=.~]{8,}
    | (\b \w{0,30}? (?: api_?key | password | passwd | secret | access_token ) ["']? \s*[:=]\s* ["']?)
      [^\s"',;&}]+
    | (://[^/\s:@]*:) [^/\s@]+ (?=@)
    | (\b (?: sk | hf | ghp | glpat | nvapi | xox[bp] ) [-_]) [\w\-]{8,}
    """
)

serving: ContextVar[str] = ContextVar("serving", default="")
"""The server of this process that is at work."""


@contextmanager
def at_work(server: str) -> Generator[None]:
    """What is logged or printed inside is this server's."""
    token = serving.set(server)
    try:
        yield
    finally:
        serving.reset(token)


def new_run() -> Path:
    """A folder for the logs of a run, which `latest` leads to from now on; the oldest runs' are deleted."""
    started = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    folder = LOG_DIR / f"{started}-{os.getpid()}"
    for n in range(1, 1000):
        with suppress(FileExistsError):
            folder.mkdir(parents=True)
            break
        folder = folder.with_name(f"{started}-{os.getpid()}-{n}")
    fresh = LOG_DIR / f".latest-{os.getpid()}"
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(folder.name)
    fresh.replace(LATEST)
    for old in sorted(runs())[:-KEPT_RUNS]:
        _delete(old)
    return folder


def runs() -> list[Path]:
    """The folders of the runs of this directory, the oldest first."""
    folders = LOG_DIR.iterdir() if LOG_DIR.is_dir() else ()
    return sorted(folder for folder in folders if folder.is_dir() and not folder.is_symlink())


def file_of(folder: Path, name: str) -> Path:
    """The file of a server, or of a worker."""
    return folder / f"{quote(name, safe=' ')}.log"


def trim(folder: Path) -> None:
    """Keep every file of a run within `MAX_BYTES`; who writes to it notices nothing."""
    for file in folder.glob("*.log"):
        if file.stat().st_size > MAX_BYTES:
            with file.open("r+b") as whole:
                whole.seek(-MAX_BYTES // 2, os.SEEK_END)
                file.with_suffix(".log.1").write_bytes(whole.read())
                whole.truncate(0)


def secrets_of(values: Any, key: str = "") -> Iterator[str]:
    """Every secret text among settings, by its key."""
    if isinstance(values, dict):
        for name, value in cast(Json, values).items():
            yield from secrets_of(value, str(name))
    elif isinstance(values, list):
        for value in cast(list[Any], values):
            yield from secrets_of(value, key)
    elif isinstance(values, str) and is_secret(key) and values.lower() not in NO_SECRETS:
        yield values


def without_secrets(text: str, secrets: Iterable[str] = ()) -> str:
    """`text` with `***` for each of `secrets`, and for whatever looks like one."""
    for secret in secrets:
        text = text.replace(secret, REDACTED)
    return LOOKS_SECRET.sub(
        lambda match: f"{''.join(group or '' for group in match.groups())}{REDACTED}", text
    )


class Redacting(logging.Formatter):
    """A formatter that writes no secret, tracebacks included."""

    def __init__(self, form: str, secrets: Sequence[str] = ()) -> None:
        super().__init__(form)
        self._secrets = secrets

    def format(self, record: logging.LogRecord) -> str:
        return without_secrets(super().format(record), self._secrets)


class ServerFiles(logging.Handler):
    """Writes into the file of the server that is at work, and nothing where none is."""

    def __init__(self, folder: Path, secrets: Sequence[str]) -> None:
        super().__init__()
        self.setFormatter(Redacting(FORMAT, secrets))
        self._folder = folder.absolute()
        self._files: dict[str, TextIO] = {}

    def current(self) -> TextIO | None:
        """The file of the server that is at work."""
        name = serving.get()
        if name and name not in self._files:
            self._files[name] = file_of(self._folder, name).open("a", buffering=1, encoding="utf-8")
        return self._files.get(name)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if file := self.current():
                file.write(self.format(record) + "\n")
        except (OSError, ValueError):
            self.handleError(record)

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        super().close()


class Printed:
    """Standard output or error of a worker: what is printed goes where what is logged goes."""

    def __init__(self, stream: TextIO, files: ServerFiles, secrets: Sequence[str]) -> None:
        self._stream, self._files, self._secrets = stream, files, secrets

    def write(self, text: str) -> int:
        """Write it, without secrets."""
        (self._files.current() or self._stream).write(without_secrets(text, self._secrets))
        return len(text)

    def flush(self) -> None:
        """Nothing stays behind."""
        (self._files.current() or self._stream).flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def write_worker_logs(folder: Path, level: str, secrets: Sequence[str]) -> None:
    """From now on, what this process logs and prints goes into the files of a run."""
    files = ServerFiles(folder, secrets)
    own = logging.StreamHandler(sys.stderr)
    own.setFormatter(Redacting(FORMAT, secrets))
    own.addFilter(_serves_nobody)
    logging.basicConfig(level=level.upper(), handlers=[files, own])
    # Chatter of the libraries underneath.
    for name in ("uvicorn", "asyncio"):
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLogger().level))
    sys.stdout = cast(TextIO, Printed(sys.stdout, files, secrets))
    sys.stderr = cast(TextIO, Printed(sys.stderr, files, secrets))


@contextmanager
def server_logs_here(folder: Path, level: str, secrets: Sequence[str]) -> Generator[None]:
    """While this lasts, what the servers in this process log goes into the files of a run."""
    root, files = logging.getLogger(), ServerFiles(folder, secrets)
    before = root.level
    files.setLevel(level.upper())
    root.setLevel(min(before, files.level))
    root.addHandler(files)
    try:
        yield
    finally:
        root.removeHandler(files)
        root.setLevel(before)
        files.close()


@contextmanager
def run_log(folder: Path, logger: logging.Logger, secrets: Sequence[str]) -> Generator[None]:
    """While this lasts, what the supervisor says stands in `run.log` as well."""
    handler = logging.FileHandler(folder / "run.log", delay=True, encoding="utf-8")
    handler.setFormatter(Redacting(FORMAT, secrets))
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()


def write_to_terminal(level: str) -> None:
    """Set up the log of a command: warnings, or what `level` says, to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setLevel(level.upper())
    handler.setFormatter(Redacting("%(name)s: %(message)s"))
    handler.addFilter(_serves_nobody)
    logging.basicConfig(level=handler.level, handlers=[handler])


def _serves_nobody(_: logging.LogRecord) -> bool:
    return not serving.get()


def _delete(folder: Path) -> None:
    """Delete the logs of a run, unless its process lives."""
    pid = folder.name.split("-")[2:3]
    if pid and Path(f"/proc/{pid[0]}").exists():
        return
    for file in folder.iterdir():
        file.unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()
