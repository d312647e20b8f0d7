"""Estimates: means with their errors, pass@k, pass^k, best-of-k, intervals; pure.

The unit of every error is the task: its repeats are averaged first (Miller 2024, arXiv:2411.00640).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from operator import mul
from statistics import NormalDist, StatisticsError, correlation

Z_POWER = NormalDist().inv_cdf(0.975) + NormalDist().inv_cdf(0.8)
"""Standard errors between no difference and one that is found 80 % of the time."""
T975 = [
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306),
    *(2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131),
]
"""The 0.975 quantile of Student's t, for 1, 2, … degrees of freedom."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A mean, its standard error, and of how many; the error is None where n < 2, never 0."""

    value: float | None
    se: float | None
    n: int

    @property
    def ci95(self) -> tuple[float, float] | None:
        """value ± t(n - 1, 0.975) · se."""
        if self.value is None or self.se is None:
            return None
        half = _t975(self.n - 1) * self.se
        return (self.value - half, self.value + half)


@dataclass(frozen=True, kw_only=True, slots=True)
class Paired:
    """A minus B on the tasks that both have (`difference.n` of them), and how many tasks only one has."""

    difference: Estimate
    correlation: float | None
    only_a: int
    only_b: int


def pass_at_k(num_rollouts: int, num_correct: int, k: int) -> float:
    """Chance that `k` of the rollouts, drawn without replacement, hold a correct one.

    1 - C(n - c, k) / C(n, k), unbiased (Chen et al. 2021, arXiv:2107.03374, eq. 1).

    Raises:
        ValueError: not 1 <= `k` <= `num_rollouts`, or not 0 <= `num_correct` <= `num_rollouts`.
    """
    return 1 - pass_hat_k(num_rollouts, num_rollouts - num_correct, k)


def pass_hat_k(num_rollouts: int, num_correct: int, k: int) -> float:
    """pass^k: chance that `k` of the rollouts, drawn without replacement, are all correct.

    C(c, k) / C(n, k), unbiased (Yao et al. 2024, arXiv:2406.12045).

    Raises:
        ValueError: as `pass_at_k`.
    """
    if not (1 <= k <= num_rollouts and 0 <= num_correct <= num_rollouts):
        raise ValueError(f"no {k} of {num_rollouts} rollouts with {num_correct} correct can be drawn")
    return math.comb(num_correct, k) / math.comb(num_rollouts, k)


def best_of_k(rewards: Sequence[float], k: int) -> float:
    """The expected largest of `k` of the rewards, drawn without replacement; pass@k where they are 0 and 1.

    Σ_m C(m - 1, k - 1) / C(K, k) · s_(m) over the sorted rewards s_(1) <= … <= s_(K).

    Raises:
        ValueError: not 1 <= `k` <= the number of rewards.
    """
    if not 1 <= k <= len(rewards):
        raise ValueError(f"no {k} of {len(rewards)} rewards can be drawn")
    return math.fsum(map(mul, _best_weights(len(rewards), k), sorted(rewards)))


