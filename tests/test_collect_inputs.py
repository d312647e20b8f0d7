"""What a collection can be given: templates, skills, seeds, several agents, rows that are no tasks, a number
in flight that adapts, and environments with metrics of their own."""

from __future__ import annotations

import json
import subprocess
from collections import Counter

import pytest

from .conftest import Json, Project, write_jsonl
from .toys import CONFIG, ENVIRONMENT, TOY, task, write_tasks, write_toys

pytestmark = pytest.mark.slow

INPUT, OUTPUT = "+input_jsonl_fpath=tasks.jsonl", "+output_jsonl_fpath=out/r.jsonl"
TWO_AGENTS = (
    CONFIG
    + """
strict:
  resources_servers:
    toy: {entrypoint: app.py, success_threshold: 2.0}
strict_agent:
  responses_api_agents:
    simple_agent:
      entrypoint: app.py
      resources_server: {type: resources_servers, name: strict}
      model_server: {type: responses_api_models, name: policy_model}
"""
)
AGGREGATES = """
    async def aggregate_metrics(self, totals, rollouts, *, last):
        totals = {key: totals.get(key, 0) + sum(r[key] for r in rollouts) for key in ("reward", "count")}
        totals["pages"] = totals.get("pages", 0) + 1
        if last:
            totals["share"] = totals["reward"] / 4
        return totals
"""


@pytest.fixture
def toys(project: Project, no_orphans: None) -> Project:
    write_toys(project.path)
    return project


def collect(project: Project, *arguments: str) -> subprocess.CompletedProcess[str]:
    return project.run("ng_collect_rollouts", TOY, INPUT, OUTPUT, *arguments)


def summaries(project: Project) -> dict[str, Json]:
    found = json.loads((project.path / "out/r_aggregate_metrics.json").read_text())
    return {summary["agent_ref"]["name"]: summary for summary in found}


def test_rows_without_an_input_become_tasks_by_a_prompt_config(toys: Project) -> None:
    (toys.path / "prompt.yaml").write_text("user: Say {what}.\n")
    write_jsonl(toys.path / "tasks.jsonl", [{"what": "four", "answer": "four"}])
    assert collect(toys, "+prompt_config=prompt.yaml").returncode == 0
    [row] = toys.rows("out/r.jsonl")
    assert row["responses_create_params"]["input"] == [{"role": "user", "content": "Say four."}]
    assert (row["what"], row["reward"]) == ("four", 1.0)

    (toys.path / "prompt.yaml").write_text("user: Shout {what}!\n")
    refused = collect(toys, "+prompt_config=prompt.yaml", "+num_repeats=2")
    assert refused.returncode == 1 and "out/r.jsonl was made with prompt_config=" in refused.stderr

    (toys.path / "prompt.yaml").write_text("user: Say {wat}.\n")
    unfit = collect(toys, "+prompt_config=prompt.yaml")
    assert unfit.returncode == 2
    assert "tasks.jsonl:1: the prompt needs a field 'wat', which the row lacks; did you mean" in unfit.stderr


def test_skills_are_in_the_tasks_the_records_and_the_fingerprint(toys: Project) -> None:
    skill = toys.path / "skills/adding/SKILL.md"
    skill.parent.mkdir(parents=True)
    skill.write_text("---\nname: adding\ndescription: How to add.\n---\nOnes first.\n")
    write_tasks(toys.path / "tasks.jsonl", 2)
    assert collect(toys, "+skills.path=skills").returncode == 0
    [ref, _] = [row["skills_ref"] for row in toys.rows("out/r.jsonl")]
    assert [one["name"] for one in ref["skills"]] == ["adding"]
    skill.write_text("---\nname: adding\ndescription: How to add.\n---\nTens first.\n")
    refused = collect(toys, "+skills.path=skills", "+num_repeats=2")
    assert refused.returncode == 1 and f"was made with skills={ref['hash']}, now " in refused.stderr


