"""Formats of whole conversations, one rollout a row: for supervised fine-tuning and unpaired preferences."""

from __future__ import annotations

from collections.abc import Iterator

from nemo_like.export.format import (
    AS_IT_IS,
    MESSAGES,
    SCORE,
    rollout_format,
    score_of,
    task_format,
    with_tools,
)
from nemo_like.export.rollout import Rollout, Unfit
from nemo_like.export.selection import best_first
from nemo_like.export.settings import ExportConfig
from nemo_like.types import Json

STOP = {"stop_condition": "string", "is_truncated": "bool", "has_error": "bool"}
PAIR = {"prompt": MESSAGES, "completion": MESSAGES, "tools": "string"}


@rollout_format("sft", {"messages": MESSAGES, "tools": "string", **SCORE, **STOP})
def sft(rollout: Rollout, config: ExportConfig) -> Iterator[Json]:
    """Whole conversations, `messages` and `tools`: TRL's SFTTrainer, prime-rl's SFT, and most others."""
    row: Json = {"messages": rollout.prompt + rollout.completion}
    yield with_tools(row, rollout) | score_of(rollout) | _stop(rollout)


@rollout_format("prompt_completion", {**PAIR, **SCORE, **STOP})
def prompt_completion(rollout: Rollout, config: ExportConfig) -> Iterator[Json]:
    """Prompt and completion apart, each a list of messages: TRL's SFTTrainer with loss on the completion,
    with `assistant_only_loss=True` where tools speak in it."""
    row = with_tools({"prompt": rollout.prompt, "completion": rollout.completion}, rollout)
    yield row | score_of(rollout) | _stop(rollout)


@rollout_format("openai", {"messages": MESSAGES, "tools": AS_IT_IS}, only=("jsonl",), exact=True)
def openai(rollout: Rollout, config: ExportConfig) -> Iterator[Json]:
    """The file of OpenAI's fine-tuning: `messages` and `tools`, and nothing that its check refuses."""
    messages = [
        {key: value for key, value in message.items() if key != "reasoning_content"}
        for message in rollout.prompt + rollout.completion
    ]
    for message in messages:
        if "tool_calls" in message and not message["content"]:
            del message["content"]
    # What ends with a tool, or with reasoning alone, has no answer to learn.
    while messages and messages[-1]["role"] == "tool":
        messages.pop()
    if not messages or not (messages[-1].get("content") or messages[-1].get("tool_calls")):
        raise Unfit("no answer")
    yield {"messages": messages} | ({"tools": rollout.tools} if rollout.tools else {})


@rollout_format("kto", {**PAIR, "label": "bool", **SCORE}, needs_reward=True)
def kto(rollout: Rollout, config: ExportConfig) -> Iterator[Json]:
    """A completion, and whether its reward reaches `success_threshold`: TRL's KTOTrainer, BCO."""
    assert rollout.reward is not None
    row = with_tools({"prompt": rollout.prompt, "completion": rollout.completion}, rollout)
    yield row | {"label": rollout.reward >= config.success_threshold} | score_of(rollout)


@task_format(
    "best_of_n", {"messages": MESSAGES, "tools": "string", **SCORE, "n": "int64", "mean_reward": "double"}
)
def best_of_n(group: list[Rollout], config: ExportConfig) -> Iterator[Json]:
    """The rollout of a task with the highest reward, and how the others did: for rejection sampling."""
    rewards = [rollout.reward or 0.0 for rollout in group]
    about = {"n": len(group), "mean_reward": sum(rewards) / len(rewards)}
    rollout = best_first(group)[0]
    row = with_tools({"messages": rollout.prompt + rollout.completion}, rollout)
    yield row | score_of(rollout) | about


@rollout_format(
    "verl_sft",
    {"messages": MESSAGES, "tools": AS_IT_IS, **SCORE},
    container="parquet",
    only=("parquet",),
    exact=True,
)
def verl_sft(rollout: Rollout, config: ExportConfig) -> Iterator[Json]:
    """Whole conversations as verl's SFT trainer reads them: parquet, `messages`, `tools` as they are."""
    row: Json = {"messages": rollout.prompt + rollout.completion}
    if rollout.tools:
        row["tools"] = rollout.tools
    yield row | score_of(rollout)


def _stop(rollout: Rollout) -> Json:
    details: Json = rollout.response.get("incomplete_details") or {}
    reason = details.get("reason")
    condition = str(reason or "length") if rollout.truncated else "completed"
    # One that failed is in no export; readers look for the column all the same.
    return {"stop_condition": condition, "is_truncated": rollout.truncated, "has_error": False}
