"""Generating: prompts in, so many sampled responses each out, no reward.

    python scripts/generate_rollouts.py --data_path data.parquet --use_vllm --num_samples 8

Every finished sample goes into the journal beside the output, so the same command goes on after any end; when
all are there the output is written, whole and in order. A sample that could not be had is a row with an
`error`, and the exit status is 1.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

import uvloop
from tqdm import tqdm

from nemo_like import config as stack
from nemo_like.client import Client
from nemo_like.endpoints import NEUTRAL, Endpoints, model_at
from nemo_like.errors import (
    NOT_THE_TASKS_FAULT,
    REPEATS_ITSELF,
    Error,
    MissingExtra,
    PartError,
    RowError,
    StackError,
    UsageError,
)
from nemo_like.generate_options import GenerateConfig, read_options
from nemo_like.journal import Journal, Sample
from nemo_like.prompts import Prompt, read_prompt
from nemo_like.provider import base_url_of
from nemo_like.supervisor import running
from nemo_like.types import Json
from nemo_like.workers import for_each, prepare_for_many

if TYPE_CHECKING:
    from nemo_like.local_endpoint import LocalEndpoint
    from nemo_like.table import Table

log = logging.getLogger(__name__)

PASSES = 3
"""How often a sample is tried in one run, each time with the endpoint's own retries."""
SAME_FAILURE = 24
"""So many samples in a row that fail in the same way end the run."""
SYNC_EVERY_S = 1.0
SPARE_FILES = 100
EMBEDDED = "embedded"
EMBEDDED_AT_ONCE = 8
"""Requests to the embedded model in flight: it answers 4 at a time, and a long queue would only time out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One sample that is owed."""

    data_idx: int
    sample_idx: int
    prompt: Prompt


@dataclass(slots=True)
class Failures:
    """What could not be had, and whether it is worth going on."""

    again: set[tuple[int, int]] = field(default_factory=set[tuple[int, int]])
    """Samples that another try may mend."""
    last: dict[str, str] = field(default_factory=dict[str, str])
    """Kind → the last message."""
    _streak: tuple[str, int] = ("", 0)
    _any_done: bool = False

    def count(self, job: Job, error: PartError) -> None:
        """Note a failure; raises `StackError` when everything fails in the same way."""
        self.last[error.kind] = str(error)
        if error.kind == "context_overflow":
            # That is about this prompt alone, and stays so.
            return
        if error.kind not in REPEATS_ITSELF:
            self.again.add((job.data_idx, job.sample_idx))
        kind, length = self._streak
        # One prompt that can't be served fails as often as it is sampled, and is one failure.
        counts = job.sample_idx == 0 or error.kind in NOT_THE_TASKS_FAULT
        self._streak = (error.kind, (length if kind == error.kind else 0) + counts)
        hopeless = not self._any_done or error.kind in NOT_THE_TASKS_FAULT
        if self._streak[1] >= SAME_FAILURE and hopeless:
            raise StackError(f"stopped: {SAME_FAILURE} samples in a row failed in the same way: {error}")

    def done(self) -> None:
        """Note a success."""
        self._streak, self._any_done = ("", 0), True


