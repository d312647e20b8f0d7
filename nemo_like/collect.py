"""Collecting: every rollout that is owed, in parallel, into the rollouts file.

`plan` says what is owed, `in_passes` does it a bounded number at a time, `store` keeps it. A rollout that
fails is data; what failed is tried again after the first pass. When everything fails in the same way the run
stops early.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import orjson
from pydantic import Field, field_validator

from nemo_like import metrics
from nemo_like.client import Client, rollout_id
from nemo_like.environment_metrics import environment_metrics
from nemo_like.errors import PartError, StoreError, UsageError, blame, did_you_mean
from nemo_like.fingerprint import Agent, settle
from nemo_like.passes import Progress, in_passes
from nemo_like.plan import DEFAULT_REPEATS, Counts, Failed, Job, Plan
from nemo_like.provider import THROTTLED_STATUS
from nemo_like.recipe import Recipe
from nemo_like.record import as_failure, as_rollout
from nemo_like.settings import Settings
from nemo_like.skills import SkillsConfig
from nemo_like.store import Files, RolloutStore, write_whole
from nemo_like.streak import Streak
from nemo_like.types import Json
from nemo_like.window import LARGEST, Load, Window, heeding
from nemo_like.workers import prepare_for_many

log = logging.getLogger(__name__)

SPARE_FILES = 100
Repeats = Annotated[int, Field(ge=1)]


class CollectConfig(Settings):
    """What `ng_collect_rollouts` does."""

    input_jsonl_fpath: Path
    """JSONL of tasks, one a line: `responses_create_params`, and what the verifier needs."""
    output_jsonl_fpath: Path
    """JSONL that the rollouts are appended to; an existing one is resumed."""
    agent_name: str | None = None
    """The agent of the rows that name none in `agent_ref`; not needed where the run has one agent."""
    limit: int | None = Field(None, ge=1)
    """How many tasks, from the top; null is all."""
    num_repeats: Repeats | dict[str, Repeats] = 1
    """Rollouts a task; null is 1. By agent: {agent: n, _default: n}."""
    num_repeats_add_seed: bool = False
    """Whether each repeat is asked for with a seed of its own: `responses_create_params.seed` (or 0) + its
    number."""
    num_samples_in_parallel: int | None = Field(None, ge=1)
    """Rollouts in flight at once; null adapts to what the model endpoint bears."""
    responses_create_params: Json = Field(default_factory=dict)
    """Merged deeply over every row's: temperature, top_p, max_output_tokens, …"""
    prompt_config: Path | None = None
    """YAML with `user` and, if wanted, `system`: templates over a row's fields, for rows without an input."""
    skills: SkillsConfig = Field(default_factory=SkillsConfig)
    """Skills that the agents may use: `skills.path`, `skills.in_prompt`."""
    on_bad_row: Literal["stop", "skip"] = "stop"
    """What to do about a row that is no task: say so before anything is sent, or go on without it and list it
    in `…_skipped.jsonl`."""
    max_attempts: int = Field(3, ge=1)
    """How often a rollout that fails is tried, attempts of earlier runs included."""
    rollout_timeout_s: float = Field(3600.0, gt=0)
    """Seconds after which the collector gives a rollout up."""
    overwrite: bool = False
    """Whether to delete what the output file holds, instead of resuming it."""
    resume_from_cache: bool = True
    """Resuming is the default; false is refused where there is something to resume."""
    disable_aggregation: bool = False
    """Whether to leave out what environments compute over all rollouts (`aggregate_metrics`)."""
    upload_rollouts: bool = False
    """Known from NeMo Gym; nothing is uploaded here."""
    rollout_collection_driver: str | None = None
    """Known from NeMo Gym; a loop of one's own is an agent here."""

    @field_validator("num_repeats", mode="before")
    @classmethod
    def _null_is_one(cls, value: Any) -> Any:
        return 1 if value is None else value

    @field_validator("upload_rollouts")
    @classmethod
    def _stays_here(cls, value: bool) -> bool:
        if value:
            raise ValueError("nothing is uploaded here; the output file is whole, upload it as you like")
        return value

    @field_validator("rollout_collection_driver")
    @classmethod
    def _is_an_agent(cls, value: str | None) -> str | None:
        if value is not None:
            raise ValueError("there are no drivers here; write an agent (agents/README.md), it has the loop")
        return value


