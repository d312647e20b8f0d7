"""Rescoring: stored rollouts get the verdict of any verifier, without being generated again.

`stored` says what is owed, `in_passes` does it a bounded number at a time, the store keeps it, beside the old
verdict. A verdict that fails is data, and is tried again after the first pass.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import isclose
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import orjson
from pydantic import Field

from nemo_like import metrics
from nemo_like.answered import REWARD_FN_KEY, VERIFIER, parts_of, response_of, task_of
from nemo_like.client import rollout_id
from nemo_like.errors import PartError, UsageError, blame
from nemo_like.fingerprint import RESCORED, settle_rescoring
from nemo_like.passes import Progress, in_passes
from nemo_like.plan import Counts, Failed, Job
from nemo_like.record import as_failure, as_rescored, as_rescored_sample
from nemo_like.settings import Settings
from nemo_like.store import Files, RolloutStore, Table, write_whole
from nemo_like.stored import Only, StoredRollouts
from nemo_like.streak import Streak
from nemo_like.types import Json
from nemo_like.verifiers import Function, Verifier, Verifiers

DEFAULT_CONCURRENCY = 64
UNWRITTEN = 2000
"""Rows after which the verdicts wait for the disk, so that none pile up in memory."""
EXAMPLES = 10
"""Changed verdicts that are shown; the file has all of them."""


class RescoreConfig(Settings):
    """What `ng_rescore` does."""

    rollouts: Path
    """Stored rollouts: a file of `ng_collect_rollouts`, or generated rows as parquet or JSONL."""
    output_jsonl_fpath: Path
    """JSONL that the rescored rollouts are appended to; an existing one is resumed."""
    resources_server: str | None = None
    """The environment whose verifier is asked; null is that of each row's agent, or the run's only one."""
    reward_fn: str | None = None
    """A reward's name or file.py:function, instead of an environment."""
    reward_options: Json = Field(default_factory=dict)
    """Keyword arguments for it."""
    reward_fn_key: str = REWARD_FN_KEY
    """Field of a generated row's task that holds its ground truth, where a reward function is asked."""
    judge_model_server: str | None = None
    """The model that a reward function asks as a judge; not needed where the run has one model."""
    judge_responses_create_params: Json = Field(default_factory=dict)
    """What every request to it carries: temperature, max_output_tokens, …"""
    only: Only | None = None
    """`failed`: those whose verdict failed, of the failures beside the rollouts. `older`: those whose verdict
    is of another verifier than this; the others are copied as they are."""
    limit: int | None = Field(None, ge=1)
    """How many rollouts, from the top; null is all."""
    num_repeats: int = Field(1, ge=1)
    """Verdicts a rollout, for a judge's variance: the reward is their mean, and each is kept."""
    num_samples_in_parallel: int = Field(DEFAULT_CONCURRENCY, ge=1)
    """Rollouts in flight at once."""
    success_threshold: float | None = None
    """The reward from which on a rollout is a success; null is the environment's own, or 1.0."""
    verdict_timeout_s: float | None = Field(None, gt=0)
    """Seconds that one verdict may take: 600, of a reward function in a process of its own 10."""
    max_attempts: int = Field(3, ge=1)
    """How often a rollout whose verdict fails is tried, attempts of earlier runs included."""
    overwrite: bool = False
    """Whether to delete what the output file holds, instead of resuming it."""


@dataclass(kw_only=True, slots=True)
class Change:
    """A rollout whose reward is another one now."""

    task_key: str
    rollout_index: int
    old_reward: float | None
    reward: float

    @property
    def row(self) -> Json:
        """As the file of changes holds it."""
        return {
            "_ng_task_key": self.task_key,
            "_ng_rollout_index": self.rollout_index,
            "old_reward": self.old_reward,
            "reward": self.reward,
        }

    def __str__(self) -> str:
        old = "none" if self.old_reward is None else f"{self.old_reward:g}"
        return f"{self.task_key} repeat {self.rollout_index}: {old} → {self.reward:g}"


