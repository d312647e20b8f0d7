"""What a rollout costs: marginal CPU of all our processes together, rate, peak memory, start-up; beside the
floor.

Each figure comes from two sizes of the same run, so that start-up falls out, and stands beside the floor
client of the same minute, so that a slow machine falls out too. `python benchmarks/run.py --help` lists what
can be chosen.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
BIN = Path(sys.executable).parent
MODEL = "responses_api_models/openai_model/configs/openai_model.yaml"
QUESTION = "Which letter? " * 40


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One way to run."""

    name: str
    layout: tuple[str, ...] = ()
    tools: bool = False
    concurrency: int = 64
    latency_s: float = 0.0
    sizes: tuple[int, int] = (1000, 6000)


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What was measured."""

    scenario: str
    concurrency: int
    latency_s: float
    cpu_ms: float
    """Marginal CPU of a rollout, all processes of ours together."""
    floor_cpu_ms: float
    """The floor client's, in the same minute."""
    rollouts_per_s: float
    peak_mb: float
    """Of the largest process."""


SCENARIOS = [
    Scenario(name="stack and collector in one process", layout=("in_process=true",)),
    Scenario(name="shared worker"),
    Scenario(name="two shared workers", layout=("num_workers=2",)),
    Scenario(name="a process per server", layout=("colocate=false",)),
    Scenario(
        name="two tool calls, in one process", tools=True, layout=("in_process=true",), sizes=(500, 2500)
    ),
    Scenario(name="two tool calls, shared worker", tools=True, sizes=(500, 2500)),
    Scenario(
        name="two tool calls, a process per server", tools=True, layout=("colocate=false",), sizes=(500, 2500)
    ),
    *(
        Scenario(name=f"scaling, {latency_s} s", concurrency=n, latency_s=latency_s, sizes=sizes)
        for latency_s in (0, 1)
        for n, sizes in (
            (64, (128, 640) if latency_s else (1000, 6000)),
            (512, (1024, 5120)),
            (2048, (4096, 20480)),
            (8192, (8192, 32768)),
        )
    ),
    *(
        Scenario(
            name=f"two workers, {latency_s} s",
            layout=("num_workers=2",),
            concurrency=2048,
            latency_s=latency_s,
            sizes=(4096, 20480),
        )
        for latency_s in (0, 1)
    ),
]


