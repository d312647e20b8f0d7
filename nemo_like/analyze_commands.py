"""The commands of the analysis, with the options that their scripts have.

Results go to standard output, warnings and errors to standard error. The exit status is 0, or 1 where
something failed, or 2 where what was asked is wrong.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nemo_like.errors import Error, MissingExtra, UsageError
from nemo_like.registry import load

if TYPE_CHECKING:
    from nemo_like.analyze import AnalyzeConfig

GENERATE = "nemo_like.generate:main"
"""What makes rollouts: `(arguments) -> exit status`, with the options of `scripts/generate_rollouts.py`."""
NEEDS = ("polars", "pyarrow", "numpy", "matplotlib")
STRATEGIES = ("percentile", "pass_rate", "mean_reward", "adaptive", "dapo", "prime_rl")


def analyze_rollouts(arguments: Sequence[str] | None = None) -> int:
    """Rewards, metrics and difficulty buckets of a file of rollouts."""
    parser = argparse.ArgumentParser("analyze_rollouts", description=analyze_rollouts.__doc__)
    parser.add_argument("--rollouts", type=Path, required=True, help="parquet or JSONL of rollouts")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for the results")
    parser.add_argument("--model_path", help="not needed; taken so that commands that give it work")
    _add_options(parser)
    options = vars(parser.parse_args(arguments))
    options.pop("model_path")
    return _guarded(parser.prog, lambda: _analyze(options))


def filter_difficulty(arguments: Sequence[str] | None = None) -> int:
    """Difficulty buckets of a data set in one: rollouts are generated unless the data has them, and scored
    unless it has rewards. Further options are those of generate_rollouts."""
    parser = argparse.ArgumentParser("filter_difficulty", description=filter_difficulty.__doc__)
    parser.add_argument("--data_path", type=Path, required=True, help="tasks, rollouts, or scored rollouts")
    parser.add_argument("--output_dir", type=Path, default=Path("./difficulty_results"))
    parser.add_argument("--model_path", help="model path or name, where rollouts are generated")
    _add_options(parser)
    known, others = parser.parse_known_args(arguments)
    options = vars(known)
    data, model = options.pop("data_path"), options.pop("model_path")
    generation = [*others, *(["--model_path", model] if model else [])]

    def main() -> int:
        from nemo_like.rollout_table import column_names

        if "response" in column_names(data) or "reward" in column_names(data):
            if others:
                parser.error(f"{data} has rollouts already: there is no use for {' '.join(others)}")
            return _analyze({"rollouts": data, **options})
        options["output_dir"].mkdir(parents=True, exist_ok=True)
        rollouts = options["output_dir"] / "rollouts.parquet"
        generate: Callable[[Sequence[str]], int] = load(GENERATE)
        status = generate(["--data_path", str(data), "--output_path", str(rollouts), *generation])
        return status or _analyze({"rollouts": rollouts, **options})

    return _guarded(parser.prog, main)


def analyze_rewards(arguments: Sequence[str] | None = None) -> int:
    """Rewards of a file of rollouts, written beside it as NAME_with_rewards.parquet."""
    parser = argparse.ArgumentParser("analyze_rewards", description=analyze_rewards.__doc__)
    parser.add_argument("--rollouts", type=Path, required=True, help="parquet or JSONL of rollouts")
    parser.add_argument("--output_path", type=Path, help="parquet to write; may be that of the rollouts")
    _add_reward_options(parser)
    options = parser.parse_args(arguments)

    def main() -> int:
        from nemo_like.rollout_table import open_rollouts
        from nemo_like.scored_rows import score_table, scorer_for

        rollouts: Path = options.rollouts
        output: Path = options.output_path or rollouts.with_name(f"{rollouts.stem}_with_rewards.parquet")
        if output.suffix != ".parquet":
            raise UsageError(f"--output_path {output} does not end in .parquet")
        with open_rollouts(rollouts, output.parent) as table:
            scorer = scorer_for(table, options.reward_fn, options.reward_fn_key, options.reward_timeout_s)
            outcome = score_table(table, scorer, output)
        mean = outcome.total / outcome.statuses["ok"]
        print(f"{outcome}; mean reward {mean:.3f}\n{output}")
        return 0

    return _guarded(parser.prog, main)


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--bucketing_strategy", choices=STRATEGIES, default="percentile")
    parser.add_argument(
        "--ties",
        choices=("value", "rank"),
        default="value",
        help="rank: problems with equal metrics are told apart, so that quartiles are quarters",
    )
    _add_reward_options(parser)


def _add_reward_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--reward_fn",
        help="ifeval, math, custom (custom_reward.py:compute_score), any registered reward, or "
        "file.py:function; without it the rule of each row's data_source",
    )
    parser.add_argument("--reward_fn_key", default="reward_model", help="field that holds the ground truth")
    parser.add_argument(
        "--reward_timeout_s", type=float, help="seconds a reward may take (10; by data_source 120)"
    )


def _analyze(options: dict[str, Any]) -> int:
    from nemo_like.analyze import AnalyzeConfig, analyze, format_summary

    config: AnalyzeConfig = AnalyzeConfig.from_mapping(options, where="the command line")
    summary = analyze(config)
    print(format_summary(summary))
    for warning in summary["warnings"]:
        print(f"warning: {warning}", file=sys.stderr)
    return 0


def _guarded(name: str, main: Callable[[], int]) -> int:
    """Run a command; every error as a readable line and an exit status."""
    try:
        return main()
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] not in NEEDS:
            raise
        error = MissingExtra(f"it needs {error.name}: pip install 'nemo-like[analysis]'")
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    except (Error, OSError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return 130
