"""What a generated response costs, beside the floor client: `python benchmarks/generate.py`."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from run import HERE, mock_endpoint

SCRIPT = HERE.parent / "scripts/generate_rollouts.py"
QUESTION = "Which letter? " * 40
SAMPLES = 8


def write_prompts(path: Path, n: int) -> None:
    """`n` prompts as chat messages, with a ground truth."""
    with path.open("w") as file:
        for number in range(n):
            messages = [{"role": "user", "content": f"{number}: {QUESTION}"}]
            file.write(json.dumps({"prompt": messages, "reward_model": {"ground_truth": "B"}}) + "\n")


def generate(url: str, folder: Path, n: int, concurrency: int) -> tuple[float, float, float]:
    """(CPU seconds, wall seconds, peak MB) of generating 8 responses to each of `n` prompts."""
    write_prompts(folder / f"{n}.jsonl", n)
    command = [
        *(sys.executable, SCRIPT, "--use_vllm", "--vllm_base_url", url, "--num_samples", str(SAMPLES)),
        *("--vllm_max_concurrent", str(concurrency)),
        *("--data_path", f"{n}.jsonl", "--output_path", f"{n}.parquet", "--overwrite"),
    ]
    start = time.perf_counter()
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit((folder / "log").read_text()[-2000:])
    return usage.ru_utime + usage.ru_stime, time.perf_counter() - start, usage.ru_maxrss / 1024


def floor_cpu_ms(url: str, concurrency: int, n: int = 4000) -> float:
    """CPU of the floor client a request."""
    arguments = ["--url", f"{url}/chat/completions", "--n", str(n), "--concurrency", str(concurrency)]
    done = subprocess.run(
        [sys.executable, HERE / "floor_client.py", *arguments], capture_output=True, check=True
    )
    return json.loads(done.stdout)["cpu_ms"]


def main() -> None:
    """Measure and print; every figure from two sizes of the same run, so that start-up falls out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--latency", default="0", help="seconds before each answer of the endpoint")
    given = parser.parse_args()
    small = max(1, given.prompts // 8)
    more = (given.prompts - small) * SAMPLES
    print("| in flight | CPU ms | floor CPU ms | beyond | responses/s | peak MB |\n|---|---|---|---|---|---|")
    for concurrency in (100, 512):
        rows: list[tuple[float, ...]] = []
        for _ in range(given.repeats):
            with tempfile.TemporaryDirectory() as folder, mock_endpoint("--latency", given.latency) as url:
                floor = floor_cpu_ms(url, concurrency)
                cpu_1, wall_1, _ = generate(url, Path(folder), small, concurrency)
                cpu_2, wall_2, peak_mb = generate(url, Path(folder), given.prompts, concurrency)
            cpu_ms = (cpu_2 - cpu_1) / more * 1e3
            rows.append((cpu_ms, floor, cpu_ms - floor, more / (wall_2 - wall_1), peak_mb))
        cpu, floor, beyond, rate, peak = (median(column) for column in zip(*rows, strict=True))
        print(f"| {concurrency} | {cpu:.3f} | {floor:.3f} | {beyond:.3f} | {rate:,.0f} | {peak:.0f} |")


if __name__ == "__main__":
    main()
