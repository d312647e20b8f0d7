"""A model that plays a script: for tests, dry runs, and finding faults in agents and environments.

Which turn it plays is read off the conversation, so that any worker, a restarted one too, goes on where the
rollout is. Only `times` needs memory.
"""

import asyncio
import itertools
import json
import random
import re
from collections.abc import Iterator
from functools import lru_cache
from hashlib import sha256
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal, cast

import orjson
import yaml
from pydantic import Field, TypeAdapter, ValidationError, field_validator, model_validator

from nemo_like import chat
from nemo_like.client import Client, rollout_id
from nemo_like.errors import Kind, PartError
from nemo_like.provider import kind_of_status
from nemo_like.server import ModelConfig, ModelServer
from nemo_like.settings import Settings, explain
from nemo_like.types import Json, content_text

ATTEMPT = re.compile(r"\.\d+\.\d{6}$")
"""What the collector puts behind a rollout's id to tell its attempts apart."""
REMEMBERED = 100_000
"""Turns of rollouts of which `times` remembers how often they were asked for; the oldest are forgotten."""


class When(Settings):
    """What has to hold for a turn to be played out of order; what is not said always holds."""

    contains: str | None = None
    """Text that stands somewhere in the conversation: instructions, messages, tool outputs."""
    turn: int | None = Field(None, ge=0)
    """The model's turn since the last user message, from 0."""
    times: int | None = Field(None, ge=1)
    """Only the first so many times that a rollout asks for this turn, all its attempts together."""
    rate: float | None = Field(None, ge=0, le=1)
    """The chance of it, drawn from seed, rollout, turn and how often that was asked for, so that a run can be
    repeated."""


class Call(Settings):
    """One tool call."""

    name: str
    """The tool."""
    arguments: Json | str = Field(default_factory=dict[str, Any])
    """Its arguments, or any text in their place."""
    call_id: str = ""
    """Made up where there is none."""


class Fail(Settings):
    """An error in place of an answer, as a provider's would arrive."""

    status: int = Field(500, ge=400, le=599)
    """The provider's HTTP status."""
    message: str = "the script says so"
    """The provider's words."""
    kind: Kind | None = None
    """What it is called, where the status does not say it: `timeout`, `unreachable`, `bad_response`, …"""

    def error(self) -> PartError:
        """The error to raise."""
        if self.kind:
            status = self.status if "status" in self.model_fields_set else None
            return PartError(self.kind, self.message, status=status)
        return PartError(kind_of_status(self.status, self.message), self.message, status=self.status)


class Turn(Settings):
    """What the model does in one turn; written as a text, it says that."""

    when: When | None = None
    """Makes it a rule, which is played whenever this holds; the others are played in order."""
    text: str = ""
    """What it says."""
    reasoning: str = ""
    """What it thinks before."""
    refusal: str = ""
    """What it says instead, refusing."""
    tool_calls: list[Call] = Field(default_factory=list[Call])
    """The tools it calls."""
    incomplete: Literal["max_output_tokens", "content_filter"] | None = None
    """Why it was cut off."""
    usage: Json | None = Field(default_factory=dict[str, Any])
    """Replaces the counted tokens, key by key (`output_tokens`, …); null leaves usage out."""
    stall_s: float = Field(0.0, ge=0)
    """Seconds that it takes, beyond `latency_s`."""
    fail: Fail | None = None
    """Fails instead."""
    raw: Any = None
    """Any JSON, answered as it is: a server that lies."""

    @model_validator(mode="before")
    @classmethod
    def _said(cls, value: Any) -> Any:
        return {"text": value} if isinstance(value, str) else value

    def response(self, params: Json, told: str) -> Json:
        """The Responses object of this turn after `told`; tokens are counted as words."""
        written = [_written(call.arguments) for call in self.tool_calls]
        calls: list[Json] = [
            {"id": call.call_id, "function": {"name": call.name, "arguments": arguments}}
            for call, arguments in zip(self.tool_calls, written, strict=True)
        ]
        said = [self.reasoning, self.text, self.refusal, *written]
        counted: Json = {
            "prompt_tokens": len(told.split()),
            "completion_tokens": sum(len(text.split()) for text in said),
            "completion_tokens_details": {"reasoning_tokens": len(self.reasoning.split())},
        }
        message: Json = {"content": self.text, "refusal": self.refusal, "tool_calls": calls}
        message["reasoning_content"] = self.reasoning
        finish = chat.FINISH.get(self.incomplete) if self.incomplete else None
        completion: Json = {
            "model": params.get("model") or "scripted",
            "choices": [{"message": message, "finish_reason": finish}],
            "usage": counted,
        }
        response = chat.to_response(completion, params)
        if self.usage is None:
            return response | {"usage": None}
        usage: Json = response["usage"] | self.usage
        usage["total_tokens"] = self.usage.get("total_tokens", usage["input_tokens"] + usage["output_tokens"])
        return response | {"usage": usage}


