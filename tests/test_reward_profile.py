"""The reward profile of each task, against the standard library's statistics, and as a person makes it."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean, median, stdev

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nemo_like.plan import Plan
from nemo_like.reward_profile import reward_profile
from nemo_like.store import Files, RolloutStore

from .conftest import Json, Project, rollout_row, write_jsonl
from .test_plan import keys_of, task


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(
    rewards=st.lists(st.dictionaries(st.integers(0, 3), st.floats(-5, 5)), max_size=6),
    repeats=st.integers(1, 4),
)
def test_each_task_is_there_with_the_figures_of_its_rollouts_and_what_it_lacks(
    tmp_path_factory: pytest.TempPathFactory, rewards: list[dict[int, float]], repeats: int
) -> None:
    folder = tmp_path_factory.mktemp("profile")
    texts = [str(number % 3) for number in range(len(rewards))]
    tasks = write_jsonl(folder / "tasks.jsonl", [task(text) for text in texts])
    with RolloutStore(folder / "r.jsonl") as store:
        for key, of_task in zip(keys_of(texts), rewards, strict=True):
            for index, reward in of_task.items():
                store.append("rollouts", rollout_row(key, index, reward))
    with Plan(tasks, agent_of=lambda _: "agent", num_repeats=repeats) as plan:
        plan.attach(Files(folder / "r.jsonl").index)
        rows = [*reward_profile(plan)]
    assert [row["sample"] for row in rows] == [task(text) for text in texts]
    for row, of_task in zip(rows, rewards, strict=True):
        counted = [reward for index, reward in sorted(of_task.items()) if index < repeats]
        assert row["num_rollouts"] == len(counted)
        assert (row["expected_num_rollouts"], row["missing_num_rollouts"]) == (
            repeats,
            repeats - len(counted),
        )
        assert [info["reward"] for info in row["rollout_infos"]] == counted
        if counted:
            figures = [row[f"{of}/reward"] for of in ("mean", "max", "min", "median")]
            assert figures == [fmean(counted), max(counted), min(counted), median(counted)]
            assert row["std/reward"] == (stdev(counted) if len(counted) > 1 else None)
        else:
            assert "mean/reward" not in row


def written(folder: Path) -> tuple[list[Json], list[Json]]:
    profile = [json.loads(line) for line in (folder / "r_reward_profiling.jsonl").read_text().splitlines()]
    return profile, json.loads((folder / "r_agent_metrics.json").read_text())


def test_the_command_takes_tasks_and_repeats_from_the_run(project: Project) -> None:
    write_jsonl(project.path / "tasks.jsonl", [task("a"), task("b")])
    [key, _] = keys_of(["a", "b"])
    with RolloutStore(project.path / "r.jsonl") as store:
        store.append("rollouts", rollout_row(key))
    unknown = project.run("ng_reward_profile", "+rollouts_jsonl_fpath=r.jsonl")
    assert unknown.returncode == 2 and "does not say which tasks; add +input_jsonl_fpath=" in unknown.stderr
    run = {"fingerprint": {}, "config": {"input_jsonl_fpath": "tasks.jsonl", "num_repeats": {"agent": 2}}}
    (project.path / "r_run.json").write_text(json.dumps(run))
    done = project.run("ng_reward_profile", "+rollouts_jsonl_fpath=r.jsonl")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("2 tasks in r_reward_profiling.jsonl; 2 lack 3 rollouts\n")
    profile, metrics = written(project.path)
    assert [(row["num_rollouts"], row["reward_profile_completion_pct"]) for row in profile] == [
        (1, 50.0),
        (0, 0.0),
    ]
    assert metrics[0]["num_rollouts"] == 1
    named = [
        "+materialized_inputs_jsonl_fpath=tasks.jsonl",
        "+num_repeats=1",
        "+allow_partial_rollouts=false",
    ]
    partial = project.run("ng_reward_profile", "+rollouts_jsonl_fpath=r.jsonl", *named)
    assert (
        partial.returncode == 1 and "1 tasks lack 1 rollouts; +allow_partial_rollouts=true" in partial.stderr
    )
    assert written(project.path)[0] == profile


def test_prompts_are_materialized_into_tasks(project: Project) -> None:
    (project.path / "p.yaml").write_text("user: What is {sum}?\n")
    rows: list[Json] = [
        {"sum": "1+1", "answer": "2"},
        {"sum": "2+2", "responses_create_params": {"top_p": 0.5}},
    ]
    write_jsonl(project.path / "rows.jsonl", rows)
    arguments = ["+input_jsonl_fpath=rows.jsonl", "+prompt_config=p.yaml", "+output_jsonl_fpath=out/t.jsonl"]
    done = project.run("ng_materialize_prompts", *arguments)
    assert (done.returncode, done.stdout) == (0, "2 tasks in out/t.jsonl\n")
    asked = [row["responses_create_params"] for row in project.rows("out/t.jsonl")]
    assert asked == [
        {"input": [{"role": "user", "content": "What is 1+1?"}]},
        {"top_p": 0.5, "input": [{"role": "user", "content": "What is 2+2?"}]},
    ]
    assert "exists; +overwrite=true replaces it" in project.run("ng_materialize_prompts", *arguments).stderr
    write_jsonl(project.path / "rows.jsonl", [rows[0], {"smu": 1}])
    wrong = project.run("ng_materialize_prompts", *arguments, "+overwrite=true")
    assert wrong.returncode == 2 and "rows.jsonl:2: the prompt needs a field 'sum'" in wrong.stderr
    assert len(project.rows("out/t.jsonl")) == 2