def test_each_repeat_is_asked_for_with_its_seed(toys: Project) -> None:
    write_tasks(toys.path / "tasks.jsonl", 2)
    seeded = ["+num_repeats_add_seed=true", "+responses_create_params.seed=40"]
    assert collect(toys, "+num_repeats=3", *seeded).returncode == 0
    seeds = [
        (
            row["_ng_rollout_index"],
            json.loads(row["responses_create_params"]["metadata"]["extra_body"])["seed"],
        )
        for row in toys.rows("out/r.jsonl")
    ]
    assert Counter(seeds) == {(0, 40): 2, (1, 41): 2, (2, 42): 2}
    without = collect(toys, "+num_repeats=4", "+responses_create_params.seed=40")
    assert without.returncode == 1 and "num_repeats_add_seed=True, now None" in without.stderr


def test_several_agents_share_an_input_each_with_its_repeats_and_metrics(toys: Project) -> None:
    (toys.path / "toy.yaml").write_text(TWO_AGENTS)
    strict: Json = {"agent_ref": {"name": "strict_agent"}}
    write_jsonl(toys.path / "tasks.jsonl", [task("a"), task("b") | strict, task("c", "five") | strict])
    repeats = "+num_repeats={strict_agent: 3, _default: 1}"
    done = collect(toys, "+agent_name=toy_agent", repeats)
    assert done.returncode == 0, done.stderr
    rows = toys.rows("out/r.jsonl")
    assert Counter((row["agent_ref"]["name"], row["success"]) for row in rows) == {
        ("toy_agent", True): 1,
        ("strict_agent", False): 6,
    }
    by_agent = summaries(toys)
    assert {name: one["num_rollouts"] for name, one in by_agent.items()} == {
        "toy_agent": 1,
        "strict_agent": 6,
    }
    assert by_agent["strict_agent"]["key_metrics"]["avg_reward"] == 0.5
    assert "\nstrict_agent\n" in done.stdout and "7 of 7 rollouts" in done.stdout
    again = collect(toys, "+agent_name=toy_agent", "+num_repeats={strict_agent: 3, toy_agent: 2}")
    assert again.returncode == 0 and len(toys.rows("out/r.jsonl")) == 8


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["+num_repeats={toy_agnt: 2}"],
            "num_repeats: there is no agent 'toy_agnt'; did you mean 'toy_agent'?",
        ),
        (
            ["+num_repeats={strict_agent: 2}"],
            "tasks.jsonl:1: num_repeats names no number for the agent 'toy_agent'",
        ),
        (["+num_repeats={_default: 0}"], "should be greater than or equal to 1 (got 0)"),
        (["+prompt_config=no.yaml"], "there is no file no.yaml"),
        (["+skills.path=out"], "there is no file out"),
        (["+skills.pth=x"], "there is no setting 'skills.pth'"),
        (["+on_bad_row=ignore"], "on_bad_row: should be 'stop' or 'skip' (got 'ignore')"),
        (["+upload_rollouts=true"], "nothing is uploaded here"),
        (["+rollout_collection_driver=a:b"], "write an agent (agents/README.md)"),
    ],
)
def test_a_mistake_is_one_readable_line(toys: Project, arguments: list[str], words: str) -> None:
    (toys.path / "toy.yaml").write_text(TWO_AGENTS)
    write_tasks(toys.path / "tasks.jsonl", 2)
    done = collect(toys, "+agent_name=toy_agent", *arguments)
    assert done.returncode == 2 and words in done.stderr
    assert not (toys.path / "out").exists()


def test_what_nemo_gym_users_type_is_taken(toys: Project) -> None:
    write_tasks(toys.path / "tasks.jsonl", 2)
    done = collect(toys, "+resume_from_cache=true", "+disable_aggregation=true", "+upload_rollouts=false")
    assert done.returncode == 0, done.stderr


