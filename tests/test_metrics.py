"""The metrics: published golden values, properties, and the summary against the slow obvious version."""

from __future__ import annotations

import json
import math
import random
import statistics
from collections import defaultdict
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_like.columns import RUN
from nemo_like.estimates import best_of_k, mean_and_error, paired_difference, pass_at_k, pass_hat_k, wilson
from nemo_like.metrics import Running, format_summary, summarize
from nemo_like.types import Scored

rewards_of_a_task = st.lists(st.floats(-10, 10), min_size=1, max_size=6)


@st.composite
def outcomes(draw: st.DrawFn) -> tuple[list[bool], int]:
    """What a task's rollouts ended with, and a k that can be drawn from them."""
    results = draw(st.lists(st.booleans(), min_size=1, max_size=7))
    return results, draw(st.integers(1, len(results)))


def rollout(task: str, index: int = 0, reward: float | None = 1.0, **numbers: float | None) -> Scored:
    fields: dict[str, Any] = {"reward": reward} if reward is not None else {}
    fields |= {name.replace("__", "/"): value for name, value in numbers.items()}
    success = reward is not None and reward >= 1
    return Scored(agent="agent", task_key=task, rollout_index=index, success=success, numbers=fields)


def groups(*rewards: list[float]) -> list[Scored]:
    return [rollout(f"task {i}", j, r) for i, group in enumerate(rewards) for j, r in enumerate(group)]


def summary_of(rollouts: list[Scored], num_failed: int = 0, **failures: int) -> dict[str, Any]:
    return summarize(iter(rollouts), failures=failures, num_failed=num_failed)


def subset_mean(values: list[Any], k: int, of: Any) -> float:
    return statistics.fmean(of(subset) for subset in combinations(values, k))


