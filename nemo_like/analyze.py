"""The analysis of rollouts: rewards, metrics of each problem, difficulty buckets, and the files of all that.

rollouts_with_rewards.parquet   every row, with its reward and what became of it
problem_metrics.json            {problem: metrics}
problem_buckets.json            {problem: bucket}
rollouts_{bucket}.parquet       the rows of a bucket's problems
problems_{bucket}.parquet       the problems themselves, as they were before anything was generated
difficulty.png, difficulty.html
summary.json                    written last
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

import orjson
from pydantic import Field

from nemo_like.answered import REWARD_FN_KEY, task_columns
from nemo_like.buckets import Assignment, Ties, assign, bucket_names, strategies
from nemo_like.difficulty_plot import draw_png, html, panels
from nemo_like.problems import SLICE, Problems, measure
from nemo_like.rollout_table import (
    GroupedWriter,
    RolloutTable,
    chosen,
    open_rollouts,
    renamed,
    renamed_schema,
)
from nemo_like.scored_rows import score_table, scorer_for
from nemo_like.settings import Settings
from nemo_like.store import write_whole
from nemo_like.types import Json

REWARDED = "rollouts_with_rewards.parquet"
RULE = "=" * 60


class AnalyzeConfig(Settings):
    """What an analysis is of, and by what."""

    rollouts: Path
    """Parquet or JSONL: generated rows, or rollouts of the collector."""
    output_dir: Path
    """Folder for the files; those of an earlier analysis in it are replaced."""
    bucketing_strategy: str = "percentile"
    """percentile, pass_rate, mean_reward, adaptive, dapo or prime_rl."""
    ties: Ties = "value"
    """Under rank, problems with equal metrics are told apart, so that quartiles are quarters."""
    reward_fn: str | None = None
    """A reward's name or file.py:function; null keeps the `reward` column, or goes by `data_source`."""
    reward_fn_key: str = REWARD_FN_KEY
    """Field of a task that holds its ground truth."""
    reward_timeout_s: float | None = Field(None, gt=0)
    """Seconds that a reward which runs in a process of the pool may take: 10, by `data_source` 120."""


def analyze(config: AnalyzeConfig) -> Json:
    """Analyse a file of rollouts; the summary, as it is written.

    Raises:
        UsageError: the file, a column, the reward function or the strategy is not what it should be.
    """
    strategies.get(config.bucketing_strategy)
    config.output_dir.mkdir(parents=True, exist_ok=True)
    _reward(config)
    # What is wrong with it is said of the file that a person named.
    table = RolloutTable(config.rollouts, config.output_dir / REWARDED)
    problems = measure(table)
    assignment = assign(problems.column, config.bucketing_strategy, config.ties)
    _write_jsons(problems, assignment, config.output_dir)
    _write_buckets(table, problems, assignment, config.output_dir)
    summary = _summary(config, table, problems, assignment)
    pictures = panels(problems, assignment)
    title = f"{config.rollouts.name}, {config.bucketing_strategy}"
    draw_png(pictures, title, config.output_dir / "difficulty.png")
    notes = [*_overall(summary), *summary["warnings"]]
    page = html(pictures, title, summary["bucket_distribution"], notes)
    write_whole(config.output_dir / "difficulty.html", page.encode())
    write_whole(config.output_dir / "summary.json", orjson.dumps(summary, option=orjson.OPT_INDENT_2))
    return summary


def format_summary(summary: Json) -> str:
    """What is printed at the end."""
    lines = [
        *(RULE, "ANALYSIS SUMMARY", RULE),
        f"Total problems: {summary['total_problems']}",
        f"Total rollouts: {summary['total_rollouts']}",
        f"Bucketing strategy: {summary['bucketing_strategy']}",
        *("", "Bucket distribution:"),
        *(f"  {name}: {n} problems" for name, n in summary["bucket_distribution"].items()),
        *("", "Overall metrics:"),
        *(f"  {line}" for line in _overall(summary)),
        RULE,
    ]
    return "\n".join(lines)


def _overall(summary: Json) -> list[str]:
    of = summary["overall_metrics"]
    named = {"Mean pass rate": "mean_pass_rate", "Mean reward": "mean_reward", "Mean@5": "mean_at_5"}
    return [f"{name}: {of[key]:.3f}" for name, key in named.items()]


