"""The commands that show and check a configuration."""

from __future__ import annotations

import json

import pytest
import yaml

from .conftest import Project
from .toys import TOY, write_toys

OPENAI = ("model=openai", "env=arithmetic")


def test_a_dumped_configuration_is_yaml_and_tells_where_each_value_was_written(project: Project) -> None:
    (project.path / "env.yaml").write_text("policy_base_url: http://h\npolicy_api_key: s3cret-key\n")
    shown = project.run("ng_dump_config", *OPENAI, "+policy_model_name=m", "num_workers=2").stdout
    values = yaml.safe_load(shown)
    assert values["policy_model"]["responses_api_models"]["openai_model"] == {
        "entrypoint": "app.py",
        "openai_base_url": "http://h",
        "openai_api_key": "***",
        "openai_model": "m",
    }
    lines = {line.split(":")[0].strip(): line for line in shown.splitlines()}
    assert lines["openai_base_url"].endswith("openai_model.yaml:6, policy_base_url of env.yaml:1")
    assert lines["openai_model"].endswith("openai_model.yaml:8, policy_model_name of the command line")
    assert lines["num_workers"].endswith("# the command line")
    assert "s3cret" not in shown


def test_a_dumped_configuration_can_be_read_by_a_program(project: Project) -> None:
    write_toys(project.path)
    shown = json.loads(project.run("ng_dump_config", TOY, "+json=true").stdout)
    assert shown["values"]["policy_model"]["responses_api_models"]["toy_model"]["api_key"] == "***"
    assert shown["origins"]["toy.resources_servers.toy.domain"] == "toy.yaml:7"


def test_a_valid_configuration_is_said_to_be_valid(project: Project) -> None:
    write_toys(project.path)
    done = project.run("ng_validate", TOY)
    assert (done.returncode, done.stdout) == (0, "valid: 3 servers (policy_model, toy, toy_agent)\n")


def test_every_problem_is_told_with_file_line_key_reason_and_value(project: Project) -> None:
    write_toys(project.path)
    (project.path / "toy.yaml").write_text(
        """
policy_model:
  responses_api_models:
    toy_model: {answer: [1], anwser: x, port: 7001}
toy:
  resources_servers:
    toy:
      success_threshold: high
      port: 7001
      rewards: {exact_mach: {weight: 1}}
toy_agent:
  responses_api_agents:
    simple_agent:
      max_steps: 0
      resources_server: {type: resources_servers, name: tay}
      model_server: ???
      datasets:
      - {name: example, type: example, jsonl_fpath: nowhere.jsonl}
num_workers: 0
max_attempts: many
"""
    )
    done = project.run("ng_validate", TOY)
    assert done.returncode == 2
    for words in (
        "toy.yaml:16: toy_agent.responses_api_agents.simple_agent.model_server is not set",
        "toy.yaml:15: toy_agent: resources_server: there is no server 'tay' of kind",
        "toy.yaml:19: the command: num_workers: should be greater than or equal to 1 (got 0)",
        "toy.yaml:20: the command: max_attempts: should be a valid integer",
        "toy.yaml:4: policy_model: answer: should be a valid string (got [1])",
        "toy.yaml:4: policy_model: there is no setting 'anwser'; did you mean 'answer'?",
        "toy.yaml:8: toy: success_threshold: should be a valid number",
        "toy.yaml:14: toy_agent: max_steps: should be greater than or equal to 1 (got 0)",
        "toy.yaml:18: toy_agent: datasets.0: there is no file nowhere.jsonl",
        "toy.yaml:9: toy: port: policy_model listens on 7001 already",
    ):
        assert words in done.stderr, done.stderr
    assert "model_server is required" not in done.stderr
    assert not (project.path / ".nemo_like").exists()


@pytest.mark.parametrize("command", ["ng_validate", "ng_dump_config"])
def test_a_server_without_its_library_is_told_without_a_traceback(project: Project, command: str) -> None:
    write_toys(project.path)
    (project.path / "resources_servers/toy/app.py").write_text("import no_such_library")
    done = project.run(command, TOY)
    assert "Traceback" not in done.stderr
    if command == "ng_validate":
        assert "toy.yaml:7: toy: " in done.stderr and "no_such_library" in done.stderr