class TestEstimators:
    def test_pass_at_k_has_the_published_values(self):
        assert [pass_at_k(6, 3, k) for k in range(1, 7)] == pytest.approx([0.5, 0.8, 0.95, 1, 1, 1])

    def test_pass_hat_k_has_the_published_values(self):
        assert [pass_hat_k(6, 3, k) for k in range(1, 7)] == pytest.approx([0.5, 0.2, 0.05, 0, 0, 0])

    def test_best_of_k_has_the_published_values(self):
        rewards = [0.4, 0.9, 0.1, 0.7, 0.4]
        assert [best_of_k(rewards, k) for k in range(1, 6)] == pytest.approx([0.5, 0.69, 0.79, 0.86, 0.9])

    def test_wilson_has_the_published_values(self):
        assert wilson(9, 10, z=1.959964) == pytest.approx((0.595850, 0.982124), abs=1e-6)
        assert wilson(0, 30, z=1.959964) == pytest.approx((0, 0.113513), abs=1e-6)

    def test_a_paired_difference_has_the_published_values(self):
        a, b = [1, 1, 0, 1, 0, 1, 1, 0], [1, 0, 0, 1, 0, 1, 0, 0]
        paired = paired_difference(
            dict(zip("abcdefgh", a, strict=True)), dict(zip("abcdefgh", b, strict=True))
        )
        unpaired = math.hypot(mean_and_error(a).se or 0, mean_and_error(b).se or 0)
        assert paired.difference.value == 0.25
        assert paired.difference.se == pytest.approx(0.163663, abs=1e-6)
        assert unpaired == pytest.approx(0.258775, abs=1e-6)
        assert paired.correlation == pytest.approx(statistics.correlation(a, b))
        assert (paired.difference.n, paired.only_a, paired.only_b) == (8, 0, 0)

    def test_unmatched_tasks_are_counted_not_compared(self):
        paired = paired_difference({"a": 1, "b": 0, "c": 1}, {"b": 1, "d": 0})
        assert (paired.difference.value, paired.difference.se, paired.difference.n) == (-1, None, 1)
        assert (paired.correlation, paired.only_a, paired.only_b) == (None, 2, 1)
        assert paired_difference({}, {"a": 1}).difference.value is None

    def test_the_error_of_the_published_naive_example(self):
        assert mean_and_error([1, 0, 1, 1, 0, 0, 1]).se == pytest.approx(0.202031, abs=1e-6)

    def test_few_values_have_no_error_rather_than_none_to_speak_of(self):
        assert (mean_and_error([0.5]).se, mean_and_error([0.5]).ci95) == (None, None)
        assert (mean_and_error([]).value, mean_and_error([]).n) == (None, 0)

    @pytest.mark.parametrize(
        ("n", "t"), [(2, 12.7062), (11, 2.2281), (16, 2.1314), (17, 2.1199), (31, 2.0423), (1001, 1.9623)]
    )
    def test_intervals_have_students_width(self, n: int, t: float):
        estimate = mean_and_error(range(n))
        assert estimate.ci95 is not None
        assert estimate.value is not None
        assert estimate.se is not None
        assert (estimate.ci95[1] - estimate.value) / estimate.se == pytest.approx(t, abs=1e-3)

    @pytest.mark.parametrize(("n", "c", "k"), [(3, 1, 4), (3, 1, 0), (3, 4, 1), (3, -1, 1), (0, 0, 1)])
    def test_what_cannot_be_drawn_is_refused(self, n: int, c: int, k: int):
        for estimator in (pass_at_k, pass_hat_k):
            with pytest.raises(ValueError, match="can be drawn"):
                estimator(n, c, k)

    def test_no_rate_and_no_rewards_are_refused(self):
        for k in (0, 3):
            with pytest.raises(ValueError, match="can be drawn"):
                best_of_k([1, 2], k)
        for successes, n in ((0, 0), (3, 2), (-1, 2)):
            with pytest.raises(ValueError, match="no rate"):
                wilson(successes, n)

    @given(outcomes())
    def test_they_equal_the_mean_over_all_subsets(self, drawn: tuple[list[bool], int]):
        results, k = drawn
        n, c = len(results), sum(results)
        assert pass_at_k(n, c, k) == pytest.approx(subset_mean(results, k, any))
        assert pass_hat_k(n, c, k) == pytest.approx(subset_mean(results, k, all))
        assert best_of_k(results, k) == pytest.approx(pass_at_k(n, c, k))

    @given(rewards_of_a_task, st.data())
    def test_best_of_k_equals_the_mean_over_all_subsets(self, rewards: list[float], data: st.DataObject):
        k = data.draw(st.integers(1, len(rewards)))
        assert best_of_k(rewards, k) == pytest.approx(subset_mean(rewards, k, max), abs=1e-12)

    @given(st.integers(1, 200), st.data())
    def test_they_are_dual_and_monotone(self, n: int, data: st.DataObject):
        c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
        assert pass_hat_k(n, c, k) == pytest.approx(1 - pass_at_k(n, n - c, k))
        if k > 1:
            assert pass_at_k(n, c, k) >= pass_at_k(n, c, k - 1)
            assert pass_hat_k(n, c, k) <= pass_hat_k(n, c, k - 1)

    @given(st.integers(1, 12), st.floats(0, 1), st.data())
    def test_they_are_unbiased(self, n: int, p: float, data: st.DataObject):
        k = data.draw(st.integers(1, n))
        chance = [math.comb(n, c) * p**c * (1 - p) ** (n - c) for c in range(n + 1)]
        at = sum(chance[c] * pass_at_k(n, c, k) for c in range(n + 1))
        hat = sum(chance[c] * pass_hat_k(n, c, k) for c in range(n + 1))
        assert at == pytest.approx(1 - (1 - p) ** k, abs=1e-9)
        assert hat == pytest.approx(p**k, abs=1e-9)

    @given(st.integers(1, 500), st.data())
    def test_wilson_stays_within_the_rates_and_around_the_observed_one(self, n: int, data: st.DataObject):
        successes = data.draw(st.integers(0, n))
        low, high = wilson(successes, n)
        assert 0 <= low <= successes / n + 1e-12
        assert successes / n - 1e-12 <= high <= 1


