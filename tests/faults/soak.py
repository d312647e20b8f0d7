"""The long run: a lying endpoint, random kills, high concurrency; at the end each rollout is there once.

`make soak` runs it for 30 minutes, `python -m tests.faults.soak --minutes 2` for two. It prints a line
a minute and a summary as JSON; its exit status is not 0 if anything was lost, doubled, torn or grew.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.request import urlopen

import psutil

from benchmarks.run import mock_endpoint

from ..conftest import BIN, worker_pids

TASKS, CONCURRENCY = 20_000, 256
FAULTS = "500,429,drop,badjson,wrongjson,empty,hang"
MODEL = "++policy_model.responses_api_models.openai_model"
MB = 2**20


@dataclass
class Seen:
    """What happened, and what was noticed."""

    minutes: float
    collectors_killed: int = 0
    collectors_interrupted: int = 0
    workers_killed: int = 0
    rollouts: int = 0
    failed_attempts: int = 0
    lost: int = 0
    doubled: int = 0
    torn_lines: int = 0
    orphans: int = 0
    wrong_exit_statuses: list[int] = field(default_factory=list[int])
    collector_mb: list[int] = field(default_factory=list[int])
    """Resident memory of the collector, once a minute."""
    workers_mb: list[int] = field(default_factory=list[int])
    """Of its workers together."""
    worker_files: list[int] = field(default_factory=list[int])
    """Open files of the workers together."""
    worker_tasks: list[int] = field(default_factory=list[int])
    """asyncio tasks of the workers together."""


def resident_mb(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // MB


def tasks_of(pid: int) -> int:
    """What the worker says of itself, at the first of its addresses."""
    connections = psutil.Process(pid).net_connections()
    port = next(c.laddr.port for c in connections if c.status == psutil.CONN_LISTEN)
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        [number] = re.findall(r"^nemo_like_tasks (\d+)", answer.read().decode(), re.MULTILINE)
    return int(number)


def look(seen: Seen, collector: int, folder: Path) -> None:
    """Once a minute: how much memory, how many files and how many tasks there are."""
    with suppress(OSError, StopIteration, psutil.Error):
        workers = worker_pids(folder)
        seen.collector_mb.append(resident_mb(collector))
        seen.workers_mb.append(sum(map(resident_mb, workers)))
        seen.worker_files.append(sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in workers))
        seen.worker_tasks.append(sum(map(tasks_of, workers)))
    print(f"{seen}", file=sys.stderr, flush=True)


def command(url: str, repeats: int) -> list[str]:
    return [
        str(BIN / "ng_collect_rollouts"),
        *("model=openai", "env=example_multi_step", "num_workers=2", f"+policy_base_url={url}"),
        *("+policy_api_key=k", "+policy_model_name=m", f"{MODEL}.api=responses", f"{MODEL}.timeout_s=5"),
        *("+input_jsonl_fpath=tasks.jsonl", "+output_jsonl_fpath=r.jsonl", f"+num_repeats={repeats}"),
        *(f"+num_samples_in_parallel={CONCURRENCY}", "+max_attempts=1000"),
    ]


def disturb(process: subprocess.Popen[bytes], seen: Seen, folder: Path, rng: random.Random) -> None:
    """Kill a worker, or the collector; or interrupt it."""
    what = rng.random()
    if what < 0.6 and (workers := sorted(worker_pids(folder))):
        with suppress(ProcessLookupError):
            os.kill(rng.choice(workers), signal.SIGKILL)
        seen.workers_killed += 1
    elif what < 0.85:
        process.kill()
        seen.collectors_killed += 1
    else:
        process.send_signal(signal.SIGINT)
        seen.collectors_interrupted += 1


def run(minutes: float, folder: Path, seed: int) -> Seen:
    """The whole thing."""
    rng, seen = random.Random(seed), Seen(minutes)
    root = Path(__file__).parents[2]
    example = json.loads(
        (root / "resources_servers/example_multi_step/data/example.jsonl").read_text().split("\n")[0]
    )
    with (folder / "tasks.jsonl").open("w") as file:
        file.writelines(json.dumps(example | {"id": i}) + "\n" for i in range(TASKS))
    until, looked_at, repeats = time.monotonic() + minutes * 60, 0.0, 1
    endpoint = [
        "--faults",
        "0.1",
        "--fault-kinds",
        FAULTS,
        "--latency",
        "0.2",
        "--jitter",
        "0.5",
        "--tool-calls",
        "2",
    ]
    with mock_endpoint(*endpoint, "--hang-seconds", "60") as url, (folder / "log").open("wb") as log:
        while time.monotonic() < until:
            with subprocess.Popen(command(url, repeats), cwd=folder, stdout=log, stderr=log) as process:
                disturbed_at = time.monotonic() + rng.uniform(20, 60)
                while process.poll() is None:
                    time.sleep(0.5)
                    now = time.monotonic()
                    if now - looked_at > 60:
                        look(seen, process.pid, folder)
                        looked_at = now
                    if now > disturbed_at:
                        disturb(process, seen, folder, rng)
                        disturbed_at = now + rng.uniform(20, 60)
                    if now > until:
                        process.send_signal(signal.SIGINT)
                        process.wait(60)
            if process.returncode == 0:
                repeats += 1
            elif process.returncode not in (-signal.SIGKILL, 130):
                seen.wrong_exit_statuses.append(process.returncode)
                print((folder / "log").read_text("utf-8", "replace")[-600:], file=sys.stderr)
        # What is owed now is done without any disturbance.
        last = subprocess.run(command(url, repeats), cwd=folder, stdout=log, stderr=log, check=False)
        if last.returncode:
            seen.wrong_exit_statuses.append(last.returncode)
    time.sleep(8)
    seen.orphans = len(worker_pids(folder))
    count(seen, folder, TASKS * repeats)
    return seen


def count(seen: Seen, folder: Path, owed: int) -> None:
    """Read the file, as anybody would."""
    found = Counter[str]()
    with (folder / "r.jsonl").open("rb") as file:
        for line in file:
            try:
                row = json.loads(line)
                found[f"{row['_ng_task_key']} {row['_ng_rollout_index']}"] += 1
            except ValueError:
                seen.torn_lines += 1
    with (folder / "r_failures.jsonl").open("rb") as file:
        seen.failed_attempts = sum(1 for _ in file)
    seen.rollouts = len(found)
    seen.lost = owed - len(found)
    seen.doubled = sum(n - 1 for n in found.values())


def grew(samples: list[int]) -> bool:
    """Whether the last third of the samples stands clearly above the middle one."""
    third = len(samples) // 3
    return third > 2 and max(samples[-third:]) > 1.3 * max(samples[third:-third]) + 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        seen = run(arguments.minutes, Path(folder), arguments.seed)
    print(json.dumps(asdict(seen), indent=2))
    grown = any(map(grew, (seen.collector_mb, seen.workers_mb, seen.worker_files, seen.worker_tasks)))
    bad = seen.lost or seen.doubled or seen.torn_lines or seen.orphans or seen.wrong_exit_statuses
    sys.exit(1 if bad or grown else 0)


if __name__ == "__main__":
    main()