SCRIPT = TypeAdapter(list[Turn])


class ScriptedConfig(ModelConfig):
    """Settings of the scripted model."""

    script: list[Turn] = Field(default_factory=list[Turn])
    """The turns, or the path of a file that holds them: JSONL with one a line, or a YAML list. A row's own,
    JSON in `responses_create_params.metadata.script`, is played in its place."""
    default: Turn | None = None
    """The turn where the script has none left; without it that is an error."""
    latency_s: float = Field(0.0, ge=0)
    """Seconds that every turn takes."""
    seed: int = 0
    """What `rate` is drawn from."""

    @field_validator("script", mode="before")
    @classmethod
    def _read(cls, value: Any) -> Any:
        return read_script(Path(value)) if isinstance(value, str) else value


class ScriptedModel(ModelServer[ScriptedConfig]):
    """Plays a script."""

    def __init__(self, config: ScriptedConfig, *, name: str, client: Client) -> None:
        super().__init__(config, name=name, client=client)
        self._asked = lru_cache(maxsize=REMEMBERED)(_counter)

    async def responses(self, params: Json) -> Json:
        """The turn that is due in this conversation."""
        messages: list[Json] = chat.to_chat(params)["messages"]
        told = "\n".join(content_text(message.get("content")) for message in messages)
        turn = self._turn(self._script(params), turns_taken(messages), told)
        await asyncio.sleep(self.config.latency_s + turn.stall_s)
        if turn.fail:
            raise turn.fail.error()
        return turn.response(params, told) if turn.raw is None else turn.raw

    def _script(self, params: Json) -> list[Turn]:
        metadata: Any = params.get("metadata")
        if not isinstance(metadata, dict) or "script" not in metadata:
            return self.config.script
        try:
            return SCRIPT.validate_json(cast(Json, metadata)["script"])
        except ValidationError as error:
            message = explain(error, where="metadata.script", known=[*Turn.model_fields])
            raise PartError("bad_request", message) from error

    def _turn(self, script: list[Turn], number: int, told: str) -> Turn:
        rollout = ATTEMPT.sub("", rollout_id.get()) or sha256(told.encode()).hexdigest()
        asked = next(self._asked(rollout, number))
        for at, turn in enumerate(script):
            draw = f"{self.config.seed}/{rollout}/{number}/{asked}/{at}"
            if turn.when and _holds(turn.when, number, told, asked, draw):
                return turn
        in_order = [turn for turn in script if turn.when is None]
        if number < len(in_order):
            return in_order[number]
        if self.config.default:
            return self.config.default
        hint = "add one, or a default"
        raise PartError("bad_request", f"the script has no turn {number} (counted from 0)", hint=hint)


def turns_taken(messages: list[Json]) -> int:
    """The model's turns since the last user message; those before it may be examples in the prompt."""
    since = takewhile(lambda message: message["role"] != "user", reversed(messages))
    return sum(message["role"] == "assistant" for message in since)


def read_script(file: Path) -> list[Any]:
    """The turns in a file, unchecked.

    Raises:
        ValueError: there is no such file, or it is not what its name says.
    """
    try:
        text = file.read_text("utf-8")
        if file.suffix == ".jsonl":
            return [orjson.loads(line) for line in text.splitlines() if line.strip()]
        return yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ValueError(f"can't be read: {' '.join(str(error).split())}") from error


def _holds(when: When, number: int, told: str, asked: int, draw: str) -> bool:
    return (
        (when.contains is None or when.contains in told)
        and (when.turn is None or when.turn == number)
        and (when.times is None or asked < when.times)
        and (when.rate is None or random.Random(draw).random() < when.rate)
    )


def _counter(rollout: str, number: int) -> Iterator[int]:
    return itertools.count()


def _written(arguments: Json | str) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
