"""A row of any rollouts file, as the formats see it: each view of it is made when it is first asked for.

Collected, rescored and generated rows are read alike; a generated row is turned into a collected one first.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from math import isfinite
from typing import Any, Generic, TypeVar, cast, overload

import orjson

from nemo_like import chat
from nemo_like.errors import RowError
from nemo_like.export.settings import ExportConfig
from nemo_like.index import agent_of, numbers_of
from nemo_like.prompts import read_prompt
from nemo_like.types import RESERVED_FIELDS, Json, content_text, parse_arguments
from nemo_like.viewer.formats import EXPECTED, NO_COMPONENTS, names_component

PREFIX = "original_"
SAMPLING = ("temperature", "top_p")
NOT_SAMPLING = frozenset(
    {
        *("input", "tools", "instructions", "metadata", "model"),
        # What differs from request to request, and what may be private.
        *("seed", "user", "safety_identifier", "prompt_cache_key", "extra_headers", "extra_query"),
    }
)
PLAIN = {"role", "content"}
TEXTS = ("role", "reasoning_content", "tool_call_id")
MISSHAPEN = (TypeError, AttributeError, LookupError, ValueError, RowError)
"""What a row raises that people wrote, in which something is of another shape than it has to be."""
NO_TASK_FIELDS = RESERVED_FIELDS | {"responses_create_params", "reward_components"}


T = TypeVar("T")


class lazy(Generic[T]):
    """A property that is computed once; `functools.cached_property` of Python 3.11 takes a lock each time."""

    def __init__(self, compute: Callable[[Any], T]) -> None:
        self._compute = compute
        self.__doc__ = compute.__doc__

    def __set_name__(self, _: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, owner: None, kind: type) -> lazy[T]: ...
    @overload
    def __get__(self, owner: object, kind: type) -> T: ...
    def __get__(self, owner: object | None, kind: type) -> T | lazy[T]:
        if owner is None:
            return self
        value = self._compute(owner)
        # An attribute is found before this is, from now on.
        setattr(owner, self._name, value)
        return value


class Unfit(Exception):
    """A rollout, or a task, can't become a row of the format; the text is the reason that is counted."""


