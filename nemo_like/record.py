"""The record: what a rollout's row and a failure's row hold."""

from __future__ import annotations

from typing import cast

from nemo_like import chat
from nemo_like.errors import NOT_THE_TASKS_FAULT, PartError
from nemo_like.plan import Job
from nemo_like.types import Json


def as_rollout(answer: Json, job: Job, success_threshold: float, times: Json) -> Json:
    """The row of a finished rollout, out of what the agent answered to `/run`.

    Raises:
        PartError: the answer holds no response or no reward.
    """
    response, reward = answer.get("response"), answer.get("reward")
    if not isinstance(response, dict) or not isinstance(reward, int | float):
        missing = "reward" if isinstance(response, dict) else "response"
        raise PartError("bad_response", f"the answer to /run holds no {missing}", where=job.agent)
    items = cast(Json, response).get("output")
    if not isinstance(items, list):
        raise PartError("bad_response", "the response holds no list 'output'", where=job.agent)
    output = chat.conversation(cast(list[Json], items))
    steps: Json = answer.get("metadata") or {}
    waited_s = times["total_s"] - sum(steps.get(key, 0.0) for key in ("model_s", "tools_s", "verify_s"))
    metadata = {
        "reasoning_steps": sum(message["role"] == "assistant" for message in output),
        "tool_calls_made": sum(len(message.get("tool_calls") or ()) for message in output),
        "verification_score": answer.get("verification_score", reward),
        "queue_s": max(0.0, waited_s),
    }
    added = {"output": output, "success": reward >= success_threshold, "metadata": metadata | steps | times}
    return answer | added | _identity_of(job, answer)


def as_failure(task: Json, job: Job, error: PartError, max_attempts: int) -> Json:
    """The row of an attempt that failed."""
    attempts = job.attempts + (error.kind not in NOT_THE_TASKS_FAULT)
    failure = {
        "kind": error.kind,
        "where": error.where,
        "message": error.message,
        "status": error.status,
        "attempts": attempts,
        "terminal": attempts >= max_attempts,
    }
    return task | {"failure": failure} | _identity_of(job, task)


def _identity_of(job: Job, row: Json) -> Json:
    return {
        "agent_ref": (row.get("agent_ref") or {}) | {"name": job.agent},
        "_ng_task_key": job.task_key,
        "_ng_task_index": row.get("_ng_task_index", job.task_index),
        "_ng_rollout_index": job.rollout_index,
    }