class TestSummary:
    def test_an_empty_run_has_nulls(self):
        summary = summary_of([])
        assert summary["key_metrics"] == dict.fromkeys(summary["key_metrics"])
        assert summary["metrics"]["reward"] == {"value": None, "se": None, "n": 0, "ci95": None}
        assert summary["agent_metrics"] == {}
        assert set(summary["latency_s"].values()) == set(summary["throughput"].values()) == {None}
        assert json.loads(json.dumps(summary, allow_nan=False)) == summary
        assert format_summary(summary).startswith('{\n    "avg_reward": null,')

    def test_a_summary_has_its_parts_in_order(self):
        summary = summary_of(groups([1, 0, 1], [0, 0, 0]), num_failed=2, timeout=3, model_error=4)
        assert list(summary) == [
            *("key_metrics", "num_tasks", "num_rollouts", "num_without_reward", "num_failed"),
            *("rollouts_per_task", "success_threshold", "agent_metrics", "metrics", "tokens", "latency_s"),
            *("throughput", "truncated_share", "failures"),
        ]
        assert list(summary["metrics"]) == [
            *("reward", "success_rate", "reward_failures_as_zero", "success_rate_failures_as_zero"),
            *(f"{family}{k}" for family in ("pass@", "pass^", "best_of@") for k in (1, 2, 3)),
        ]
        assert list(summary["failures"].items()) == [("model_error", 4), ("timeout", 3)]
        assert list(summary["agent_metrics"]) == [
            f"{s}/reward" for s in ("mean", "max", "min", "median", "std")
        ]

    def test_repeats_are_averaged_before_tasks(self):
        summary = summary_of(groups([1, 1, 1, 1], [0]))
        assert summary["key_metrics"]["avg_reward"] == 0.8
        assert summary["metrics"]["reward"]["value"] == 0.5
        assert summary["metrics"]["reward"]["se"] == pytest.approx(0.5)
        assert summary["metrics"]["pass@4"] == {"value": 1.0, "se": None, "n": 1}
        assert summary["rollouts_per_task"] == {"min": 1, "median": 2.5, "max": 4}

    def test_failures_are_in_no_mean_but_in_the_one_that_says_so(self):
        metrics = summary_of(groups([1, 0], [1]), num_failed=1)["metrics"]
        assert metrics["reward"]["value"] == 0.75
        assert metrics["reward_failures_as_zero"] == {"value": 0.5, "se": None, "n": 4}
        assert metrics["success_rate_failures_as_zero"] == {"value": 0.5, "se": None, "n": 4}

    def test_one_rollout_a_task_has_a_wilson_interval(self):
        once, twice = groups(*[[1.0]] * 9, [0.0]), groups([1.0, 0.0], [1.0])
        assert summary_of(once)["metrics"]["success_rate"]["wilson"] == pytest.approx(
            [0.59585, 0.982124], abs=1e-5
        )
        assert summary_of(twice)["metrics"]["success_rate"]["wilson"] is None

    @pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf, 1e300, None])
    def test_a_number_that_is_no_measurement_counts_as_missing(self, broken: float | None):
        torn = Scored(
            agent="a", task_key="x", rollout_index=0, success=True, numbers={"reward": broken, "n": broken}
        )
        summary = summary_of([torn, rollout("y", reward=0.0, n=2.0)])
        assert (summary["num_rollouts"], summary["num_without_reward"]) == (2, 1)
        assert summary["key_metrics"]["success_rate"] == summary["metrics"]["pass@1"]["value"] == 0
        assert summary["agent_metrics"]["mean/n"] == 2
        assert json.loads(json.dumps(summary, allow_nan=False)) == summary
        assert "1 without a reward" in format_summary(summary)

    def test_rollouts_without_any_reward_have_no_rates(self):
        summary = summary_of([rollout("x", reward=None, usage__output_tokens=7)])
        assert summary["metrics"]["success_rate"]["value"] is None
        assert summary["key_metrics"]["avg_response_length"] == 7
        assert "reward unknown" in format_summary(summary)

    def test_usage_latency_throughput_and_truncation(self):
        def timed(i: int) -> Scored:
            numbers = {"metadata__total_s": float(i), "metadata__started_at": 100.0 + i}
            numbers |= {"metadata__finished_at": 100.0 + 2 * i, "metadata__truncated": float(i == 1)}
            return rollout(f"{i}", usage__output_tokens=10, usage__input_tokens=i, **numbers)

        summary = summary_of([timed(i) for i in range(1, 101)])
        latency = {"p50": 50.5, "p90": 90.1, "p95": 95.05, "p99": 99.01, "max": 100}
        assert summary["latency_s"] == pytest.approx(latency)
        assert summary["tokens"] == {
            "input": 5050,
            "output": 1000,
            "reasoning": None,
            "cached": None,
            "total": None,
        }
        assert summary["throughput"]["wall_s"] == 199
        assert summary["throughput"]["rollouts_per_s"] == pytest.approx(100 / 199)
        assert summary["throughput"]["output_tokens_per_s"] == pytest.approx(1000 / 199)
        assert summary["truncated_share"] == 0.01
        assert not any("ed_at" in name for name in summary["agent_metrics"])

    def test_the_unit_of_the_response_length_is_said(self):
        tokens = rollout("a", usage__output_tokens=10, metadata__output_characters=99)
        characters = rollout("b", metadata__output_characters=30)
        units = [
            (summary["key_metrics"]["avg_response_length"], summary["key_metrics"]["response_length_unit"])
            for summary in map(summary_of, ([tokens], [characters], [tokens, characters]))
        ]
        assert units == [(10, "tokens"), (30, "characters"), (10, "mixed: tokens of 1 of 2 rollouts")]

    @pytest.mark.parametrize("n", [RUN, RUN + 1, 3 * RUN + 1000])
    def test_quantiles_stay_exact_when_numbers_are_spilled(self, n: int):
        rng = random.Random(n)
        times = [rng.choice([rng.random(), i / n, 0.5]) for i in range(n)]
        rare = {"metadata__queue_s": 3.0}
        rollouts = (
            rollout(f"{i}", metadata__total_s=t, **(rare if t == 0.5 else {})) for i, t in enumerate(times)
        )
        summary = summarize(rollouts, failures={}, num_failed=0)
        cuts = statistics.quantiles(times, n=100, method="inclusive")
        expected = {"p50": cuts[49], "p90": cuts[89], "p95": cuts[94], "p99": cuts[98], "max": max(times)}
        assert summary["latency_s"] == pytest.approx(expected, abs=1e-12)
        assert summary["agent_metrics"]["std/metadata/total_s"] == pytest.approx(statistics.stdev(times))
        assert summary["agent_metrics"]["median/metadata/queue_s"] == 3.0
        assert summary["metrics"]["reward"]["n"] == n

    @given(
        st.lists(
            st.lists(
                st.tuples(st.sampled_from([0.0, 0.25, 1.0, 2.0]), st.floats(-1e6, 1e6)),
                min_size=1,
                max_size=5,
            ),
            max_size=8,
        )
    )
    def test_it_agrees_with_the_slow_obvious_version(self, tasks: list[list[tuple[float, float]]]):
        rollouts = [
            rollout(f"{i}", j, r, x=x) for i, group in enumerate(tasks) for j, (r, x) in enumerate(group)
        ]
        summary = summary_of(rollouts)
        assert json.loads(json.dumps(summary, allow_nan=False)) == summary
        assert {name: summary["metrics"][name] for name in obvious_metrics(tasks)} == obvious_metrics(tasks)
        table = obvious_table([s.numbers for s in rollouts])
        assert known(summary["agent_metrics"]) == pytest.approx(known(table), rel=1e-9, abs=1e-6)

    @given(st.lists(rewards_of_a_task, max_size=8), st.randoms())
    def test_the_order_of_tasks_does_not_matter(self, tasks: list[list[float]], rng: random.Random):
        grouped = [[rollout(f"{i}", j, r) for j, r in enumerate(group)] for i, group in enumerate(tasks)]
        ordered = summary_of([scored for group in grouped for scored in group])
        rng.shuffle(grouped)
        shuffled = summary_of([scored for group in grouped for scored in group])
        assert known(flat(shuffled)) == pytest.approx(known(flat(ordered)), abs=1e-9)


