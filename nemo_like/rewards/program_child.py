"""The process that a candidate program runs in: it bounds itself, then becomes the program.

    python -I program_child.py FD

FD is a file that holds the job as JSON: `program`, `limits`, and, to call a function, `fn_name` and
`arguments`. Without them the program reads its own stdin and writes its own stdout; with them stdout gets
what the function returned, as JSON, and nothing else.
"""

from __future__ import annotations

import ctypes
import errno
import importlib
import json
import math
import os
import platform
import resource
import signal
import sys
from contextlib import suppress
from types import ModuleType
from typing import Any, cast

# What candidates were trained to find already imported: each module's names first, then the modules.
MODULES = [
    "string",
    "re",
    "datetime",
    "collections",
    "heapq",
    "bisect",
    "copy",
    "math",
    "random",
    "statistics",
    "itertools",
    "functools",
    "operator",
    "io",
    "sys",
    "json",
]
ALSO_THEIR_NAMES = ("builtins", "typing")
RECURSION = 600_000

CLONE_THREAD = 0x10000
PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 22, 38
SECCOMP_MODE_FILTER = 2
LOAD, IF_EQUAL, IF_ANY_BIT, RETURN = 0x20, 0x15, 0x45, 0x06
NUMBER, ARCHITECTURE, FIRST_ARGUMENT = 0, 4, 16
ALLOW, REFUSE = 0x7FFF0000, 0x00050000
# Machine → its audit number, its clone(2), and the calls that start processes, reach others, the network, or
# depths that can't be cleaned up: (fork, vfork,) kill, tkill, rt_sigqueueinfo, pidfd_send_signal, ptrace,
# socket, (mkdir,) mkdirat.
MACHINES = {
    "x86_64": (0xC000003E, 56, (57, 58, 62, 200, 129, 424, 101, 41, 83, 258)),
    "aarch64": (0xC00000B7, 220, (129, 130, 138, 424, 117, 198, 34)),
}
CLONE3 = 435


def main(job_file: int) -> None:
    """Read the job, bound this process, run the program."""
    with open(job_file, "rb") as file:
        job = json.load(file)
    fn_name = job.get("fn_name")
    result = -1
    if fn_name is not None:
        # What the program prints is not its answer.
        result = os.dup(1)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
    module = prepared()
    bound(**job["limits"])
    try:
        exec(compile(job["program"], "<program>", "exec", dont_inherit=True), module.__dict__)
        if fn_name is not None:
            answer = json.dumps(function(module, fn_name)(*map(with_integer_keys, job["arguments"]))).encode()
            while answer:
                answer = answer[os.write(result, answer) :]
            # Whatever threads it left behind: it has answered.
            os._exit(0)
    except SystemExit:
        # A program that says it is done is done, whatever number it says.
        if fn_name is not None:
            os._exit(1)


def prepared() -> ModuleType:
    """The module that the program will be: `__main__`, with the usual names."""
    module = ModuleType("__main__")
    for name in (*MODULES, *ALSO_THEIR_NAMES):
        source = importlib.import_module(name)
        public = getattr(source, "__all__", None) or [n for n in vars(source) if not n.startswith("_")]
        module.__dict__.update({n: getattr(source, n) for n in public})
    module.__dict__.update({name: sys.modules[name] for name in MODULES})
    sys.modules["__main__"] = module
    sys.argv = ["program.py"]
    sys.setrecursionlimit(RECURSION)
    return module


def function(module: ModuleType, name: str) -> Any:
    """The function `name`, or the method of that name of the program's `Solution`."""
    solution = getattr(module, "Solution", None)
    if solution is not None and hasattr(solution, name):
        return getattr(solution(), name)
    return getattr(module, name)


def with_integer_keys(value: Any) -> Any:
    """A dictionary as it was before JSON made text of its keys, if that is what it did."""
    if not isinstance(value, dict):
        return value
    items = cast(dict[str, Any], value)
    try:
        return {int(key): item for key, item in items.items()}
    except ValueError:
        return items


def bound(cpu_s: float, memory_bytes: int, file_bytes: int, open_files: int) -> None:
    """Take from this process, for good, what a program that computes does not need."""
    seconds = math.ceil(cpu_s)
    alone = refuse_processes()
    for kind, value in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_NOFILE, open_files),
        (resource.RLIMIT_CORE, 0),
        # It counts threads, and the whole user's, so only where there is nothing better.
        *([] if alone else [(resource.RLIMIT_NPROC, 0)]),
    ):
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        # Some systems have no such limit.
        with suppress(ValueError, OSError):
            resource.setrlimit(kind, (value, value))


def refuse_processes() -> bool:
    """Whether the kernel now refuses this process any other (threads aside), and ends it with its parent."""
    machine = MACHINES.get(platform.machine())
    if sys.platform != "linux" or machine is None:
        return False
    architecture, clone, refused = machine
    refuse = (RETURN, 0, 0, REFUSE | errno.EPERM)
    # glibc then falls back to clone(2), whose flags can be seen here.
    unknown = (RETURN, 0, 0, REFUSE | errno.ENOSYS)
    instructions = [
        *((LOAD, 0, 0, ARCHITECTURE), (IF_EQUAL, 1, 0, architecture), unknown),
        *((LOAD, 0, 0, NUMBER), (IF_EQUAL, 0, 1, CLONE3), unknown),
    ]
    for number in refused:
        instructions += [(IF_EQUAL, 0, 1, number), refuse]
    instructions += [
        *((IF_EQUAL, 0, 3, clone), (LOAD, 0, 0, FIRST_ARGUMENT), (IF_ANY_BIT, 1, 0, CLONE_THREAD), refuse),
        (RETURN, 0, 0, ALLOW),
    ]
    filters = (Instruction * len(instructions))(*instructions)
    rules = Rules(len(instructions), filters)
    prctl = ctypes.CDLL(None).prctl
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(rules), 0, 0) == 0


class Instruction(ctypes.Structure):
    """One instruction of a socket filter: what to do, how far to jump if so and if not, an operand."""

    _fields_ = (
        ("code", ctypes.c_uint16),
        ("yes", ctypes.c_uint8),
        ("no", ctypes.c_uint8),
        ("operand", ctypes.c_uint32),
    )


class Rules(ctypes.Structure):
    """A socket filter: its length, its instructions."""

    _fields_ = (("length", ctypes.c_uint16), ("instructions", ctypes.POINTER(Instruction)))


if __name__ == "__main__":
    main(int(sys.argv[1]))