def wilson(successes: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """The score interval of a rate, honest for few tasks and for rates of 0 and 1 (Wilson 1927).

    Raises:
        ValueError: `n` < 1, or not 0 <= `successes` <= `n`.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"{successes} of {n} is no rate")
    p, scale = successes / n, 1 + z * z / n
    centre = (p + z * z / (2 * n)) / scale
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / scale
    return (max(0.0, centre - half), min(1.0, centre + half))


def mean_and_error(values: Iterable[float]) -> Estimate:
    """The mean of independent values (task means, say) and its standard error √(Σ(x - x̄)² / (n(n - 1)))."""
    moments = Moments()
    moments.merge(list(values))
    return moments.estimate()


def paired_difference(a: Mapping[str, float], b: Mapping[str, float]) -> Paired:
    """A minus B over the tasks that both have, from task means by key (Miller 2024, arXiv:2411.00640).

    The error is that of the mean of the differences, so what makes a task hard for both cancels out. The
    correlation is None where a side is constant or fewer than two tasks are shared.
    """
    shared = [key for key in a if key in b]
    try:
        r = correlation([a[key] for key in shared], [b[key] for key in shared])
    except StatisticsError:
        r = None
    difference = mean_and_error(a[key] - b[key] for key in shared)
    return Paired(
        difference=difference, correlation=r, only_a=len(a) - len(shared), only_b=len(b) - len(shared)
    )


def clustered_error(clusters: Iterable[tuple[int, float]], mean: float) -> Estimate:
    """The mean of values that come in clusters (tasks about one passage), with the error that takes them into
    account; `clusters` are the number of values and their sum each. `n` counts clusters.

    √(C / (C - 1) · Σ_c (Σ_i (x_i - x̄))²) / N (Miller 2024, arXiv:2411.00640, section 2.2).
    """
    count, values, squares = 0, 0, 0.0
    for n, total in clusters:
        count, values = count + 1, values + n
        squares += (total - n * mean) ** 2
    se = math.sqrt(count / (count - 1) * squares) / values if count > 1 else None
    return Estimate(value=mean, se=se, n=count)


def detectable_difference(se: float) -> float:
    """The smallest true difference that a comparison of this error finds 80 % of the time, two-sided at 5 %.

    (z_.975 + z_.8) · SE (Miller 2024, eq. 10).
    """
    return Z_POWER * se


def tasks_needed(variance: float, difference: float) -> float:
    """How many tasks it takes to find a difference 80 % of the time, two-sided at 5 %; `variance` is that of
    the tasks' differences.

    (z_.975 + z_.8)² · variance / difference² (Miller 2024, eq. 9).

    Raises:
        ValueError: the difference is 0.
    """
    if difference == 0:
        raise ValueError("no number of tasks shows a difference of 0")
    return Z_POWER**2 * variance / difference**2


@dataclass(slots=True)
class Pairs:
    """Pairs of task means that come in batches: what `paired_difference` says of them, keeping none."""

    a: Moments = field(default_factory=lambda: Moments())
    b: Moments = field(default_factory=lambda: Moments())
    difference: Moments = field(default_factory=lambda: Moments())

    def merge(self, pairs: Sequence[tuple[float, float]]) -> None:
        """Adds a batch."""
        self.a.merge([a for a, _ in pairs])
        self.b.merge([b for _, b in pairs])
        self.difference.merge([a - b for a, b in pairs])

    @property
    def correlation(self) -> float | None:
        """Of A and B; None where a side is constant or there are fewer than two."""
        if self.a.n < 2 or not self.a.squares or not self.b.squares:
            return None
        both = (self.a.squares + self.b.squares - self.difference.squares) / 2
        return max(-1.0, min(1.0, both / math.sqrt(self.a.squares * self.b.squares)))


@dataclass(slots=True)
class Moments:
    """Count, sum and squared deviations of numbers that come in batches; the extremes are `Columns`'s."""

    n: int = 0
    total: float = 0.0
    squares: float = 0.0
    low: float = math.inf
    high: float = -math.inf

    def merge(self, values: Sequence[float]) -> None:
        if values:
            n, total = len(values), math.fsum(values)
            # The distance to the mean in n dimensions: the squared deviations without a loop in Python.
            self.join(n, total, math.dist(values, [total / n] * n) ** 2)

    def join(self, n: int, total: float, squares: float = 0.0) -> None:
        """Adds a batch: squares add up, and so does the distance of the means (Chan et al. 1979)."""
        between = (total / n - self.total / self.n) ** 2 * n * self.n / (n + self.n) if self.n else 0.0
        self.n, self.total, self.squares = self.n + n, self.total + total, self.squares + squares + between

    @property
    def mean(self) -> float | None:
        return self.total / self.n if self.n else None

    @property
    def std(self) -> float | None:
        return math.sqrt(self.squares / (self.n - 1)) if self.n > 1 else None

    def estimate(self) -> Estimate:
        std = self.std
        return Estimate(value=self.mean, se=None if std is None else std / math.sqrt(self.n), n=self.n)


@lru_cache(maxsize=256)
def _best_weights(size: int, k: int) -> tuple[float, ...]:
    return tuple(math.comb(m - 1, k - 1) / math.comb(size, k) for m in range(1, size + 1))


def _t975(df: int) -> float:
    """The 97.5 % point of Student's t to 3 decimals (Abramowitz and Stegun 26.7.5 beyond the table)."""
    if df <= len(T975):
        return T975[df - 1]
    z = 1.959964
    return z + (z**3 + z) / (4 * df) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * df**2)
