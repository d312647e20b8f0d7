"""The record: what a rollout's row and a failure's row hold."""

from __future__ import annotations

from typing import cast

from nemo_like import chat
from nemo_like.answered import VERIFIER, parts_of
from nemo_like.errors import NOT_THE_TASKS_FAULT, PartError
from nemo_like.plan import Job
from nemo_like.shapes import fields_of
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
    steps = fields_of(answer.get("metadata"))
    waited_s = times["total_s"] - sum(steps.get(key, 0.0) for key in ("model_s", "tools_s", "verify_s"))
    score = {"verification_score": answer.get("verification_score", reward)}
    metadata = _counts_of(output) | score | {"queue_s": max(0.0, waited_s)}
    added = {"output": output, "success": reward >= success_threshold, "metadata": metadata | steps | times}
    return answer | added | _identity_of(job, answer)


def as_rescored(row: Json, job: Job, verdict: Json, success_threshold: float, rescore_s: float) -> Json:
    """The row of a rollout with another verdict; what the old one said goes into `old_verdict`.

    Raises:
        PartError: the rollout's response holds no list of items.
    """
    task, old_verdict = parts_of(row)
    items = row["response"].get("output")
    if not isinstance(items, list):
        raise PartError("bad_request", "the stored response holds no list 'output'")
    output = chat.conversation(cast(list[Json], items))
    reward = verdict["reward"]
    new: Json = {"verification_score": verdict.get("verification_score", reward), "rescore_s": rescore_s}
    times = fields_of(row.get("metadata"))
    added = {
        "output": output,
        "success": reward >= success_threshold,
        "metadata": _counts_of(output) | times | new,
        "old_reward": old_verdict.get("reward"),
        "old_verdict": old_verdict | _whose(row) or None,
    }
    named = {name: of for name, of in row.items() if name.startswith("_ng_")}
    return task | {"response": row["response"]} | verdict | added | named | _rescored_identity(job, verdict)


def as_rescored_sample(row: Json, job: Job, verdict: Json, success_threshold: float) -> Json:
    """The row of a generated answer with another verdict, in the columns that scoring writes."""
    verdict = dict(verdict)
    old = {name: row[name] for name in ("reward", "acc", "reward_details") if row.get(name) is not None}
    kept = {
        name: verdict.pop(name) for name in ("reward", "acc", "reward_std", "verdicts") if name in verdict
    }
    identity = _rescored_identity(job, verdict)
    verdict.pop(VERIFIER, None)
    added = {
        "acc": None,
        **kept,
        "success": kept["reward"] >= success_threshold,
        "reward_status": "ok",
        "reward_message": None,
        "reward_details": verdict or None,
        "old_reward": row.get("reward"),
        "old_verdict": old | _whose(row) or None,
    }
    return row | added | identity


def as_failure(task: Json, job: Job, error: PartError, max_attempts: int) -> Json:
    """The row of an attempt that failed; with the response, where only the verdict did."""
    attempts = job.attempts + (error.kind not in NOT_THE_TASKS_FAULT)
    failure = {
        "kind": error.kind,
        "where": error.where,
        "message": error.message,
        "status": error.status,
        "attempts": attempts,
        "terminal": attempts >= max_attempts,
    }
    got = {} if error.response is None else {"response": error.response}
    return task | {"failure": failure} | got | _identity_of(job, task)


def _counts_of(output: list[Json]) -> Json:
    return {
        "reasoning_steps": sum(message["role"] == "assistant" for message in output),
        "tool_calls_made": sum(len(message.get("tool_calls") or ()) for message in output),
    }


def _whose(row: Json) -> Json:
    return {VERIFIER: row[VERIFIER]} if VERIFIER in row else {}


def _rescored_identity(job: Job, verdict: Json) -> Json:
    return {
        "_ng_task_key": job.task_key,
        "_ng_rollout_index": job.rollout_index,
        VERIFIER: verdict[VERIFIER],
    }


def _identity_of(job: Job, row: Json) -> Json:
    return {
        "agent_ref": (row.get("agent_ref") or {}) | {"name": job.agent},
        "_ng_task_key": job.task_key,
        "_ng_task_index": row.get("_ng_task_index", job.task_index),
        "_ng_rollout_index": job.rollout_index,
    }
