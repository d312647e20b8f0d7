"""A command: its help, its signals, and every error as readable lines with an exit status.

Results go to standard output; progress, warnings and errors go to standard error. The exit status is 0 when
the command did what was asked, 1 when something failed, 2 when what was asked is wrong, 130 when it was
interrupted.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import textwrap
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from nemo_like.errors import Error, UsageError
from nemo_like.logs import write_to_terminal
from nemo_like.settings import Settings

T = TypeVar("T")
LEVELS = ("debug", "info", "warning", "error")
RESUMED = ("ng_collect_rollouts", "ng_rescore")
"""Commands that go on where they were interrupted."""


def command(
    name: str,
    function: Callable[[], int],
    settings: Sequence[type[Settings]],
    main: Callable[[Sequence[str]], Coroutine[Any, Any, int]],
) -> int:
    """Run a command: help, signals, and every error as readable lines with an exit status."""
    arguments = sys.argv[1:]
    if {"--help", "-h"} & set(arguments):
        print(_help(name, function, settings))
        return 0
    write_to_terminal(_log_level(arguments))
    try:
        return _run(main(arguments))
    except UsageError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    except Error as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        hint = "; what was finished is kept, the same command resumes" if name in RESUMED else ""
        print(f"{name}: interrupted{hint}", file=sys.stderr)
        return 130


def _log_level(arguments: Sequence[str]) -> str:
    """What `+log_level=…` says, needed before anything is parsed; a wrong one is refused later, by name."""
    said = [
        value for key, _, value in (a.partition("=") for a in arguments) if key.lstrip("+") == "log_level"
    ]
    return said[-1] if said and said[-1] in LEVELS else "warning"


def _run(main: Coroutine[Any, Any, T]) -> T:
    """Run the event loop; SIGTERM ends it as Ctrl-C does: cleanly once, and at once the second time."""
    import uvloop

    terminated = False

    async def watched() -> T:
        task = asyncio.current_task()

        def terminate() -> None:
            nonlocal terminated
            if terminated or task is None:
                sys.exit(130)
            terminated = True
            task.cancel()

        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, terminate)
        return await main

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            return runner.run(watched())
        except asyncio.CancelledError:
            if terminated:
                raise KeyboardInterrupt from None
            raise


def _help(name: str, function: Callable[[], int], settings: Sequence[type[Settings]]) -> str:
    """A command's docstring, and its parameters with types, defaults and help."""
    lines = [textwrap.dedent("    " + (function.__doc__ or "")).strip(), "", f"{name} [name=value …]", ""]
    for cls in settings:
        for key, field in cls.model_fields.items():
            kind = str(getattr(field.annotation, "__name__", field.annotation)).replace("pathlib.", "")
            default = (
                "required"
                if field.is_required()
                else f"default {field.get_default(call_default_factory=True)}"
            )
            lines.append(f"  {field.alias or key}: {kind} ({default})")
            lines += textwrap.wrap(" ".join((field.description or "").split()), 100, initial_indent="      ")
    return "\n".join(lines)