class Rollout:
    """A finished rollout.

    Raises:
        Unfit: it failed, or the row is none.
    """

    def __init__(self, row: Json, config: ExportConfig) -> None:
        if row.get("failure") or row.get("error"):
            raise Unfit("failed")
        if "responses_create_params" not in row:
            row = from_generated(row)
        if not isinstance(row.get("response"), dict):
            raise Unfit("no rollout")
        self.row = row
        self.config = config
        self.params: Json = row["responses_create_params"]
        """The request."""
        self.response: Json = row["response"]
        """The Responses object."""
        reward = row.get("reward")
        self.reward = float(reward) if isinstance(reward, int | float) and isfinite(reward) else None
        """None where there is none, or it is no measurement."""
        self.truncated = self.response.get("status") == "incomplete"
        """Whether the answer was cut off."""
        self.rollout_index = int(row.get("_ng_rollout_index") or 0)
        """Which repeat."""
        self.keys: set[str] = set()
        """Fields of messages that were used, beyond role and content."""

    @lazy
    def items(self) -> list[Json]:
        """Output items of every step."""
        items = self.response.get("output")
        return [item for item in cast(list[Any], items) if isinstance(item, dict)] if items else []

    @lazy
    def task_key(self) -> str:
        """Which task; rows that don't say it are told apart by what was asked."""
        return str(self.row.get("_ng_task_key") or digest(self.prompt_json).hex())

    @lazy
    def agent(self) -> str:
        """Who made it."""
        return agent_of(self.row)

    @lazy
    def success(self) -> bool:
        """What the row says, or whether the reward reaches the threshold."""
        said = self.row.get("success")
        if said is not None:
            return bool(said)
        return self.reward is not None and self.reward >= self.config.success_threshold

    @lazy
    def prompt(self) -> list[Json]:
        """The messages before the answer."""
        given = self.params.get("input")
        if isinstance(given, list) and not self.params.get("instructions"):
            items = cast(list[Json], given)
            # As nearly all are: messages already.
            if all(item.keys() == PLAIN and _is_text(item) for item in items):
                return items
        return [self._worded(message) for message in chat.prompt_of(self.params)]

    @lazy
    def completion(self) -> list[Json]:
        """The messages of the answer, what tools said among them.

        Raises:
            Unfit: there is no answer.
        """
        said = self.row.get("output")
        messages = cast(list[Json], said) if isinstance(said, list) else chat.conversation(self.items)
        worded = [self._worded(message) for message in messages]
        for message in worded:
            if message["role"] == "assistant" and (message["content"] or len(message) > 2):
                return worded
        raise Unfit("no answer")

    @lazy
    def tools(self) -> list[Json]:
        """The tools that were offered, as Chat Completions has them."""
        return chat.tools_of(self.params) if self.params.get("tools") else []

    @lazy
    def answer(self) -> str:
        """The text of the last message of the assistant."""
        return next((m["content"] for m in reversed(self.completion) if m["role"] == "assistant"), "")

    @lazy
    def prompt_json(self) -> bytes:
        """What was asked, as JSON: equal where it is equal."""
        return orjson.dumps([self.prompt, self.tools], option=orjson.OPT_SORT_KEYS)

    @lazy
    def answer_json(self) -> bytes:
        """What was answered, as JSON, without the names that servers make up for calls."""
        said = [
            {"calls": [call.get("function") for call in m["tool_calls"]], "content": m["content"]}
            if "tool_calls" in m
            else (m["role"], m["content"], m.get("reasoning_content"))
            for m in self.completion
        ]
        return orjson.dumps(said, option=orjson.OPT_SORT_KEYS)

    @lazy
    def usage(self) -> Json:
        """The tokens of all steps."""
        return cast(Json, self.response.get("usage") or {})

    @lazy
    def characters(self) -> int:
        """Characters of prompt and answer, reasoning and calls of tools among them."""
        return sum(
            len(m["content"])
            + len(m.get("reasoning_content") or "")
            + sum(len(str(call["function"])) for call in m.get("tool_calls") or ())
            for m in (*self.prompt, *self.completion)
        )

    @lazy
    def tokens(self) -> int | None:
        """Tokens of prompt and answer: counted where their ids are there, else what usage says."""
        ids = [item for item in self.items if item.get("generation_token_ids")]
        if ids:
            return len(ids[-1].get("prompt_token_ids") or ()) + len(ids[-1]["generation_token_ids"])
        total = self.usage.get("total_tokens")
        return total if isinstance(total, int) and total else None

    @lazy
    def sampling(self) -> str:
        """The sampling parameters of the request, those in `metadata.extra_body` too, as JSON."""
        asked, metadata = self.params, self.params.get("metadata")
        if isinstance(metadata, dict) and "extra_body" in metadata:
            asked = (parse_arguments(cast(Json, metadata)["extra_body"]) or {}) | asked
        given = {k: v for k, v in asked.items() if k not in NOT_SAMPLING and v is not None}
        return orjson.dumps(given, option=orjson.OPT_SORT_KEYS).decode()

    @lazy
    def made_by(self) -> dict[str, str]:
        """What made it: model, agent and sampling."""
        model = str(self.response.get("model") or "")
        return {"model": model, "agent": self.agent, "sampling": self.sampling}

    @lazy
    def task_fields(self) -> Json:
        """The fields of the task, and the verifier's, which nobody else has a word for."""
        return {
            name: value
            for name, value in self.row.items()
            if name not in NO_TASK_FIELDS and not name.startswith("_ng_") and name != "agent_ref"
        }

    @lazy
    def expected(self) -> Any:
        """The right answer, where the task says it."""
        model = self.row.get("reward_model")
        if isinstance(model, dict) and "ground_truth" in model:
            return cast(Json, model)["ground_truth"]
        return next((self.row[name] for name in EXPECTED if self.row.get(name) is not None), None)

    @lazy
    def components(self) -> dict[str, float]:
        """The parts of the reward by name."""
        parts = self.row.get("reward_components")
        if not isinstance(parts, dict):
            parts = {
                name: value
                for name, value in self.task_fields.items()
                if name not in NO_COMPONENTS and names_component(name)
            }
        return {
            name: float(value)
            for name, value in cast(Json, parts).items()
            if isinstance(value, int | float) and isfinite(value)
        }

    def value(self, field: str) -> Any:
        """What a query means by `field`; None where the rollout has no such thing."""
        if field in FIELDS:
            return FIELDS[field](self)
        if field in self.row:
            return self.row[field]
        if field in self._numbers:
            return self._numbers[field]
        value: Any = self.row
        for name in field.split("/"):
            value = cast(Json, value).get(name) if isinstance(value, dict) else None
        return value

    @lazy
    def _numbers(self) -> dict[str, float]:
        return numbers_of(self.row)

    def _worded(self, message: Json) -> Json:
        """A message with `role`, `content` and what else a chat template knows, in the words asked for."""
        content = message.get("content") or ""
        if not isinstance(content, str) or "item" in message:
            raise Unfit("not only text")
        if len(message) == 2 and content and isinstance(message.get("role"), str):
            return message
        if not all(isinstance(message.get(name) or "", str) for name in TEXTS):
            raise Unfit("not only text")
        worded: Json = {"role": message["role"], "content": content}
        thought = message.get("reasoning_content")
        if thought and self.config.reasoning == "keep":
            worded["reasoning_content"] = thought
        elif thought and self.config.reasoning == "inline":
            worded["content"] = f"<think>\n{thought}\n</think>\n\n{content}"
        if message.get("tool_calls"):
            calls = cast(list[Json], message["tool_calls"])
            written = _with_object if self.config.tool_arguments == "object" else _with_text
            worded["tool_calls"] = [written(call) for call in calls]
        if message.get("tool_call_id"):
            worded["tool_call_id"] = message["tool_call_id"]
        self.keys.update(worded)
        return worded