def test_rows_that_are_no_tasks_are_skipped_listed_and_counted(toys: Project) -> None:
    lines = [json.dumps(task("a")), "{", json.dumps({"answer": "x"}), json.dumps(task("b"))]
    (toys.path / "tasks.jsonl").write_text("\n".join(lines))
    done = collect(toys, "+on_bad_row=skip")
    assert done.returncode == 0, done.stderr
    assert [row["responses_create_params"]["input"] for row in toys.rows("out/r.jsonl")] in (
        ["a", "b"],
        ["b", "a"],
    )
    assert [(row["line"], row["text"]) for row in toys.rows("out/r_skipped.jsonl")] == [
        (2, "{\n"),
        (3, '{"answer": "x"}\n'),
    ]
    assert "2 rows of the input are no tasks and were skipped: out/r_skipped.jsonl says why" in done.stdout
    (toys.path / "tasks.jsonl").write_text(lines[0])
    assert collect(toys, "+on_bad_row=skip").returncode == 0
    assert not (toys.path / "out/r_skipped.jsonl").exists()
    (toys.path / "tasks.jsonl").write_text("{\n[]\n")
    nothing = collect(toys, "+on_bad_row=skip")
    assert nothing.returncode == 2 and "every row was skipped; the first: " in nothing.stderr


@pytest.mark.parametrize("layout", ["colocate=true", "colocate=false", "in_process=true"])
def test_what_the_number_in_flight_came_to_is_told_and_kept(toys: Project, layout: str) -> None:
    write_jsonl(toys.path / "tasks.jsonl", [task(f"question {i}") for i in range(100)])
    done = collect(toys, layout)
    assert done.returncode == 0, done.stderr
    kept = summaries(toys)["toy_agent"]["concurrency"]
    said = f"in flight: settled at {kept['settled_at']}, {kept['highest']} at most"
    assert said in done.stdout and "parallel=" in done.stderr
    assert kept["changes"][0] == {"at_s": 0.0, "size": 32, "why": "start"}
    fixed = collect(toys, layout, "+num_repeats=2", "+num_samples_in_parallel=5")
    assert "in flight" not in fixed.stdout and summaries(toys)["toy_agent"]["concurrency"] is None


def test_an_endpoint_that_refuses_makes_the_number_smaller(toys: Project) -> None:
    write_jsonl(toys.path / "tasks.jsonl", [task("fail rate_limited 1"), *(task(f"q {i}") for i in range(9))])
    done = collect(toys)
    assert done.returncode == 0, done.stderr
    assert "in flight: settled at 25, 32 at most, cut 1 times, 1 answers of 429 or 503" in done.stdout


@pytest.mark.parametrize("layout", ["colocate=true", "colocate=false"])
def test_an_environment_adds_metrics_over_all_rollouts(toys: Project, layout: str) -> None:
    (toys.path / "resources_servers/toy/app.py").write_text(ENVIRONMENT + AGGREGATES)
    write_tasks(toys.path / "tasks.jsonl", 4)
    done = collect(toys, layout)
    assert done.returncode == 0, done.stderr
    of_all = {"reward": 2.0, "count": 0.0, "pages": 1, "share": 0.5}
    assert summaries(toys)["toy_agent"]["environment_metrics"] == of_all
    assert "environment: reward 2, count 0, pages 1, share 0.5" in done.stdout
    collect(toys, layout, "+disable_aggregation=true")
    assert summaries(toys)["toy_agent"]["environment_metrics"] is None


def test_an_environment_whose_metrics_fail_costs_no_collection(toys: Project) -> None:
    (toys.path / "resources_servers/toy/app.py").write_text(
        ENVIRONMENT
        + "\n    async def aggregate_metrics(self, totals, rollouts, *, last):\n        return 1 / 0\n"
    )
    write_tasks(toys.path / "tasks.jsonl", 2)
    done = collect(toys)
    assert done.returncode == 0
    assert "no metrics of the environment toy: toy: verifier_error (500): ZeroDivisionError" in done.stderr
    assert summaries(toys)["toy_agent"]["key_metrics"]["avg_reward"] == 0.5
