"""Draws the scaling curves from what `run.py --json` wrote: `python benchmarks/plot.py figures.json`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from matplotlib import pyplot as plt


def main() -> None:
    """Write scaling.png beside this file."""
    figures = [f for f in json.loads(Path(sys.argv[1]).read_text()) if f["scenario"].startswith("scaling")]
    figure, (rate, cost) = plt.subplots(1, 2, figsize=(10, 4))
    for latency_s in sorted({f["latency_s"] for f in figures}):
        points = [f for f in figures if f["latency_s"] == latency_s]
        in_flight = [f["concurrency"] for f in points]
        label = f"endpoint answers after {latency_s:g} s"
        rate.plot(in_flight, [f["rollouts_per_s"] for f in points], "o-", label=label)
        cost.plot(in_flight, [f["cpu_ms"] / f["floor_cpu_ms"] for f in points], "o-", label=label)
    rate.plot([64, 2048], [64, 2048], "k:", label="as many a second as in flight")
    rate.set(xscale="log", yscale="log", xlabel="rollouts in flight", ylabel="rollouts a second")
    cost.set(
        xscale="log", ylim=(0, None), xlabel="rollouts in flight", ylabel="CPU a rollout, floor client = 1"
    )
    rate.legend()
    cost.legend()
    figure.tight_layout()
    figure.savefig(Path(__file__).parent / "scaling.png", dpi=80)


if __name__ == "__main__":
    main()
