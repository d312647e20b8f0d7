"""The problems of a table of scored rollouts: each one's rewards as metrics; by polars, streaming.

The rewards of a problem are sorted before anything is summed, so that equal sets of rewards have equal
metrics to the last bit, whatever order they came in: buckets depend on ties.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import polars as pl
from numpy.typing import NDArray

from nemo_like.columns import LARGEST
from nemo_like.errors import UsageError
from nemo_like.rollout_table import RolloutTable
from nemo_like.types import Json

Numbers = NDArray[np.float64]
KS = (1, 3, 5, 10, 20)
PASS = 0.5
"""A reward of at least this passes."""
METRICS = (
    *(f"mean@{k}" for k in KS),
    *("pass_rate", "mean_reward", "max_reward", "min_reward", "std_reward", "num_samples"),
)
KEYS = ("data_idx", "_ng_task_key")
"""The column that says which problem a row is an answer to: of generated rows, and of the collector's."""
STATUS = "reward_status"
SAME = {"mean@1": "max_reward"}
REWARDS_OWN = {"acc_min": "min_reward", "acc_max": "max_reward", "acc_mean": "mean_reward"}
"""Which metric stands for one of `acc`, where there is none."""
NO_REWARD = "no_reward"
"""How a row without a reward is counted where no column says why."""
SLICE = 10_000


class Problems:
    """The problems that have a reward, ordered by key: whole numbers by size, text by its characters."""

    def __init__(self, table: RolloutTable, frame: pl.DataFrame, excluded: dict[str, int], key: str) -> None:
        self._table, self._frame, self._key = table, frame, key
        self.excluded = excluded
        """Rows without a reward, by status."""

    def __len__(self) -> int:
        return self._frame.height

    def column(self, name: str) -> Numbers:
        """A metric of `METRICS`, or `acc_min`, `acc_max`, `acc_mean`: the rewards' own, where there is no
        `acc`. Shape [problems]."""
        name = SAME.get(name, name)
        held = name if name in self._frame.columns else REWARDS_OWN[name]
        return self._frame[held].cast(pl.Float64).to_numpy()

    @property
    def num_scored(self) -> int:
        """Rows that have a reward."""
        return int(self._frame["num_samples"].sum())

    @property
    def num_without_reward(self) -> int:
        """Problems of the table whose every row is without a reward."""
        counted = _scan(self._table, self._key).select(pl.col(self._key).n_unique())
        return int(_collected(counted, self._table).item()) - len(self)

    def keys(self) -> list[str]:
        """The key of each problem, as text."""
        return self._frame[self._key].cast(pl.String).to_list()

    def metrics(self) -> Iterator[tuple[str, Json]]:
        """(key, {metric: value}) of each problem."""
        metrics = [pl.col(SAME.get(name, name)).alias(name) for name in METRICS]
        for part in self._frame.iter_slices(SLICE):
            keys = part[self._key].cast(pl.String).to_list()
            yield from zip(keys, part.select(metrics).iter_rows(named=True), strict=True)

    def rows(self, codes: NDArray[np.int8]) -> tuple[NDArray[np.int8], NDArray[np.bool_]]:
        """Of each row of the table: its problem's code (-1 where that has none), and whether it is the first
        of its problem's. `codes` has the shape [problems]."""
        named = self._frame.select(self._key, pl.Series("code", codes))
        rows = _scan(self._table, self._key).select(self._key)
        joined = rows.join(named.lazy(), on=self._key, how="left", maintain_order="left")
        frame = _collected(joined.select(pl.col("code").fill_null(-1)), self._table)
        first = np.zeros(frame.height, dtype=np.bool_)
        first[self._frame["first_row"].to_numpy()] = True
        return frame["code"].to_numpy(), first

    def histogram(self, bins: int = 20) -> tuple[list[float], list[int]]:
        """(bins + 1 edges, rows in each bin) of all rewards; two bins at most where all are equal."""
        low, high = float(self.column("min_reward").min()), float(self.column("max_reward").max())
        width = (high - low) / bins or 1.0
        at = ((pl.col("reward").cast(pl.Float64) - low) / width).floor().clip(0, bins - 1).cast(pl.Int32)
        rows = _scan(self._table, self._key).select(pl.col("reward").cast(pl.Float64))
        rows = rows.filter(_is_number(pl.col("reward"))).select(at.alias("bin"))
        counted = _collected(rows.group_by("bin").agg(pl.len().alias("n")), self._table)
        counts = dict(zip(counted["bin"].to_list(), counted["n"].to_list(), strict=True))
        return [low + i * width for i in range(bins + 1)], [counts.get(i, 0) for i in range(bins)]


