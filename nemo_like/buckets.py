"""Difficulty buckets: strategies that put each problem into one, by its metrics; a registry of them.

    assign(problems.column, "pass_rate")      # Assignment(names=("very_hard", …), codes=[2, 0, 4, …])

A strategy is a function of the metrics, `(column) -> Assignment`, registered under its name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from nemo_like.errors import UsageError
from nemo_like.kmeans import Floats, cluster, standardized
from nemo_like.registry import Registry

Codes = NDArray[np.int8]
"""Indices of buckets."""
Ties = Literal["value", "rank"]
TIES: tuple[str, ...] = get_args(Ties)

Column = Callable[[str], Floats]
"""A metric of all problems by its name, as `Problems.column`."""

QUARTILES = (25, 50, 75)
FEATURES = ("mean@5", "pass_rate", "std_reward")
DIGITS = 12
"""To so many decimals features have to agree to be the same."""
EXACT, CELLS = 100_000, 1000
"""Of more problems than this, those are the same that agree to a thousandth of a feature's range."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Assignment:
    """Which bucket each problem is in: `names[codes[i]]`, hardest first; and what cut them apart."""

    names: tuple[str, ...]
    codes: Codes
    edges: list[float] = field(default_factory=list[float])
    warnings: list[str] = field(default_factory=list[str])

    def counts(self) -> dict[str, int]:
        """How many problems each bucket has, of those that have any."""
        return {name: n for name, n in zip(self.names, self._sizes(), strict=True) if n}

    def _sizes(self) -> list[int]:
        return np.bincount(self.codes, minlength=len(self.names)).tolist()


Strategy = Callable[[Column, Ties], Assignment]
strategies: Registry[Strategy] = Registry("bucketing strategy")


def assign(column: Column, strategy: str, ties: Ties = "value") -> Assignment:
    """The problems' buckets under a strategy.

    `ties="rank"` breaks the ties of strategies that cut at quartiles, so that a quarter of the problems is in
    each: by `pass_rate`, `mean_reward`, and the order of the problems.

    Raises:
        UsageError: there is no such strategy, or it has no quartiles that ties could be ranked for.
    """
    return strategies.get(strategy)(column, ties)


def bucket_names() -> list[str]:
    """The names that any strategy gives to a bucket."""
    named = (PERCENTILE, MEAN_REWARD, PASS_RATE, ADAPTIVE, DAPO, PRIME_RL)
    return list(dict.fromkeys(name for names in named for name in names))


PERCENTILE = ("hard", "medium-hard", "medium-easy", "easy")
MEAN_REWARD = ADAPTIVE = ("very_hard", "hard", "medium", "easy")
PASS_RATE = ("very_hard", "hard", "medium", "easy", "very_easy")
DAPO = ("all_0", "mixed", "all_1", "identical")
PRIME_RL = ("all_0", "hard", "normal", "easy", "all_1")


@strategies.register("percentile")
def percentile(column: Column, ties: Ties) -> Assignment:
    """Quartiles of `mean@5`; a problem on an edge is in the harder bucket."""
    return _by_quartiles("mean@5", PERCENTILE, column, ties)


@strategies.register("mean_reward")
def mean_reward(column: Column, ties: Ties) -> Assignment:
    """Quartiles of `mean_reward`."""
    return _by_quartiles("mean_reward", MEAN_REWARD, column, ties)


@strategies.register("pass_rate")
def pass_rate(column: Column, ties: Ties) -> Assignment:
    """`pass_rate` of 0, below 0.25, below 0.5, below 0.75, and the rest."""
    _refuse_rank("pass_rate", ties)
    rates, edges = column("pass_rate"), [0.25, 0.5, 0.75]
    codes = np.where(rates == 0, 0, 1 + np.searchsorted(edges, rates, side="right"))
    return Assignment(names=PASS_RATE, codes=codes.astype(np.int8), edges=edges)


@strategies.register("adaptive")
def adaptive(column: Column, ties: Ties) -> Assignment:
    """Four clusters of `mean@5`, `pass_rate` and `std_reward`, standardised, by their mean `mean@5`.

    Fewer where fewer problems differ: they have the harder names. Where none does, all are in the bucket that
    their pass rate has.
    """
    _refuse_rank("adaptive", ties)
    features_FP = [column(name) for name in FEATURES]
    points_NF, point_P, weights = (_distinct if len(features_FP[0]) <= EXACT else _gridded)(features_FP)
    k = min(len(ADAPTIVE), len(points_NF))
    if k == 1:
        return pass_rate(column, "value")
    labels_N = cluster(standardized(points_NF, weights), weights, k)
    mass_K = np.bincount(labels_N, weights, k)
    means_FK = [np.bincount(labels_N, weights * feature_N, k) / mass_K for feature_N in points_NF.T]
    # By mean@5, then by pass_rate; of equals the one that varies less is the harder.
    order_K = np.lexsort(means_FK[::-1])
    rank_K = np.empty(k, np.int8)
    rank_K[order_K] = np.arange(k)
    return Assignment(names=ADAPTIVE, codes=rank_K[labels_N][point_P])