def obvious_metrics(tasks: list[list[tuple[float, float]]]) -> dict[str, Any]:
    """`metrics` from lists in memory and the `statistics` module."""
    most = max(map(len, tasks), default=0)
    per_task: dict[str, list[float]] = defaultdict(list)
    for group in tasks:
        rewards = [reward for reward, _ in group]
        successes = [reward >= 1 for reward in rewards]
        for k in {1, 2, 4, most} & set(range(1, len(group) + 1)):
            per_task[f"pass@{k}"].append(subset_mean(successes, k, any))
            per_task[f"pass^{k}"].append(subset_mean(successes, k, all))
            per_task[f"best_of@{k}"].append(subset_mean(rewards, k, max))
    return {
        name: {
            "value": pytest.approx(statistics.fmean(values)),
            "se": pytest.approx(statistics.stdev(values) / len(values) ** 0.5) if len(values) > 1 else None,
            "n": len(values),
        }
        for name, values in per_task.items()
    }


def obvious_table(rows: list[dict[str, float]]) -> dict[str, float | None]:
    """`agent_metrics` likewise."""
    columns: dict[str, list[float]] = defaultdict(list)
    for numbers in rows:
        for path, value in numbers.items():
            columns[path].append(value)
    table: dict[str, float | None] = {}
    for path, values in columns.items():
        table |= {f"mean/{path}": statistics.fmean(values), f"median/{path}": statistics.median(values)}
        table |= {f"max/{path}": max(values), f"min/{path}": min(values)}
        table[f"std/{path}"] = statistics.stdev(values) if len(values) > 1 else None
    return table


