"""Rows of every kind that people have, read as one: a conversation, who made it, and what it earned.

Rollouts of this project and of NeMo Gym, attempts that failed, generated rollouts, verl's and TRL's dumps;
what is none of these is shown as the JSON that it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Literal, cast

import orjson

from nemo_like.columns import LARGEST
from nemo_like.index import numbers_of
from nemo_like.types import Json, content_text

Kind = Literal["rollout", "failure", "generated", "verl", "trl", "other", "malformed"]
EXPECTED = (
    *(
        "expected_answer",
        "expected_object",
        "expected_tool_calls",
        "ground_truth",
        "gts",
        "answer",
        "solution",
    ),
    *("original_ground_truth", "original_answer", "original_solution"),
)
GIVEN = ("extracted_answer", "pred", "parsed_answer")
NO_COMPONENTS = frozenset({"reward", "success", "seed", "difficulty", "step", "sample_idx", "data_idx"})
WORDS = r"(acc|(reward|accuracy|score|credit|match|valid|criteria)[a-z]*)"
COMPONENT_NAME = re.compile(rf"(?!(max|min|expected)[^a-z])(.*[^a-z])?{WORDS}([^a-z]|$)", re.I)


def names_component(name: str) -> bool:
    """Whether a field of that name is a part of the reward, by the words in it."""
    return COMPONENT_NAME.match(name) is not None


@dataclass(slots=True)
class View:
    """One row as a person looks at it."""

    kind: Kind
    row: Json
    task_key: str = ""
    rollout_index: int = 0
    task_index: int | None = None
    agent: str = ""
    reward: float | None = None
    success: bool | None = None
    failure: Json | None = None
    prompt: list[Json] = field(default_factory=list[Json])
    """Responses-API items before the first answer."""
    output: list[Json] = field(default_factory=list[Json])
    """Items of every step, in order."""
    params: Json = field(default_factory=dict[str, Any])
    """Sampling parameters."""
    tools: list[Json] = field(default_factory=list[Json])
    truncated: bool = False
    numbers: dict[str, float] = field(default_factory=dict[str, float])

    @property
    def asked(self) -> str:
        """The text of the last message before the first answer."""
        return next(
            (content_text(item.get("content")) for item in reversed(self.prompt) if "content" in item), ""
        )

    @property
    def answer(self) -> str:
        """The text of the last message of the assistant."""
        said = (i for i in reversed(self.output) if i.get("role") == "assistant")
        return next((content_text(item.get("content")) for item in said), "")

    @property
    def calls(self) -> list[str]:
        """The names of the tools that were called, in order."""
        return [str(item.get("name", "")) for item in self.output if item.get("type") == "function_call"]

    @property
    def turns(self) -> int:
        """How often the model answered: runs of its items between what tools said."""
        turns, inside = 0, False
        for item in self.output:
            by_model = not str(item.get("type", "message")).endswith("_output")
            turns += by_model and not inside
            inside = by_model
        return turns

    @property
    def expected(self) -> Any:
        """What the verifier expected, where the row says it."""
        reward_model = self.row.get("reward_model")
        if isinstance(reward_model, dict) and "ground_truth" in reward_model:
            return cast(Json, reward_model)["ground_truth"]
        return next((self.row[name] for name in EXPECTED if self.row.get(name) is not None), None)

    @property
    def given(self) -> Any:
        """What the verifier read as the answer, where the row says it."""
        return next((self.row[name] for name in GIVEN if self.row.get(name) is not None), None)

    @property
    def components(self) -> dict[str, float | None]:
        """The parts of the reward by name."""
        parts = self.row.get("reward_components")
        if isinstance(parts, dict):
            return {
                str(k): v for k, v in cast(Json, parts).items() if v is None or isinstance(v, int | float)
            }
        return {
            name: float(value)
            for name, value in self.row.items()
            if isinstance(value, int | float)
            and name not in NO_COMPONENTS
            and not name.startswith("_")
            and names_component(name)
        }


def fields(value: Any) -> Json:
    """An object as it is; anything else as an empty one."""
    return cast(Json, value) if isinstance(value, dict) else {}


def read(line: bytes) -> View:
    """A line of a file as a view; one that is no JSON object says so."""
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        return View("malformed", {"line": line[:2000].decode("utf-8", "replace"), "error": str(error)})
    if not isinstance(row, dict):
        return View(
            "malformed", {"line": line[:2000].decode("utf-8", "replace"), "error": "not a JSON object"}
        )
    view = _view(cast(Json, row))
    view.task_key = view.task_key or _key(view)
    return view


def _view(row: Json) -> View:
    if isinstance(row.get("failure"), dict):
        return _failure(row)
    if isinstance(row.get("response"), dict) and isinstance(row.get("responses_create_params"), dict):
        return _rollout(row)
    if "response" in row and ("sample_idx" in row or "data_idx" in row):
        return _generated(row)
    if "input" in row and "output" in row and ("score" in row or "gts" in row):
        return _verl(row)
    if "prompt" in row and "completion" in row:
        return _trl(row)
    return View("other", row, numbers=_numbers(row))


def _rollout(row: Json) -> View:
    response: Json = row["response"]
    view = View("rollout", row, numbers=numbers_of(row), output=_items(response.get("output")))
    _read_request(view)
    view.reward = measurement(row.get("reward"))
    success = row.get("success")
    view.success = bool(success) if success is not None else view.reward is not None and view.reward >= 1.0
    view.truncated = response.get("status") == "incomplete"
    return view


def _failure(row: Json) -> View:
    view = View("failure", row, failure=cast(Json, row["failure"]), success=False)
    view.output = _items(fields(row.get("response")).get("output"))
    _read_request(view)
    return view


def _generated(row: Json) -> View:
    prompt = row.get("original_prompt", row.get("prompt"))
    answer = {"type": "message", "role": "assistant", "content": _text(row.get("response"))}
    view = View("generated", row, prompt=_messages(prompt), output=[answer], numbers=_numbers(row))
    if row.get("reasoning"):
        view.output.insert(0, {"type": "reasoning", "summary": [{"text": _text(row["reasoning"])}]})
    if row.get("error"):
        view.failure = {"kind": "error", "message": _text(row["error"])}
    view.task_key, view.rollout_index = str(row.get("data_idx", "")), int(row.get("sample_idx") or 0)
    view.reward = measurement(row.get("reward"))
    view.success = None if view.reward is None else view.reward >= 0.5
    view.params = {k: row[k] for k in ("temperature", "top_p", "max_tokens") if k in row}
    view.truncated = row.get("finish_reason") == "length"
    return view


def _verl(row: Json) -> View:
    view = View(
        "verl", row, prompt=_messages(row["input"]), output=_answer(row["output"]), numbers=_numbers(row)
    )
    view.reward = measurement(row.get("score"))
    view.success = None if view.reward is None else view.reward >= 0.5
    return view


def _trl(row: Json) -> View:
    view = View(
        "trl", row, prompt=_messages(row["prompt"]), output=_answer(row["completion"]), numbers=_numbers(row)
    )
    rewards = [number for name, number in view.numbers.items() if "reward" in name]
    view.reward = sum(rewards) if rewards else None
    view.success = None if view.reward is None else view.reward >= 0.5
    return view


def _read_request(view: View) -> None:
    row = view.row
    request: Json = row.get("responses_create_params") or {}
    view.prompt = _messages(request.get("input"))
    if request.get("instructions"):
        view.prompt.insert(0, {"role": "system", "content": str(request["instructions"])})
    view.tools = _items(request.get("tools"))
    view.params = {
        k: v for k, v in request.items() if k not in ("input", "tools", "instructions") and v is not None
    }
    agent = row.get("agent_ref")
    view.agent = str(cast(Json, agent).get("name", "")) if isinstance(agent, dict) else str(agent or "")
    view.task_key = str(row.get("_ng_task_key") or "")
    index = row.get("_ng_task_index", row.get("task_index"))
    view.task_index = index if isinstance(index, int) else None
    view.rollout_index = int(row.get("_ng_rollout_index") or row.get("rollout_index") or 0)


def _key(view: View) -> str:
    """What two rows of one task have in common: what was asked."""
    if view.task_index is not None:
        return str(view.task_index)
    said = orjson.dumps(view.prompt or view.row, option=orjson.OPT_SORT_KEYS, default=str)
    return blake2b(said, digest_size=8).hexdigest()


def _messages(value: Any) -> list[Json]:
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    return _items(value)


def _answer(value: Any) -> list[Json]:
    if isinstance(value, str):
        return [{"type": "message", "role": "assistant", "content": value}]
    return _items(value)


def _items(value: Any) -> list[Json]:
    """A list of objects; what is none of them stays visible."""
    if not isinstance(value, list):
        return [] if value is None else [{"type": "unknown", "value": value}]
    items = cast(list[Any], value)
    return [cast(Json, i) if isinstance(i, dict) else {"type": "unknown", "value": i} for i in items]


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    return {k: number for k, v in row.items() if (number := measurement(v)) is not None}


def measurement(value: Any) -> float | None:
    """A number that can be added up, squared too; None of anything else."""
    return float(value) if isinstance(value, int | float) and -LARGEST <= value <= LARGEST else None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else str(value)