@dataclass(kw_only=True, slots=True)
class Changes:
    """Which verdicts have changed."""

    up: int = 0
    down: int = 0
    same: int = 0
    new: int = 0
    """Of those that had none."""
    examples: list[Change] = field(default_factory=list[Change])
    """The first of those that changed."""

    def count(self, change: Change) -> bool:
        """Count a rollout; whether its verdict has changed."""
        old = change.old_reward
        if old is None:
            self.new += 1
        elif isclose(old, change.reward, rel_tol=1e-9, abs_tol=1e-12):
            self.same += 1
            return False
        elif change.reward > old:
            self.up += 1
        else:
            self.down += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(change)
        return True

    @property
    def counts(self) -> Json:
        """How many of which."""
        return {"up": self.up, "down": self.down, "same": self.same, "new": self.new}


@dataclass(frozen=True, kw_only=True, slots=True)
class Rescored:
    """What a rescoring ended with."""

    counts: Counts
    summaries: list[Json]
    """The aggregate metrics, one entry an agent."""
    changes: Changes
    failed: list[Failed]
    """Failed attempts by kind, with an example's words."""
    left_out: str
    """What was not rescored, and why."""


def changes_file(output: Path) -> Path:
    """Where the changed verdicts of an output are listed."""
    return output.with_name(f"{output.stem}_changes.jsonl")


