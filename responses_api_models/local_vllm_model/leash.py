"""Runs a command that ends with whoever started it: `python leash.py COMMAND…`, its standard input a pipe.

The pipe's end, be its writer closed or SIGKILLed, ends the command and every process of its session that it
left: with SIGTERM, and after `GRACE_S` with SIGKILL. Should this process be killed itself, Linux ends the
command; what that leaves is of this session, and its starter's to end. It needs nothing but Python's standard
library.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress

GRACE_S = 4.0
"""Less than a worker that has to stop is given."""
PR_SET_PDEATHSIG = 1


def main(command: list[str]) -> int:
    """The command's exit status; 128 and the signal's number where one ended it."""
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            # The command's own children are found by its process group.
            process_group=0,
            preexec_fn=_end_with_parent if sys.platform == "linux" else None,
        )
    except OSError as error:
        print(f"{command[0]} can't be started: {error.strerror}", file=sys.stderr)  # noqa: T201 it is the log
        return 127
    signal.signal(signal.SIGTERM, lambda number, frame: _end(process))
    threading.Thread(target=_watch, args=(process,), daemon=True).start()
    status = process.wait()
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    return status if status >= 0 else 128 - status


def _watch(process: subprocess.Popen[bytes]) -> None:
    while os.read(0, 4096):
        pass
    _end(process)
    time.sleep(GRACE_S)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _end(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGTERM)


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