@dataclass(frozen=True, kw_only=True, slots=True)
class Collected:
    """What a run ended with."""

    counts: Counts
    summaries: list[Json]
    """The aggregate metrics, one entry an agent."""
    failed: list[Failed]
    """Failed attempts by kind, with an example's words."""
    window: Window | None
    """How many were in flight, where that adapted."""


async def nothing_heard() -> Load:
    """Of model servers that say nothing."""
    return Load()


async def collect(
    config: CollectConfig,
    agents: Mapping[str, Agent],
    client: Client,
    *,
    input_file: Path,
    run: Json,
    recipe: Recipe,
    load: Callable[[], Awaitable[Load]] = nothing_heard,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> Collected:
    """Do what is owed, whatever the output file already holds.

    `run` is the redacted configuration, kept beside the output; `recipe` what is made of a row before it is
    sent; `load` asks the model servers how they are doing, where the number in flight adapts to that.

    Raises:
        UsageError: the input or the parameters are wrong; nothing was sent.
        StoreError: the output belongs to another run, or can't be written.
        StackError: everything fails in the same way.
    """
    files = Files(config.output_jsonl_fpath)
    window = _check_files(config, input_file)
    _check_repeats(config, agents)
    with (
        Plan(
            input_file,
            agent_of=lambda row: _agent_of(row, config.agent_name, agents),
            complete=recipe.complete,
            limit=config.limit,
            num_repeats=config.num_repeats,
            max_attempts=config.max_attempts,
            skip_bad_rows=config.on_bad_row == "skip",
        ) as plan,
        RolloutStore(config.output_jsonl_fpath) as store,
    ):
        if config.overwrite:
            store.clear()
        plan.attach(files.index)
        mine = [agents[name] for name in plan.agents()]
        settle(files, mine, recipe.identity, run)
        _write_skipped(files.skipped, plan)
        progress = Progress(plan.counts(), metrics.Running(**plan.sums()), window=window)
        progress.follow(store, on_progress)
        aggregated: dict[str, Json | None] = {}
        try:
            async with heeding(window, load, lambda: len(progress.in_flight)):
                await _Collector(config, recipe, agents, client, plan, progress).run(store)
            if not config.disable_aggregation:
                aggregated = {agent.name: await _aggregated(client, plan, agent) for agent in mine}
        finally:
            store.flush()
            concurrency = window and window.summary()
            summaries = [
                _summary(plan, agent, aggregated.get(agent.name)) | {"concurrency": concurrency}
                for agent in mine
            ]
            write_whole(files.metrics, orjson.dumps(summaries, option=orjson.OPT_INDENT_2))
        failed = [failed for agent in mine for failed in plan.failures(agent.name)]
        return Collected(counts=plan.counts(), summaries=summaries, failed=failed, window=window)


class _Collector:
    """One run: what its rollouts share."""

    def __init__(
        self,
        config: CollectConfig,
        recipe: Recipe,
        agents: Mapping[str, Agent],
        client: Client,
        plan: Plan,
        progress: Progress,
    ) -> None:
        self.config, self.recipe, self.agents, self.client = config, recipe, agents, client
        self.plan, self.progress = plan, progress
        self._streak = Streak()

    async def run(self, store: RolloutStore) -> None:
        """Attempt what is owed."""
        window = self.progress.window
        concurrency = self.config.num_samples_in_parallel or 1 if window is None else lambda: window.size
        await in_passes(
            self.plan.owed,
            lambda job: self._attempt(store, job),
            concurrency,
            store=store,
            progress=self.progress,
            most=self.config.max_attempts,
        )

    async def _attempt(self, store: RolloutStore, job: Job) -> None:
        """One attempt at one rollout: a row in the rollouts or in the failures."""
        started_at, start = time.time(), time.monotonic()
        rollout = f"{job.task_key}.{job.rollout_index}.{started_at:.6f}"
        rollout_id.set(rollout)
        task = self._task(job)
        self.progress.in_flight[rollout] = start
        try:
            timeout_s = self.config.rollout_timeout_s
            answer = await self.client.post(job.agent, "/run", task, timeout_s=timeout_s)
            times = {
                "started_at": started_at,
                "total_s": time.monotonic() - start,
                "attempts": job.attempts + 1,
            }
            with blame(job.agent, "bad_response"):
                row = as_rollout(answer, job, self.agents[job.agent].success_threshold, times)
        except PartError as error:
            self.progress.failed += 1
            if self.progress.window is not None and error.status in THROTTLED_STATUS:
                self.progress.window.refused(1, len(self.progress.in_flight), time.monotonic())
            store.append("failures", as_failure(task, job, error, self.config.max_attempts))
            self._streak.failed(error, began=start)
        else:
            self._streak.succeeded()
            if self.progress.window is not None:
                self.progress.window.finished(len(self.progress.in_flight), time.monotonic())
            store.append("rollouts", row)
        finally:
            del self.progress.in_flight[rollout]

    def _task(self, job: Job) -> Json:
        row = self.recipe.task(self.plan.task(job), job.rollout_index)
        agent: Json = row.get("agent_ref") or {}
        return row | {"agent_ref": agent | {"name": job.agent}}


def _agent_of(row: Json, agent_name: str | None, agents: Mapping[str, Agent]) -> str:
    reference: Json = row.get("agent_ref") or {}
    name = reference.get("name") or agent_name or (next(iter(agents)) if len(agents) == 1 else None)
    if name is None:
        raise UsageError(f"the row names no agent; pass +agent_name=… (there are: {', '.join(agents)})")
    if name not in agents:
        raise UsageError(f"there is no agent '{name}'{did_you_mean(str(name), [*agents])}")
    return str(name)


def _check_repeats(config: CollectConfig, agents: Mapping[str, Agent]) -> None:
    if isinstance(config.num_repeats, dict):
        for name in config.num_repeats:
            if name not in agents and name != DEFAULT_REPEATS:
                raise UsageError(f"num_repeats: there is no agent '{name}'{did_you_mean(name, [*agents])}")


def _check_files(config: CollectConfig, input_file: Path) -> Window | None:
    """Raises where a file can't be what it is to be, or so many can't be open; the window, if it adapts."""
    output = config.output_jsonl_fpath
    if output.exists() and output.samefile(input_file):
        raise UsageError(f"output_jsonl_fpath is the input: {output}")
    if output.is_dir() or output.suffix != ".jsonl":
        raise UsageError(f"output_jsonl_fpath should name a .jsonl file (got {output})")
    limit, concurrency = prepare_for_many(), config.num_samples_in_parallel
    most = (limit - SPARE_FILES) // 2
    if concurrency is not None and concurrency > most:
        wants = f"num_samples_in_parallel={concurrency} needs {2 * concurrency + SPARE_FILES} open files"
        raise UsageError(f"{wants}, the limit is {limit} (ulimit -Hn): at most {most} are possible")
    if not config.resume_from_cache and not config.overwrite and output.exists() and output.stat().st_size:
        raise StoreError(
            f"{output} exists; add +overwrite=true to delete it, or drop resume_from_cache=false"
        )
    return Window(largest=min(LARGEST, most), now=time.monotonic()) if concurrency is None else None


def _write_skipped(file: Path, plan: Plan) -> None:
    """List the rows that were no tasks, if there are any; what an earlier run listed is gone."""
    file.unlink(missing_ok=True)
    if plan.counts().skipped:
        with file.open("wb") as lines:
            lines.writelines(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in plan.skipped())


async def _aggregated(client: Client, plan: Plan, agent: Agent) -> Json | None:
    """What an agent's environment says of all its rollouts; a failure there costs no collection."""
    if not agent.resources_server:
        return None
    try:
        return await environment_metrics(client, agent.resources_server, plan.scored(agent.name))
    except PartError as error:
        log.warning("no metrics of the environment %s: %s", agent.resources_server, error)
        return None


def _summary(plan: Plan, agent: Agent, environment_metrics: Json | None) -> Json:
    failures = {failed.kind: failed.attempts for failed in plan.failures(agent.name)}
    summary = metrics.summarize(
        plan.scored(agent.name),
        failures=failures,
        num_failed=plan.num_failed(agent.name),
        success_threshold=agent.success_threshold,
    )
    return {"agent_ref": {"name": agent.name}} | summary | {"environment_metrics": environment_metrics}
