"""The metrics of problems and their buckets, against numpy and against the table of what has to come out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from nemo_like.buckets import EXACT, Assignment, Ties, assign, bucket_names, strategies
from nemo_like.errors import UsageError
from nemo_like.kmeans import cluster
from nemo_like.problems import KS, METRICS, Problems, measure
from nemo_like.rollout_table import RolloutTable

reward = st.one_of(
    st.sampled_from([0.0, 1.0, -1.0, 0.5]),
    st.floats(-10, 10),
    st.sampled_from([None, float("nan"), float("inf"), 1e300]),
)
groups_of_rewards = st.lists(st.lists(reward, min_size=1, max_size=25), min_size=1, max_size=8)


def problems_of(path: Path, columns: dict[str, Any]) -> Problems:
    pq.write_table(pa.table(columns), path)
    return measure(RolloutTable(path))


def of_groups(path: Path, groups: list[list[Any]], keys: list[Any] | None = None) -> Problems:
    names = list(range(len(groups))) if keys is None else keys
    pairs = [(key, r) for key, group in zip(names, groups, strict=True) for r in group]
    rewards = pa.array([r for _, r in pairs], pa.float64())
    return problems_of(path, {"data_idx": [key for key, _ in pairs], "reward": rewards})


def by_numpy(rewards: list[float]) -> dict[str, float]:
    values = np.sort(np.asarray(rewards))[::-1]
    return {
        **{f"mean@{k}": values[:k].mean() for k in KS},
        "pass_rate": (values >= 0.5).mean(),
        "mean_reward": values.mean(),
        "max_reward": values.max(),
        "min_reward": values.min(),
        "std_reward": np.std(values),
        "num_samples": len(values),
    }


def metric_of(**values: list[float]) -> Callable[[str], Any]:
    return lambda name: np.asarray(values[name.replace("@", "_at_")], dtype=np.float64)


def named(assignment: Assignment) -> list[str]:
    return [assignment.names[code] for code in assignment.codes]


def quartiled(values: list[float], strategy: str = "percentile", ties: Ties = "value") -> Assignment:
    column = metric_of(mean_at_5=values, mean_reward=values, pass_rate=[0.0] * len(values))
    return assign(column, strategy, ties)


class TestMetrics:
    @settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
    @given(groups=groups_of_rewards)
    @example(groups=[[0.1, 0.1, 0.1], [None], [float("nan"), 1.0]])
    def test_they_are_what_numpy_says_of_the_rewards_that_are_numbers(
        self, tmp_path: Path, groups: list[list[Any]]
    ) -> None:
        kept = [[r for r in group if r is not None and abs(r) <= 1e200] for group in groups]
        if not any(kept):
            with pytest.raises(UsageError, match="column 'reward' holds no number"):
                of_groups(tmp_path / "r.parquet", groups)
            return
        problems = of_groups(tmp_path / "r.parquet", groups)
        found = dict(problems.metrics())
        assert [*found] == [str(i) for i, group in enumerate(kept) if group]
        for key, metrics in found.items():
            assert list(metrics) == list(METRICS)
            assert metrics == pytest.approx(by_numpy(kept[int(key)]), rel=1e-12, abs=1e-12)
        assert sum(problems.excluded.values()) == sum(map(len, groups)) - sum(map(len, kept))
        assert problems.num_without_reward == sum(not group for group in kept)
        assert problems.num_scored == sum(map(len, kept))
        assert sum(problems.histogram()[1]) == problems.num_scored

    @settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
    @given(rewards=st.lists(st.floats(-3, 3), min_size=2, max_size=12), data=st.data())
    def test_the_order_of_rows_changes_no_bit(
        self, tmp_path: Path, rewards: list[float], data: st.DataObject
    ) -> None:
        other = data.draw(st.permutations(rewards))
        first, second = dict(of_groups(tmp_path / "r.parquet", [rewards, other]).metrics()).values()
        assert first == second

    def test_keys_are_ordered_as_numbers_or_as_text(self, tmp_path: Path) -> None:
        assert of_groups(tmp_path / "a.parquet", [[1.0]] * 3, [10, 9, -1]).keys() == ["-1", "9", "10"]
        assert of_groups(tmp_path / "b.parquet", [[1.0]] * 3, ["10", "9", "x"]).keys() == ["10", "9", "x"]
        # What pandas makes of whole numbers.
        assert of_groups(tmp_path / "c.parquet", [[1.0]] * 2, [2.0, 1.0]).keys() == ["1", "2"]

    @pytest.mark.parametrize("rewards", [[True, False], [1, 0], pa.array([1, 0], pa.int8())])
    def test_rewards_of_any_kind_of_number_will_do(self, tmp_path: Path, rewards: Any) -> None:
        problems = problems_of(tmp_path / "r.parquet", {"data_idx": [0, 0], "reward": rewards})
        assert dict(problems.metrics())["0"]["mean_reward"] == 0.5

    def test_an_acc_is_apart_from_a_shaped_reward(self, tmp_path: Path) -> None:
        columns = {"data_idx": [0, 0, 1, 1], "reward": [0.1, 0.2, 0.9, 0.3], "acc": [0.0, 0.0, 1.0, None]}
        problems = problems_of(tmp_path / "r.parquet", columns)
        assert problems.column("acc_max").tolist() == [0.0, 1.0]
        assert problems.column("acc_min").tolist() == [0.0, 0.3]
        assert named(assign(problems.column, "dapo")) == ["all_0", "mixed"]

    @pytest.mark.parametrize(
        ("columns", "message"),
        [
            (
                {"data_idx": [0]},
                "r.parquet has no column 'reward', which scoring writes; there are: data_idx",
            ),
            ({"reward": [1.0], "idx": [0]}, "has no column 'data_idx'.*there are: idx, reward"),
            ({"data_idx": [0], "reward": ["1.0"]}, "column 'reward' holds String, and should hold numbers"),
            ({"data_idx": [True], "reward": [1.0]}, "column 'data_idx' holds Boolean"),
            ({"data_idx": [0, None], "reward": [1.0, 1.0]}, "column 'data_idx' is empty.* in 1 of 2 rows"),
            ({"data_idx": [0.5, 1], "reward": [1.0, 1.0]}, "no whole number, in 1 of 2 rows"),
        ],
    )
    def test_a_table_that_does_not_do_is_refused_with_the_reason(
        self, tmp_path: Path, columns: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(UsageError, match=message):
            problems_of(tmp_path / "r.parquet", columns)


class TestQuartiles:
    @pytest.mark.parametrize(
        ("n", "names"),
        [
            (1, ["hard"]),
            (2, ["hard", "easy"]),
            (3, ["hard", "medium-hard", "easy"]),
            (4, ["hard", "medium-hard", "medium-easy", "easy"]),
        ],
    )
    @pytest.mark.parametrize("ties", ["value", "rank"])
    def test_few_problems_are_cut_as_the_rule_says(self, n: int, names: list[str], ties: Ties) -> None:
        assert named(quartiled([float(i) for i in range(n)], ties=ties)) == names

    @pytest.mark.parametrize(("n", "sizes"), [(1000, [250] * 4), (1001, [251, 250, 250, 250])])
    def test_many_problems_that_differ_are_quarters(self, n: int, sizes: list[int]) -> None:
        assert list(quartiled([float(i) for i in range(n)]).counts().values()) == sizes

    def test_the_names_of_mean_reward_are_other_ones(self) -> None:
        names = ["very_hard", "hard", "medium", "easy"]
        assert named(quartiled([-4.0, -3.0, -2.0, -1.0], "mean_reward")) == names

    def test_ties_put_all_into_one_bucket_and_that_is_said(self) -> None:
        assignment = quartiled([1.0] * 8)
        assert assignment.counts() == {"hard": 8}
        assert assignment.warnings == [
            "everything is in hard: 8 of 8 problems have the same mean@5, 1; "
            "--ties rank makes quarters of equal size"
        ]
        assert quartiled([1.0] * 8, ties="rank").counts() == dict.fromkeys(assignment.names, 2)

    def test_a_bucket_that_ties_leave_empty_is_said(self) -> None:
        assert (
            quartiled([0.0, 0.2, 1.0, 1.0, 1.0]).warnings[0].startswith("nothing is in medium-easy, easy: 3")
        )
        assert quartiled([0.0, 1.0, 2.0, 3.0]).warnings == []

    def test_ranks_break_ties_by_pass_rate_then_mean_reward_then_order(self) -> None:
        column = metric_of(
            mean_at_5=[1, 1, 1, 1], pass_rate=[0.9, 0.5, 0.5, 0.5], mean_reward=[0, 0.7, 0.6, 0.7]
        )
        assert named(assign(column, "percentile", "rank")) == ["easy", "medium-hard", "hard", "medium-easy"]

    @given(values=st.lists(st.sampled_from([0.0, 0.2, 0.4, 1.0]) | st.floats(-2, 2), min_size=1, max_size=40))
    def test_they_are_what_the_rule_says_in_numpy(self, values: list[float]) -> None:
        p25, p50, p75 = np.percentile(values, [25, 50, 75])
        names = ("hard", "medium-hard", "medium-easy", "easy")
        rule = [names[0 if v <= p25 else 1 if v <= p50 else 2 if v <= p75 else 3] for v in values]
        assert named(quartiled(values)) == rule

    @given(values=st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=4, max_size=60))
    def test_ranked_quarters_differ_by_at_most_one_and_keep_the_order(self, values: list[float]) -> None:
        assignment = quartiled(values, ties="rank")
        sizes = assignment.counts().values()
        assert max(sizes) - min(sizes) <= 1
        easiest = dict.fromkeys(range(4), -1.0)
        for value, code in sorted(zip(values, assignment.codes.tolist(), strict=True)):
            assert all(value >= easiest[c] for c in range(code))
            easiest[code] = max(easiest[code], value)


class TestOtherStrategies:
    def test_pass_rates_on_an_edge_are_in_the_easier_bucket(self) -> None:
        rates = [0, 0.1, 0.25, 0.3, 0.5, 0.6, 0.75, 1]
        expected = ["very_hard", "hard", "medium", "medium", "easy", "easy", "very_easy", "very_easy"]
        assert named(assign(metric_of(pass_rate=rates), "pass_rate")) == expected

    def test_prime_rls_pools_keep_what_its_filter_drops_apart(self) -> None:
        column = metric_of(
            acc_min=[0, 0, 0, 0, 0, 1, -1],
            acc_max=[0, 1, 1, 1, 1, 1, 1],
            acc_mean=[0, 0.25, 0.3, 0.75, 0.8, 1, 0],
        )
        expected = ["all_0", "hard", "normal", "normal", "easy", "all_1", "hard"]
        assert named(assign(column, "prime_rl")) == expected

    def test_dapo_keeps_what_has_contrast(self) -> None:
        column = metric_of(acc_min=[0, 0, 1, 0.5, -1], acc_max=[0, 1, 1, 0.5, -1])
        assert named(assign(column, "dapo")) == ["all_0", "mixed", "all_1", "identical", "identical"]

    def test_an_unknown_strategy_is_answered_with_what_there_is(self) -> None:
        with pytest.raises(
            UsageError, match="no bucketing strategy named 'percentil'; did you mean 'percentile'"
        ):
            assign(metric_of(), "percentil")

    @pytest.mark.parametrize("strategy", ["pass_rate", "adaptive", "dapo", "prime_rl"])
    def test_ranks_are_refused_where_there_are_no_quartiles(self, strategy: str) -> None:
        with pytest.raises(UsageError, match="--ties rank is for percentile and mean_reward"):
            assign(metric_of(), strategy, "rank")

    def test_every_name_is_known_of_which_old_files_are_deleted(self) -> None:
        spread = {
            name.replace("@", "_at_"): [0.0, 1.0] for name in (*METRICS, "acc_min", "acc_max", "acc_mean")
        }
        column = metric_of(**spread)
        for name in strategies.names():
            assert set(assign(column, name).names) <= set(bucket_names())


feature = st.sampled_from([0.0, 0.2, 0.4, 0.5, 0.8, 1.0])


class TestAdaptive:
    @staticmethod
    def of(rows: list[tuple[float, float, float]]) -> Assignment:
        mean5, rate, std = (list(column) for column in zip(*rows, strict=True))
        return assign(metric_of(mean_at_5=mean5, pass_rate=rate, std_reward=std), "adaptive")

    def test_four_clusters_are_named_from_the_hardest(self) -> None:
        rows = [(1, 1, 0), (0, 0, 0), (0.9, 0.5, 0.5), (0.4, 0.1, 0.3)] * 5
        assert named(self.of(rows)) == ["easy", "very_hard", "medium", "hard"] * 5

    @pytest.mark.parametrize(
        ("rows", "names"),
        [
            ([(0, 0, 0)], ["very_hard"]),
            ([(1, 1, 0)] * 5, ["very_easy"] * 5),
            ([(1, 1, 0), (0, 0, 0)], ["hard", "very_hard"]),
            ([(1, 1, 0), (0, 0, 0), (0.5, 0.5, 0.5)], ["medium", "very_hard", "hard"]),
        ],
    )
    def test_fewer_than_four_that_differ_are_fewer_buckets(self, rows: list[Any], names: list[str]) -> None:
        assert named(self.of(rows)) == names

    @settings(deadline=None)
    @given(rows=st.lists(st.tuples(feature, feature, feature), min_size=1, max_size=20), data=st.data())
    def test_the_order_of_problems_changes_nothing(self, rows: list[Any], data: st.DataObject) -> None:
        order = data.draw(st.permutations(range(len(rows))))
        here, there = named(self.of(rows)), named(self.of([rows[i] for i in order]))
        assert [here[i] for i in order] == there

    @settings(deadline=None)
    @given(rows=st.lists(st.tuples(feature, feature, feature), min_size=1, max_size=20))
    def test_harder_buckets_have_a_lower_mean(self, rows: list[Any]) -> None:
        assignment = self.of(rows)
        codes = assignment.codes
        means = [
            np.mean([row[0] for row, c in zip(rows, codes, strict=True) if c == code])
            for code in sorted(set(codes))
        ]
        assert (np.diff(means) >= -1e-9).all()

    @settings(deadline=None)
    @given(
        points=st.lists(st.tuples(feature, feature), min_size=3, max_size=30, unique=True),
        k=st.integers(1, 3),
        data=st.data(),
    )
    def test_each_point_is_in_the_cluster_whose_mean_is_nearest(
        self, points: list[Any], k: int, data: st.DataObject
    ) -> None:
        weights = data.draw(st.lists(st.integers(1, 9), min_size=len(points), max_size=len(points)))
        points_ND, weights_N = np.asarray(points), np.asarray(weights, dtype=np.float64)
        labels_N = cluster(points_ND, weights_N, k)
        assert sorted(set(labels_N.tolist())) == list(range(k))
        parts = [labels_N == label for label in range(k)]
        means = [np.average(points_ND[part], axis=0, weights=weights_N[part]) for part in parts]
        distances_KN = np.stack([((points_ND - mean) ** 2).sum(axis=1) for mean in means])
        own_N = distances_KN[labels_N, np.arange(len(points))]
        assert (own_N <= distances_KN.min(axis=0) + 1e-6).all()

    @given(data=st.data())
    def test_clusters_that_lie_apart_are_found(self, data: st.DataObject) -> None:
        sizes = data.draw(st.lists(st.integers(1, 6), min_size=4, max_size=4))
        label_N = np.repeat(np.arange(4), sizes)
        points_ND = np.stack([100.0 * label_N, np.arange(len(label_N)) / 10], axis=1)
        found_N = cluster(points_ND, np.ones(len(label_N)), 4)
        assert len({(int(a), int(b)) for a, b in zip(label_N, found_N, strict=True)}) == 4

    def test_many_problems_that_fall_into_cells_are_bucketed_as_few_are(self) -> None:
        """More than `EXACT` problems with eight right or wrong samples each, against a part of them."""
        rate = np.tile(np.arange(9) / 8, EXACT // 8)
        features: dict[str, Any] = {
            "mean_at_5": np.minimum(1, rate * 1.6),
            "pass_rate": rate,
            "std_reward": rate * (1 - rate),
        }
        many = assign(metric_of(**features), "adaptive").codes
        few = assign(metric_of(**{name: of[:900] for name, of in features.items()}), "adaptive").codes
        assert len(many) > EXACT and (many.reshape(-1, 9) == few[:9]).all()

    def test_more_clusters_than_points_are_an_error(self) -> None:
        with pytest.raises(ValueError, match="1 distinct points can't be 2 clusters"):
            cluster(np.zeros((1, 2)), np.ones(1), 2)
