"""Records what another model server answered, and plays it back without it."""

import asyncio
import re
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import lru_cache
from heapq import nsmallest
from itertools import count
from pathlib import Path
from typing import Any, Literal, Self, cast

from pydantic import Field, model_validator

from nemo_like.client import Client, rollout_id
from nemo_like.errors import Kind, PartError
from nemo_like.rate import QUEUED_FIELD
from nemo_like.server import ModelConfig, ModelServer, ServerRef
from nemo_like.settings import redacted
from nemo_like.types import Json

from .recording import Place, Recording
from .request import canonical, differences, distance, key_of

ATTEMPT = re.compile(r"(?P<task>.+)\.(?P<index>\d+)\.\d+\.\d{6}")
"""The ids that the collector gives: task, which of its rollouts, and the time that tells attempts apart."""
RECORDED_ERRORS: frozenset[Kind] = frozenset({"bad_request", "context_overflow"})
"""Failures that are answers: the same request would fail again."""
REMEMBERED = 100_000
"""Rollouts of which it is remembered what they were played; the oldest are forgotten."""
ECHOED = ("tools", "metadata")
"""Keys of a response that repeat the request, and may hold what is secret in it."""


class ReplayConfig(ModelConfig):
    """Settings of a recording."""

    recording: Path
    """The JSONL file."""
    mode: Literal["replay", "record_missing", "record"] = "replay"
    """`replay`: play back, and ask nobody; `record_missing`: play back, and ask and record what is not there;
    `record`: ask and record everything."""
    model_server: ServerRef | None = None
    """The model server that is recorded."""
    repeat: bool = False
    """Whether a request that is asked more often than it was recorded gets the first answer again; if not,
    that is an error, or recorded."""
    model_timeout_s: float = Field(1200.0, gt=0)
    """Seconds that the recorded model server may take to answer."""

    @model_validator(mode="after")
    def _has_a_source(self) -> Self:
        if self.mode != "replay" and self.model_server is None:
            raise ValueError(f"mode {self.mode} needs a model_server, whose answers are recorded")
        return self


class ReplayModel(ModelServer[ReplayConfig]):
    """A recording of a model server."""

    def __init__(self, config: ReplayConfig, *, name: str, client: Client) -> None:
        super().__init__(config, name=name, client=client)
        self._asked = lru_cache(maxsize=REMEMBERED)(_counter)
        self._anybody: Counter[str] = Counter()

    @asynccontextmanager
    async def lifespan(self) -> AsyncGenerator[None]:
        """Opens the recording."""
        with Recording(self.config.recording, writes=self.config.mode != "replay") as self._recording:
            yield

    async def responses(self, params: Json) -> Json:
        """The answer that was recorded, exactly; or a new one, recorded, where the mode says so.

        Raises:
            PartError: what the recorded server failed with; `not_found`, where nothing was recorded.
        """
        asked = canonical(params)
        key = key_of(asked)
        if self.config.mode != "record":
            place = self._find(key)
            if place is not None:
                return _played(self._recording.read(place))
            if self.config.mode == "replay":
                raise await asyncio.to_thread(self._missing, asked, key)
        return await self._record(params, asked, key)

    async def _record(self, params: Json, asked: Json, key: str) -> Json:
        assert self.config.model_server is not None
        line: Json = {"key": key, "attempt": rollout_id.get(), "request": redacted(asked)}
        server, timeout_s = self.config.model_server.name, self.config.model_timeout_s
        try:
            response = await self.client.post(server, "/v1/responses", params, timeout_s=timeout_s)
        except PartError as error:
            if error.kind in RECORDED_ERRORS:
                await self._recording.append(line | {"error": _as_json(error)})
            raise
        # How long the request waited for its turn belongs to that day.
        answered = {key: response[key] for key in response if key != QUEUED_FIELD}
        kept = answered | {key: redacted(response[key]) for key in ECHOED if key in response}
        await self._recording.append(line | {"response": kept})
        return response

    def _find(self, key: str) -> Place | None:
        """The answer that is due. A collector's rollout gets those that were recorded for it, in the last of
        its attempts; whoever has no such id the next one each time."""
        attempt = rollout_id.get()
        self._recording.refresh()
        places = self._recording.places(key)
        if known := ATTEMPT.fullmatch(attempt):
            due = _of_rollout(places, known, of_any_task=self.config.mode == "replay")
            times = next(self._asked(attempt, key))
        else:
            due, times = places, self._anybody[key]
            self._anybody[key] += 1
        if times < len(due):
            return due[times]
        return due[times % len(due)] if due and self.config.repeat else None

    def _missing(self, asked: Json, key: str) -> PartError:
        """Why there is no answer: a request that was never recorded, or not as often."""
        path = self.config.recording
        recorded = len(self._recording.places(key))
        if recorded:
            who = (
                f"rollout {known['index']} of its task"
                if (known := ATTEMPT.fullmatch(rollout_id.get()))
                else "this one"
            )
            message = f"{path} has {recorded} recorded answers to this request, and none for {who}"
            hint = "record as many repeats as are played back; mode: record_missing does"
            return PartError("not_found", message, hint=hint)
        requests = (cast(Json, line["request"]) for line in self._recording.lines())
        ours = redacted(asked)
        nearest = nsmallest(1, requests, key=lambda request: distance(ours, request))
        message = f"{path} has no answer to this request"
        message += (
            f"; the nearest that was recorded differs in {differences(ours, nearest[0])}" if nearest else ""
        )
        hint = "mode: record_missing records it" if nearest else "it is empty: record something first"
        return PartError("not_found", message, hint=hint)


def _of_rollout(places: list[Place], known: re.Match[str], *, of_any_task: bool) -> list[Place]:
    """The answers recorded in the last attempt at a rollout; for a task that was not recorded, because a row
    was edited say, those of the rollout of the same number of another."""
    recorded = [(place, match) for place in places if (match := ATTEMPT.fullmatch(place.attempt))]
    own = [place for place, match in recorded if match.group("task", "index") == known.group("task", "index")]
    if not own and of_any_task and not any(match["task"] == known["task"] for _, match in recorded):
        own = [place for place, match in recorded if match["index"] == known["index"]]
    return [place for place in own if place.attempt == own[-1].attempt]


def _counter(attempt: str, key: str) -> "count[int]":
    return count()


def _played(line: Json) -> Json:
    if "error" in line:
        error: Any = line["error"]
        raise PartError(
            error["kind"], error["message"], where=error["where"], status=error["status"], hint=error["hint"]
        )
    return line["response"]


def _as_json(error: PartError) -> Json:
    return {key: getattr(error, key) for key in ("kind", "message", "where", "status", "hint")}
