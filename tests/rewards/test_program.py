"""A program is run and compared as verl does it, and nothing that it does reaches beyond its process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any

import psutil
import pytest

from nemo_like.rewards.program import Limits, Run, Test, passes, read_tests, run, same_output, same_value

linux = pytest.mark.skipif(sys.platform != "linux", reason="the kernel's part is Linux's")


def verl_file() -> Path | None:
    try:
        found = [f for f in files("verl") or [] if str(f).endswith("prime_code/testing_util.py")]
    except PackageNotFoundError:
        return None
    return Path(str(found[0].locate())) if found else None


VERL = verl_file()
beside_verl = pytest.mark.skipif(VERL is None, reason="needs verl's files: pip install --no-deps verl")

# It disables most of os for good, and the program can do what it likes, so each case has a fork of its own.
ORACLE = """
import importlib.util, json, os, sys, warnings
warnings.simplefilter("ignore")
spec = importlib.util.spec_from_file_location("testing_util", sys.argv[1])
testing_util = importlib.util.module_from_spec(spec)
spec.loader.exec_module(testing_util)
verdicts = []
for program, tests in json.load(sys.stdin):
    reading, writing = os.pipe()
    if not (pid := os.fork()):
        sys.stdout = sys.stderr = open(os.devnull, "w")
        verdict = None
        try:
            verdict = testing_util.run_test(in_outs=tests, test=program, timeout=5)[0] == [True]
        finally:
            os.write(writing, json.dumps(verdict is True).encode())
            os._exit(0)
    os.close(writing)
    verdicts.append(json.loads(os.read(reading, 10) or b"false"))
    os.close(reading)
    os.waitpid(pid, 0)
print(json.dumps(verdicts))
"""


def verls(cases: list[tuple[str, dict[str, Any]]]) -> list[bool]:
    """verl's verdict on each (program, tests)."""
    command = [sys.executable, "-c", ORACLE, str(VERL)]
    # A file where a program is looked up would be a difference that is not meant.
    with tempfile.TemporaryDirectory() as folder:
        ran = subprocess.run(
            command, input=json.dumps(cases), capture_output=True, text=True, check=True, cwd=folder
        )
    return json.loads(ran.stdout)


def stdin(program: str, given: str = "", limits: Limits = Limits()) -> Run:
    return run(program, Test(stdin=given, expected=""), limits)


OUTPUTS = [
    *(
        "3",
        "3\n",
        " 3 ",
        "3 \n\n",
        "\n3",
        "3\n\n4",
        "3\n4",
        "3 \n4 ",
        "3\r\n4\r\n",
        "3 4",
        "4",
        "",
        "\n",
        " ",
        "03",
    ),
    *(
        "3.0",
        "3.00000001",
        "3.1",
        "0.333333",
        "0.3333333333",
        "1e5",
        "100000",
        "inf",
        "nan",
        "1_0",
        "10",
        "abc",
        "ABC",
    ),
    *(
        "a\n\nb",
        "a\n\n\nb",
        "a\nb",
        "a\n b",
        "3.0\n4",
        "3\n4.0000001",
        "yes\n",
        "\u0663",
        "²",
        "1\n\n2.5",
        "1\n2.50",
    ),
    *("-0.0", "0", "3\x0c4", "x\u2028y"),
]


@beside_verl
def test_outputs_are_compared_as_verl_compares_them() -> None:
    pairs = [(output, expected) for output in OUTPUTS for expected in OUTPUTS]
    pairs = [pair for at, pair in enumerate(pairs) if at % 25 == 0 or pair[0].split() == pair[1].split()]
    cases = [(f"print({o!r}, end='')", {"inputs": [""], "outputs": [e]}) for o, e in pairs]
    ours = [same_output(output, expected) for output, expected in pairs]
    strays = [(p, v, o) for p, v, o in zip(pairs, verls(cases), ours, strict=True) if v != o]
    assert strays == []


VALUES: list[Any] = [
    *(
        3,
        3.0,
        "3",
        True,
        1,
        None,
        [3],
        [[3]],
        [],
        [[]],
        [1, 2],
        [[1, 2]],
        [[1, 2], [3]],
        "a",
        ["a"],
        "",
        [""],
    ),
    *([None], [True], {"a": 1}, [{"a": 1}], [1, "a", None], 10**30, 0.1),
]