@strategies.register("dapo")
def dapo(column: Column, ties: Ties) -> Assignment:
    """What DAPO drops, groups whose `acc` (the reward, where there is none) is always 0 (`all_0`), always 1
    (`all_1`) or always the same otherwise (`identical`), and what it keeps (`mixed`).

    Yu et al. 2025, arXiv:2503.14476, section 3.2. A group of one has no contrast, so it is never mixed.
    """
    _refuse_rank("dapo", ties)
    least, most = column("acc_min"), column("acc_max")
    same = least == most
    codes = np.select([same & (most == 0), ~same, same & (most == 1)], [0, 1, 2], 3)
    return Assignment(names=DAPO, codes=codes.astype(np.int8))


@strategies.register("prime_rl")
def prime_rl(column: Column, ties: Ties) -> Assignment:
    """Prime-RL's pools by mean `acc` (the reward, where there is none): `hard` up to 0.25, `normal` up to
    0.75, `easy` beyond; and apart from them what its filter drops, groups of only 0 and of only 1."""
    _refuse_rank("prime_rl", ties)
    least, most, edges = column("acc_min"), column("acc_max"), [0.25, 0.75]
    pool = 1 + np.searchsorted(edges, column("acc_mean"), side="left")
    codes = np.select([(least == 0) & (most == 0), (least == 1) & (most == 1)], [0, 4], pool)
    return Assignment(names=PRIME_RL, codes=codes.astype(np.int8), edges=edges)


def _by_quartiles(metric: str, names: tuple[str, ...], column: Column, ties: Ties) -> Assignment:
    values = column(metric)
    ranked = values
    if ties == "rank":
        order = np.lexsort((column("mean_reward"), column("pass_rate"), values))
        ranked = np.empty(len(values))
        ranked[order] = np.arange(len(values))
    codes = np.searchsorted(np.percentile(ranked, QUARTILES), ranked, side="left").astype(np.int8)
    edges: list[float] = np.percentile(values, QUARTILES).tolist()
    empty = [names[code] for code in range(len(names)) if not (codes == code).any()]
    warnings: list[str] = []
    if empty and len(values) >= len(names):
        n, value = _commonest(values)
        is_one = len(empty) == len(names) - 1
        outcome = (
            f"everything is in {names[int(codes[0])]}" if is_one else f"nothing is in {', '.join(empty)}"
        )
        why = f"{n:,} of {len(values):,} problems have the same {metric}, {value:g}"
        warnings = [f"{outcome}: {why}; --ties rank makes quarters of equal size"]
    return Assignment(names=names, codes=codes, edges=edges, warnings=warnings)


def _distinct(features_FP: Sequence[Floats]) -> tuple[Floats, NDArray[np.intp], Floats]:
    """The problems that differ, which of them each problem is, and how many each stands for."""
    features_PF = np.stack(features_FP, axis=1).round(DIGITS)
    points_NF, point_P, counts_N = np.unique(features_PF, axis=0, return_inverse=True, return_counts=True)
    return points_NF, point_P.ravel(), counts_N.astype(np.float64)


def _gridded(features_FP: Sequence[Floats]) -> tuple[Floats, NDArray[np.intp], Floats]:
    """As `_distinct`, of problems in cells of a grid, a cell being the mean of its problems: one number a
    problem is sorted, not three, and millions of points become thousands."""
    cell_P = np.zeros(len(features_FP[0]), np.int64)
    for feature_P in features_FP:
        low, high = float(feature_P.min()), float(feature_P.max())
        cell_P *= CELLS + 1
        if low < high:
            cell_P += np.rint((feature_P - low) * (CELLS / (high - low))).astype(np.int64)
    cells_N, counts_N = np.unique(cell_P, return_counts=True)
    point_P = np.searchsorted(cells_N, cell_P)
    del cell_P
    sums_FN = [np.bincount(point_P, feature_P, len(cells_N)) for feature_P in features_FP]
    weights_N = counts_N.astype(np.float64)
    return (np.stack(sums_FN, axis=1) / weights_N[:, None]).round(DIGITS), point_P, weights_N


def _commonest(values: Floats) -> tuple[int, float]:
    distinct, counts = np.unique(values, return_counts=True)
    most = counts.argmax()
    return int(counts[most]), float(distinct[most])


def _refuse_rank(strategy: str, ties: Ties) -> None:
    if ties == "rank":
        raise UsageError(f"--ties rank is for percentile and mean_reward; {strategy} has no quartiles")
