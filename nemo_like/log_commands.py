"""The command that shows logs."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from pydantic import Field

from nemo_like.command import command
from nemo_like.errors import UsageError, did_you_mean
from nemo_like.settings import Settings

POLL_S = 0.2


class LogsConfig(Settings):
    """Which logs `ng_logs` shows."""

    run: str | None = None
    """The run, by the name of its folder; null is the latest."""
    lines: int = Field(20, ge=0)
    """How many of the last lines of each file."""


def logs() -> int:
    """Show the logs of the latest run in this directory: all servers', or those that are named.

        ng_logs
        ng_logs policy_model +lines=200
        ng_logs -f policy_model

    `-f` goes on with what is written from then on, until Ctrl-C.
    """
    from nemo_like.config import load

    async def main(arguments: Sequence[str]) -> int:
        names = [argument for argument in arguments if "=" not in argument and argument != "-f"]
        rest = [argument for argument in arguments if "=" in argument]
        wanted: LogsConfig = load(rest, LogsConfig).settings(LogsConfig)
        folder = _folder(wanted.run)
        with _Shown(folder, names) as shown:
            shown.begin(wanted.lines)
            while "-f" in arguments:
                await asyncio.sleep(POLL_S)
                shown.go_on()
        return 0

    return command("ng_logs", logs, [LogsConfig], main)


def _folder(name: str | None) -> Path:
    from nemo_like.logs import LATEST, LOG_DIR, runs

    there = [folder.name for folder in runs()]
    if not there:
        raise UsageError(f"no run has been started in this directory ({LOG_DIR})")
    if name is None:
        return LATEST.resolve() if LATEST.is_dir() else runs()[-1]
    if name not in there:
        raise UsageError(f"there is no run '{name}'{did_you_mean(name, there)}")
    return LOG_DIR / name


class _Shown:
    """The files that are shown, each read up to somewhere."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self._folder, self._names = folder, names
        self._files: dict[str, IO[bytes]] = {}
        known = [name for name, _ in self._there()]
        for name in names:
            if name not in known:
                raise UsageError(f"{folder.name} has no log of '{name}'{did_you_mean(name, known)}")

    def __enter__(self) -> _Shown:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.close()

    def begin(self, lines: int) -> None:
        """Print the last lines of each file."""
        for name in self._wanted():
            text = self._files[name].read().splitlines()
            self._print(name, text[max(0, len(text) - lines) :])

    def go_on(self) -> None:
        """Print what has been written since, in new files too."""
        for name in self._wanted():
            file = self._files[name]
            if os.fstat(file.fileno()).st_size < file.tell():
                file.seek(0)
            self._print(name, file.readlines())

    def _there(self) -> Iterator[tuple[str, Path]]:
        from urllib.parse import unquote

        for file in sorted(self._folder.glob("*.log")):
            yield unquote(file.stem), file

    def _wanted(self) -> list[str]:
        for name, path in self._there():
            if name not in self._files and (not self._names or name in self._names):
                self._files[name] = path.open("rb")
        return [*self._files]

    def _print(self, name: str, lines: Sequence[bytes]) -> None:
        before = "" if len(self._names) == 1 else f"{name} | "
        for line in lines:
            print(f"{before}{line.decode('utf-8', 'replace').rstrip()}", flush=True)
