"""How fast rewards are, and what one that hangs costs the others: `python benchmarks/rewards.py`."""

from __future__ import annotations

import asyncio
import time
from statistics import median

import uvloop

from nemo_like.errors import PartError
from nemo_like.pool import Pool
from nemo_like.rewards.last_number import NumberTask, last_number
from nemo_like.rewards.math import MathTask, settled
from nemo_like.types import Response

SYMBOLIC = "nemo_like.rewards.symbolic"
HANG = r"\dfrac{5^{\left(5^{\left(5^{\left(5^5\right)}\right)}-4\right)}-5}{16}"
FILLER = "First we look at what is given. " * 40


def answer(text: str) -> Response:
    return Response(output=[{"type": "message", "role": "assistant", "content": FILLER + text}])


def inline(n: int = 100_000) -> None:
    """Verdicts a second and core that need no process: equal strings, and the last number."""
    math_task = MathTask(responses_create_params={}, expected_answer=r"\frac{1}{2}")
    number_task = NumberTask(responses_create_params={}, expected_answer="42")
    for name, function, task, given in (
        ("math, equal as strings", settled, math_task, answer(r"\boxed{\frac{1}{2}}")),
        ("last_number", last_number, number_task, answer("42")),
    ):
        start = time.process_time()
        for _ in range(n):
            function(task, given)
        print(
            f"{name}: {n / (time.process_time() - start):,.0f} a second, answers of {len(FILLER)} characters"
        )


async def pooled(n: int = 3000) -> None:
    """math-verify through the pool, a process at a time, and in this process."""
    from nemo_like.rewards import symbolic

    symbolic.warm_up()
    start = time.process_time()
    for i in range(n):
        symbolic.equal("1/2", f"{i}/{2 * i + 1}")
    print(f"math-verify alone: {n / (time.process_time() - start):,.0f} a second and core")
    for size in (1, 2):
        pool = Pool(size)
        await pool.run(f"{SYMBOLIC}:equal", "1", "2", timeout_s=60, imports=SYMBOLIC)
        start = time.perf_counter()
        calls = (pool.run(f"{SYMBOLIC}:equal", "1/2", f"{i}/{2 * i + 1}", timeout_s=60) for i in range(n))
        await asyncio.gather(*calls)
        print(f"math-verify, {size} processes: {n / (time.perf_counter() - start):,.0f} a second")
        pool.close()


async def beside_hangs(hangs: int, seconds: float = 5.0) -> None:
    """What a verification waits while others hang until they are killed."""
    pool = Pool()
    await pool.run(f"{SYMBOLIC}:equal", "1", "2", timeout_s=60, imports=SYMBOLIC)
    begun = time.perf_counter()
    hanging = [
        asyncio.create_task(pool.run(f"{SYMBOLIC}:equal", "7", HANG, timeout_s=seconds, imports=SYMBOLIC))
        for _ in range(hangs)
    ]
    waits: list[float] = []
    while time.perf_counter() - begun < seconds - 0.2:
        start = time.perf_counter()
        await pool.run(f"{SYMBOLIC}:equal", "1/2", f"{len(waits)}/7", timeout_s=60, imports=SYMBOLIC)
        waits.append(time.perf_counter() - start)
        await asyncio.sleep(0.01)
    results = await asyncio.gather(*hanging, return_exceptions=True)
    killed = sum(isinstance(result, PartError) and result.kind == "timeout" for result in results)
    print(
        f"beside {hangs} that hang ({killed} killed): {len(waits)} verifications, "
        f"median {median(waits) * 1e3:.1f} ms, longest {max(waits) * 1e3:.1f} ms"
    )
    pool.close()


async def main() -> None:
    inline()
    await pooled()
    for hangs in (0, 1, 4):
        await beside_hangs(hangs)


if __name__ == "__main__":
    uvloop.run(main())
