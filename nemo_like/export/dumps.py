"""Formats that other frameworks dump their own rollouts in, for tools that were built on those."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from nemo_like.export.format import AS_IT_IS, MESSAGES, OBJECT, as_text, rollout_format, truth_text
from nemo_like.export.rollout import Rollout, digest, text_of
from nemo_like.export.settings import ExportConfig
from nemo_like.types import Json

VERL_DUMP = {"input": "string", "output": "string", "gts": "string", "score": "double", "step": "int64"}
VERIFIERS = {
    "example_id": "int64",
    "prompt": MESSAGES,
    "completion": MESSAGES,
    "answer": "string",
    "info": AS_IT_IS,
    "reward": "double",
    "error": "string",
    "timing": {
        "start_time": "double",
        "generation_ms": "double",
        "scoring_ms": "double",
        "total_ms": "double",
    },
    "is_completed": "bool",
    "is_truncated": "bool",
    "stop_condition": "string",
    "metrics": OBJECT,
    "tool_defs": "string",
    "token_usage": {"input_tokens": "double", "output_tokens": "double"},
}
PRIME_RL = {
    "prompt": MESSAGES,
    "completion": MESSAGES,
    "reward": "double",
    "answer": "string",
    "info": AS_IT_IS,
    "metadata": {"user_id": "string", "session_id": "string"},
}


@rollout_format("verl_dump", VERL_DUMP, needs_reward=True, extra_numbers=True)
def verl_dump(rollout: Rollout, config: ExportConfig) -> Iterator[Json]:
    """verl's dump, `{input, output, gts, score, step}` and the parts of the reward: its rollout_viewer."""
    row = {
        "input": text_of(rollout.prompt),
        "output": text_of(rollout.completion),
        "gts": truth_text(rollout.expected),
        "score": rollout.reward,
        "step": config.step,
    }
    yield _components(rollout, VERL_DUMP) | row


@rollout_format("verifiers", VERIFIERS, extra_numbers=True)
def verifiers(rollout: Rollout, config: ExportConfig) -> Iterator[Json]:
    """The flat row of verifiers' results: prompt, completion, answer, info, the reward and its parts."""
    index = rollout.row.get("_ng_task_index")
    row: Json = {
        # Of a task without a number, one that is always its own.
        "example_id": index
        if isinstance(index, int)
        else int(digest(rollout.task_key.encode()).hex()[:8], 16),
        "prompt": rollout.prompt,
        "completion": rollout.completion,
        "answer": truth_text(rollout.expected),
        "info": _info(rollout),
        "reward": rollout.reward,
        "error": None,
        "is_completed": True,
        "is_truncated": rollout.truncated,
        "stop_condition": "max_tokens" if rollout.truncated else "completed",
    }
    if timing := _timing(rollout):
        row["timing"] = timing
    if rollout.components:
        row["metrics"] = rollout.components
    if rollout.tools:
        row["tool_defs"] = as_text(rollout.tools)
    if rollout.usage:
        used = ("input_tokens", "output_tokens")
        row["token_usage"] = {name: float(rollout.usage.get(name) or 0) for name in used}
    yield _components(rollout, VERIFIERS) | row


@rollout_format("prime_rl", PRIME_RL, extra_numbers=True)
def prime_rl(rollout: Rollout, config: ExportConfig) -> Iterator[Json]:
    """A row of `rollout_generation/`: prompt, completion, reward and its parts, answer, info, metadata."""
    yield _components(rollout, PRIME_RL) | {
        "prompt": rollout.prompt,
        "completion": rollout.completion,
        "answer": truth_text(rollout.expected),
        "info": _info(rollout),
        "reward": rollout.reward,
        "metadata": {
            "user_id": str(rollout.params.get("user") or ""),
            "session_id": f"{rollout.task_key}.{rollout.rollout_index}",
        },
    }


def _info(rollout: Rollout) -> Json:
    """What the task says beyond its prompt and answer."""
    own = rollout.row.get("info")
    if isinstance(own, dict):
        return cast(Json, own)
    return {
        name: value
        for name, value in rollout.task_fields.items()
        if name not in rollout.components and name != "answer"
    }


def _timing(rollout: Rollout) -> Json:
    """When it began, and what it took, in milliseconds; nothing of a rollout that was not timed."""
    given = rollout.row.get("metadata")
    times = cast(Json, given) if isinstance(given, dict) else {}
    names = ("started_at", "model_s", "tools_s", "verify_s", "total_s")
    numbers = [float(t) if isinstance(t := times.get(name), int | float) else 0.0 for name in names]
    began, model_s, tools_s, verify_s, total_s = numbers
    if not total_s:
        return {}
    spans = {"generation_ms": model_s + tools_s, "scoring_ms": verify_s, "total_ms": total_s}
    return {"start_time": began} | {name: 1e3 * span_s for name, span_s in spans.items()}


def _components(rollout: Rollout, columns: Json) -> Json:
    return {name if name not in columns else f"{name}_part": v for name, v in rollout.components.items()}
