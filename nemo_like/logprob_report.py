"""What log-probabilities of the same tokens amount to: how far an engine is off, how far models are apart.

Everything comes in parts and is kept as a few numbers, so that a file of any size can be summed up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nemo_like.types import Json

Array = np.ndarray[Any, np.dtype[np.float64]]
OFF = 0.1
"""A token counts as off where the two probabilities differ by more than this share of the engine's."""
FARTHEST = 20.0
"""Engines write -9999 for what has no probability; e to the 9999th would hide all else."""


@dataclass(slots=True)
class Moments:
    """Mean, spread and largest of numbers that come in parts (Chan, Golub & LeVeque 1983)."""

    n: int = 0
    mean: float = 0.0
    squares: float = 0.0
    """The summed squares of what each differs from the mean by."""
    largest: float | None = None

    def add(self, values: Array) -> None:
        """Take in some more."""
        if not len(values):
            return
        n, mean = self.n + len(values), float(values.mean())
        apart = mean - self.mean
        self.squares += float(((values - mean) ** 2).sum()) + apart**2 * self.n * len(values) / n
        self.mean += apart * len(values) / n
        largest = float(values.max())
        self.largest = largest if self.largest is None else max(self.largest, largest)
        self.n = n

    @property
    def std(self) -> float | None:
        """The sample's standard deviation; None of fewer than two."""
        return math.sqrt(self.squares / (self.n - 1)) if self.n > 1 else None

    @property
    def se(self) -> float | None:
        """The standard error of the mean."""
        return None if self.std is None else self.std / math.sqrt(self.n)

    def mean_or_none(self) -> float | None:
        """The mean; None of nothing."""
        return self.mean if self.n else None


@dataclass(slots=True)
class Correlation:
    """Pearson's correlation of pairs that come in parts."""

    x: Moments = field(default_factory=Moments)
    y: Moments = field(default_factory=Moments)
    products: float = 0.0

    def add(self, x: Array, y: Array) -> None:
        """Take in some more pairs."""
        if not len(x):
            return
        apart = (float(x.mean()) - self.x.mean) * (float(y.mean()) - self.y.mean)
        self.products += float(((x - x.mean()) * (y - y.mean())).sum())
        self.products += apart * self.x.n * len(x) / (self.x.n + len(x))
        self.x.add(x)
        self.y.add(y)

    @property
    def value(self) -> float | None:
        """The correlation; None where one side does not vary."""
        scale = math.sqrt(self.x.squares * self.y.squares)
        return self.products / scale if scale > 0 else None


@dataclass(slots=True)
class Divergence:
    """KL(p ‖ q), estimated from the log-probabilities of tokens that p drew.

    k1 = log p - log q: unbiased, and may be negative. k3 = q/p - 1 - log(q/p): unbiased, never negative, less
    noisy (Schulman 2020, http://joschu.net/blog/kl-approx.html). As in verl, log(q/p) counts as 20 at most in
    the exponent.
    """

    k1: Moments = field(default_factory=Moments)
    k3: Moments = field(default_factory=Moments)

    def add(self, p: Array, q: Array) -> tuple[Array, Array]:
        """Take in some tokens; their (k1, k3)."""
        k1, k3 = p - q, np.expm1(np.minimum(q - p, FARTHEST)) - (q - p)
        self.k1.add(k1)
        self.k3.add(k3)
        return k1, k3


@dataclass(slots=True)
class Mismatch:
    """How far the log-probabilities that an engine gave while it sampled are from those of the policy.

    `probs_diff_*` and `pearson_corr` are of probabilities, |exp(engine) - exp(policy)|, as verl's
    `rollout_probs_diff_*` and `rollout_actor_probs_pearson_corr` are.
    """

    probs: Moments = field(default_factory=Moments)
    logs: Moments = field(default_factory=Moments)
    absolute: Moments = field(default_factory=Moments)
    pearson: Correlation = field(default_factory=Correlation)
    divergence: Divergence = field(default_factory=Divergence)
    off: int = 0

    def add(self, engine: Array, policy: Array) -> None:
        """Take in some tokens' log-probabilities."""
        p, q = np.exp(engine), np.exp(policy)
        self.probs.add(np.abs(p - q))
        self.pearson.add(p, q)
        self.logs.add(policy - engine)
        self.absolute.add(np.abs(policy - engine))
        self.divergence.add(engine, policy)
        ratio = np.expm1(np.minimum(policy - engine, FARTHEST))
        self.off += int((np.abs(ratio) > OFF).sum())

    def report(self) -> Json:
        """The figures by name; null where there is nothing to take them of."""
        n = self.probs.n
        return {
            "tokens": n,
            "probs_diff_mean": self.probs.mean_or_none(),
            "probs_diff_max": self.probs.largest,
            "probs_diff_std": self.probs.std,
            "pearson_corr": self.pearson.value,
            "share_off_10_percent": self.off / n if n else None,
            "logprob_diff_mean": self.logs.mean_or_none(),
            "logprob_diff_std": self.logs.std,
            "logprob_diff_abs_mean": self.absolute.mean_or_none(),
            "logprob_diff_abs_max": self.absolute.largest,
            "kl_k1": self.divergence.k1.mean_or_none(),
            "kl_k3": self.divergence.k3.mean_or_none(),
        }


def format_report(summary: Json) -> str:
    """The summary as lines for a terminal."""
    skipped = ", ".join(f"{n:,} {why.replace('_', ' ')}" for why, n in summary["skipped"].items() if n)
    lines = [
        f"{summary['rollouts']:,} rollouts scored: {summary['turns']:,} turns, {summary['tokens']:,} tokens"
        + (f"; left out: {skipped}" if skipped else "")
    ]
    policy, mismatch, reference = (summary.get(k) for k in ("policy", "engine_mismatch", "reference"))
    if policy:
        figures = {k: policy[k] for k in ("mean_logprob", "mean_entropy", "perplexity")}
        lines += [f"policy {policy['model']}, at temperature {policy['temperature']:g}", *_rows(figures)]
    if mismatch and mismatch["tokens"]:
        figures = {k: v for k, v in mismatch.items() if k != "tokens"}
        lines += [f"engine against policy, {mismatch['tokens']:,} tokens", *_rows(figures)]
    elif mismatch:
        lines.append("engine against policy: no turn has log-probabilities of its engine")
    if reference:
        figures = {k: v for k, v in reference.items() if k != "model"}
        lines += [f"policy against reference {reference['model']}", *_rows(figures)]
    return "\n".join(lines)


def _rows(figures: Json) -> list[str]:
    width = max(map(len, figures))
    shown = {name: "-" if value is None else f"{value:.6g}" for name, value in figures.items()}
    return [f"  {name:<{width}}  {value}" for name, value in shown.items()]
