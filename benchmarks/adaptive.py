"""What adapting the number in flight costs beside the best fixed number, against endpoints that bear so much.

The mock endpoint works at `CAPACITY` requests at once; what is beyond is refused (429), or waits in it, told
in its metrics as vLLM does or told to nobody. Rates are of the whole run, from the first rollout's start to
the last one's end, slow start included.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from run import BIN, mock_endpoint, write_tasks

CAPACITY = 60
LATENCY_S = 1.0
ROLLOUTS = 2400
FIXED = (32, 60, 240)
ENDPOINTS = {
    "refuses": ("--beyond", "refuse"),
    "lets wait, and tells its queue": ("--beyond", "wait", "--tell-queue"),
    "lets wait": ("--beyond", "wait"),
}


def collect(url: str, folder: Path, parallel: int | None, rollouts: int) -> tuple[float, str]:
    """(rollouts a second, what the number in flight came to)."""
    name = str(parallel or "adaptive")
    command = [
        str(BIN / "ng_collect_rollouts"),
        *("model=openai", "env=arithmetic", f"+policy_base_url={url}", "+policy_api_key=none"),
        *("+policy_model_name=mock", "++policy_model.responses_api_models.openai_model.api=responses"),
        *(
            "++policy_model.responses_api_models.openai_model.max_retries=20",
            "+input_jsonl_fpath=tasks.jsonl",
        ),
        *(f"+output_jsonl_fpath=out/{name}.jsonl", f"+num_samples_in_parallel={parallel or 'null'}"),
        f"+limit={rollouts}",
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    [summary] = json.loads((folder / f"out/{name}_aggregate_metrics.json").read_text())
    if summary["num_rollouts"] != rollouts or summary["num_failed"]:
        raise SystemExit(f"not all went well: {json.dumps(summary)[:2000]}")
    came_to = next((line for line in done.stdout.splitlines() if line.startswith("in flight")), "")
    return summary["throughput"]["rollouts_per_s"], came_to


def compare(name: str, arguments: Sequence[str], rollouts: int) -> None:
    """One endpoint: each fixed number, and none."""
    capacity = ("--capacity", str(CAPACITY), "--latency", str(LATENCY_S), "--jitter", "0.4")
    with tempfile.TemporaryDirectory() as temporary, mock_endpoint(*capacity, *arguments) as url:
        folder = Path(temporary)
        write_tasks(folder / "tasks.jsonl", rollouts, tools=False)
        rates = {number: collect(url, folder, number, rollouts)[0] for number in FIXED}
        adaptive, came_to = collect(url, folder, None, rollouts)
    best = max(rates, key=lambda number: rates[number])
    fixed = " | ".join(f"{rate:,.0f}" for rate in rates.values())
    print(
        f"| {name} | {fixed} | {adaptive:,.0f} ({adaptive / rates[best]:.0%} of the best) | {came_to} |",
        flush=True,
    )


def main() -> None:
    """Compare at every endpoint and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rollouts", type=int, default=ROLLOUTS)
    parser.add_argument("--only", default="", help="a regular expression on the endpoints")
    arguments = parser.parse_args()
    heads = ["an endpoint that", *map(str, FIXED), "adaptive", "which"]
    print(f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|", flush=True)
    for name, options in ENDPOINTS.items():
        if re.search(arguments.only, name):
            compare(name, options, arguments.rollouts)


if __name__ == "__main__":
    main()