class Generation:
    """One run: what is owed, and what becomes of it."""

    def __init__(self, config: GenerateConfig, table: Table, journal: Journal) -> None:
        self.config, self.table, self.journal = config, table, journal
        self.column = prompt_column(config.prompt_key, table)
        self.failures = Failures()
        self._no_prompt: set[int] = set()
        self._bar: Any = None

    def owed(self) -> Iterator[Job]:
        """Every sample that is not there yet, a prompt's together; what is no prompt is noted as such."""
        for data_idx, prompt in self._prompts():
            for sample_idx in range(self.config.num_samples):
                if self.journal.done(data_idx, sample_idx, prompt.key):
                    self._bar.update()
                else:
                    yield Job(data_idx=data_idx, sample_idx=sample_idx, prompt=prompt)

    def failed(self) -> Iterator[Job]:
        """Every sample that failed in this run and may be mended by another try."""
        again, self.failures.again = self.failures.again, set()
        for data_idx, prompt in self._prompts():
            for sample_idx in range(self.config.num_samples):
                if (data_idx, sample_idx) in again:
                    yield Job(data_idx=data_idx, sample_idx=sample_idx, prompt=prompt)

    def keep(self, sample: Sample) -> None:
        """A response."""
        self.journal.append(sample)
        self.failures.done()
        self._bar.update()

    def give_up(self, job: Job, error: PartError) -> None:
        """A failure; raises `StackError` when there is no use in going on."""
        self.journal.append(_failed(job.data_idx, job.sample_idx, job.prompt.key, str(error)))
        self.failures.count(job, error)

    async def ask(self, endpoints: Endpoints, concurrency: int) -> None:
        """Have every owed sample from model endpoints, `concurrency` at a time."""

        async def work(job: Job) -> None:
            seed = endpoints.sampling.seed_of(self.number(job))
            try:
                self.keep(await endpoints.sample(job.prompt, job.data_idx, job.sample_idx, seed))
            except PartError as error:
                self.give_up(job, error)

        syncing = asyncio.create_task(self._keep_synced())
        try:
            await for_each(self.owed(), work, concurrency)
            for _ in range(PASSES - 1):
                if self.failures.again:
                    await for_each(self.failed(), work, concurrency)
        finally:
            syncing.cancel()

    def compute(self, model: LocalEndpoint) -> None:
        """Have every owed sample from a model in this process, `batch_size` at a time."""
        jobs, synced_at = self.owed(), time.monotonic()
        while batch := list(islice(jobs, self.config.batch_size)):
            asked = [(job.data_idx, job.sample_idx, job.prompt, self.number(job)) for job in batch]
            for job, answer in zip(batch, model.sample(asked), strict=True):
                if isinstance(answer, PartError):
                    self.give_up(job, answer)
                else:
                    self.keep(answer)
            if time.monotonic() - synced_at > SYNC_EVERY_S:
                self.journal.sync()
                synced_at = time.monotonic()

    def number(self, job: Job) -> int:
        """A sample's number in the run, which is added to the seed."""
        return job.data_idx * self.config.num_samples + job.sample_idx

    def progress(self) -> Any:
        """The bar of the run, to be entered as a context."""
        total = len(self.table) * self.config.num_samples
        self._bar = tqdm(total=total, desc="Generating rollouts", unit="rollout", dynamic_ncols=True)
        return self._bar

    def _prompts(self) -> Iterator[tuple[int, Prompt]]:
        from nemo_like.table import cells

        for data_idx, cell in enumerate(cells(self.table, self.column)):
            try:
                yield data_idx, read_prompt(cell)
            except RowError as error:
                if data_idx in self._no_prompt:
                    continue
                self._no_prompt.add(data_idx)
                message = f"bad_request: row {data_idx}, column '{self.column}': {error}"
                self.failures.last["bad_request"] = message
                for sample_idx in range(self.config.num_samples):
                    self.journal.append(_failed(data_idx, sample_idx, 0, message))

    async def _keep_synced(self) -> None:
        while True:
            await asyncio.sleep(SYNC_EVERY_S)
            await asyncio.to_thread(self.journal.sync)


def main(arguments: Sequence[str] | None = None) -> int:
    """Generate what the command line asks for; the exit status."""
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s", stream=sys.stderr)
    try:
        return generate(read_options(arguments), say=lambda line: print(line, flush=True))
    except UsageError as error:
        status, message = 2, str(error)
    except Error as error:
        status, message = 1, str(error)
    except KeyboardInterrupt:
        status, message = 130, "interrupted; what was finished is kept, the same command resumes"
    print(f"generate_rollouts: {message}", file=sys.stderr)
    return status


def generate(config: GenerateConfig, *, say: Callable[[str], None]) -> int:
    """Generate; 1 where a sample could not be had, else 0. `say` prints a line.

    Raises:
        UsageError: what was asked is wrong; nothing was sent.
        StoreError: the journal belongs to another run, or can't be written.
        StackError: everything fails in the same way; the output was not written.
    """
    try:
        from nemo_like.table import open_table
    except ModuleNotFoundError as error:
        raise MissingExtra(f"data files need {error.name}: pip install 'nemo-like[generate]'") from error
    table = open_table(config.data_path)
    if prompt_column(config.prompt_key, table) != config.prompt_key:
        log.warning("%s has no column 'prompt'; taking 'input'", table.path)
    _check_output(config)
    if config.temperature == 0 and config.num_samples > 1:
        log.warning("at temperature 0 all %d samples of a prompt are the same", config.num_samples)
    if config.is_local:
        return _with_local_model(config, table, say)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_with_endpoints(config, table, say))