@beside_verl
def test_values_are_compared_as_verl_compares_them() -> None:
    pairs = [(value, expected) for value in VALUES for expected in VALUES]
    pairs = [pair for at, pair in enumerate(pairs) if at % 6 == 0 or same_value(*pair)]
    cases = [
        (
            f"def f(x): return {value!r}",
            {"fn_name": "f", "inputs": ["0"], "outputs": [json.dumps(expected)]},
        )
        for value, expected in pairs
    ]
    strays = [
        (value, expected, verdict)
        for (value, expected), verdict in zip(pairs, verls(cases), strict=True)
        if verdict != same_value(value, expected)
    ]
    assert strays == []


ADD = "%s\nprint(a + b)"
PROGRAMS: list[tuple[str, dict[str, Any]]] = [
    *(
        (ADD % read, {"inputs": ["1 2\n"], "outputs": ["3\n"]})
        for read in [
            "a, b = map(int, input().split())",
            "import sys\na, b = map(int, sys.stdin.readline().split())",
            "import sys\na, b = map(int, sys.stdin.read().split())",
            "import sys\nfor line in sys.stdin.readlines(): a, b = map(int, line.split())",
            "a, b = 1, 1",
            "a, b = map(int, input())",
            "a, b = 1, 2\nraise SystemExit(3)",
            "raise ValueError",
            "a, b = 1, 2\nprint('debug')",
            "a, b =",
        ]
    ),
    *(
        (program, {"inputs": ["5\n"], "outputs": ["120\n"]})
        for program in [
            "print(factorial(int(input())))",
            "def f(): print(reduce(mul, range(1, int(input()) + 1)))\nif __name__ == '__main__':\n    f()",
            "def f(n: int) -> Optional[int]:\n    return n * f(n - 1) if n else 1\nprint(f(int(input())))",
            "import math\nprint(math.factorial(int(input())))\nimport sys\nsys.exit(0)",
            "print(120)\nraise SystemExit(1)",
            "print(120)\n1 / 0",
            "print(120.0)",
            "print('120 ')",
        ]
    ),
    *(
        (program, {"fn_name": "f", "inputs": ["[1, 2]\n3"], "outputs": ["[1, 2, 3]"]})
        for program in [
            "def f(a, b): return a + [b]",
            "def f(a, b): return (*a, b)",
            "class Solution:\n    def f(self, a: List[int], b: int) -> List[int]:\n        return a + [b]",
            "def f(a, b):\n    print('noise')\n    return [a + [b]][0]",
            "def f(a, b): return [a + [b]]",
            "def f(a): return a",
            "def g(a, b): return a + [b]",
            "def f(a, b): return {1, 2, 3}",
            "def f(a, b): raise ValueError",
            "f = None",
            "import sys\nsys.exit(0)",
            "def f(a, b):\n    import sys\n    sys.exit(0)",
        ]
    ),
    ("def f(d): return d[1]", {"fn_name": "f", "inputs": ['{"1": 2}'], "outputs": ["2"]}),
    ("def f(d): return d", {"fn_name": "f", "inputs": ['{"1": 2}'], "outputs": ['{"1": 2}']}),
    ("def f(d): return d['a']", {"fn_name": "f", "inputs": ['{"a": 2}'], "outputs": ["2"]}),
    ("def f(a): return f(a - 1) + 1 if a else 0", {"fn_name": "f", "inputs": ["5000"], "outputs": ["5000"]}),
]


@beside_verl
def test_programs_pass_where_verl_passes_them() -> None:
    ours = [passes(program, read_tests(tests)[0]) for program, tests in PROGRAMS]
    strays = [(p, v, o) for (p, _), v, o in zip(PROGRAMS, verls(PROGRAMS), ours, strict=True) if v != o]
    assert strays == []


