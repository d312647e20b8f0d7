"""What an export is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from nemo_like.settings import Settings

Container = Literal["jsonl", "parquet", "hf"]
Advantage = Literal["verl", "trl", "dr_grpo", "leave_one_out"]


class ExportConfig(Settings):
    """What `ng_export` does."""

    rollouts: Path | list[Path]
    """The rollouts: a file or a list of them, collected, rescored or generated; JSONL or parquet."""
    format: str
    """What the rows become: sft, dpo, kto, grpo, verl_tokens, …"""
    output: Path
    """A folder, which gets train.jsonl, README.md and export.json; or one file, .jsonl or .parquet."""
    container: Container | None = None
    """jsonl, parquet, or hf (`save_to_disk`); null goes by the name of the output, else jsonl."""
    overwrite: bool = False
    """Whether to replace an earlier export."""

    query: str = ""
    """Only rollouts that it selects, such as `reward > 0.5 and tool == "search"`; as in the viewer."""
    min_reward: float | None = None
    """Only rewards of at least so much."""
    max_reward: float | None = None
    """Only rewards of at most so much."""
    drop_unsuccessful: bool = False
    """Whether to leave out rollouts without success."""
    drop_truncated: bool = False
    """Whether to leave out rollouts that were cut off."""
    drop_duplicates: bool = False
    """Whether to keep only the first of several with the same prompt and answer."""
    max_tokens: int | None = Field(None, ge=1)
    """Longest prompt and answer, in tokens; of several steps without token ids, an upper bound is taken."""
    max_characters: int | None = Field(None, ge=1)
    """Longest prompt and answer, in characters."""
    best: int | None = Field(None, ge=1)
    """So many rollouts of a task at most, those with the highest rewards."""
    per_task: int | None = Field(None, ge=1)
    """So many rollouts of a task at most, drawn with the seed."""
    drop_equal_groups: bool = False
    """Whether to leave out tasks whose rewards are all the same: they teach a policy nothing."""
    balance: bool = False
    """Whether to keep as many without success as with it, drawn with the seed."""
    validation_share: float = Field(0.0, ge=0, lt=1)
    """Share of the tasks that goes into a validation split; equal prompts go to the same side."""
    seed: int = 0
    """What is drawn by chance is drawn from it."""

    success_threshold: float = 0.5
    """Reward that is a success: for kto's labels, and where a row does not say it itself."""
    margin: float = Field(0.0, ge=0)
    """By how much the reward of a pair's chosen side has to be higher, beyond being higher."""
    pairs_per_task: int = Field(1, ge=1)
    """Pairs of a task at most."""
    advantage: Advantage = "verl"
    """How a group's rewards become advantages: verl, trl, dr_grpo or leave_one_out."""
    reasoning: Literal["keep", "drop", "inline"] = "keep"
    """Reasoning as `reasoning_content` of its message, not at all, or in <think> tags before the text."""
    tool_arguments: Literal["text", "object"] = "text"
    """Arguments of a tool call as JSON text, or as an object, which some chat templates want (jsonl only)."""
    unextended: Literal["split", "drop"] = "split"
    """Token rows where a step's prompt does not continue what came before: a row for each part, or none."""
    data_source: str | None = None
    """`data_source` of verl's rows; null is the row's own, else the name of the agent."""
    step: int = 0
    """`step` of a verl dump."""
    workers: int | None = Field(None, ge=1)
    """Processes that convert; null is one for a small file, else one a core."""

    @property
    def files(self) -> list[Path]:
        """The rollouts files."""
        return [self.rollouts] if isinstance(self.rollouts, Path) else self.rollouts
