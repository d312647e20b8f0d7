"""A candidate program, run against tests.

    tests = read_tests({"inputs": ["1 2\\n"], "outputs": ["3\\n"]})
    [passes(program, test) for test in tests]

Every test has a process of its own (`program_child.py`), started as `python -I` with an empty environment in
an empty temporary folder, bounded in time, memory, output, files and, where the kernel can, to a single
process without a network; it is killed with its whole group when the test is over. The expected answer stays
on this side.

These are limits on resources, so that a program that loops, floods or forks harms nobody by accident. They
are not a security boundary: a program runs as the user who scores it and can read what that user can read.
Score what you do not trust in a container or a virtual machine.
"""

from __future__ import annotations

import json
import math
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic
from typing import Any, Literal, cast

from nemo_like.types import Json

CHILD = str(Path(__file__).with_name("program_child.py"))
ERROR_BYTES = 2000
ABSOLUTE, RELATIVE = 1e-8, 1e-5
"""How far numbers may be apart, `ABSOLUTE + RELATIVE * |expected|`, as numpy's `allclose`."""

Status = Literal["finished", "failed", "timeout", "too_long"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What one test may use."""

    wall_s: float = 10.0
    memory_bytes: int = 2 * 2**30
    """Address space."""
    output_bytes: int = 16 * 2**20
    file_bytes: int = 16 * 2**20
    """Length of each file that it writes."""
    open_files: int = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Test:
    """One thing to try: what goes in, and what has to come out."""

    __test__ = False

    stdin: str = ""
    fn_name: str | None = None
    arguments: tuple[Any, ...] = ()
    expected: Any
    """The text on stdout; what the function returns, as JSON keeps it, where there is an `fn_name`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """What became of a program."""

    status: Status
    """`finished`: it came to its end; `failed`: an exception, a crash or a limit."""
    output: str
    error: str
    """The end of what it wrote to stderr."""


def read_tests(ground_truth: Any) -> list[Test]:
    """The tests that `{inputs, outputs, fn_name?}` describes, an object or JSON text of one.

    Without `fn_name` inputs and outputs are what goes in and comes out, text or a list of lines. With it an
    input is its arguments, a list or a line of JSON each, and an output is a value or JSON text of one.

    Raises:
        ValueError: it has another form, or holds no tests.
    """
    try:
        layout = json.loads(ground_truth) if isinstance(ground_truth, str | bytes) else ground_truth
        inputs, outputs, fn_name = list(layout["inputs"]), list(layout["outputs"]), layout.get("fn_name")
        pairs = list(zip(inputs, outputs, strict=True))
        if not pairs:
            raise ValueError("there are no tests")
        if fn_name is None:
            return [Test(stdin=_lines(given), expected=_lines(wanted)) for given, wanted in pairs]
        return [
            Test(fn_name=str(fn_name), arguments=_arguments(given), expected=_value(wanted))
            for given, wanted in pairs
        ]
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        said = f"{type(error).__name__}: {error}"
        raise ValueError(f"the tests should be {{inputs, outputs, fn_name?}} ({said})") from error


def passes(program: str, test: Test, limits: Limits = Limits()) -> bool:
    """Whether the program ends well and answers what the test expects."""
    ran = run(program, test, limits)
    if ran.status != "finished":
        return False
    if test.fn_name is None:
        return same_output(ran.output, test.expected)
    try:
        return same_value(json.loads(ran.output), test.expected)
    except (ValueError, RecursionError):
        return False


def run(program: str, test: Test, limits: Limits = Limits()) -> Run:
    """Run the program once, on what the test gives it; nothing that it does makes this raise."""
    job: Json = {
        "program": program,
        "limits": {
            "cpu_s": math.ceil(limits.wall_s) + 1,
            **{k: v for k, v in asdict(limits).items() if k not in ("wall_s", "output_bytes")},
        },
    }
    if test.fn_name is not None:
        job |= {"fn_name": test.fn_name, "arguments": test.arguments}
    with (
        _empty_folder() as folder,
        _file(test.stdin.encode("utf-8", "surrogatepass")) as stdin,
        _file(json.dumps(job).encode()) as job_file,
        _file(b"") as stderr,
    ):
        process = subprocess.Popen(
            [sys.executable, "-I", "-X", "utf8", CHILD, str(job_file)],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=stderr,
            pass_fds=[job_file],
            cwd=folder,
            env={},
            start_new_session=True,
        )
        status, output = _attend(process, monotonic() + limits.wall_s, limits.output_bytes)
        size = os.fstat(stderr).st_size
        error = os.pread(stderr, ERROR_BYTES, max(0, size - ERROR_BYTES))
        return Run(
            status=status, output=output.decode("utf-8", "replace"), error=error.decode("utf-8", "replace")
        )


def same_output(output: str, expected: str) -> bool:
    """Whether a program printed what was expected, white space at the ends of lines and empty lines aside.

    Where every line is a number, and one of them is no integer, they may differ by a rounding error.
    """
    lines = output.splitlines()
    wanted = expected.strip()
    if "\n".join(lines).strip() == wanted or "\n".join(line.strip() for line in lines).strip() == wanted:
        return True
    wanted_lines = [line.strip() for line in expected.split("\n") if line]
    some_lines = [line for line in lines if line]
    if wanted_lines in (lines, some_lines):
        return True
    if len(some_lines) != len(wanted_lines) or all(map(str.isdigit, some_lines + wanted_lines)):
        return False
    try:
        return all(map(_near, map(float, some_lines), map(float, wanted_lines)))
    except ValueError:
        return False


def same_value(value: Any, expected: Any) -> bool:
    """Whether a function returned what was expected, which may stand alone in a list."""
    return value == expected or (isinstance(expected, list) and value in cast(list[Any], expected)[:1])


def _near(number: float, expected: float) -> bool:
    if math.isfinite(number) and math.isfinite(expected):
        return abs(number - expected) <= ABSOLUTE + RELATIVE * abs(expected)
    return number == expected


def _attend(process: subprocess.Popen[bytes], deadline: float, most: int) -> tuple[Status, bytes]:
    """(How it ended, what it wrote) of a process, which is gone afterwards, and all that it started too."""
    assert process.stdout is not None
    output = bytearray()
    status: Status = "finished"
    with process.stdout as pipe:
        poll = select.poll()
        poll.register(pipe, select.POLLIN)
        try:
            while True:
                if not poll.poll(max(0.0, deadline - monotonic()) * 1000):
                    return "timeout", bytes(output)
                if not (part := os.read(pipe.fileno(), 2**16)):
                    break
                output += part
                if len(output) > most:
                    return "too_long", bytes(output[:most])
            if process.wait(max(0.0, deadline - monotonic())):
                status = "failed"
        except subprocess.TimeoutExpired:
            status = "timeout"
        finally:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return status, bytes(output)


@contextmanager
def _file(contents: bytes) -> Generator[int]:
    """The descriptor of a file without a name that holds `contents`."""
    with tempfile.TemporaryFile() as file:
        file.write(contents)
        file.seek(0)
        yield file.fileno()


@contextmanager
def _empty_folder() -> Generator[str]:
    """A temporary folder, which is removed whatever was made of it."""
    folder = tempfile.mkdtemp(prefix="program-")
    try:
        yield folder
    finally:
        # Where the kernel refuses it no folder (see program_child), they can be deeper than Python's stack.
        with suppress(RecursionError):
            shutil.rmtree(folder, ignore_errors=True)


def _lines(value: Any) -> str:
    return value if isinstance(value, str) else "\n".join(_strings(value))


def _strings(value: Any) -> list[str]:
    if not isinstance(value, list | tuple):
        raise TypeError(f"text or a list of lines is wanted (got {value!r:.80})")
    items = cast(list[Any], value)
    for item in items:
        if not isinstance(item, str):
            raise TypeError(f"a line of text is wanted (got {item!r:.80})")
    return items


def _arguments(value: Any) -> tuple[Any, ...]:
    if not isinstance(value, str):
        return tuple(value)
    return tuple(json.loads(line) for line in value.split("\n") if line.strip())


def _value(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value
