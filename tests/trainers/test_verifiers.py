"""verifiers in an environment of its own: its `nemo_gym` taskset on our servers, our package in it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ..conftest import Project

ROOT = Path(__file__).parent.parent.parent
VERIFIERS, BEFORE = ROOT / ".venvs/verifiers/bin", ROOT / ".venvs/verifiers03/bin"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        not (VERIFIERS / "vf-eval").exists(), reason="verifiers comes with make test-trainers"
    ),
]
SCRIPT = """
- when: {contains: add 1 then add 5, turn: 0}
  tool_calls:
  - {name: increment_counter, arguments: {count: 1}}
  - {name: increment_counter, arguments: {count: 5}}
- when: {contains: add 1 then add 5, turn: 1}
  tool_calls: [{name: get_counter_value}]
- when: {contains: add 1 then add 5, turn: 2}
  text: The count is 12.
- when: {contains: Count the number of words}
  text: <word_count>6</word_count>
"""
EVAL = """
model = "scripted"
push = false
[env.taskset]
{taskset}
[env.agent.harness]
id = "null"
[env.agent.runtime]
type = "subprocess"
[client]
base_url = "{policy}/v1"
api_key_var = "NO_KEY"
"""
BY_SERVER = 'id = "nemo_gym"\ndataset = "tasks.jsonl"\ntask.resources_url = "{url}"'


@contextmanager
def servers(project: Project) -> Iterator[dict[str, str]]:
    """Servers that run, by name; their addresses."""
    (project.path / "script.yaml").write_text(SCRIPT)
    arguments = [
        "model=scripted",
        "env=[example_session_state_mgmt,word_count]",
        "+policy_script=script.yaml",
    ]
    process = project.start("ng_run", *arguments)
    assert process.stdout is not None
    urls: dict[str, str] = {}
    for line in process.stdout:
        if match := re.match(r"(\S+) +\S+ +(http://\S+)", line):
            urls[match[1]] = match[2]
        if line.startswith("Ctrl-C"):
            break
    try:
        yield urls
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)


def evaluated(project: Project, taskset: str, policy: str) -> dict[str, Any]:
    """The trace of one rollout that verifiers made."""
    (project.path / "eval.toml").write_text(EVAL.format(taskset=taskset, policy=policy))
    environment = os.environ | {"NO_KEY": "none", "PATH": f"{VERIFIERS}:{os.environ['PATH']}"}
    command = [VERIFIERS / "vf-eval", "@", "eval.toml"]
    done = subprocess.run(
        command, cwd=project.path, env=environment, capture_output=True, text=True, timeout=500, check=False
    )
    [traces] = (project.path / "outputs").rglob("traces.jsonl")
    [trace] = json.loads(traces.read_text().splitlines()[0])["traces"]
    assert not trace["errors"], (trace["errors"], done.stdout, done.stderr)
    return trace


def first_task(environment: str) -> str:
    return (ROOT / f"resources_servers/{environment}/data/example.jsonl").read_text().splitlines()[0]


def rewards(trace: dict[str, Any]) -> dict[str, float]:
    return {name: reward["score"] for name, reward in trace["rewards"].items()}


def test_its_taskset_goes_through_seed_tools_and_verify_of_our_server(project: Project) -> None:
    (project.path / "tasks.jsonl").write_text(first_task("example_session_state_mgmt"))
    with servers(project) as urls:
        taskset = BY_SERVER.format(url=urls["example_session_state_mgmt"])
        trace = evaluated(project, taskset, urls["policy_model"])
    # The row's initial count is 6: only a session that was seeded, and kept over two tools, ends at 12.
    assert rewards(trace) == {"nemo_gym": 1.0}


def test_its_taskset_records_the_parts_of_our_reward_as_metrics(project: Project) -> None:
    (project.path / "tasks.jsonl").write_text(first_task("word_count"))
    with servers(project) as urls:
        trace = evaluated(project, BY_SERVER.format(url=urls["word_count"]), urls["policy_model"])
    assert rewards(trace) == {"nemo_gym": 1.3}
    assert trace["metrics"]["format_reward"] == 1.0


def test_our_package_is_an_environment_of_its(project: Project) -> None:
    with servers(project) as urls:
        trace = evaluated(project, 'id = "word-count"\nnum_tasks = 1', urls["policy_model"])
    assert rewards(trace) == {
        "exact_match_reward": 1.0,
        "format_reward": 1.0,
        "partial_credit_reward": 1.0,
    }


def test_our_package_is_an_environment_of_verifiers_before_0_4(project: Project) -> None:
    code = """
import asyncio, json, sys
import verifiers as vf
from verifiers.types import ClientConfig
env = vf.load_environment("word-count", num_examples=1)
client = ClientConfig(api_base_url=sys.argv[1], api_key_var="NO_KEY")
out = asyncio.run(env.evaluate(client, "scripted"))
print("REWARD", out["outputs"][0]["reward"])
"""
    with servers(project) as urls:
        done = subprocess.run(
            [BEFORE / "python", "-c", code, f"{urls['policy_model']}/v1"],
            cwd=project.path,
            env=os.environ | {"NO_KEY": "none"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    assert "REWARD 1.3" in done.stdout, (done.stdout, done.stderr)
