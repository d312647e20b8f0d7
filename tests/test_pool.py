"""Calls in processes that can be killed: what comes back, and what a bad one costs the others."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest

from nemo_like.errors import PartError
from nemo_like.pool import Pool, shared, wait_for

T = TypeVar("T")
FUNCTIONS = """
import os, sys, time
def add(a, b): return a + b
def hang():
    while True: pass
def note_and_hang(path):
    with open(path, "w") as file: file.write(str(os.getpid()))
    hang()
def exit(): os._exit(3)
def boom(): raise ValueError("as asked")
def no_exception(): raise KeyboardInterrupt
def eat(): return len(bytearray(64 << 30))
def talk(): print("hello"); sys.stdout.flush(); return "said"
def not_json(): return object()
def pid(): return os.getpid()
def nap(seconds): time.sleep(seconds); return os.getpid()
async def later(): return 2
"""


@pytest.fixture
def functions(tmp_path: Path) -> str:
    (tmp_path / "functions.py").write_text(FUNCTIONS)
    return f"{tmp_path}/functions.py"


@pytest.fixture
def pool() -> Iterator[Pool]:
    pool = Pool(2)
    yield pool
    pool.close()


def run(work: Callable[[], Awaitable[T]]) -> T:
    async def main() -> T:
        return await work()

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("name", "arguments", "answer"),
    [
        ("add", (1, 2), 3),
        ("add", ("\ud800", "\x00"), "\ud800\x00"),
        ("add", ("x" * 2**20, "y" * 2**20), "x" * 2**20 + "y" * 2**20),
        ("later", (), 2),
        ("talk", (), "said"),
    ],
)
def test_a_call_answers_what_the_function_does(
    pool: Pool, functions: str, name: str, arguments: tuple[Any, ...], answer: Any
) -> None:
    assert run(lambda: pool.run(f"{functions}:{name}", *arguments, timeout_s=20)) == answer


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("boom", "verifier_error", "ValueError: as asked"),
        ("no_exception", "verifier_error", "KeyboardInterrupt"),
        ("eat", "verifier_error", "MemoryError"),
        ("exit", "verifier_error", "functions.py:exit died"),
        ("hang", "timeout", "functions.py:hang took longer than 0.5 s"),
        ("not_json", "verifier_error", "not JSON serializable"),
        ("nothing", "verifier_error", "has no 'nothing'"),
    ],
)
def test_a_bad_call_costs_itself(pool: Pool, functions: str, name: str, kind: str, words: str) -> None:
    async def work() -> list[Any]:
        good = [pool.run(f"{functions}:add", i, i, timeout_s=20) for i in range(50)]
        bad = pool.run(f"{functions}:{name}", timeout_s=0.5)
        return await asyncio.gather(*good[:25], bad, *good[25:], return_exceptions=True)

    answers = run(work)
    error = answers.pop(25)
    assert isinstance(error, PartError)
    assert (error.kind, words in error.message) == (kind, True), error.message
    assert answers == [2 * i for i in range(50)]


def test_a_worker_is_used_again_unless_it_was_slow(pool: Pool, functions: str) -> None:
    async def work() -> list[int]:
        calls = [("pid", ()), ("pid", ()), ("nap", (0.2,)), ("pid", ())]
        return [await pool.run(f"{functions}:{name}", *a, timeout_s=20) for name, a in calls]

    first, second, slow, after = run(work)
    assert first == second == slow != after


def test_slow_calls_beyond_the_number_of_places_leave_room_for_the_others(pool: Pool, functions: str) -> None:
    async def work() -> list[bool]:
        slow = [asyncio.create_task(pool.run(f"{functions}:hang", timeout_s=20)) for _ in range(6)]
        for i in range(20):
            assert await pool.run(f"{functions}:add", i, 0, timeout_s=20) == i
        states = [task.done() for task in slow]
        for task in slow:
            task.cancel()
        await asyncio.gather(*slow, return_exceptions=True)
        return states

    assert run(work) == [False] * 6


def test_a_cancelled_call_ends_its_process(pool: Pool, functions: str, tmp_path: Path) -> None:
    note = tmp_path / "note"

    async def work() -> None:
        task = asyncio.create_task(pool.run(f"{functions}:note_and_hang", str(note), timeout_s=20))
        worker = psutil.Process(await asyncio.to_thread(pid_in, note))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        worker.wait(10)

    run(work)


def test_the_pool_survives_the_death_of_the_process_that_forks(pool: Pool, functions: str) -> None:
    async def work() -> tuple[int, int]:
        first = await pool.run(f"{functions}:pid", timeout_s=20)
        nursery = psutil.Process(first).parent()
        assert nursery is not None
        nursery.kill()
        psutil.Process(first).kill()
        with pytest.raises(PartError, match="died"):
            await pool.run(f"{functions}:pid", timeout_s=20)
        return first, await pool.run(f"{functions}:pid", timeout_s=20)

    first, second = run(work)
    assert first != second


def test_scripts_run_one_loop_after_another_and_may_be_without_one(functions: str) -> None:
    path = f"{functions}:pid"
    assert run(lambda: shared().run(path, timeout_s=20)) == run(lambda: shared().run(path, timeout_s=20))

    async def add() -> int:
        return await shared().run(f"{functions}:add", 1, 2, timeout_s=20)

    async def inside() -> int:
        return wait_for(add())

    assert asyncio.run(inside()) == 3


def test_no_process_outlives_the_one_that_asked(functions: str) -> None:
    code = f"""
import asyncio
from nemo_like.pool import shared
async def main():
    pids = [await shared().run({functions + ":pid"!r}, timeout_s=20)]
    busy = [asyncio.create_task(shared().run({functions + ":hang"!r}, timeout_s=60)) for _ in range(2)]
    await asyncio.sleep(0.3)
    print(*pids, flush=True)
    await asyncio.gather(*busy)
asyncio.run(main())
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        worker = psutil.Process(int(process.stdout.readline()))
        nursery = worker.parent()
        assert nursery is not None
        family = [nursery, *nursery.children(recursive=True)]
        assert len(family) >= 3
        process.kill()
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive


def pid_in(note: Path) -> int:
    """What a process wrote there, once it has."""
    deadline = time.monotonic() + 20
    while not (note.exists() and note.read_text()):
        assert time.monotonic() < deadline, "it never began"
        time.sleep(0.01)
    return int(note.read_text())
