"""The command that scores stored rollouts with a model."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Sequence

from nemo_like.command import command
from nemo_like.errors import MissingExtra


def score_logprobs() -> int:
    """Log-probabilities of stored rollouts under a policy, and a reference model, from their token ids.

        ng_score_logprobs +policy=embedded +input_jsonl_fpath=results/sums.jsonl \\
            +output_jsonl_fpath=results/sums_logprobs.jsonl

    Prints how far the log-probabilities of the engine that sampled are from the policy's, and with
    `+reference=…` the policy's divergence from the reference.
    """
    from nemo_like.config import load

    try:
        from nemo_like.logprob_report import format_report
        from nemo_like.score_logprobs import ScoreLogprobsConfig
        from nemo_like.score_logprobs import score_logprobs as score
        from nemo_like.sequence_processing.weights import load_model
    except ModuleNotFoundError as error:
        if error.name not in ("torch", "transformers", "numpy"):
            raise
        missing = MissingExtra(f"it needs {error.name}: pip install 'nemo-like[hf]'")

        async def say(_: Sequence[str]) -> int:
            raise missing

        return command("ng_score_logprobs", score_logprobs, [], say)

    async def main(arguments: Sequence[str]) -> int:
        wanted: ScoreLogprobsConfig = load(arguments, ScoreLogprobsConfig).settings(ScoreLogprobsConfig)
        # The work never returns to the loop, whose own handlers would wait for that.
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().remove_signal_handler(number)
            signal.signal(number, signal.default_int_handler)
        summary = score(wanted, load_model, _show)
        print(format_report(summary))
        print(f"\n{wanted.output_jsonl_fpath}")
        return 0 if summary["rollouts"] else 1

    return command("ng_score_logprobs", score_logprobs, [ScoreLogprobsConfig], main)


def _show(lines: int) -> None:
    """How far it is, where somebody looks."""
    if sys.stderr.isatty():
        print(f"\r{lines:,} lines read", end="", file=sys.stderr, flush=True)