FIELDS: dict[str, Callable[[Rollout], Any]] = {
    "reward": lambda r: r.reward,
    "success": lambda r: r.success,
    "agent": lambda r: r.agent,
    "kind": lambda r: "rollout",
    "failure": lambda r: None,
    "tool": lambda r: [call["function"]["name"] for m in r.completion for call in m.get("tool_calls") or ()],
    "tool_calls": lambda r: sum(len(m.get("tool_calls") or ()) for m in r.completion),
    "turns": lambda r: sum(m["role"] == "assistant" for m in r.completion),
    "tokens": lambda r: r.usage.get("output_tokens"),
    "input_tokens": lambda r: r.usage.get("input_tokens"),
    "truncated": lambda r: r.truncated,
    "time": lambda r: cast(Json, r.row.get("metadata") or {}).get("total_s"),
    "started_at": lambda r: cast(Json, r.row.get("metadata") or {}).get("started_at"),
    "task": lambda r: r.task_key,
    "repeat": lambda r: r.rollout_index,
    "prompt": lambda r: next((m["content"] for m in reversed(r.prompt)), ""),
    "answer": lambda r: r.answer,
}
"""The fields of a query in the viewer, which mean the same here."""


def from_generated(row: Json) -> Json:
    """A generated row as a collected one.

    Raises:
        Unfit: it is neither, or holds no response.
    """
    if "response" not in row or not ({"data_idx", "sample_idx"} & row.keys()):
        raise Unfit("no rollout")
    answer = row["response"]
    if not isinstance(answer, str):
        raise Unfit("failed")
    own = {k.removeprefix(PREFIX): v for k, v in row.items() if k.startswith(PREFIX)}
    task = {k: v for k, v in own.items() if k not in NO_TASK_FIELDS and v is not None}
    prompt, key = _asked(row, own)
    said = [{"type": "output_text", "text": answer}]
    item: Json = {"type": "message", "role": "assistant", "content": said}
    item |= {
        ours: row[theirs]
        for ours, theirs in zip(
            chat.TOKEN_FIELDS, ("prompt_token_ids", "response_token_ids", "response_logprobs"), strict=True
        )
        if row.get(theirs) is not None
    }
    thought = row.get("reasoning")
    message = {"role": "assistant", "content": answer} | ({"reasoning_content": thought} if thought else {})
    counts = {"input_tokens": row.get("prompt_tokens"), "output_tokens": row.get("completion_tokens")}
    usage = {k: v for k, v in counts.items() if isinstance(v, int)}
    if len(usage) == 2:
        usage["total_tokens"] = sum(usage.values())
    data_idx = row.get("data_idx")
    return task | {
        "responses_create_params": {"input": prompt}
        | {k: row[k] for k in SAMPLING if row.get(k) is not None}
        | ({"max_output_tokens": row["max_tokens"]} if row.get("max_tokens") else {}),
        "response": {
            "output": [item],
            "status": "incomplete" if row.get("finish_reason") == "length" else "completed",
            "usage": usage or None,
        },
        "reward": row.get("reward"),
        "output": [message],
        "_ng_task_key": f"{data_idx}-{key}",
        "_ng_task_index": data_idx if isinstance(data_idx, int) else None,
        "_ng_rollout_index": int(row.get("sample_idx") or 0),
    }


def _asked(row: Json, own: Json) -> tuple[list[Json], str]:
    """What was asked, as messages: the column of the data that reads as `prompt`, which is only its text."""
    text = row.get("prompt")
    for name in sorted(own, key=lambda name: name != "prompt"):
        try:
            prompt = read_prompt(own[name])
        except RowError:
            continue
        if prompt.text == text:
            return prompt.messages, f"{prompt.key & (2**64 - 1):016x}"
    if not isinstance(text, str) or not text.strip():
        raise Unfit("no prompt")
    return [{"role": "user", "content": text}], digest(text.encode()).hex()


def digest(data: bytes) -> bytes:
    """Eight bytes that tell `data` from anything else."""
    return blake2b(data, digest_size=8).digest()


def _is_text(item: Json) -> bool:
    return isinstance(item["role"], str) and isinstance(item["content"], str)


def _with_text(call: Json) -> Json:
    """A tool call, in which all is text.

    Raises:
        Unfit: it is not.
    """
    function: Json = call["function"]
    texts = (function["name"], function.get("arguments"), call.get("id"), call.get("type"))
    if not all(isinstance(text or "", str) for text in texts):
        raise Unfit("a tool call that is not only text")
    return call


def _with_object(call: Json) -> Json:
    """A tool call whose arguments are an object.

    Raises:
        Unfit: they are none.
    """
    function = cast(Json, call.get("function") or {})
    arguments = parse_arguments(function.get("arguments"))
    if arguments is None:
        raise Unfit("a tool call whose arguments are no object")
    return call | {"function": function | {"arguments": arguments}}


def text_of(messages: list[Json]) -> str:
    """Messages as a person reads them: one message is its text, any others are a line `role: text` each."""
    if len(messages) == 1:
        return content_text(messages[0]["content"])
    return "\n".join(f"{message['role']}: {message['content']}" for message in messages)
