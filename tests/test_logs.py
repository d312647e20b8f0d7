"""Logs: which file what goes to, what is never in them, how long they may be, and how they are shown."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.run import mock_endpoint
from nemo_like import logs
from nemo_like.logs import file_of, new_run, trim, without_secrets

from .conftest import Project
from .toys import TOY, task, write_tasks, write_toys

LOUD = """
import logging
from nemo_like.server import ResourcesServer
log = logging.getLogger(__name__)
print("loaded")

class Toy(ResourcesServer):
    async def verify(self, task, response):
        print("printed: the key is s3cret-key")
        log.info("judging")
        log.debug("in detail")
        return 1.0
"""
COLLECT = ("+agent_name=toy_agent", "+input_jsonl_fpath=tasks.jsonl", "+output_jsonl_fpath=r.jsonl")
KEY = "sk-proj-Ab12Cd34Ef56Gh78"


@pytest.fixture
def loud(project: Project, no_orphans: None) -> Project:
    write_toys(project.path)
    (project.path / "resources_servers/toy/app.py").write_text(LOUD)
    write_tasks(project.path / "tasks.jsonl", 1)
    return project


def latest(project: Project) -> Path:
    return project.path / ".nemo_like/logs/latest"


@pytest.mark.parametrize("layout", ["colocate=true", "num_workers=2", "in_process=true"])
def test_what_a_server_says_stands_in_its_own_file(loud: Project, layout: str) -> None:
    done = loud.run("ng_collect_rollouts", TOY, layout, *COLLECT)
    assert done.returncode == 0, done.stderr
    said = (latest(loud) / "toy.log").read_text()
    assert "judging" in said and "in detail" not in said
    if layout != "in_process=true":
        assert "loaded" in said and "printed: the key is ***" in said
    assert (latest(loud) / "toy_agent.log").read_text() == ""


def test_the_level_of_the_logs_can_be_chosen(loud: Project) -> None:
    assert loud.run("ng_collect_rollouts", TOY, *COLLECT, "+log_level=debug").returncode == 0
    assert "in detail" in (latest(loud) / "toy.log").read_text()
    assert (
        loud.run("ng_collect_rollouts", TOY, *COLLECT, "+overwrite=true", "+log_level=error").returncode == 0
    )
    assert "judging" not in (latest(loud) / "toy.log").read_text()
    refused = loud.run("ng_status", "+log_level=loud")
    assert refused.returncode == 2 and "log_level: should be 'debug', 'info'" in refused.stderr


def test_every_run_has_a_folder_and_the_oldest_are_deleted(project: Project) -> None:
    made = [new_run() for _ in range(3)]
    assert len({*made}) == 3
    assert latest(project).resolve() == (project.path / made[-1]).resolve()
    for n in range(logs.KEPT_RUNS + 5):
        (logs.LOG_DIR / f"20200101-0000{n:02}-999999999").mkdir()
    new_run()
    kept = [folder.name for folder in logs.runs()]
    # This process is alive, so what it writes to stays.
    assert len(kept) == logs.KEPT_RUNS and {folder.name for folder in made} <= {*kept}


def test_a_file_that_grows_too_long_keeps_its_end(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = new_run()
    with file_of(folder, "toy").open("a") as file:
        file.write("old\n" + "x" * logs.MAX_BYTES + "new\n")
        file.flush()
        trim(folder)
        file.write("newest\n")
    assert file_of(folder, "toy").read_text() == "newest\n"
    assert (folder / "toy.log.1").read_text().endswith("xnew\n")
    assert (folder / "toy.log.1").stat().st_size <= logs.MAX_BYTES // 2


def test_a_real_key_is_nowhere_after_a_provider_has_refused_it_and_named_it(project: Project) -> None:
    (project.path / "tasks.jsonl").write_text(
        '{"responses_create_params": {"input": "?"}, "expected_answer": "1"}'
    )
    with mock_endpoint("--key", "another") as url:
        done = project.run(
            *("ng_collect_rollouts", "model=openai", "env=arithmetic", f"+policy_base_url={url}"),
            *(f"+policy_api_key={KEY}", "+policy_model_name=m", *COLLECT[1:], "+log_level=debug"),
        )
    assert "unauthorized" in done.stdout
    files = [path for path in project.path.rglob("*") if path.is_file()]
    assert any(path.suffix == ".log" for path in files)
    shown = (
        done.stdout + done.stderr + "".join(path.read_bytes().decode("utf-8", "replace") for path in files)
    )
    assert KEY not in shown and KEY[8:] not in shown


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("Authorization: Bearer abcdefgh12345", "Authorization: Bearer ***"),
        ("{'authorization': 'Bearer abcdefgh12345'}", "{'authorization': 'Bearer ***'}"),
        ("Incorrect API key provided: sk-abcdefgh1234.", "Incorrect API key provided: sk-***."),
        ("api_key=abc, x=1", "api_key=***, x=1"),
        ('{"hf_password": "abc"}', '{"hf_password": "***"}'),
        ("http://me:abc@host/v1", "http://me:***@host/v1"),
        ("max_output_tokens: 50, the key is wrong", "max_output_tokens: 50, the key is wrong"),
        ("the basic idea; a bearer of news", "the basic idea; a bearer of news"),
    ],
)
def test_what_looks_like_a_secret_is_hidden(text: str, clean: str) -> None:
    assert without_secrets(text) == clean


@given(st.text(), st.text(), st.text(min_size=4))
def test_a_known_secret_never_comes_through(before: str, after: str, secret: str) -> None:
    assert secret not in without_secrets(before + secret + after, [secret]).replace("***", "\0")


def test_ng_logs_shows_the_last_lines_of_all_or_of_one(loud: Project) -> None:
    assert loud.run("ng_logs").stderr.startswith("ng_logs: no run has been started in this directory")
    loud.run("ng_collect_rollouts", TOY, *COLLECT)
    every, one = loud.run("ng_logs"), loud.run("ng_logs", "toy", "+lines=1")
    assert "toy | loaded" in every.stdout and "judging" in every.stdout
    assert len(one.stdout.splitlines()) == 1 and "judging" in one.stdout
    wrong = loud.run("ng_logs", "tay")
    assert wrong.returncode == 2 and "did you mean 'toy'?" in wrong.stderr
    assert "there is no run 'x'" in loud.run("ng_logs", "+run=x").stderr


def test_ng_logs_follows_what_is_written_from_then_on(project: Project) -> None:
    folder = new_run()
    file_of(folder, "toy").write_text("first\n")
    with project.start("ng_logs", "-f") as follower:
        assert follower.stdout is not None
        assert follower.stdout.readline() == "toy | first\n"
        with file_of(folder, "toy").open("a") as file:
            file.write("second\n")
        assert follower.stdout.readline() == "toy | second\n"
        file_of(folder, "late").write_text("third\n")
        assert follower.stdout.readline() == "late | third\n"
        file_of(folder, "toy").write_text("trimmed\n")
        assert follower.stdout.readline() == "toy | trimmed\n"
        follower.send_signal(signal.SIGINT)
        assert follower.wait(10) == 130


def test_a_worker_that_dies_leaves_its_restart_in_the_log_of_the_run(loud: Project) -> None:
    (loud.path / "tasks.jsonl").write_text(json.dumps(task("exit 1")))
    done: subprocess.CompletedProcess[str] = loud.run("ng_collect_rollouts", TOY, *COLLECT)
    assert done.returncode == 0, done.stderr
    assert "it is back as process" in (latest(loud) / "run.log").read_text()
