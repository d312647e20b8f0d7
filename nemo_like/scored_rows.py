"""Rows of generated answers, scored: each by a reward function, many at a time, in order.

A row becomes a task and a response: its `original_*` columns without the prefix are the task, the text in
`response` is the assistant's message; a row of the collector's is its own task, and `response` the whole
object. What can't be scored has no reward, and a status that says why; it is never 0.

    status        what became of the row
    ok            it has a reward
    no_response   nothing was generated for it
    unscorable    the reward function needs what the row does not have, or says that it can't be scored
    failed        the reward function raised
    crashed       its process died
    timeout       it took too long, and was killed
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from nemo_like.answered import PREFIX, REWARD_FN_KEY, TRUTHS, response_of, task_of
from nemo_like.errors import PartError, UsageError
from nemo_like.rewards.forms import find
from nemo_like.rewards.reward import Reward, rewards, runs
from nemo_like.rewards.scoring import Scorer
from nemo_like.rewards.verl import TIMEOUT_S
from nemo_like.rewards.verl_rules import route
from nemo_like.rollout_table import (
    Batch,
    GroupedWriter,
    RolloutTable,
    batch_with_columns,
    task_rows,
    with_columns,
)
from nemo_like.table import as_json
from nemo_like.types import Json
from nemo_like.workers import for_each

Status = Literal["ok", "no_response", "unscorable", "failed", "crashed", "timeout"]
STATUSES: tuple[str, ...] = get_args(Status)

ALIASES = {"ifeval": "instruction_following"}
CUSTOM = Path("custom_reward.py")
ADDED = {
    "reward": "double",
    "acc": "double",
    "reward_status": "string",
    "reward_message": "string",
    "reward_details": "json",
}
"""The columns that scoring writes: `acc` is the verdict's own, where the reward is a shaped one;
`reward_details` is what else it said."""

IN_FLIGHT = 64
"""Rows being scored at once: more than the pool runs, slow ones included, so that none of it idles."""
MAX_BATCHES = 64
"""Batches that may wait, scored, for a slow row before them."""
TIMEOUT_OF_ONE_S = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Scored:
    """What became of a row."""

    status: Status
    reward: float | None = None
    acc: float | None = None
    message: str | None = None
    details: Json | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class RowScorer:
    """Scores rows of one table by one reward function."""

    function: Reward
    key: str = REWARD_FN_KEY
    """The field of a task that holds its ground truth."""
    timeout_s: float = TIMEOUT_OF_ONE_S

    async def __call__(self, row: Json) -> Scored:
        """What became of a row; nothing that a reward function does raises.

        Raises:
            UsageError: the reward function, or what it stands on, is not there.
        """
        try:
            response = response_of(row)
            if response is None:
                return Scored(status="no_response", message=_message(row.get("error")))
            scorer = Scorer(timeout_s=self.timeout_s)
            verdict = await scorer(self.function, task_of(row, self.key), response)
        except PartError as error:
            return Scored(status=_status_of(error), message=error.message)
        except UsageError:
            raise
        except Exception as error:  # noqa: BLE001  # the boundary: a reward function is somebody's own
            return Scored(status="failed", message=f"{type(error).__name__}: {error}")
        reward, acc = verdict.pop("reward"), verdict.pop("acc", None)
        if reward is None or reward != reward:
            return Scored(status="unscorable", message="the reward function gave no reward", details=verdict)
        number = float(acc) if isinstance(acc, int | float) else None
        return Scored(status="ok", reward=reward, acc=number, details=verdict)


def scorer_for(
    table: RolloutTable, reward_fn: str | None, key: str, timeout_s: float | None = None
) -> RowScorer:
    """The scorer of a table by a reward's name, `file.py:function`, or None: the rule of its `data_source`.

    Raises:
        UsageError: there is no such function, or the table lacks what it needs.
    """
    table.require("response", "the answers that are to be scored")
    if key != REWARD_FN_KEY:
        _require_task_field(table, key, "which --reward_fn_key names")
    if reward_fn is not None:
        function = find(_resolved(reward_fn))
        if runs(function) == "judge":
            raise UsageError(f"{reward_fn} asks a judge; ng_rescore has one, this has none")
        return RowScorer(function=function, key=key, timeout_s=timeout_s or TIMEOUT_OF_ONE_S)
    _require_task_field(table, "data_source", "which chooses the reward; or name one: --reward_fn")
    if not any(_column_of(table, name) for name in (key, "reward_spec", *TRUTHS)):
        _require_task_field(table, key, f"nor any of {', '.join(TRUTHS)}, for the right answer")
    _check_data_sources(table)
    return RowScorer(function=rewards.get("verl"), key=key, timeout_s=timeout_s or TIMEOUT_S)


@dataclass(kw_only=True, slots=True)
class Outcome:
    """What became of the rows of a table."""

    statuses: Counter[str]
    """How many ended how."""
    total: float = 0.0
    """The sum of their rewards."""

    def __str__(self) -> str:
        ended = ", ".join(f"{n:,} {status}" for status, n in self.statuses.most_common())
        return f"{self.statuses.total():,} rows: {ended}"


def score_table(table: RolloutTable, scorer: RowScorer, output: Path) -> Outcome:
    """Write the rows of a table with what became of each as further columns.

    Raises:
        UsageError: none of them could be scored; then nothing is written.
    """
    outcome = Outcome(statuses=Counter())
    messages: Counter[str] = Counter()

    async def main() -> None:
        schema = with_columns(table.schema, ADDED)
        with GroupedWriter(output, schema) as writer:

            def write(batch: Batch, scored: Sequence[Scored]) -> None:
                outcome.statuses.update(one.status for one in scored)
                outcome.total += sum(one.reward or 0.0 for one in scored)
                messages.update(one.message for one in scored if one.message)
                writer.write(batch_with_columns(batch, schema, _columns(scored)))

            window = _Window(table, write)
            await for_each(window.jobs(), lambda job: job.finish(scorer), IN_FLIGHT)
            if outcome.statuses["ok"] == 0:
                said = "".join(f"\n  {n:,} times: {message}" for message, n in messages.most_common(3))
                raise UsageError(
                    f"{table.path}: none could be scored ({outcome}){said}\n"
                    f"its columns are: {', '.join(table.columns)}"
                )

    asyncio.run(main())
    return outcome


class _Window:
    """The batches whose rows are being scored; they are written in order, as their last row is done."""

    def __init__(self, table: RolloutTable, write: Callable[[Batch, Sequence[Scored]], None]) -> None:
        self._table, self._write = table, write
        self._open: deque[_Scoring] = deque()
        self._written = asyncio.Event()

    def jobs(self) -> Iterator[_Job]:
        for batch in self._table.batches():
            rows = task_rows(batch)
            scoring = _Scoring(batch, [None] * len(rows), len(rows))
            self._open.append(scoring)
            for i, row in enumerate(rows):
                yield _Job(self, scoring, i, row)

    async def room(self) -> None:
        """Wait while too much is held back; only rows of the newest batch ever do."""
        while len(self._open) > MAX_BATCHES:
            self._written.clear()
            await self._written.wait()

    def write_finished(self) -> None:
        self._written.set()
        while self._open and self._open[0].left == 0:
            scoring = self._open.popleft()
            self._write(scoring.batch, [one for one in scoring.scored if one is not None])


@dataclass(slots=True)
class _Scoring:
    batch: Batch
    scored: list[Scored | None]
    left: int


@dataclass(frozen=True, slots=True)
class _Job:
    window: _Window
    scoring: _Scoring
    index: int
    row: Json

    async def finish(self, scorer: RowScorer) -> None:
        if self.index == 0:
            # Rewards that need no process never give way by themselves, to Ctrl-C for one.
            await asyncio.sleep(0)
        await self.window.room()
        self.scoring.scored[self.index] = await scorer(self.row)
        self.scoring.left -= 1
        if self.scoring.left == 0:
            self.window.write_finished()


def _columns(scored: Sequence[Scored]) -> dict[str, list[Any]]:
    return {
        "reward": [one.reward for one in scored],
        "acc": [one.acc for one in scored],
        "reward_status": [one.status for one in scored],
        "reward_message": [one.message for one in scored],
        "reward_details": [as_json(one.details).decode() if one.details else None for one in scored],
    }


def _status_of(error: PartError) -> Status:
    if error.kind == "timeout":
        return "timeout"
    if error.kind == "bad_request":
        return "unscorable"
    # How the pool tells of a process that died.
    return "crashed" if isinstance(error.__cause__, OSError) else "failed"


def _resolved(reward_fn: str) -> str:
    if reward_fn != "custom":
        return ALIASES.get(reward_fn, reward_fn)
    if not CUSTOM.is_file():
        raise UsageError(
            f"--reward_fn custom is compute_score(data_source, solution_str, ground_truth) in {CUSTOM} of "
            "this folder, and there is none; write it, or name another: --reward_fn file.py:function"
        )
    return f"{CUSTOM}:compute_score"


def _column_of(table: RolloutTable, name: str) -> str | None:
    """The column that holds a field of the task."""
    is_prefixed = any(column.startswith(PREFIX) for column in table.columns)
    column = PREFIX + name if is_prefixed else name
    return column if column in table.columns else None


def _require_task_field(table: RolloutTable, name: str, why: str) -> None:
    is_prefixed = any(column.startswith(PREFIX) for column in table.columns)
    table.require(PREFIX + name if is_prefixed else name, why)


def _check_data_sources(table: RolloutTable) -> None:
    column = _column_of(table, "data_source") or ""
    sources: Counter[str] = Counter()
    for batch in table.batches([column]):
        sources.update(str(value) for value in batch.column(0).to_pylist())
    for source, n in sources.items():
        try:
            route(source)
        except UsageError as error:
            raise UsageError(
                f"{table.path}: column '{column}' is '{source}' in {n:,} rows: {error}; "
                "or name a reward: --reward_fn NAME or file.py:function"
            ) from error


def _message(error: Any) -> str | None:
    return None if error is None else str(error)
