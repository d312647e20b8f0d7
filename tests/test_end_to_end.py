"""The specification's walk-through and the quickstart, as a person types them."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.run import mock_endpoint

from .conftest import Project

ROOT = Path(__file__).parent.parent
MULTI_STEP = "resources_servers/example_multi_step"
STACK = (
    "+config_paths=[responses_api_models/openai_model/configs/openai_model.yaml,"
    f"{MULTI_STEP}/configs/example_multi_step.yaml]"
)
COLLECT = [
    "+agent_name=example_multi_step_simple_agent",
    f"+input_jsonl_fpath={MULTI_STEP}/data/example.jsonl",
    "+output_jsonl_fpath=results/example_multi_step_rollouts.jsonl",
    "+limit=5",
    "+num_repeats=2",
    "+num_samples_in_parallel=3",
    "+responses_create_params.max_output_tokens=8192",
]


@contextmanager
def ng_run(project: Project, *arguments: str) -> Iterator[str]:
    """A stack that runs until the context ends; what it showed."""
    with project.start("ng_run", *arguments, stderr=None) as process:
        assert process.stdout is not None
        shown = ""
        while not (line := process.stdout.readline()).startswith("Ctrl-C"):
            assert line, shown
            shown += line
        try:
            yield shown
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 130


def test_the_walk_through_of_the_documentation_works_as_written(project: Project, no_orphans: None) -> None:
    with mock_endpoint("--tool-calls", "2") as url:
        (project.path / "env.yaml").write_text(
            f"policy_base_url: {url}\npolicy_api_key: s3cret\npolicy_model_name: mock\n"
        )
        with ng_run(project, STACK) as shown:
            assert "example_multi_step_simple_agent" in shown
            assert "All 3 servers are ready" in shown
            done = project.run("ng_collect_rollouts", *COLLECT)
    assert done.returncode == 0, done.stderr
    rows = project.rows("results/example_multi_step_rollouts.jsonl")
    assert len(rows) == 10
    for row in rows:
        assert row["responses_create_params"]["max_output_tokens"] == 8192
        assert row["metadata"]["tool_calls_made"] == 2
        assert [message["role"] for message in row["output"]] == ["assistant", "tool"] * 2 + ["assistant"]
        assert row["output"][0]["tool_calls"][0]["function"]["name"] == "get_synonym_value"
        assert json.loads(row["output"][1]["content"]) == {"synonym_value": sum(map(ord, "Blazing"))}
        assert row["response"]["usage"]["output_tokens"] == 360
    shown = json.loads(done.stdout[: done.stdout.index("}") + 1])
    assert set(shown) == {"avg_reward", "success_rate", "avg_tool_calls", "avg_response_length"}
    assert (shown["avg_tool_calls"], shown["avg_response_length"]) == (2.0, 360)
    names = "jq '.output[] | select(.tool_calls) | .tool_calls[].function.name' results/*_rollouts.jsonl"
    counted = subprocess.run(
        f"{names} | sort | uniq -c", shell=True, cwd=project.path, capture_output=True, text=True, check=True
    )
    assert counted.stdout.split() == ["20", '"get_synonym_value"']


def test_a_wrong_key_is_told_in_the_providers_words(project: Project, no_orphans: None) -> None:
    with mock_endpoint("--key", "right") as url:
        done = project.run(
            *("ng_collect_rollouts", "model=openai", "env=arithmetic", f"+policy_base_url={url}"),
            *("+policy_api_key=wr0ng", "+policy_model_name=mock", "+output_jsonl_fpath=r.jsonl"),
            "+input_jsonl_fpath=resources_servers/arithmetic/data/example.jsonl",
        )
    assert done.returncode == 1
    assert "unauthorized" in done.stdout and "Incorrect API key provided" in done.stdout
    assert "wr0ng" not in done.stdout + done.stderr + (project.path / "r_failures.jsonl").read_text()


def test_unset_values_of_the_endpoint_are_named_together(project: Project) -> None:
    done = project.run("ng_run", "model=openai", "env=arithmetic")
    assert done.returncode == 2
    for name in ("policy_base_url", "policy_api_key", "policy_model_name"):
        assert f"{name} is not set" in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_quickstart_ends_with_verified_rollouts_of_a_real_model(
    project: Project, no_orphans: None
) -> None:
    with ng_run(project) as shown:
        assert "word_count_simple_agent" in shown
        done = project.run(
            "ng_collect_rollouts",
            "+input_jsonl_fpath=data/quickstart.jsonl",
            "+output_jsonl_fpath=results/quickstart.jsonl",
            timeout_s=280,
        )
    assert done.returncode == 0, done.stderr
    rows = project.rows("results/quickstart.jsonl")
    assert len(rows) == 20
    assert {row["response"]["model"] for row in rows} == {"SmolLM2-135M-Instruct"}
    assert {0.0, 1.0} <= {row["reward"] for row in rows}
    called = [row for row in rows if row["metadata"]["tool_calls_made"]]
    assert {row["agent_ref"]["name"] for row in called} == {"example_multi_step_simple_agent"}
    assert all(row["response"]["usage"]["output_tokens"] > 0 for row in rows)
