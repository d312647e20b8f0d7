"""Answered tasks: the task and the response in a stored row, whoever wrote it.

A row of generated answers holds the task in its `original_*` columns, or in what is no column of the
generation, and the answer as text; a row of the collector's begins with the task, then come the response and
the verdict.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

import orjson

from nemo_like.types import RESERVED_FIELDS, Json, Response

PREFIX = "original_"
REWARD_FN_KEY = "reward_model"
TRUTHS = ("ground_truth", "answer", "solution", "expected_answer")
"""Where a row keeps the right answer, if not under the key of the reward model."""
GENERATED = RESERVED_FIELDS | {
    *("sample_idx", "data_idx", "temperature", "top_p", "max_tokens", "error", "finish_reason"),
    *("prompt_tokens", "completion_tokens", "reasoning", "prompt_token_ids", "response_token_ids"),
    *("response_logprobs", "sampling_params"),
    *("reward_status", "reward_message", "reward_details", "acc"),
    *("old_reward", "old_verdict", "reward_std", "verdicts"),
}
"""Columns that are not the task's where no column has the prefix."""
NEITHER = RESERVED_FIELDS | {"failure", "old_reward", "old_verdict"}
"""Fields of a rollout's row that are not the task's, nor the verifier's own."""
VERIFIER = "_ng_verifier"
"""The field that says whose verdict it is; rows have it since their fields have an order."""


def task_columns(columns: Sequence[str]) -> dict[str, str]:
    """The columns of a table that are its tasks' own, as they were given: {name there: name of its own}."""
    own = _own_fields(columns)
    is_prefixed = any(name != of for name, of in own.items())
    if "_ng_task_key" in columns and "response" in columns and not is_prefixed:
        # A row of the collector's begins with the task; the verifier's own fields follow the response.
        before = columns[: columns.index("response")]
        return {name: of for name, of in own.items() if name in before}
    return own


def parts_of(row: Json) -> tuple[Json, Json]:
    """(The task, the verdict) of a rollout's row.

    Our own rows begin with the task, and the verdict follows the response. Of rows that others wrote, or
    sorted, nobody can tell: there all is the task, but for the reward.
    """
    names = list(row)
    kept = [name for name in names if name not in NEITHER and not name.startswith("_ng_")]
    at = names.index("response")
    if VERIFIER in names and "responses_create_params" in names[:at]:
        verdict = {name: row[name] for name in kept if name in names[at:]}
        task = {name: row[name] for name in kept if name not in verdict}
    else:
        verdict, task = {}, {name: row[name] for name in kept}
    return task, ({"reward": row["reward"]} if "reward" in row else {}) | verdict


def task_of(row: Json, key: str = REWARD_FN_KEY) -> Json:
    """The task that a row is an answer to, with its ground truth where reward functions look for it.

    `reward_model` is an object with `ground_truth`, out of `key` (an object, the JSON of one, or the answer
    itself) or one of `TRUTHS`; `expected_answer` is the same answer, if the task has none of its own.
    """
    task = {own: row[name] for name, own in _own_fields(list(row)).items()}
    prompt = task.get("prompt", row.get("prompt", ""))
    params = _object(task.get("responses_create_params"))
    task["responses_create_params"] = params if params is not None else {"input": prompt}
    if (info := _reward_info(task, key)) is not None:
        task["reward_model"] = info
        truth = info.get("ground_truth")
        if isinstance(truth, list) and len(answers := cast(list[Any], truth)) == 1:
            truth = answers[0]
        if isinstance(truth, str | int | float):
            task.setdefault("expected_answer", truth)
    if (extra := _object(task.get("extra_info"))) is not None:
        task["extra_info"] = extra
    _place_instructions(task)
    return task


def response_of(row: Json) -> Response | None:
    """The answer in a row; None where nothing was generated."""
    answer = row.get("response")
    if row.get("error") or answer is None:
        return None
    if isinstance(answer, dict):
        return Response.model_validate(answer)
    return Response(output=[{"type": "message", "role": "assistant", "content": str(answer)}])


def _own_fields(columns: Sequence[str]) -> dict[str, str]:
    prefixed = {name: name.removeprefix(PREFIX) for name in columns if name.startswith(PREFIX)}
    if prefixed:
        return prefixed
    return {name: name for name in columns if name not in GENERATED and not name.startswith("_ng_")}


def _reward_info(task: Json, key: str) -> Json | None:
    for name in (key, "reward_spec"):
        value = task.get(name)
        if (info := _object(value)) is not None and "ground_truth" in info:
            return info
        if name == key and value is not None and not isinstance(value, dict):
            return {"ground_truth": value}
    for name in TRUTHS:
        if (truth := task.get(name)) is not None:
            return {"ground_truth": _final(truth) if name in ("answer", "solution") else truth}
    return None


def _final(solution: Any) -> Any:
    """The answer in a solution that is worked out, by the marks that such data sets use."""
    if not isinstance(solution, str):
        return solution
    from nemo_like.rewards.math import last_box

    _, mark, answer = solution.rpartition("####")
    return answer.strip() if mark else last_box(solution) or solution


def _place_instructions(task: Json) -> None:
    """IFEval's fields, where a data set keeps them in its ground truth or its extra_info; without the nulls
    that a table puts into `kwargs`."""
    names = ("instruction_id_list", "kwargs")
    if names[0] not in task:
        for place in (_object(task.get("reward_model", {}).get("ground_truth")), task.get("extra_info")):
            if isinstance(place, dict) and names[0] in place:
                task |= {name: cast(Json, place)[name] for name in names if name in place}
                break
    if isinstance(kwargs := task.get("kwargs"), list):
        task["kwargs"] = [_without_null_fields(item) for item in cast(Iterable[Any], kwargs)]


def _without_null_fields(item: Any) -> Any:
    value = _object(item)
    return item if value is None else {name: of for name, of in value.items() if of is not None}


def _object(value: Any) -> Json | None:
    """An object, or the one that a JSON text writes."""
    if isinstance(value, dict):
        return cast(Json, value)
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            parsed = orjson.loads(value)
        except orjson.JSONDecodeError:
            return None
        return cast(Json, parsed) if isinstance(parsed, dict) else None
    return None
