"""How fast rollouts are analysed, and in how much memory: `python benchmarks/analyze.py`.

Ten million generated rollouts with rewards go through metrics and buckets, for each strategy, in a process of
its own; then with text through all of the analysis, files and pictures included; and some are scored.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nemo_like.analyze import AnalyzeConfig, analyze
from nemo_like.buckets import assign, strategies
from nemo_like.problems import measure
from nemo_like.rollout_table import RolloutTable
from nemo_like.scored_rows import score_table, scorer_for

GROUP = 100_000
CHARACTERS = 400


def write_rollouts(path: Path, n: int, repeats: int, *, binary: bool, text: bool) -> Path:
    """`n` rollouts, `repeats` of each problem; problems differ in how hard they are."""
    random = np.random.default_rng(0)
    schema = pa.schema([("data_idx", pa.int64()), ("sample_idx", pa.int32()), ("reward", pa.float64())])
    if text:
        for name in ("response", "original_question", "original_data_source"):
            schema = schema.append(pa.field(name, pa.string()))
        schema = schema.append(pa.field("original_ground_truth", pa.string()))
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, n, GROUP):
            rows = np.arange(start, min(n, start + GROUP))
            problem = rows // repeats
            hardness = (problem * 0.6180339887) % 1
            rewards = (random.random(len(rows)) > hardness).astype(np.float64)
            if not binary:
                rewards = rewards * 0.5 + random.random(len(rows)) * 0.5
            columns: list[object] = [problem, (rows % repeats).astype(np.int32), rewards]
            if text:
                right = [
                    f"{CHARACTERS * 'word '}"[:CHARACTERS] + f"#### {p + (r < 0.5)}"
                    for p, r in zip(problem, rewards, strict=True)
                ]
                columns += [right, [f"What is problem {p}?" for p in problem], ["openai/gsm8k"] * len(rows)]
                columns.append([str(p) for p in problem])
            writer.write_table(pa.table([pa.array(c) for c in columns], schema=schema))
    return path


def alone(work: Callable[..., None], *arguments: object) -> tuple[float, float]:
    """(Seconds, peak MB) of a call in a process of its own."""
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_measured, args=(send, work, *arguments))
    process.start()
    seconds, peak = receive.recv()
    process.join()
    return seconds, peak


def _measured(send: object, work: Callable[..., None], *arguments: object) -> None:
    start = time.perf_counter()
    work(*arguments)
    seconds = time.perf_counter() - start
    send.send((seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))  # type: ignore[attr-defined]


def metrics_and_buckets(path: Path, strategy: str) -> None:
    assignment = assign(measure(RolloutTable(path)).column, strategy)
    assert sum(assignment.counts().values())


def everything(path: Path, folder: Path) -> None:
    analyze(AnalyzeConfig(rollouts=path, output_dir=folder))


def scoring(path: Path, output: Path) -> None:
    table = RolloutTable(path)
    score_table(table, scorer_for(table, None, "reward_model"), output)


def line(what: str, n: int, seconds: float, peak_mb: float) -> None:
    print(f"| {what} | {n:,} | {seconds:.1f} | {n / seconds:,.0f} | {peak_mb:,.0f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--n", type=int, default=10_000_000)
    n = parser.parse_args().n
    print("| | rollouts | s | a second | peak MB |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for kind, binary in (("0 and 1", True), ("any reward", False)):
            for repeats in (10, 1):
                path = write_rollouts(folder / "r.parquet", n, repeats, binary=binary, text=False)
                for strategy in strategies.names() if repeats == 10 else ("percentile", "adaptive"):
                    measured = alone(metrics_and_buckets, path, strategy)
                    line(f"{strategy}, {kind}, {repeats} a problem", n, *measured)
        some = n // 10
        path = write_rollouts(folder / "text.parquet", some, 10, binary=True, text=True)
        line("the whole analysis, with files and pictures", some, *alone(everything, path, folder / "out"))
        some = n // 100
        path = write_rollouts(folder / "text.parquet", some, 10, binary=True, text=True)
        line("scoring by gsm8k's rule", some, *alone(scoring, path, folder / "scored.parquet"))


if __name__ == "__main__":
    main()
