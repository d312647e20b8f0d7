"""What there is, and whether the machine is fit."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from benchmarks.run import mock_endpoint
from nemo_like.checkup import Finding, findings
from nemo_like.config import content_root
from nemo_like.content import Entry, entries
from nemo_like.rewards import rewards

from .conftest import Project
from .toys import write_toys

ROOT = Path(__file__).parent.parent


def found(project: Project) -> dict[tuple[str, str], Entry]:
    return {(e.kind, e.name): e for e in entries([project.path, content_root()])}


def test_everything_there_is_has_a_line_and_ones_own_folders_come_first(project: Project) -> None:
    write_toys(project.path)
    own = project.path / "resources_servers/arithmetic"
    own.mkdir(parents=True)
    (own / "app.py").write_text('class Mine(ResourcesServer):\n    """Sums of mine.\n\n    More."""\n')
    there = found(project)
    assert [name for (_, name), entry in there.items() if not entry.about] == ["toy", "toy"]
    assert there["environments", "arithmetic"].about == "Sums of mine"
    assert there["environments", "word_count"].domain == "instruction_following"
    assert there["agents", "simple_agent"].about.startswith("Calls the model, runs the tools")
    assert ("models", "openai") in there and ("models", "toy") in there
    assert {name for kind, name in there if kind == "rewards"} == {*rewards.names()}


def test_the_list_can_be_narrowed_and_read_by_a_program(project: Project) -> None:
    shown = project.run("ng_list", "environments", "+filter=word", "+json=true").stdout
    rows = [json.loads(line) for line in shown.splitlines()]
    assert {row["kind"] for row in rows} == {"environments"}
    assert "word_count" in {row["name"] for row in rows}
    wrong = project.run("ng_list", "reward")
    assert wrong.returncode == 2 and "did you mean 'rewards'?" in wrong.stderr


def test_ng_help_names_every_command_with_a_line_and_the_readme_names_it_too(project: Project) -> None:
    shown = project.run("ng_help").stdout.split("\n\n")[0].splitlines()
    lines = {line.split()[0]: line.split(maxsplit=1)[1:] for line in shown}
    scripts = (ROOT / "pyproject.toml").read_text().split("[project.scripts]")[1].split("\n\n")[0]
    assert {*lines} == {line.split()[0] for line in scripts.strip().splitlines()}
    assert [name for name, said in lines.items() if not said] == []
    assert [name for name in lines if f"`{name}`" not in (ROOT / "README.md").read_text()] == []


def by_name(*looked: Finding) -> dict[str, Finding]:
    return {finding.what: finding for finding in looked}


def test_the_machine_that_runs_the_tests_is_fit(project: Project) -> None:
    looked = by_name(*findings())
    assert [finding for finding in looked.values() if finding.state == "fail"] == []
    assert {"Python", "open files", "disk", "ports", "libgomp", "sandbox", "browser", "GPU"} <= {*looked}
    assert looked["extra rewards"].state == "ok"
    assert looked["endpoint"].found == "none configured"


@pytest.mark.parametrize(
    ("key", "state", "words"),
    [("right", "ok", "accepted"), ("wrong", "fail", "refused (401)"), ("", "fail", "none")],
)
def test_the_endpoint_is_asked_whether_it_takes_the_key(key: str, state: str, words: str) -> None:
    with mock_endpoint("--key", "right") as url:
        looked = by_name(*findings(base_url=url, api_key=key))
    assert looked["endpoint"].state == "ok"
    assert looked["key"].state == state and words in looked["key"].found


def test_an_endpoint_that_is_not_there_fails_the_checkup(project: Project) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    (project.path / "env.yaml").write_text(f"policy_base_url: {url}\npolicy_api_key: s3cret-key\n")
    done = project.run("ng_doctor")
    assert done.returncode == 1
    assert f"fail  endpoint: {url}" in done.stdout and "check policy_base_url" in done.stdout
    assert "s3cret" not in done.stdout + done.stderr