@contextmanager
def mock_endpoint(*arguments: str) -> Iterator[str]:
    """The mock endpoint on a free port; its base URL."""
    command = [sys.executable, HERE / "mock_endpoint.py", "--port", "0", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = process.stdout.readline().rsplit(":", 1)[1].strip()
        try:
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()


def floor_cpu_ms(url: str, n: int = 3000) -> float:
    """CPU of the floor client a request."""
    done = subprocess.run(
        [sys.executable, HERE / "floor_client.py", "--url", f"{url}/responses", "--n", str(n)],
        capture_output=True,
        check=True,
    )
    return json.loads(done.stdout)["cpu_ms"]


def write_tasks(path: Path, n: int, *, tools: bool) -> None:
    """`n` different tasks: a question of 560 characters, or the example that takes two tools."""
    example = json.loads(
        (HERE.parent / "resources_servers/example_multi_step/data/example.jsonl").read_text().splitlines()[0]
    )
    single: dict[str, Any] = {
        "responses_create_params": {"input": [{"role": "user", "content": QUESTION}]},
        "expected_answer": "5",
    }
    with path.open("w") as file:
        for number in range(n):
            file.write(json.dumps((example if tools else single) | {"id": number}) + "\n")


def collect(scenario: Scenario, url: str, folder: Path, n: int) -> tuple[float, float, float]:
    """(CPU seconds of all our processes, wall seconds, peak MB) of collecting `n` rollouts."""
    environment = "example_multi_step" if scenario.tools else "arithmetic"
    if not (folder / f"{n}.jsonl").exists():
        write_tasks(folder / f"{n}.jsonl", n, tools=scenario.tools)
    command = [
        str(BIN / "ng_collect_rollouts"),
        *("model=openai", f"env={environment}", *scenario.layout),
        *(f"+policy_base_url={url}", "+policy_api_key=none", "+policy_model_name=mock"),
        "++policy_model.responses_api_models.openai_model.api=responses",
        *(f"+input_jsonl_fpath={n}.jsonl", f"+output_jsonl_fpath=out/{n}.jsonl"),
        f"+num_samples_in_parallel={scenario.concurrency}",
    ]
    start = time.perf_counter()
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
    wall_s = time.perf_counter() - start
    if status:
        raise SystemExit(f"{' '.join(command)}\n{(folder / 'log').read_text()[-2000:]}")
    with (folder / f"out/{n}.jsonl").open("rb") as rollouts:
        assert sum(1 for _ in rollouts) == n
    return usage.ru_utime + usage.ru_stime, wall_s, usage.ru_maxrss / 1024


def measure(scenario: Scenario) -> Figures:
    """One scenario, from two sizes."""
    tool_calls = ["--tool-calls", "2"] if scenario.tools else []
    small, large = scenario.sizes
    with (
        tempfile.TemporaryDirectory() as folder,
        mock_endpoint("--latency", str(scenario.latency_s), *tool_calls) as url,
    ):
        with mock_endpoint() as floor_url:
            floor = floor_cpu_ms(floor_url)
        cpu_1, wall_1, _ = collect(scenario, url, Path(folder), small)
        cpu_2, wall_2, peak_mb = collect(scenario, url, Path(folder), large)
    return Figures(
        scenario=scenario.name,
        concurrency=scenario.concurrency,
        latency_s=scenario.latency_s,
        cpu_ms=(cpu_2 - cpu_1) / (large - small) * 1e3,
        floor_cpu_ms=floor,
        rollouts_per_s=(large - small) / (wall_2 - wall_1),
        peak_mb=peak_mb,
    )


def million(rows: int = 1_000_000) -> str:
    """Peak memory and times of a data set of a million tasks, and of a second run that finds nothing owed."""
    scenario = Scenario(name="a million tasks", concurrency=256)
    with tempfile.TemporaryDirectory() as folder, mock_endpoint() as url:
        cpu_s, wall_s, peak_mb = collect(scenario, url, Path(folder), rows)
        _, resume_s, resume_mb = collect(scenario, url, Path(folder), rows)
    cost = f"{wall_s:,.0f} s, {cpu_s / rows * 1e3:.2f} ms CPU a rollout, {peak_mb:.0f} MB"
    return (
        f"{rows:,} tasks, 256 in flight: {cost}; the same command again: {resume_s:.0f} s, {resume_mb:.0f} MB"
    )


def start_up_s() -> float:
    """Seconds from the command to its word that all servers are ready."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        command = [BIN / "ng_run", "model=scripted", "env=[arithmetic,word_count,example_multi_step]"]
        with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            while not (line := process.stdout.readline()).startswith("All "):
                assert line, "ng_run ended"
            took_s = time.perf_counter() - start
            process.terminate()
    return took_s


def table(figures: Sequence[Figures]) -> str:
    """The figures as Markdown."""
    lines = [
        "| | in flight | latency s | CPU ms | × floor | floor CPU ms | rollouts/s | peak MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for f in figures:
        cost = f"{f.cpu_ms:.2f} | {f.cpu_ms / f.floor_cpu_ms:.1f} | {f.floor_cpu_ms:.3f}"
        run = f"{f.scenario} | {f.concurrency:,} | {f.latency_s:g}"
        lines.append(f"| {run} | {cost} | {f.rollouts_per_s:,.0f} | {f.peak_mb:.0f} |")
    return "\n".join(lines)


def main() -> None:
    """Measure what was asked for and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="a regular expression on the names of scenarios")
    parser.add_argument("--million", action="store_true", help="only a million tasks, and their resume")
    parser.add_argument("--json", type=Path, help="where to write the figures as well")
    arguments = parser.parse_args()
    if arguments.million:
        print(million())
        return
    figures: list[Figures] = []
    for scenario in SCENARIOS:
        if re.search(arguments.only, scenario.name):
            figures.append(measure(scenario))
            print(table(figures[-1:]).splitlines()[-1], file=sys.stderr)
    print(table(figures))
    print(f"\nready after {min(start_up_s() for _ in range(3)):.2f} s")
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps([asdict(f) for f in figures], indent=2))


if __name__ == "__main__":
    main()
