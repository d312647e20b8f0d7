"""What a tracker is told of a rollouts file: means as the rollouts come in, samples, the metrics at the end.

The file is read once, in the order of completion, and followed if that is wanted; memory holds the sums and
the samples. The metrics at the end are those of the collector, from the index.
"""

from __future__ import annotations

import asyncio
import heapq
import sqlite3
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import orjson

from nemo_like.errors import UsageError
from nemo_like.export.rollout import MISSHAPEN, Rollout, Unfit
from nemo_like.export.selection import draw
from nemo_like.export.settings import ExportConfig
from nemo_like.index import Index, as_scored, scored_of
from nemo_like.metrics import Running, summarize
from nemo_like.settings import redacted
from nemo_like.shapes import text_of
from nemo_like.store import Files
from nemo_like.track.tracker import TRACKERS, TrackConfig
from nemo_like.types import Json

POLL_S = 0.5
READ_BYTES = 4 * 2**20
COLUMNS = ("task", "repeat", "reward", "success", "tokens", "prompt", "answer")
SCORED = (
    "SELECT agent, task_key, rollout_index, success, numbers FROM rollouts WHERE agent = ? ORDER BY task_key"
)
TEXT_CHARACTERS = 10_000
NOBODY = "no agent"


async def track(config: TrackConfig) -> str:
    """Tell a tracker of a rollouts file; what it calls the place.

    Raises:
        UsageError: the file is missing, is no JSONL, or holds no rollout.
    """
    path = config.rollouts
    if path.suffix != ".jsonl":
        raise UsageError(f"rollouts should name a .jsonl file (got {path})")
    if not config.follow and not path.is_file():
        raise UsageError(f"there is no file {path}")
    tracker = TRACKERS.get(config.to)(config, config.name or path.stem, _about(path))
    seen = _Seen(config)
    try:
        async for lines in _growing(path, config):
            for line in lines:
                seen.add(line)
                if seen.rollouts and seen.rollouts % config.every == 0 and seen.fresh:
                    tracker.log(seen.rollouts, seen.point())
    finally:
        # Ctrl-C is how one stops following: what was seen until then is told.
        if seen.fresh:
            tracker.log(seen.rollouts, seen.point())
        tracker.table(COLUMNS, seen.samples())
        where = tracker.close(_final(path) if seen.rollouts else {})
    if not seen.rollouts:
        raise UsageError(f"{path} holds no rollout")
    return where


class _Seen:
    """The rollouts so far: sums of all, and of those since the last point; a sample."""

    def __init__(self, config: TrackConfig) -> None:
        self._config = config
        self._as = ExportConfig.from_mapping(
            {"rollouts": config.rollouts, "format": "sft", "output": "."}, where="ng_track"
        )
        self._all, self._window = Running(), Running()
        self._sample: list[tuple[int, int, list[Any]]] = []

    @property
    def rollouts(self) -> int:
        return self._all.rollouts

    @property
    def fresh(self) -> bool:
        """Whether there are rollouts since the last point."""
        return self._window.rollouts > 0

    def add(self, line: bytes) -> None:
        """A line of the file; what is no rollout is passed over."""
        try:
            rollout = Rollout(orjson.loads(line), self._as)
            key = rollout.task_key
        except (orjson.JSONDecodeError, Unfit, *MISSHAPEN):
            return
        scored = scored_of(rollout.row | {"success": rollout.success})
        self._all.add(scored)
        self._window.add(scored)
        chance = draw(self._config.seed, key, str(rollout.rollout_index))
        entry = (-chance, self.rollouts)
        if len(self._sample) < self._config.samples:
            heapq.heappush(self._sample, (*entry, _cells(rollout)))
        elif self._sample and entry > self._sample[0][:2]:
            heapq.heapreplace(self._sample, (*entry, _cells(rollout)))

    def point(self) -> dict[str, float]:
        """The means of all rollouts so far, and under window/ of those since the last point."""
        window, self._window = self._window, Running()
        return _numbers(self._all.summary()) | {
            f"window/{k}": v for k, v in _numbers(window.summary()).items()
        }

    def samples(self) -> list[list[Any]]:
        return [cells for _, _, cells in sorted(self._sample, key=lambda entry: entry[1])]