def known(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def flat(value: Any, path: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        return {
            name: leaf for key, part in value.items() for name, leaf in flat(part, f"{path}.{key}").items()
        }
    if isinstance(value, list):
        return flat(dict(enumerate(value)), path)
    return {path: value}


ROLLOUTS = [
    rollout("a", 0, 1.0, metadata__tool_calls_made=3, usage__output_tokens=800),
    rollout("a", 1, 0.19, metadata__tool_calls_made=1, usage__output_tokens=894),
    rollout("b", 0, 1.0, metadata__tool_calls_made=2, usage__output_tokens=848),
]


class TestRunning:
    def test_the_live_numbers_are_those_of_the_end(self):
        running = Running()
        for scored in ROLLOUTS:
            running.add(scored)
        key = dict(summary_of(ROLLOUTS)["key_metrics"])
        assert key.pop("response_length_unit") == running.response_length_unit == "tokens"
        assert running.summary() == key
        assert key == {
            "avg_reward": 0.73,
            "success_rate": 0.6667,
            "avg_tool_calls": 2.0,
            "avg_response_length": 847,
        }

    def test_a_resumed_run_goes_on_from_its_sums(self):
        whole = Running()
        for scored in ROLLOUTS:
            whole.add(scored)
        resumed = Running(rollouts=2, successes=1, reward=(2, 1.19), tool_calls=(2, 4.0), tokens=(2, 1694.0))
        resumed.add(ROLLOUTS[2])
        assert resumed.summary() == whole.summary()

    def test_nothing_is_known_before_the_first_rollout(self):
        names = ["avg_reward", "success_rate", "avg_tool_calls", "avg_response_length"]
        assert Running().summary() == dict.fromkeys(names)


def test_the_printed_block_is_that_of_the_specification():
    lines = format_summary(summary_of(ROLLOUTS, num_failed=12, timeout=9)).splitlines()
    assert lines[:6] == [
        "{",
        '    "avg_reward": 0.73,',
        '    "success_rate": 0.6667,',
        '    "avg_tool_calls": 2.0,',
        '    "avg_response_length": 847',
        "}",
    ]
    assert lines[6] == "reward 0.797 ± 0.202 (2 tasks × 1 to 2, 12 failed rollouts; 0.146 with failures as 0)"
    assert lines[7:] == [
        "reward ≥ 1: pass@1 0.750 ± 0.250, pass@2 1.000",
        "all k of them: pass^1 0.750 ± 0.250, pass^2 0.000",
        "tokens: output 2,542",
        "failed attempts: timeout 9",
    ]
