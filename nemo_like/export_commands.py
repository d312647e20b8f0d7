"""The command that makes training data of rollouts."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from nemo_like.command import command
from nemo_like.export.settings import ExportConfig
from nemo_like.types import Json


def export() -> int:
    """Make training data of rollouts: collected, rescored or generated, JSONL or parquet.

        ng_export +rollouts=results/a.jsonl +format=sft +output=data/sft +min_reward=1
        ng_export +rollouts=results/a.jsonl +format=dpo +output=data/dpo.parquet +validation_share=0.1

    Formats: sft, prompt_completion, openai, kto, best_of_n, verl_sft; dpo, reward_pairs, nemo_rl_dpo; grpo,
    prompts, verl_rl, verl_responses; tokens, verl_tokens, skyrl_tokens, nemo_rl_tokens; verl_dump, verifiers.
    """
    from nemo_like.config import load
    from nemo_like.errors import MissingExtra
    from nemo_like.export.export import export as make

    async def main(arguments: Sequence[str]) -> int:
        wanted: ExportConfig = load(arguments, ExportConfig).settings(ExportConfig)
        try:
            exported = make(wanted)
        except ModuleNotFoundError as error:
            if error.name is None or error.name.split(".")[0] not in ("pyarrow", "datasets"):
                raise
            raise MissingExtra(f"it needs {error.name}: pip install 'nemo-like[export]'") from error
        for line in _report(exported.facts):
            print(line)
        for file in exported.files:
            print(file)
        for warning in exported.warnings:
            print(f"warning: {warning}", file=sys.stderr)
        return 0

    return command("ng_export", export, [ExportConfig], main)


def _report(facts: Json) -> Sequence[str]:
    """What a person is told: kept of total, and why the rest went."""
    lines: list[str] = []
    for noun in ("rollouts", "tasks"):
        if noun not in facts:
            continue
        count = facts[noun]
        why = ", ".join(f"{n:,} {reason}" for reason, n in count["dropped"].items())
        lines.append(f"kept {count['kept']:,} of {count['total']:,} {noun}" + (f" ({why})" if why else ""))
    rows = ", ".join(f"{n:,} {split}" for split, n in facts["rows"].items())
    lines.append(f"rows: {rows}")
    if facts["in_several_rows"]:
        why = "a step did not continue the one before"
        lines.append(f"{facts['in_several_rows']:,} rollouts are in several rows: {why}")
    return lines