@pytest.mark.parametrize(
    "program",
    [
        "import sys\nsys.stdout.buffer.write(sys.stdin.buffer.read())",
        "import threading as t\nt.stack_size(2**26)\nt.Thread(target=lambda: print(input())).start()",
        "print('7', flush=True)\nimport os\nos._exit(0)",
        "if __name__ == '__main__': print(input())\nelse: print('imported')\nx = 1",
        "try:\n    while True: print(input())\nexcept EOFError: pass",
        "print('''7\n''')",
        "stdout.write(stdin.readline())",
        "print(open(0).read())",
        "from dataclasses import dataclass\n@dataclass\nclass A:\n    x: int\nprint(A(7).x)",
        "import asyncio\nasync def main(): print(7)\nasyncio.run(main())",
    ],
)
def test_what_python_allows_passes_even_where_verl_fails_it(program: str) -> None:
    assert passes(program, Test(stdin="7\n", expected="7\n"))


def test_nested_tuples_are_lists_and_an_object_that_equals_everything_equals_nothing() -> None:
    expected = read_tests({"fn_name": "f", "inputs": [[3]], "outputs": [[[1, 2], [3, 4]]]})[0]
    assert passes("def f(n): return [(1, 2), (3, 4)]", expected)
    liar = "class Liar(int):\n    def __eq__(self, other): return True\ndef f(n): return Liar(5)"
    assert not passes(liar, expected)


@pytest.mark.parametrize("leave", ["import os\nos._exit(0)", "raise SystemExit", "[][0]"])
def test_a_function_that_never_returns_has_not_answered(leave: str) -> None:
    test = Test(fn_name="f", expected=None)
    body = leave.replace("\n", "\n    ")
    assert not passes(f"{leave}\ndef f(): pass", test)
    assert not passes(f"def f():\n    {body}", test)
    assert passes("def f(): pass", test)


@pytest.mark.parametrize(
    ("program", "status"),
    [
        ("while True: pass", "timeout"),
        ("import time\ntime.sleep(1000)", "timeout"),
        ("import os\nos.close(1)\nwhile True: pass", "timeout"),
        ("import signal\nfor n in (1, 2, 15): signal.signal(n, signal.SIG_IGN)\nwhile True: pass", "timeout"),
        ("def f(): f()\nf()", "failed"),
        ("while True: print('x' * 1000)", "too_long"),
        ("import sys\nwhile True: sys.stderr.write('x' * 1000000)", "failed"),
        ("x = [0] * 10**10", "failed"),
        ("x = []\nwhile True: x.append('x' * 10**8)", "failed"),
        ("print(10**10**9)", "timeout"),
        ("open('big', 'wb').write(b'x' * 10**8)", "failed"),
        ("import sys\nsys.stdin.read()\nsys.stdin.read()\nfor line in sys.stdin: pass", "finished"),
        ("files = [open('f', 'w') for n in range(1000)]", "failed"),
        ("import os\nfor name in os.listdir(): os.remove(name)\nos.rmdir(os.getcwd())", "finished"),
        ("import os\nos.abort()", "failed"),
        ("import ctypes\nctypes.string_at(0)", "failed"),
        ("import os\nos._exit(7)", "failed"),
        ("\ud800", "failed"),
        ("x = '\x00'", "failed"),
        ("(" * 100_000, "failed"),
    ],
)  # fmt: skip
def test_whatever_a_program_does_it_ends_and_is_told(program: str, status: str) -> None:
    if program.startswith("def f"):
        program = f"import sys\nsys.setrecursionlimit(1000)\n{program}"
    limits = Limits(wall_s=0.5 if status == "timeout" else 60.0, memory_bytes=2**29)
    assert stdin(program, "1\n2\n", limits).status == status


@linux
@pytest.mark.parametrize(
    "attempt",
    [
        "os.fork()",
        "while True: os.fork()",
        "subprocess.run(['ls'])",
        "multiprocessing.Process(target=print).start()",
        "os.system('true') and 1 / 0",
        "os.kill(os.getppid(), 9)",
        "os.killpg(os.getpgid(os.getppid()), 9)",
        "socket.create_connection(('127.0.0.1', 9))",
        "os.mkdir('a')",
    ],
)
def test_a_program_starts_no_other_ends_none_and_calls_nobody(attempt: str) -> None:
    ran = stdin(f"import multiprocessing, os, socket, subprocess\nprint(1, flush=True)\n{attempt}")
    assert (ran.status, ran.output) == ("failed", "1\n")


