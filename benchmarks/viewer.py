"""What the viewer costs on a large file: `python benchmarks/viewer.py --rows 1000000`.

Makes a rollouts file, opens it without an index, looks at it while it is being read, and then again with the
index: how long each view takes, and the memory of the process that shows it.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from nemo_like.viewer.catalog import Catalog
from nemo_like.viewer.pages import Site

VIEWS: dict[str, dict[str, str]] = {
    "first page": {"view": "rollouts"},
    "sorted by reward": {"view": "rollouts", "sort": "reward", "desc": "1"},
    "sorted by tokens": {"view": "rollouts", "sort": "tokens", "desc": "1"},
    "reward < 0.5": {"view": "rollouts", "q": "reward < 0.5"},
    'reward < 0.5 and tool == "search"': {"view": "rollouts", "q": 'reward < 0.5 and tool == "search"'},
    "tokens > 1900, sorted by seconds": {"view": "rollouts", "q": "tokens > 1900", "sort": "time"},
    "tasks, hardest first": {"view": "tasks"},
    "one rollout": {"view": "rollout", "id": "4711"},
    "overview": {"view": "overview"},
}


def rollout(rng: random.Random, number: int) -> dict[str, Any]:
    """A rollout of some 3 kB with up to three tool calls."""
    task, repeat = divmod(number, 4)
    good, calls = rng.random() < (task % 10) / 9, rng.randint(0, 3)
    output: list[dict[str, Any]] = [
        {
            "type": "reasoning",
            "summary": [{"type": "summary_text", "text": "Let me think. " * rng.randint(1, 30)}],
        }
    ]
    for call in range(calls):
        name = rng.choice(["search", "fetch", "calculate"])
        said = '{"found": "' + "something that was found. " * rng.randint(1, 30) + '"}'
        output += [
            {"type": "function_call", "name": name, "arguments": '{"query": "a b c"}', "call_id": f"c{call}"},
            {"type": "function_call_output", "call_id": f"c{call}", "output": said},
        ]
    text = f"The answer is **{number}**. " + "Because of this and that. " * rng.randint(1, 40)
    output.append(
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]}
    )
    tokens = rng.randint(20, 2000)
    question = f"What is task number {task}? " + "Some context here. " * 20
    return {
        "responses_create_params": {"input": [{"role": "user", "content": question}], "temperature": 1.0},
        "response": {
            "output": output,
            "status": "completed" if rng.random() < 0.95 else "incomplete",
            "usage": {"input_tokens": 300, "output_tokens": tokens, "total_tokens": 300 + tokens},
        },
        "reward": float(good),
        "success": good,
        "metadata": {"total_s": rng.expovariate(0.5), "started_at": 1.7e9 + number * 0.01},
        "agent_ref": {"name": rng.choice(["math_agent", "search_agent"])},
        "_ng_task_key": f"{task:016x}",
        "_ng_task_index": task,
        "_ng_rollout_index": repeat,
    }


def write(path: Path, rows: int) -> None:
    rng = random.Random(0)
    with path.open("wb") as file:
        for number in range(rows):
            file.write(orjson.dumps(rollout(rng, number), option=orjson.OPT_APPEND_NEWLINE))


def timed(what: Callable[[], Any]) -> float:
    start = time.perf_counter()
    what()
    return time.perf_counter() - start


def memory_mb() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def look(path: Path) -> None:
    """Without an index, then with it."""
    start = time.perf_counter()
    with Catalog(path) as catalog:
        site = Site([catalog])
        while not catalog.version():
            time.sleep(0.01)
        print(f"without an index: {time.perf_counter() - start:.2f} s until there are rows to see")
        longest = 0.0
        while catalog.covered() < catalog.size:
            time.sleep(5)
            longest = max(timed(lambda route=route: site.render(route)) for route in list(VIEWS.values())[:4])
        read_s = time.perf_counter() - start
        print(print(f"all read after {read_s:.0f} s; the slowest view near the end: {longest * 1e3:.0f} ms"))
    start = time.perf_counter()
    with Catalog(path) as catalog:
        site = Site([catalog])
        site.render(VIEWS["first page"])
        print(f"with the index: first page after {time.perf_counter() - start:.2f} s")
        print(f"overview, made beside the page: {timed(lambda: wait_for_overview(catalog, site)):.1f} s")
        for name, route in VIEWS.items():
            print(f"  {name}: {timed(lambda route=route: site.render(route)) * 1e3:.0f} ms")
    print(f"memory: {memory_mb():.0f} MB at most, Gradio (about 130 MB) not in it")


def wait_for_overview(catalog: Catalog, site: Site) -> None:
    site.render({"view": "overview"})
    while (kept := catalog.kept("overview")) is None or kept[0] != catalog.version():
        time.sleep(0.1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--file", type=Path, help="a rollouts file of your own, instead")
    parser.add_argument("--look", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.look:
        look(arguments.file)
        return
    with tempfile.TemporaryDirectory() as folder:
        path: Path = arguments.file or Path(folder) / "rollouts.jsonl"
        if arguments.file is None:
            write(path, arguments.rows)
        print(f"{path.stat().st_size / 1e9:.2f} GB")
        # A process of its own, so that its memory is that of looking.
        subprocess.run([sys.executable, __file__, "--file", str(path), "--look"], check=True)


if __name__ == "__main__":
    main()
