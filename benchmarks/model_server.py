"""What a model server adds to a call: its CPU a call over the floor client's, on the same mock endpoint.

The server's app is called as the others of its worker call it, 64 calls at once, with a conversation of four
messages. Two sizes of the same run, so that start-up falls out; the floor client makes the bare call.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import uvloop
from run import QUESTION, mock_endpoint

from nemo_like.asgi import call_app
from nemo_like.client import Client
from nemo_like.registry import load_file
from nemo_like.workers import for_each, prepare_for_many

HERE = Path(__file__).parent
MODELS = HERE.parent / "responses_api_models"
SERVERS = {
    "openai_model (chat)": ("openai_model", {"openai_base_url": "", "openai_model": "mock", "api": "chat"}),
    "vllm_model": ("vllm_model", {"base_url": "", "model": "mock"}),
    "vllm_model, one of two": ("vllm_model", {"base_url": [""], "model": "mock"}),
}
ITEMS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": QUESTION},
    {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Which one?"}]},
    {"role": "user", "content": "The third."},
]
CONCURRENCY = 64


async def call(folder: str, settings: dict[str, Any], n: int) -> None:
    """`n` calls of a server."""
    prepare_for_many()
    module = load_file(MODELS / folder / "app.py")
    (cls,) = [
        c
        for c in vars(module).values()
        if isinstance(c, type) and c.__module__ == module.__name__ and hasattr(c, "config_class")
    ]
    async with Client({}) as client:
        server = cls(
            cls.config_class().from_mapping(settings, where=folder), name="policy_model", client=client
        )
        app, body = server.app(), orjson.dumps({"input": ITEMS, "max_output_tokens": 100})

        async def one(number: int) -> None:
            status, answer = await call_app(app, "/v1/responses", body, {"x-rollout-id": str(number)})
            assert status == 200, answer

        await for_each(range(n), one, CONCURRENCY)


def cpu_s(name: str, urls: list[str], n: int) -> float:
    """CPU seconds of a process that makes `n` calls."""
    folder, settings = SERVERS[name]
    key = "openai_base_url" if "openai_base_url" in settings else "base_url"
    url = urls if isinstance(settings[key], list) else urls[0]
    command = [sys.executable, __file__, "--call", folder, json.dumps(settings | {key: url}), str(n)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def floor_cpu_ms(url: str, n: int) -> float:
    """CPU of the floor client a request."""
    command = [sys.executable, HERE / "floor_client.py", "--url", f"{url}/chat/completions", "--n", str(n)]
    return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)["cpu_ms"]


def main() -> None:
    """Measure each server beside the floor, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=5000, help="calls, of which 1,000 are taken off again")
    parser.add_argument("--call", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.call:
        folder, settings, n = options.call
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(call(folder, json.loads(settings), int(n)))
        return
    print("| | CPU ms a call | the floor | over it |\n|---|---|---|---|")
    with mock_endpoint() as one, mock_endpoint() as other:
        for name in SERVERS:
            floor = floor_cpu_ms(one, options.n)
            small, large = (cpu_s(name, [one, other], n) for n in (1000, options.n))
            cost = (large - small) / (options.n - 1000) * 1e3
            print(f"| {name} | {cost:.3f} | {floor:.3f} | {cost - floor:.3f} |", flush=True)


if __name__ == "__main__":
    main()
