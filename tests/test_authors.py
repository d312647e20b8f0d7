"""What authors have: scaffolds whose tests pass, and probes that tell a good verifier from a bad one."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from nemo_like.errors import ConfigError
from nemo_like.probes import Outcome, trial
from nemo_like.supervisor import running

from .conftest import Project

ENVIRONMENTS = sorted(
    path.parent.name for path in (Path(__file__).parent.parent / "resources_servers").glob("*/app.py")
)
LENIENT = '''
from nemo_like.server import ResourcesServer

class Lenient(ResourcesServer):
    """Content with any answer that holds the right one."""
    async def verify(self, task, response):
        return float(task.expected_answer in response.text)
'''
STRICT = LENIENT.replace("task.expected_answer in response.text", "response.text == 'no one says this'")
RAISING = LENIENT.replace("float(task.expected_answer in response.text)", "1 / 0")


def outcomes(name: str, *arguments: str, n: int = 0) -> list[Outcome]:
    async def main() -> list[Outcome]:
        tried = trial(name, ["in_process=true", *arguments], num_generated=n)
        async with running(tried.config) as supervisor, supervisor.client() as client:
            return await tried.run(client)

    return asyncio.run(main())


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_every_environment_rewards_its_gold_and_no_hack(project: Project, name: str) -> None:
    tried = outcomes(name)
    assert [outcome.problem for outcome in tried if outcome.problem] == []
    assert sum(outcome.probe.is_gold for outcome in tried) >= 5
    anything_goes = name == "example_single_tool_call"
    assert anything_goes or {"empty", "blank"} < {outcome.probe.name for outcome in tried}


@pytest.mark.parametrize(
    "name", ["arithmetic", "word_count", "mcqa", "gsm8k_like", "example_session_state_mgmt"]
)
def test_hacks_fail_on_what_the_generator_makes_too(project: Project, name: str) -> None:
    assert [outcome.problem for outcome in outcomes(name, n=25) if outcome.problem] == []


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (LENIENT, "one, then the other is rewarded: reward 1 for "),
        (STRICT, "gold is not rewarded: reward 0 for "),
    ]
    + [(RAISING, "gold: failed: mirror: verifier_error (500): ZeroDivisionError")],
)
def test_a_bad_verifier_is_found_out(project: Project, code: str, words: str) -> None:
    assert project.run("ng_init_resources_server", "+entrypoint=resources_servers/mirror").returncode == 0
    (project.path / "resources_servers/mirror/app.py").write_text(code)
    problems = [outcome.problem for outcome in outcomes("mirror") if outcome.problem]
    assert any(f"row 0: {words}" in problem for problem in problems), problems


def test_ng_validate_env_says_what_was_tried_and_fails_a_bad_environment(
    project: Project, no_orphans: None
) -> None:
    project.run("ng_init_resources_server", "+entrypoint=resources_servers/mirror")
    good = project.run("ng_validate_env", "mirror", "+n=7")
    assert (good.returncode, good.stderr) == (0, "")
    assert (
        "ok    gold: 7 of 7 rewarded" in good.stdout and "ok    the word: 7 of 7 not rewarded" in good.stdout
    )
    (project.path / "resources_servers/mirror/app.py").write_text(LENIENT)
    bad = project.run("ng_validate_env", "mirror")
    assert bad.returncode == 1
    assert "FAIL  one, then the other: 0 of 5 not rewarded" in bad.stdout
    assert "row 0: one, then the other is rewarded" in bad.stderr


def test_an_environment_without_probes_is_told_how_to_get_them(project: Project) -> None:
    project.run("ng_init_resources_server", "+entrypoint=resources_servers/mirror")
    (project.path / "resources_servers/mirror/probes.py").unlink()
    with pytest.raises(ConfigError, match=r"probes\.py; write gold\(row\) and hacks\(row\) there"):
        trial("mirror")
    with pytest.raises(ConfigError, match="no environment named 'mirorr'; did you mean 'mirror'"):
        trial("mirorr")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "entrypoint"),
    [
        ("ng_init_resources_server", "resources_servers/mirror"),
        ("ng_init_agent", "agents/ask_twice"),
        ("ng_init_agent", "responses_api_agents/ask_twice"),
        ("ng_init_model", "responses_api_models/echo_model"),
    ],
)
def test_the_test_of_a_scaffold_passes_as_it_is(project: Project, command: str, entrypoint: str) -> None:
    begun = project.run(command, f"+entrypoint={entrypoint}")
    assert begun.returncode == 0 and f"next: ng_test +entrypoint={entrypoint}" in begun.stdout
    done = project.run("ng_test", f"+entrypoint={entrypoint}", timeout_s=110)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
    text = "".join(
        path.read_text() for path in (project.path / entrypoint).rglob("*.*") if path.suffix != ".pyc"
    )
    assert "my_" not in text.replace("my_model=", "") and "MyAgent" not in text


def test_a_scaffold_overwrites_nothing_and_has_a_sound_name(project: Project) -> None:
    (project.path / "agents/mine").mkdir(parents=True)
    for entrypoint, words in (
        ("agents/mine", "agents/mine exists; choose another name"),
        ("resources_servers/mine", "should be agents/NAME"),
        ("agents/Mine-2", "a name has small letters, digits and _ (got 'Mine-2')"),
    ):
        done = project.run("ng_init_agent", f"+entrypoint={entrypoint}")
        assert done.returncode == 2 and words in done.stderr, done.stderr


@pytest.mark.slow
def test_ng_test_finds_broken_tests_and_broken_data(project: Project) -> None:
    project.run("ng_init_resources_server", "+entrypoint=resources_servers/mirror")
    folder = project.path / "resources_servers/mirror"
    (folder / "tests/test_app.py").write_text("def test_no(): assert False\n")
    assert project.run("ng_test", "+entrypoint=resources_servers/mirror").returncode == 1
    (folder / "tests/test_app.py").unlink()
    with (folder / "data/example.jsonl").open("a") as file:
        file.write('{"reward": 1}\n')
    done = project.run("ng_test", "+entrypoint=resources_servers/mirror")
    assert done.returncode == 1
    assert "example.jsonl:6: the field 'reward' belongs to rollouts" in done.stderr
    assert "there are no tests in" in done.stdout