def test_a_program_sees_nothing_of_who_runs_it() -> None:
    os.environ["SECRET_OF_THIS_TEST"] = "1"
    try:
        ran = stdin(
            "import os, sys\nprint('SECRET_OF_THIS_TEST' in os.environ, os.listdir(), sys.argv, __name__)"
        )
    finally:
        del os.environ["SECRET_OF_THIS_TEST"]
    assert ran == Run(status="finished", output="False [] ['program.py'] __main__\n", error="")


def test_every_test_begins_anew_and_leaves_nothing() -> None:
    where = (
        "import os\nassert not os.listdir()\nopen('left', 'w').close()\nos.chmod('.', 0)\nprint(os.getcwd())"
    )
    folders = {stdin(where).output.strip() for _ in range(3)}
    assert len(folders) == 3 and not any(Path(folder).exists() for folder in folders)


def test_what_went_wrong_is_told_by_its_end() -> None:
    ran = stdin("import sys\nsys.stderr.write('noise' * 10000)\nraise ValueError('the reason')")
    assert (
        ran.status == "failed" and ran.error.endswith("ValueError: the reason\n") and len(ran.error) <= 2000
    )


def test_text_of_any_kind_goes_through() -> None:
    text = "é \N{SNOWMAN} \U0001f600 \x00 \x7f"
    assert stdin("print(input())", text).output == f"{text}\n"
    assert stdin("print(len(input()))", "\ud800").status == "finished"
    assert stdin("import sys\nsys.stdout.buffer.write(b'\\xff')").output == "\N{REPLACEMENT CHARACTER}"


@linux
def test_a_program_ends_with_the_process_that_runs_it(tmp_path: Path) -> None:
    """As a process pool ends one: at once, and with no chance to clean up."""
    runner = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "from nemo_like.rewards.program import Limits, Test, run\n"
            "print('ready', flush=True)\n"
            "run('import time\\ntime.sleep(1000)', Test(expected=''), Limits(wall_s=1000))",
        ],
        stdout=subprocess.PIPE,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )
    with runner:
        assert runner.stdout is not None and runner.stdout.readline() == b"ready\n"
        seen = psutil.Process(runner.pid)
        while not (children := seen.children()) or not _is_bound(children[0]):
            pass
        runner.send_signal(signal.SIGKILL)
        gone, alive = psutil.wait_procs(children, timeout=30)
    assert len(gone) == 1 and not alive


def _is_bound(process: psutil.Process) -> bool:
    return "Seccomp:\t2" in Path(f"/proc/{process.pid}/status").read_text()


@pytest.mark.parametrize(
    ("layout", "first"),
    [
        ({"inputs": ["1\n2"], "outputs": ["3"]}, Test(stdin="1\n2", expected="3")),
        ({"inputs": [["1", "2"]], "outputs": [["3", "4"]]}, Test(stdin="1\n2", expected="3\n4")),
        (
            {"fn_name": "f", "inputs": ['1\n"a"'], "outputs": ["[2]"]},
            Test(fn_name="f", arguments=(1, "a"), expected=[2]),
        ),
        (
            {"fn_name": "f", "inputs": [[1, "a"]], "outputs": [[2]]},
            Test(fn_name="f", arguments=(1, "a"), expected=[2]),
        ),
        ({"fn_name": "f", "inputs": [""], "outputs": [5]}, Test(fn_name="f", expected=5)),
        ({"fn_name": None, "inputs": ["x"], "outputs": ["y"]}, Test(stdin="x", expected="y")),
    ],
)
def test_tests_are_read_as_data_sets_write_them(layout: dict[str, Any], first: Test) -> None:
    assert read_tests(layout) == read_tests(json.dumps(layout)) == [first]


@pytest.mark.parametrize(
    "wrong",
    [
        *(None, 5, "{", "[]", "{}", {"inputs": [], "outputs": []}, {"inputs": ["1", "2"], "outputs": ["1"]}),
        *({"inputs": [5], "outputs": ["5"]}, {"inputs": [[5]], "outputs": ["5"]}),
        {"fn_name": "f", "inputs": ["not JSON"], "outputs": ["5"]},
        {"fn_name": "f", "inputs": ["5"], "outputs": ["not JSON"]},
    ],
)
def test_tests_that_can_not_be_read_are_an_error(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"the tests should be \{inputs, outputs, fn_name\?\} \("):
        read_tests(wrong)