def measure(table: RolloutTable) -> Problems:
    """The problems of a table with a numeric `reward`; NaN, infinite and huge rewards are none.

    `mean@k` is the mean of the k largest rewards, of all where there are fewer; `std_reward` has ddof 0.

    Raises:
        UsageError: a column is missing or of the wrong kind, or there is no reward in it.
    """
    table.require("reward", "which scoring writes")
    key = next((name for name in KEYS if name in table.columns), None)
    if key is None:
        table.require(KEYS[0], "which says what problem a row is an answer to")
    key = key or KEYS[0]
    _check_keys(table, key)
    rows = _scan(table, key).with_row_index("row")
    reward = pl.col("reward").cast(pl.Float64)
    scored = rows.with_columns(reward=reward).filter(_is_number(pl.col("reward")))
    of_acc = _of_acc() if "acc" in table.columns else {}
    grouped = scored.group_by(key).agg(
        pl.col("reward").sort(descending=True).alias("sorted"),
        (pl.col("reward") >= PASS).sum().alias("passed"),
        pl.col("row").min().alias("first_row"),
        **of_acc,
    )
    ordered = pl.col("sorted").list
    frame = grouped.select(
        key,
        *(ordered.head(k).list.mean().alias(f"mean@{k}") for k in KS[1:]),
        (pl.col("passed") / ordered.len()).alias("pass_rate"),
        ordered.mean().alias("mean_reward"),
        ordered.first().alias("max_reward"),
        ordered.last().alias("min_reward"),
        # Of equal rewards it is 0, not what their rounded mean leaves over.
        pl.when(ordered.first() == ordered.last())
        .then(0.0)
        .otherwise(ordered.std(ddof=0))
        .alias("std_reward"),
        ordered.len().alias("num_samples"),
        *("first_row", *of_acc),
    )
    problems = _sorted(_collected(frame, table), key)
    if problems.height == 0:
        raise UsageError(f"{table.path}: column 'reward' holds no number in any of {table.num_rows:,} rows")
    return Problems(table, problems, _excluded(table, key), key)


def _collected(lazy: pl.LazyFrame, table: RolloutTable) -> pl.DataFrame:
    try:
        return lazy.collect(engine="streaming")
    except pl.exceptions.PolarsError as error:
        raise UsageError(f"{table.path} can't be read to its end: {error}") from error


def _sorted(frame: pl.DataFrame, key: str) -> pl.DataFrame:
    """The frame by its key; a column at a time, so that no two copies of it are held."""
    order, columns = frame[key].arg_sort(), frame.get_columns()
    del frame
    for i in range(len(columns)):
        columns[i] = columns[i].gather(order)
    return pl.DataFrame(columns)


def _is_number(reward: pl.Expr) -> pl.Expr:
    """As in `nemo_like.metrics`: neither NaN, nor infinite, nor so large that sums are."""
    return reward.is_between(-LARGEST, LARGEST)


def _of_acc() -> dict[str, pl.Expr]:
    """What `acc` amounts to in a group; of a row without one, its reward counts."""
    acc = pl.col("acc").cast(pl.Float64).fill_nan(None).fill_null(pl.col("reward"))
    return {"acc_min": acc.min(), "acc_max": acc.max(), "acc_mean": acc.mean()}


def _scan(table: RolloutTable, key: str) -> pl.LazyFrame:
    """The columns that metrics need, the key as whole numbers or text."""
    lazy = pl.scan_parquet(table.parquet, glob=False)
    schema = lazy.collect_schema()
    for name in ("reward", "acc"):
        if name in schema and not (
            schema[name].is_numeric() or isinstance(schema[name], pl.Boolean | pl.Null)
        ):
            raise UsageError(f"{table.path}: column '{name}' holds {schema[name]}, and should hold numbers")
    kind = schema[key]
    as_key = pl.col(key)
    if kind.is_float():
        # What pandas makes of whole numbers where one is missing.
        as_key = pl.when(as_key.round() == as_key).then(as_key).cast(pl.Int64)
    elif isinstance(kind, pl.Categorical | pl.Enum):
        as_key = as_key.cast(pl.String)
    elif not kind.is_integer() and kind != pl.String:
        raise UsageError(f"{table.path}: column '{key}' holds {kind}, and should hold whole numbers or text")
    wanted = [name for name in ("reward", "acc", STATUS) if name in schema]
    return lazy.select(as_key, *wanted)


def _check_keys(table: RolloutTable, key: str) -> None:
    """Raises `UsageError` where a row does not say what problem it belongs to."""
    missing = _collected(_scan(table, key).select(pl.col(key).is_null().sum()), table).item()
    if missing:
        raise UsageError(
            f"{table.path}: column '{key}' is empty, or no whole number, in {missing:,} of "
            f"{table.num_rows:,} rows; it says what problem a row is an answer to"
        )


def _excluded(table: RolloutTable, key: str) -> dict[str, int]:
    rows = _scan(table, key)
    status = pl.col(STATUS) if STATUS in table.columns else pl.lit(None, pl.String)
    known = pl.when(status == "ok").then(None).otherwise(status).fill_null(NO_REWARD).alias(STATUS)
    is_number = _is_number(pl.col("reward").cast(pl.Float64))
    lacking = rows.filter(~is_number.fill_null(False)).with_columns(known)
    counted = lacking.group_by(STATUS).agg(pl.len().alias("n")).sort("n", STATUS, descending=[True, False])
    frame = _collected(counted, table)
    return dict(zip(frame[STATUS].to_list(), frame["n"].to_list(), strict=True))