def prompt_column(key: str, table: Table) -> str:
    """The column that holds the prompts: `key`, or where that is the default and missing, `input`.

    Raises:
        UsageError: there is none; the message names the columns that there are.
    """
    columns: list[str] = table.schema.names
    if key in columns:
        return key
    if key == "prompt" and "input" in columns:
        return "input"
    there = f"there are: {', '.join(columns)}" if columns else "it has none at all"
    raise UsageError(f"{table.path} has no column '{key}' (--prompt_key); {there}")


def _check_output(config: GenerateConfig) -> None:
    output = config.output
    if output.is_dir():
        raise UsageError(f"--output_path should name a file (got the folder {output})")
    if output.exists() and output.samefile(config.data_path):
        raise UsageError(f"--output_path is the data itself: {output}")
    if output.exists() and not config.journal.exists() and not config.overwrite:
        missing = f"there is no {config.journal.name} that says how it was made"
        raise UsageError(f"{output} exists, and {missing}; --overwrite replaces it")
    output.parent.mkdir(parents=True, exist_ok=True)


def _with_local_model(config: GenerateConfig, table: Table, say: Callable[[str], None]) -> int:
    try:
        from nemo_like.local_endpoint import LocalEndpoint
        from nemo_like.local_model import LocalModel
    except ModuleNotFoundError as error:
        extra = "pip install 'nemo-like[hf]', or ask a server with --use_vllm"
        raise MissingExtra(f"a local model needs {error.name}: {extra}") from error
    assert config.model_path is not None
    loaded = LocalModel(config.model_path, trust_remote_code=config.trust_remote_code)
    model = LocalEndpoint(loaded, config.sampling)
    with _journal(config, table, config.model_path) as journal:
        generation = Generation(config, table, journal)
        with generation.progress():
            generation.compute(model)
        return _finish(generation, model.effective, say)


async def _with_endpoints(config: GenerateConfig, table: Table, say: Callable[[str], None]) -> int:
    concurrency = config.vllm_max_concurrent
    limit = prepare_for_many()
    if concurrency + SPARE_FILES > limit:
        most = f"at most {limit - SPARE_FILES} are possible (ulimit -Hn)"
        raise UsageError(f"--vllm_max_concurrent={concurrency} needs as many open files: {most}")
    async with Client({}) as client, _servers(config) as urls:
        name = EMBEDDED if config.embedded else config.vllm_model_name or config.model_path
        model = name or await model_at(client, urls[0])
        with _journal(config, table, model) as journal:
            endpoints = Endpoints(
                client,
                urls,
                sampling=config.sampling,
                body={"model": model} | ({} if config.embedded else NEUTRAL) | config.extra_body,
                api_key=os.environ.get("VLLM_API_KEY", ""),
                timeout_s=config.request_timeout_s,
                max_retries=config.max_retries,
            )
            generation = Generation(config, table, journal)
            with generation.progress():
                await generation.ask(
                    endpoints, min(concurrency, EMBEDDED_AT_ONCE) if config.embedded else concurrency
                )
            return _finish(generation, endpoints.effective, say)


@asynccontextmanager
async def _servers(config: GenerateConfig) -> AsyncGenerator[list[str]]:
    """The endpoints' base URLs; the embedded model runs as long as the context."""
    if not config.embedded:
        yield [base_url_of(url) for url in config.vllm_base_url]
        return
    async with running(stack.load([f"model={EMBEDDED}"])) as supervisor:
        yield [base_url_of(server.url) for server in supervisor.servers()]


def _journal(config: GenerateConfig, table: Table, model: str) -> Journal:
    return Journal(
        config.journal,
        config.made_with(model),
        num_prompts=len(table),
        num_samples=config.num_samples,
        overwrite=config.overwrite,
    )


def _finish(
    generation: Generation, effective: Callable[[int | None], Json], say: Callable[[str], None]
) -> int:
    """Write the output and say what there is; the exit status."""
    from nemo_like.generated import write_generated

    config, journal = generation.config, generation.journal
    journal.sync()
    tally = write_generated(config, generation.table, generation.column, journal, effective)
    for line in tally.lines():
        say(line)
    for message in generation.failures.last.values() if tally.failed else ():
        say(f"the last failure of its kind: {message}")
    if tally.failed:
        say("the same command tries them again")
    return 1 if tally.failed else 0


def _failed(data_idx: int, sample_idx: int, key: int, error: str) -> Sample:
    return Sample(data_idx=data_idx, sample_idx=sample_idx, key=key, error=error)
