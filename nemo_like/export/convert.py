"""A piece of the rollouts → finished lines of the output; in this process, or in several."""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import orjson

from nemo_like.export.format import FORMATS
from nemo_like.export.rollout import MISSHAPEN, Rollout, Unfit, digest
from nemo_like.export.selection import Selection, Split, Tally, draw
from nemo_like.export.settings import ExportConfig
from nemo_like.export.sources import Groups, Job, Piece, lines_of
from nemo_like.types import Json

SMALL_BYTES = 64 * 2**20
"""Up to here one process is done before others have started."""


@dataclass(slots=True)
class Block:
    """The rows of a rollout, of a task, or of all of a job that stay together, as lines of JSON."""

    lines: bytes
    rows: int
    split: Split
    rewards: tuple[int, float]
    """How many of its rollouts have a reward, and the sum of those; of none for tasks."""
    successes: int
    digest: bytes | None = None
    """What it has in common with a duplicate, where those are dropped."""
    draw: int = 0
    """By chance, but always the same; where classes are balanced."""


@dataclass(slots=True)
class Chunk:
    """What became of a job."""

    blocks: list[Block] = field(default_factory=list[Block])
    tally: Tally = field(default_factory=Tally)
    keys: set[str] = field(default_factory=set[str])
    """Columns, and fields of messages, that are in some row."""


class Converter:
    """Jobs → chunks."""

    def __init__(self, config: ExportConfig, paths: list[Path]) -> None:
        self.config, self.paths = config, paths
        self.format = FORMATS.get(config.format)
        self.selection = Selection(config, needs_reward=self.format.needs_reward)
        self._files: dict[int, int] = {}

    def __call__(self, job: Job) -> Chunk:
        """Convert a job."""
        chunk = Chunk()
        if isinstance(job, Piece):
            lines = lines_of(self.paths[job.source], job)
            chunk.tally.rollouts += len(lines)
            for line in lines:
                if (rollout := self._read(line, chunk.tally)) is not None:
                    self._write(rollout, chunk)
        else:
            self._convert_groups(job, chunk)
        if not (self.config.drop_duplicates or self.config.balance):
            # Nobody asks for them one by one any more.
            chunk.blocks = _joined(chunk.blocks)
        return chunk

    def _convert_groups(self, groups: Groups, chunk: Chunk) -> None:
        for places in groups:
            lines = (self._line(*place) for place in places)
            found = [rollout for line in lines if (rollout := self._read(line, chunk.tally)) is not None]
            group = self.selection.of_group(found, chunk.tally) if found else []
            if not group:
                continue
            chunk.tally.tasks += 1
            if self.format.of_task is None:
                for rollout in group:
                    self._write(rollout, chunk)
            else:
                self._write_group(group, chunk)

    def _read(self, line: bytes, tally: Tally) -> Rollout | None:
        """The rollout of a line; None, and counted, where it is not to be kept."""
        try:
            row = orjson.loads(line)
            if not isinstance(row, dict):
                raise Unfit("no rollout")
            rollout = Rollout(row, self.config)  # pyright: ignore[reportUnknownArgumentType]  # any JSON object
            self.selection.check(rollout, tally)
        except orjson.JSONDecodeError:
            tally.dropped["no JSON"] += 1
        except (Unfit, *MISSHAPEN) as error:
            tally.dropped[_reason(error)] += 1
        else:
            return rollout
        return None

    def _write(self, rollout: Rollout, chunk: Chunk) -> None:
        assert self.format.of_rollout is not None
        try:
            rows = list(self.format.of_rollout(rollout, self.config))
            self._finish(rows, [rollout], chunk)
        except (Unfit, *MISSHAPEN) as error:
            chunk.tally.dropped[_reason(error)] += 1
        else:
            chunk.tally.divided += len(rows) > 1

    def _write_group(self, group: list[Rollout], chunk: Chunk) -> None:
        assert self.format.of_task is not None
        try:
            self._finish(list(self.format.of_task(group, self.config)), group, chunk)
        except (Unfit, *MISSHAPEN) as error:
            chunk.tally.tasks_dropped[_reason(error)] += 1
            chunk.tally.dropped["of a task that became no row"] += len(group)

    def _finish(self, rows: list[Json], rollouts: list[Rollout], chunk: Chunk) -> None:
        """Add the rows to the chunk; raises, for what is misshapen, before it changes anything."""
        config, first = self.config, rollouts[0]
        split = self.selection.split_of(first)
        same, drawn = None, 0
        if config.drop_duplicates and self.format.of_task is None:
            same = digest(first.prompt_json + first.answer_json)
        if config.balance:
            drawn = draw(config.seed, "balance", first.task_key, str(first.rollout_index))
        lines = b"".join([orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows])
        reward = first.reward if self.format.of_task is None else None
        # Where rows have a label, that is what is balanced and counted.
        success = bool(rows[0].get("label", first.success))
        rewards = (0, 0.0) if reward is None else (1, reward)
        block = Block(lines, len(rows), split, rewards, int(success), same, drawn)
        made_by = [rollout.made_by for rollout in rollouts]
        chunk.blocks.append(block)
        for row in rows:
            chunk.keys.update(row)
        for rollout, maker in zip(rollouts, made_by, strict=True):
            chunk.tally.keep(maker)
            chunk.keys |= rollout.keys

    def _line(self, source: int, offset: int, length: int) -> bytes:
        if source not in self._files:
            self._files[source] = os.open(self.paths[source], os.O_RDONLY | os.O_CLOEXEC)
        return os.pread(self._files[source], length, offset)


def _joined(blocks: list[Block]) -> list[Block]:
    """One block of each split that has some."""
    by_split: dict[Split, list[Block]] = {}
    for block in blocks:
        by_split.setdefault(block.split, []).append(block)
    return [
        Block(
            b"".join([block.lines for block in of_split]),
            sum(block.rows for block in of_split),
            split,
            (sum(block.rewards[0] for block in of_split), sum(block.rewards[1] for block in of_split)),
            sum(block.successes for block in of_split),
        )
        for split, of_split in by_split.items()
    ]


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, Unfit) else f"misshapen ({type(error).__name__})"


def converted(
    config: ExportConfig, paths: list[Path], jobs: Iterable[Job], *, workers: int
) -> Iterator[Chunk]:
    """The chunk of each job, in order; in processes of their own if there are several."""
    if workers == 1:
        yield from map(Converter(config, paths), jobs)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_start, initargs=(config, paths)) as pool:
        remaining = iter(jobs)
        waiting: deque[Future[Chunk]] = deque()
        # As many as keep them busy, and no more: what is finished waits in memory.
        waiting.extend(pool.submit(_convert, job) for job in islice(remaining, 2 * workers))
        while waiting:
            chunk = waiting.popleft().result()
            waiting.extend(pool.submit(_convert, job) for job in islice(remaining, 1))
            yield chunk


def workers_for(config: ExportConfig, size: int) -> int:
    """How many processes convert files of `size` bytes."""
    return config.workers or (1 if size < SMALL_BYTES else min(8, os.cpu_count() or 1))


_converter: Converter


def _start(config: ExportConfig, paths: list[Path]) -> None:
    global _converter
    _converter = Converter(config, paths)


def _convert(job: Job) -> Chunk:
    return _converter(job)
