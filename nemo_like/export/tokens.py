"""Formats of token ids as the model saw and made them, with a mask over exactly those that it made.

Over tool turns a step's prompt holds what came before and what the tool said: the new tokens between two
generations are the tool's. Where a prompt does not continue what came before (a template that drops earlier
reasoning, a text that was tokenized again), a new part begins, with that prompt as the model saw it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from nemo_like.errors import RowError
from nemo_like.export.format import SCORE, rollout_format, score_of
from nemo_like.export.rollout import Rollout, Unfit
from nemo_like.export.settings import ExportConfig
from nemo_like.token_turns import Chain, Turn, chained, turn_of
from nemo_like.turns import TOKEN_FIELDS
from nemo_like.types import Json

PROMPT_IDS, IDS, _ = TOKEN_FIELDS
PART = {"part": "int64", "parts": "int64"}
TRAJECTORY = {"instance_id": "string", "repetition_id": "int64"}
LOGGED = {"role": "string", "content": "string", "token_ids": ["int64"], "generation_logprobs": ["double"]}


def parts_of(rollout: Rollout, config: ExportConfig) -> list[Chain]:
    """The token sequences of a rollout: one, unless a step does not continue the one before.

    Raises:
        Unfit: token ids are missing, or don't fit; or it would be split, and that is not wanted.
    """
    parts = chained(list(_steps(rollout)))
    if not any(turn.tokens for part in parts for turn in part.turns):
        raise Unfit("no answer")
    if len(parts) > 1 and config.unextended == "drop":
        raise Unfit("a step's prompt does not continue the one before")
    return parts


def _steps(rollout: Rollout) -> Iterator[Turn]:
    """Each step of the model."""
    unfinished, steps = False, 0
    for item in rollout.items:
        if not _is_the_models(item):
            if unfinished:
                raise Unfit("token ids of a step are missing" if steps else "no token ids")
            continue
        # They stand on the last item of a turn.
        unfinished = item.get(PROMPT_IDS) is None or item.get(IDS) is None
        if unfinished:
            continue
        steps += 1
        try:
            yield turn_of(item, TOKEN_FIELDS, "")
        except RowError as error:
            raise Unfit("token ids or log-probabilities that are none") from error
    if unfinished or not steps:
        raise Unfit("token ids of a step are missing" if steps else "no token ids")


def _is_the_models(item: Json) -> bool:
    kind = str(item.get("type") or "message")
    return not kind.endswith("_output") and item.get("role") in (None, "assistant")


@rollout_format(
    "tokens", {"input_ids": ["int64"], "assistant_masks": ["int64"], "logprobs": ["double"], **SCORE, **PART}
)
def tokens(rollout: Rollout, config: ExportConfig) -> Iterator[Json]:
    """Whole sequences with a mask over the model's tokens: TRL's SFTTrainer trains on them as they are."""
    for row, part in _rows(rollout, config):
        ids = {
            "input_ids": part.prompt + part.rest,
            "assistant_masks": [0] * len(part.prompt) + part.mask,
        }
        if (logprobs := part.logprobs) is not None:
            ids["logprobs"] = cast(Any, [0.0] * len(part.prompt) + logprobs)
        yield ids | score_of(rollout) | row


@rollout_format(
    "verl_tokens",
    {
        "prompt_ids": ["int64"],
        "response_ids": ["int64"],
        "response_mask": ["int64"],
        "response_logprobs": ["double"],
        "reward_score": "double",
        "num_turns": "int64",
        "uid": "string",
        "rollout_index": "int64",
        "truncated": "bool",
        **PART,
    },
)
def verl_tokens(rollout: Rollout, config: ExportConfig) -> Iterator[Json]:
    """Rows in the fields of verl's AgentLoopOutput; `uid` says which belong to one group."""
    for row, part in _rows(rollout, config):
        ids = {
            "prompt_ids": part.prompt,
            "response_ids": part.rest,
            "response_mask": part.mask,
            "reward_score": rollout.reward,
            "num_turns": 2 * len(part.turns),
            "uid": rollout.task_key,
            "rollout_index": rollout.rollout_index,
            "truncated": rollout.truncated,
        }
        yield ids | _named("response_logprobs", part.logprobs) | row


@rollout_format(
    "skyrl_tokens",
    {
        "prompt_token_ids": ["int64"],
        "response_ids": ["int64"],
        "rewards": "double",
        "loss_masks": ["int64"],
        "stop_reasons": "string",
        "rollout_logprobs": ["double"],
        "trajectory_ids": TRAJECTORY,
        "is_last_step": "bool",
    },
    needs_reward=True,
)
def skyrl_tokens(rollout: Rollout, config: ExportConfig) -> Iterator[Json]:
    """Rows in the fields of SkyRL's GeneratorOutput, whose lists are these columns."""
    for row, part in _rows(rollout, config):
        ids = {
            "prompt_token_ids": part.prompt,
            "response_ids": part.rest,
            "rewards": rollout.reward,
            "loss_masks": part.mask,
            "stop_reasons": "length" if rollout.truncated else "stop",
            "trajectory_ids": {"instance_id": rollout.task_key, "repetition_id": rollout.rollout_index},
            "is_last_step": row["part"] == row["parts"] - 1,
        }
        yield ids | _named("rollout_logprobs", part.logprobs)


@rollout_format(
    "nemo_rl_tokens",
    {
        "message_log": [LOGGED],
        "total_reward": "double",
        "loss_multiplier": "double",
        "task_name": "string",
        "idx": "int64",
        "truncated": "bool",
        "task_key": "string",
        **PART,
    },
    needs_reward=True,
)
def nemo_rl_tokens(rollout: Rollout, config: ExportConfig) -> Iterator[Json]:
    """NeMo RL's `message_log`: turns of token ids, the assistant's with their log-probabilities."""
    for row, part in _rows(rollout, config):
        if (logprobs := part.logprobs) is None:
            raise Unfit("no log-probabilities")
        log, end = [_logged("user", part.prompt, [0.0] * len(part.prompt))], 0
        for answer in part.answers:
            if answer.start > end:
                between = slice(end, answer.start)
                log.append(_logged("user", part.rest[between], logprobs[between]))
            log.append(_logged("assistant", part.rest[answer], logprobs[answer]))
            end = answer.stop
        yield {
            "message_log": log,
            "total_reward": rollout.reward,
            "loss_multiplier": 1.0,
            "task_name": rollout.agent or "rollouts",
            "idx": int(rollout.row.get("_ng_task_index") or 0),
            "truncated": rollout.truncated,
            "task_key": rollout.task_key,
        } | row


def _rows(rollout: Rollout, config: ExportConfig) -> Iterator[tuple[Json, Chain]]:
    parts = parts_of(rollout, config)
    for at, part in enumerate(parts):
        yield {"part": at, "parts": len(parts)}, part


def _logged(role: str, ids: list[int], logprobs: list[float]) -> Json:
    return {"role": role, "content": "", "token_ids": ids, "generation_logprobs": logprobs}


def _named(name: str, value: Any) -> Json:
    return {} if value is None else {name: value}
