"""The floor: how fast a bare aiohttp loop asks the mock endpoint the same and appends the answers.

No framework does less than this: one HTTP call a model turn, one JSON parse, one line written.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import time
from pathlib import Path

import aiohttp
import orjson
import uvloop


async def main(args: argparse.Namespace) -> None:
    free = asyncio.Semaphore(args.concurrency)
    body = orjson.dumps({"model": "mock", "input": [{"role": "user", "content": "Which letter? " * 40}]})
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session, asyncio.TaskGroup() as group:
        with Path(args.out).open("wb") as file:  # noqa: ASYNC230 that is the floor: nothing cheaper writes a line

            async def one(number: int) -> None:
                headers = {"Content-Type": "application/json"}
                try:
                    async with session.post(args.url, data=body, headers=headers) as answer:
                        response = orjson.loads(await answer.read())
                    file.write(orjson.dumps({"i": number, "response": response, "reward": 1.0}) + b"\n")
                finally:
                    free.release()

            tasks: list[asyncio.Task[None]] = []
            for number in range(args.n):
                await free.acquire()
                tasks.append(group.create_task(one(number)))
            await asyncio.gather(*tasks)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:18000/v1/responses")
    parser.add_argument("--n", type=int, default=5000)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--out", default="/dev/null")
    given = parser.parse_args()
    uvloop.install()
    start = time.perf_counter()
    asyncio.run(main(given))
    wall_s = time.perf_counter() - start
    usage = resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = usage.ru_utime + usage.ru_stime
    print(
        json.dumps(
            {
                "rollouts_per_s": given.n / wall_s,
                "cpu_ms": cpu_s / given.n * 1e3,
                "peak_mb": usage.ru_maxrss / 1024,
            }
        )
    )