async def _growing(path: Path, config: TrackConfig) -> AsyncIterator[list[bytes]]:
    """The whole lines of a file, as they come."""
    at, grew = 0, time.monotonic()
    while True:
        lines, at = _read_from(path, at)
        if lines:
            grew = time.monotonic()
            yield lines
        elif not config.follow:
            return
        else:
            done = path.is_file() and at and time.monotonic() - grew >= config.idle_s
            if done and not _is_written(path):
                return
            await asyncio.sleep(POLL_S)


def _read_from(path: Path, at: int) -> tuple[list[bytes], int]:
    """Whole lines from an offset on, and where they end."""
    if not path.is_file():
        return [], at
    with path.open("rb") as file:
        if path.stat().st_size < at:
            raise UsageError(f"{path} was cut while it was followed; run ng_track again")
        file.seek(at)
        data = file.read(READ_BYTES)
        if data and b"\n" not in data:
            data += file.readline()
    end = data.rfind(b"\n") + 1
    return data[:end].splitlines(), at + end


def _is_written(path: Path) -> bool:
    """Whether a collector holds the lock of the file; where that can't be known, yes."""
    try:
        locks = Path("/proc/locks").read_text()
    except OSError:
        return True
    return any("FLOCK" in line and f":{path.stat().st_ino} " in line for line in locks.splitlines())


def _cells(rollout: Rollout) -> list[Any]:
    who = (rollout.task_key, rollout.rollout_index, rollout.reward, rollout.success)
    texts = (_shown(lambda: rollout.prompt[-1]["content"]), _shown(lambda: rollout.answer))
    return [*who, rollout.usage.get("output_tokens"), *texts]


def _shown(text: Callable[[], Any]) -> str:
    """The beginning of a text; "" where the rollout has none."""
    try:
        return text_of(text())[:TEXT_CHARACTERS]
    except (Unfit, *MISSHAPEN):
        return ""


def _final(path: Path) -> dict[str, float]:
    """The metrics of the collector, by path; those of several agents under their names."""
    with tempfile.TemporaryDirectory() as folder:
        # An index of its own: that beside the file is the collector's while it runs.
        file = Path(folder) / "index.sqlite"
        with Index(file) as index:
            index.catch_up(path, "rollouts")
        with closing(sqlite3.connect(file)) as db:
            agents = [row[0] for row in db.execute("SELECT DISTINCT agent FROM rollouts ORDER BY agent")]
            values: dict[str, float] = {}
            for agent in agents:
                rollouts = (as_scored(*row) for row in db.execute(SCORED, (agent,)))
                summary = summarize(rollouts, failures={}, num_failed=0)
                prefix = f"{agent or NOBODY}/" if len(agents) > 1 else ""
                values |= {prefix + name: value for name, value in _flat(summary)}
    return values


def _flat(summary: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in summary.items():
        if isinstance(value, Mapping):
            yield from _flat(cast(Mapping[str, Any], value), f"{prefix}{name}/")
        elif isinstance(value, int | float):
            yield prefix + name, float(value)


def _numbers(summary: Mapping[str, float | None]) -> dict[str, float]:
    return {name: float(value) for name, value in summary.items() if value is not None}


def _about(path: Path) -> Json:
    """What made the rollouts, as the collector noted it, without secrets."""
    run = Files(path).run
    about: Json = {"rollouts": path.name}
    if run.is_file():
        kept = cast(Json, orjson.loads(run.read_bytes()))
        fingerprint: Json = kept.get("fingerprint") or {}
        about |= {
            k: v if isinstance(v, str | int | float) else orjson.dumps(v).decode()
            for k, v in fingerprint.items()
        }
    return redacted(about)
