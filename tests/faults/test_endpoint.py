"""A model endpoint that fails in every way: the run ends, says what failed, and keeps what finished."""

from __future__ import annotations

import json
import subprocess
import time
from collections import Counter

import pytest

from benchmarks.run import mock_endpoint

from ..conftest import Project

ENVIRONMENT = "example_multi_step"
KINDS = {
    "500": "model_error",
    "429": "rate_limited",
    "drop": "unreachable",
    "hang": "timeout",
    "drip": "timeout",
    "badjson": "bad_response",
    "wrongjson": "bad_response",
    "empty": "bad_response",
}
"""What the endpoint does → what the failure is called."""
MODEL = "++policy_model.responses_api_models.openai_model"


def collect(project: Project, url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return project.run(
        *("ng_collect_rollouts", "model=openai", f"env={ENVIRONMENT}"),
        *(f"+policy_base_url={url}", "+policy_api_key=k", "+policy_model_name=m", f"{MODEL}.api=responses"),
        f"+input_jsonl_fpath=resources_servers/{ENVIRONMENT}/data/example.jsonl",
        "+output_jsonl_fpath=r.jsonl",
        *arguments,
        timeout_s=110,
    )


@pytest.mark.slow
@pytest.mark.parametrize("fault", KINDS)
def test_an_endpoint_that_only_fails_ends_the_run_in_bounded_time(
    project: Project, no_orphans: None, fault: str
) -> None:
    start = time.monotonic()
    with mock_endpoint("--faults", "1", "--fault-kinds", fault) as url:
        done = collect(project, url, f"{MODEL}.timeout_s=0.5", f"{MODEL}.max_retries=1", "+max_attempts=2")
    assert time.monotonic() - start < 60
    assert done.returncode == 1
    assert f"{KINDS[fault]} in " in done.stdout
    assert "0 of 5 rollouts" in done.stdout
    failures = [row["failure"] for row in project.rows("r_failures.jsonl")]
    assert {failure["kind"] for failure in failures} == {KINDS[fault]}
    assert len(failures) == 10
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_an_endpoint_that_fails_now_and_then_costs_no_rollout(project: Project, no_orphans: None) -> None:
    kinds = "500,429,drop,badjson,wrongjson,empty,hang"
    with mock_endpoint("--faults", "0.3", "--fault-kinds", kinds, "--tool-calls", "2") as url:
        done = collect(
            project,
            url,
            "+num_repeats=20",
            f"{MODEL}.timeout_s=4",
            "+num_samples_in_parallel=100",
            "+max_attempts=10",
        )
    assert done.returncode == 0, done.stderr
    rows = project.rows("r.jsonl")
    assert len(rows) == 100
    assert set(Counter((row["_ng_task_key"], row["_ng_rollout_index"]) for row in rows).values()) == {1}
    assert {row["metadata"]["tool_calls_made"] for row in rows} == {2}


@pytest.mark.slow
@pytest.mark.parametrize("retry_after", ["0", "1", "-5", "soon", "99999999999", "inf", "nan"])
def test_retry_after_is_honoured_within_bounds(project: Project, no_orphans: None, retry_after: str) -> None:
    start = time.monotonic()
    arguments = ["--faults", "0.5", "--fault-kinds", "429", "--retry-after", retry_after]
    with mock_endpoint(*arguments) as url:
        done = collect(
            project, url, "++example_multi_step_simple_agent.agents.simple_agent.model_timeout_s=6"
        )
    assert time.monotonic() - start < 60
    assert "Traceback" not in done.stderr
    if retry_after in ("0", "1"):
        assert "5 of 5 rollouts" in done.stdout


@pytest.mark.slow
def test_an_answer_of_50_megabytes_is_an_answer(project: Project, no_orphans: None) -> None:
    with mock_endpoint("--faults", "1", "--fault-kinds", "huge") as url:
        done = collect(project, url, "+limit=1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (project.path / "r.jsonl").stat().st_size > 100_000_000
    with (project.path / "r.jsonl").open() as file:
        assert len(json.loads(file.readline())["output"][0]["content"]) == 50_000_000


@pytest.mark.slow
def test_ten_thousand_tool_calls_in_one_answer_are_run(project: Project, no_orphans: None) -> None:
    with mock_endpoint("--faults", "1", "--fault-kinds", "calls") as url:
        done = collect(project, url, "+limit=1")
    assert done.returncode == 0, done.stdout + done.stderr
    [row] = project.rows("r.jsonl")
    assert row["metadata"]["tool_calls_made"] == 10_000
    assert sum(message["role"] == "tool" for message in row["output"]) == 10_000
