"""What a run's rollouts amount to: means with their errors, pass@k, tokens, latency; pure and streaming.

A failed rollout is in no mean. A number that is no measurement (NaN, infinite, beyond ±`LARGEST`) counts as
missing, and a rollout without a reward is in neither reward, success nor pass@k.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import groupby
from operator import attrgetter
from statistics import median
from tempfile import SpooledTemporaryFile
from typing import Any

from nemo_like.columns import CLOCKS, LARGEST, RUN, Columns
from nemo_like.estimates import Estimate, Moments, best_of_k, pass_at_k, pass_hat_k, wilson
from nemo_like.types import Scored

KEY_FIELDS = {
    "reward": "reward",
    "tool_calls": "metadata/tool_calls_made",
    "tokens": "usage/output_tokens",
    "characters": "metadata/output_characters",
}
TOKENS = ("input", "output", "reasoning", "cached", "total")


def summarize(
    rollouts: Iterable[Scored],
    *,
    failures: Mapping[str, int],
    num_failed: int,
    success_threshold: float = 1.0,
) -> dict[str, Any]:
    """The metrics of one agent, as JSON; `rollouts` is read once and has the rollouts of a task side by side.

    `failures` counts failed attempts by kind, `num_failed` the rollouts that were owed and ended failed.

    `key_metrics` (rounded, as printed) and `agent_metrics` (`std` with n - 1) are over rollouts. `metrics`
    are over tasks, of what a task's repeats amount to: `metrics.reward.value` is the mean of task means, and
    `n` counts tasks, for `pass@k`, `pass^k` and `best_of@k` those with at least k rewards. `ci95` is t-based;
    `wilson` is for one reward a task, else null. With failures as zero, value and n are over rollouts, which
    is the mean over tasks where all owe as many; `se` is null, as nobody says whose the failures are.
    Percentiles interpolate linearly. `wall_s` is from the first start to the last finish, pauses between runs
    included. What is not known is null.
    """
    groups = _Groups()
    with SpooledTemporaryFile(max_size=RUN) as spill:
        columns = Columns(spill)
        for _, group in groupby(rollouts, key=attrgetter("task_key")):
            size, correct, rewards = 0, 0, list[float]()
            for scored in group:
                size += 1
                columns.add(scored.numbers)
                if (reward := _measured(scored.numbers, "reward")) is not None:
                    rewards.append(reward)
                    correct += scored.success
            groups.add(size, rewards, correct)
        columns.finish()
        fields = columns.describe()
        latency = {f"p{q}": columns.quantile("metadata/total_s", q / 100) for q in (50, 90, 95, 99)}
    moments, num_rollouts = columns.moments, columns.rollouts
    sums = {name: (moments[path].n, moments[path].total) for name, path in KEY_FIELDS.items()}
    running = Running(rollouts=num_rollouts, successes=groups.successes, **sums)
    return {
        "key_metrics": {**running.summary(), "response_length_unit": running.response_length_unit},
        "num_tasks": groups.tally.total(),
        "num_rollouts": num_rollouts,
        "num_without_reward": num_rollouts - moments["reward"].n,
        "num_failed": num_failed,
        "rollouts_per_task": groups.rollouts_per_task(),
        "success_threshold": success_threshold,
        "agent_metrics": fields,
        "metrics": groups.metrics(moments["reward"], num_failed),
        "tokens": {
            name: _whole(of.total) if (of := moments[f"usage/{name}_tokens"]).n else None for name in TOKENS
        },
        "latency_s": {**latency, "max": fields.get("max/metadata/total_s")},
        "throughput": _throughput(moments, num_rollouts),
        "truncated_share": moments["metadata/truncated"].mean,
        "failures": dict(sorted(failures.items(), key=lambda item: (-item[1], item[0]))),
    }


def format_summary(summary: Mapping[str, Any]) -> str:
    """What is printed at the end: the four key metrics as JSON, then a few lines for people."""
    key, metrics, per_task = dict(summary["key_metrics"]), summary["metrics"], summary["rollouts_per_task"]
    unit, failed, without = (
        key.pop("response_length_unit"),
        summary["num_failed"],
        summary["num_without_reward"],
    )
    repeats = " to ".join(str(n) for n in sorted({per_task["min"], per_task["max"]} - {None})) or "0"
    size = f"{_count(summary['num_tasks'], 'task')} × {repeats}, {_count(failed, 'failed rollout')}"
    if without:
        size += f", {without:,} without a reward"
    if failed and metrics["reward"]["n"]:
        size += f"; {metrics['reward_failures_as_zero']['value']:.3f} with failures as 0"
    lines = [
        json.dumps(key, indent=4),
        f"reward {_plus_minus(metrics['reward'])} ({size})",
        _listed(f"reward ≥ {summary['success_threshold']:g}: ", metrics, _plus_minus, "pass@"),
        _listed("all k of them: ", metrics, _plus_minus, "pass^") if "pass^2" in metrics else "",
        f"response length in {unit}" if unit not in (None, "tokens") else "",
        _listed("tokens: ", summary["tokens"], "{:,}".format),
        f"truncated: {summary['truncated_share']:.1%}" if summary["truncated_share"] else "",
        _listed("latency: ", summary["latency_s"], "{:,.3f} s".format),
        _listed("throughput: ", summary["throughput"], "{:,.2f}".format),
        _listed("failed attempts: ", summary["failures"], "{:,}".format),
        _listed("environment: ", summary.get("environment_metrics") or {}, _shown),
    ]
    return "\n".join(line for line in lines if line)


@dataclass(kw_only=True, slots=True)
class Running:
    """The live numbers of a run, as counts and sums.

    A pair is how many rollouts have the number, and its sum, so a resumed run starts from its index's
    `COUNT(x), TOTAL(x)`; `successes` counts only rollouts with a reward.
    """

    rollouts: int = 0
    successes: int = 0
    reward: tuple[int, float] = (0, 0.0)
    tool_calls: tuple[int, float] = (0, 0.0)
    tokens: tuple[int, float] = (0, 0.0)
    characters: tuple[int, float] = (0, 0.0)

    def add(self, scored: Scored) -> None:
        """Counts one finished rollout."""
        self.rollouts += 1
        for name, path in KEY_FIELDS.items():
            if (value := _measured(scored.numbers, path)) is not None:
                n, total = getattr(self, name)
                setattr(self, name, (n + 1, total + value))
                self.successes += name == "reward" and scored.success

    def summary(self) -> dict[str, float | None]:
        """The four key metrics: reward and rate to 4 decimals, tool calls to 2, the length whole."""
        length = _mean(self.tokens if self.tokens[0] else self.characters)
        return {
            "avg_reward": _mean(self.reward, 4),
            "success_rate": _mean((self.reward[0], self.successes), 4),
            "avg_tool_calls": _mean(self.tool_calls, 2),
            "avg_response_length": None if length is None else _whole(length),
        }

    @property
    def response_length_unit(self) -> str | None:
        """`tokens`; `characters` if no rollout reports usage; `mixed: …` if some do, and are averaged."""
        n = self.tokens[0]
        if n == 0:
            return "characters" if self.characters[0] else None
        return "tokens" if n == self.rollouts else f"mixed: tokens of {n:,} of {self.rollouts:,} rollouts"


class _Groups:
    """How many tasks have K rollouts, R rewards, c successes, which is all pass@k needs; and best-of-k."""

    def __init__(self) -> None:
        self.tally: Counter[tuple[int, int, int]] = Counter()
        self._best: defaultdict[int, Moments] = defaultdict(Moments)
        self._pending: defaultdict[int, list[float]] = defaultdict(list)

    def add(self, size: int, rewards: list[float], correct: int) -> None:
        self.tally[size, len(rewards), correct] += 1
        for k in _ks(len(rewards)):
            pending = self._pending[k]
            pending.append(best_of_k(rewards, k))
            if len(pending) == RUN:
                self._best[k].merge(pending)
                pending.clear()

    @property
    def successes(self) -> int:
        return sum(correct * tasks for (_, _, correct), tasks in self.tally.items())

    def rollouts_per_task(self) -> dict[str, float | None]:
        sizes: Counter[int] = Counter()
        for (size, _, _), tasks in self.tally.items():
            sizes[size] += tasks
        if not sizes:
            return {"min": None, "median": None, "max": None}
        return {"min": min(sizes), "median": median(sizes.elements()), "max": max(sizes)}

    def metrics(self, rewards: Moments, num_failed: int) -> dict[str, Any]:
        for k, pending in self._pending.items():
            self._best[k].merge(pending)
        self._pending.clear()
        owed = rewards.n + num_failed
        most = max((rewarded for _, rewarded, _ in self.tally), default=0)
        reward, success = self._best[1].estimate(), self._over_tasks(1, pass_at_k)
        return {
            "reward": {**asdict(reward), "ci95": reward.ci95 and list(reward.ci95)},
            "success_rate": {
                **asdict(success),
                "ci95": success.ci95 and list(success.ci95),
                "wilson": list(wilson(self.successes, success.n)) if most == 1 else None,
            },
            "reward_failures_as_zero": {"value": _mean((owed, rewards.total)), "se": None, "n": owed},
            "success_rate_failures_as_zero": {"value": _mean((owed, self.successes)), "se": None, "n": owed},
            **{f"pass@{k}": asdict(self._over_tasks(k, pass_at_k)) for k in _ks(most)},
            **{f"pass^{k}": asdict(self._over_tasks(k, pass_hat_k)) for k in _ks(most)},
            **{f"best_of@{k}": asdict(self._best[k].estimate()) for k in _ks(most)},
        }

    def _over_tasks(self, k: int, estimator: Callable[[int, int, int], float]) -> Estimate:
        moments = Moments()
        for (_, rewarded, correct), tasks in self.tally.items():
            if rewarded >= k:
                moments.join(tasks, tasks * estimator(rewarded, correct, k))
        return moments.estimate()


def _throughput(moments: Mapping[str, Moments], num_rollouts: int) -> dict[str, float | None]:
    start, end = (moments[path] for path in CLOCKS)
    wall = end.high - start.low if start.n and end.n else 0.0
    if wall <= 0:
        return {"rollouts_per_s": None, "output_tokens_per_s": None, "wall_s": None}
    tokens = moments[KEY_FIELDS["tokens"]]
    per_s = tokens.total / wall if tokens.n else None
    return {"rollouts_per_s": num_rollouts / wall, "output_tokens_per_s": per_s, "wall_s": wall}


@lru_cache(maxsize=256)
def _ks(most: int) -> tuple[int, ...]:
    """1, 2, 4, 8, … and `most` itself."""
    return tuple(sorted({1 << i for i in range(most.bit_length())} | {most})) if most else ()


def _measured(numbers: Mapping[str, float | None], path: str) -> float | None:
    value = numbers.get(path)
    return value if value is not None and -LARGEST <= value <= LARGEST else None


def _mean(counted: tuple[int, float], digits: int | None = None) -> float | None:
    n, total = counted
    return None if n == 0 else total / n if digits is None else round(total / n, digits)


def _whole(value: float) -> float:
    """Rounded to an integer, where one of 64 bits, all that JSON encoders agree on, can hold it."""
    return round(value) if abs(value) < 2**53 else value


def _plus_minus(estimate: Mapping[str, Any]) -> str:
    if estimate["value"] is None:
        return "unknown"
    return f"{estimate['value']:.3f}" + ("" if estimate["se"] is None else f" ± {estimate['se']:.3f}")


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else json.dumps(value)


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def _listed(title: str, values: Mapping[str, Any], form: Callable[[Any], str], prefix: str = "") -> str:
    """`title` and the values whose name starts with `prefix`; "" where none is known."""
    known = {name: of for name, of in values.items() if name.startswith(prefix) and of is not None}
    return title + ", ".join(f"{name} {form(of)}" for name, of in known.items()) if known else ""