def _reward(config: AnalyzeConfig) -> None:
    """Write every row with a reward: its own, unless a reward function is named."""
    target = config.output_dir / REWARDED
    with open_rollouts(config.rollouts, config.output_dir) as table:
        if config.reward_fn is not None or "reward" not in table.columns:
            scorer = scorer_for(table, config.reward_fn, config.reward_fn_key, config.reward_timeout_s)
            score_table(table, scorer, target)
        elif not (target.exists() and target.samefile(table.parquet)):
            fresh = target.with_name(target.name + ".tmp")
            shutil.copyfile(table.parquet, fresh)
            fresh.replace(target)


def _write_jsons(problems: Problems, assignment: Assignment, folder: Path) -> None:
    codes: list[int] = assignment.codes.tolist()
    names = [assignment.names[code] for code in codes]
    _write_object(folder / "problem_metrics.json", problems.metrics())
    _write_object(folder / "problem_buckets.json", zip(problems.keys(), names, strict=True))


def _write_object(path: Path, items: Iterable[tuple[str, Any]]) -> None:
    """Write a JSON object, a part at a time."""
    rest, fresh = iter(items), path.with_name(path.name + ".tmp")
    with fresh.open("wb") as file:
        separator = b"{\n"
        while part := dict(islice(rest, SLICE)):
            inside = orjson.dumps(part, option=orjson.OPT_INDENT_2)[2:-2]
            file.write(separator + inside)
            separator = b",\n"
        file.write(b"\n}\n")
    fresh.replace(path)


def _write_buckets(table: RolloutTable, problems: Problems, assignment: Assignment, folder: Path) -> None:
    """Write the rows, and the problems, of each bucket that has any; delete those of earlier ones."""
    filled = assignment.counts()
    tasks = task_columns(table.columns)
    for name in bucket_names():
        if name not in filled:
            (folder / f"rollouts_{name}.parquet").unlink(missing_ok=True)
        if name not in filled or not tasks:
            (folder / f"problems_{name}.parquet").unlink(missing_ok=True)
    codes, is_first = problems.rows(assignment.codes)
    with ExitStack() as files:

        def opened(kind: str, schema: Any) -> dict[int, GroupedWriter]:
            return {
                assignment.names.index(name): files.enter_context(
                    GroupedWriter(folder / f"{kind}_{name}.parquet", schema)
                )
                for name in filled
            }

        rows = opened("rollouts", table.schema)
        originals = opened("problems", renamed_schema(table.schema, tasks)) if tasks else {}
        start = 0
        for batch in table.batches():
            of_batch = slice(start, start := start + batch.num_rows)
            for code in set(codes[of_batch].tolist()) & rows.keys():
                here = codes[of_batch] == code
                rows[code].write(chosen(batch, here))
                if tasks:
                    originals[code].write(chosen(renamed(batch, tasks), here & is_first[of_batch]))


def _summary(config: AnalyzeConfig, table: RolloutTable, problems: Problems, assignment: Assignment) -> Json:
    without, least, most = problems.num_without_reward, problems.column("acc_min"), problems.column("acc_max")
    warnings = list(assignment.warnings)
    if problems.excluded:
        counts = ", ".join(f"{n:,} {status}" for status, n in problems.excluded.items())
        warnings.append(f"rollouts without a reward are in no metric: {counts}")
    if without:
        warnings.append(f"{without:,} problems have no reward at all, and are in no bucket")
    if not task_columns(table.columns):
        warnings.append(
            f"no column of {config.rollouts} is a problem's own, so there are no problems_*.parquet"
        )
    return {
        "total_problems": len(problems) + without,
        "total_rollouts": table.num_rows,
        "bucketing_strategy": config.bucketing_strategy,
        "bucket_distribution": assignment.counts(),
        "overall_metrics": {
            "mean_pass_rate": float(problems.column("pass_rate").mean()),
            "mean_reward": float(problems.column("mean_reward").mean()),
            "mean_at_5": float(problems.column("mean@5").mean()),
        },
        "rollouts": str(config.rollouts),
        "reward_fn": config.reward_fn,
        "ties": config.ties,
        "bucket_edges": assignment.edges,
        "scored_rollouts": problems.num_scored,
        "excluded_rollouts": problems.excluded,
        "problems_without_reward": without,
        "groups": {
            "all_0": int(((least == 0) & (most == 0)).sum()),
            "all_1": int(((least == 1) & (most == 1)).sum()),
            "identical": int((least == most).sum()),
        },
        "warnings": warnings,
    }