async def rescore(
    config: RescoreConfig,
    verifiers: Verifiers,
    *,
    made_with: Json,
    run: Json,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> Rescored:
    """Give every stored rollout that is owed one its new verdict, whatever the output already holds.

    `made_with` is what decides the verdicts beside the verifiers themselves, `run` the redacted
    configuration, kept beside the output.

    Raises:
        UsageError: the input or the parameters are wrong; nothing was asked.
        StoreError: the output belongs to something else, or can't be written.
        StackError: everything fails in the same way.
    """
    files = Files(config.output_jsonl_fpath)
    _check_files(config)
    files.rollouts.parent.mkdir(parents=True, exist_ok=True)
    with (
        StoredRollouts(
            config.rollouts,
            files.rollouts.parent,
            only=config.only,
            limit=config.limit,
            max_attempts=config.max_attempts,
            check_agent=verifiers.of,
            is_current=lambda agent, verifier: _is_kept(config, verifiers.of(agent), verifier),
        ) as stored,
        RolloutStore(files.rollouts) as store,
    ):
        if config.overwrite:
            store.clear()
        stored.attach(files.index)
        ids = {f"verifier.{agent}": verifiers.of(agent).id for agent in stored.agents()}
        kind: Json = {RESCORED: stored.first_row, "num_repeats": config.num_repeats}
        settle_rescoring(files, kind | ids | made_with, run, config.rollouts)
        progress = Progress(stored.counts(), metrics.Running(**stored.sums()))
        progress.follow(store, on_progress)
        try:
            await _Rescoring(config, verifiers, stored, progress).run(store)
        finally:
            store.flush()
            changes = _write_changes(stored, changes_file(files.rollouts))
            summaries = [_summary(stored, agent, verifiers.of(agent)) for agent in stored.agents()]
            told = [summary | {"rescored": changes.counts} for summary in summaries[:1]] + summaries[1:]
            write_whole(files.metrics, orjson.dumps(told, option=orjson.OPT_INDENT_2))
        return Rescored(
            counts=stored.counts(),
            summaries=summaries,
            changes=changes,
            failed=[failed for agent in stored.agents() for failed in stored.failures(agent)],
            left_out=str(stored.left_out),
        )


class _Rescoring:
    """One run: what its rollouts share."""

    def __init__(
        self, config: RescoreConfig, verifiers: Verifiers, stored: StoredRollouts, progress: Progress
    ) -> None:
        self.config, self.verifiers, self.stored, self.progress = config, verifiers, stored, progress
        self._streak = Streak()
        self._unwritten = 0
        self._writing = asyncio.Lock()

    async def run(self, store: RolloutStore) -> None:
        """Attempt what is owed."""
        await in_passes(
            self.stored.owed,
            lambda job: self._attempt(store, job),
            self.config.num_samples_in_parallel,
            store=store,
            progress=self.progress,
            most=self.config.max_attempts,
        )

    async def _attempt(self, store: RolloutStore, job: Job) -> None:
        """One attempt at one rollout: a row in the rescored ones or in the failures."""
        # A reward that needs no process never gives way by itself, to Ctrl-C for one.
        await asyncio.sleep(0)
        start = time.monotonic()
        rollout = f"{job.task_key}.{job.rollout_index}.{time.time():.6f}"
        rollout_id.set(rollout)
        row, verifier = self.stored.row(job), self.verifiers.of(job.agent)
        if _is_kept(self.config, verifier, row.get(VERIFIER)):
            await self._keep(store, "rollouts", row)
            return
        self.progress.in_flight[rollout] = start
        try:
            with blame("the stored rollout", "bad_request"):
                new = await self._rescored(row, job, verifier)
        except PartError as error:
            self.progress.failed += 1
            error.response = None
            failure = as_failure(_as_owed(row), job, error, self.config.max_attempts)
            await self._keep(store, "failures", failure)
            self._streak.failed(error, began=start)
        else:
            self._streak.succeeded()
            await self._keep(store, "rollouts", new)
        finally:
            del self.progress.in_flight[rollout]

    async def _keep(self, store: RolloutStore, table: Table, row: Json) -> None:
        store.append(table, row)
        self._unwritten += 1
        if self._unwritten >= UNWRITTEN:
            # Verdicts may come faster than rows are written: then all wait for the one who has them written.
            async with self._writing:
                if self._unwritten >= UNWRITTEN:
                    await asyncio.to_thread(store.flush)
                    self._unwritten = 0

    async def _rescored(self, row: Json, job: Job, verifier: Verifier) -> Json:
        start = time.monotonic()
        is_rollout = isinstance(row["response"], dict)
        if not is_rollout or isinstance(verifier, Function):
            task = task_of(row, self.config.reward_fn_key)
        else:
            task, _ = parts_of(row)
        response = row["response"] if is_rollout else _response(row)
        verdicts = [await verifier.verdict(task, response) for _ in range(self.config.num_repeats)]
        verdict, threshold = _together(verdicts), verifier.success_threshold
        if is_rollout:
            return as_rescored(row, job, verdict, threshold, time.monotonic() - start)
        return as_rescored_sample(row, job, verdict, threshold)


def _is_kept(config: RescoreConfig, verifier: Verifier, whose: str | None) -> bool:
    """Whether a verdict, that of the verifier `whose`, is copied as it is."""
    return config.only == "older" and whose == verifier.id


def _response(row: Json) -> Json:
    response = response_of(row)
    return response.model_dump() if response is not None else {}


def _as_owed(row: Json) -> Json:
    """A stored row, without what an earlier failure left in it."""
    return {name: value for name, value in row.items() if name != "failure"}


def _together(verdicts: list[Json]) -> Json:
    """Several verdicts on one rollout as one: the mean reward, its standard deviation (n - 1), and each."""
    if len(verdicts) == 1:
        return verdicts[0]
    rewards: list[float] = [verdict["reward"] for verdict in verdicts]
    own = [{k: v for k, v in verdict.items() if k != VERIFIER} for verdict in verdicts]
    together: dict[str, Any] = {"reward": fmean(rewards), "reward_std": stdev(rewards), "verdicts": own}
    return together | {VERIFIER: verdicts[0][VERIFIER]}


def _check_files(config: RescoreConfig) -> None:
    output = config.output_jsonl_fpath
    if output.is_dir() or output.suffix != ".jsonl":
        raise UsageError(f"output_jsonl_fpath should name a .jsonl file (got {output})")
    for taken in (config.rollouts, Files(config.rollouts).failures):
        if output.exists() and taken.exists() and output.samefile(taken):
            raise UsageError(f"output_jsonl_fpath is what is rescored: {output}")


def _write_changes(stored: StoredRollouts, path: Path) -> Changes:
    """List every rollout whose verdict has changed."""
    changes, fresh = Changes(), path.with_name(path.name + ".tmp")
    with fresh.open("wb") as file:
        for change in _changes(stored):
            if changes.count(change):
                file.write(orjson.dumps(change.row, option=orjson.OPT_APPEND_NEWLINE))
    fresh.replace(path)
    return changes


def _changes(stored: StoredRollouts) -> Iterator[Change]:
    for key, index, old, new in stored.verdicts():
        yield Change(task_key=key, rollout_index=index, old_reward=old, reward=new)


def _summary(stored: StoredRollouts, agent: str, verifier: Verifier) -> Json:
    summary = metrics.summarize(
        stored.scored(agent),
        failures={failed.kind: failed.attempts for failed in stored.failures(agent)},
        num_failed=stored.num_failed(agent),
        success_threshold=verifier.success_threshold,
    )
    return {"agent_ref": {"name": agent}, "verifier": verifier.id} | summary
