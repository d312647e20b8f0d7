"""Collecting, as a person does it: the command, its files, its figures, and its words when it is wrong."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest

from .conftest import Json, Project, read_jsonl, write_jsonl
from .toys import TOY, task, write_tasks, write_toys

INPUT, OUTPUT = "+input_jsonl_fpath=tasks.jsonl", "+output_jsonl_fpath=out/r.jsonl"


@pytest.fixture
def toys(project: Project, no_orphans: None) -> Project:
    write_toys(project.path)
    return project


def collect(project: Project, *arguments: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    return project.run("ng_collect_rollouts", TOY, INPUT, OUTPUT, *arguments, timeout_s=timeout_s)


def identities(rows: list[Json]) -> Counter[tuple[str, int]]:
    return Counter((row["_ng_task_key"], row["_ng_rollout_index"]) for row in rows)


def asked_times(project: Project) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in (project.path / "marks").iterdir()}


def metrics(project: Project) -> Json:
    [summary] = json.loads((project.path / "out/r_aggregate_metrics.json").read_text())
    return summary


def test_a_collection_leaves_records_metrics_and_the_run_beside_each_other(toys: Project) -> None:
    write_tasks(toys.path / "tasks.jsonl", 6)
    done = collect(
        toys, "+num_repeats=2", "+num_samples_in_parallel=3", "+responses_create_params.temperature=0.5"
    )
    assert done.returncode == 0, done.stderr
    rows = toys.rows("out/r.jsonl")
    assert len(rows) == 12 and set(identities(rows).values()) == {1}
    right = [row for row in rows if row["answer"] == "four"]
    assert [(row["reward"], row["success"]) for row in right] == [(1.0, True)] * 6
    row = right[0]
    assert row["responses_create_params"] == {
        "input": row["responses_create_params"]["input"],
        "temperature": 0.5,
    }
    assert row["output"] == [{"role": "assistant", "content": "four"}]
    assert row["agent_ref"]["name"] == "toy_agent"
    assert row["metadata"]["verification_score"] == 1.0 and row["metadata"]["attempts"] == 1
    assert row["metadata"]["reasoning_steps"] == 1 and row["metadata"]["tool_calls_made"] == 0
    assert {"queue_s", "model_s", "tools_s", "verify_s", "total_s"} <= set(row["metadata"])
    summary = metrics(toys)
    assert summary["key_metrics"]["avg_reward"] == 0.5
    assert (summary["num_tasks"], summary["num_rollouts"], summary["num_failed"]) == (6, 12, 0)
    shown = json.loads(done.stdout[: done.stdout.index("}") + 1])
    assert shown == {"avg_reward": 0.5, "success_rate": 0.5, "avg_tool_calls": 0.0, "avg_response_length": 2}
    assert "12 of 12 rollouts are in out/r.jsonl" in done.stdout
    assert "Collecting rollouts: 100%" in done.stderr
    assert "s3cret" not in (toys.path / "out/r_run.json").read_text()


def test_the_jq_lines_of_the_documentation_work(toys: Project) -> None:
    write_tasks(toys.path / "tasks.jsonl", 4)
    collect(toys)

    def jq(line: str) -> str:
        return subprocess.run(
            line, shell=True, cwd=toys.path, capture_output=True, text=True, check=True
        ).stdout

    assert jq("jq 'select(.success == true)' out/r.jsonl | jq -s length").strip() == "2"
    counted = jq("jq '.reward' out/r.jsonl | sort -n | uniq -c").split()
    assert [float(number) for number in counted] == [2, 0.0, 2, 1.0]
    tools = "jq '.output[] | select(.tool_calls) | .tool_calls[].function.name' out/r.jsonl | sort | uniq -c"
    assert jq(tools) == ""


def test_a_second_run_does_only_what_is_owed(toys: Project) -> None:
    write_tasks(toys.path / "tasks.jsonl", 5)
    assert collect(toys, "+limit=2").returncode == 0
    assert collect(toys).returncode == 0
    assert collect(toys, "+num_repeats=2", "+num_samples_in_parallel=1").returncode == 0
    done = collect(toys, "+num_repeats=2")
    assert done.returncode == 0
    assert asked_times(toys) == {f"question {i}": 2 for i in range(5)}
    assert set(identities(toys.rows("out/r.jsonl")).values()) == {1}
    assert len(toys.rows("out/r.jsonl")) == 10


def test_rows_of_tasks_that_are_gone_stay_but_enter_no_metric(toys: Project) -> None:
    write_tasks(toys.path / "tasks.jsonl", 4)
    collect(toys)
    write_jsonl(toys.path / "tasks.jsonl", [task("question 1"), task("new")])
    done = collect(toys)
    assert "3 more there are of tasks not in this input" in done.stdout
    assert len(toys.rows("out/r.jsonl")) == 5
    assert metrics(toys)["num_tasks"] == 2


def test_equal_rows_are_tasks_of_their_own(toys: Project) -> None:
    write_jsonl(toys.path / "tasks.jsonl", [task("same")] * 3)
    collect(toys)
    assert asked_times(toys) == {"same": 3}
    assert len(identities(toys.rows("out/r.jsonl"))) == 3


def test_another_model_or_sampling_is_refused_with_what_differs(toys: Project) -> None:
    write_tasks(toys.path / "tasks.jsonl", 2)
    collect(toys, "+responses_create_params.temperature=1.0")
    before = (toys.path / "out/r.jsonl").read_bytes()
    done = collect(
        toys,
        "+responses_create_params.temperature=0.7",
        "++policy_model.responses_api_models.toy_model.answer=x",
    )
    assert done.returncode == 1
    assert "temperature=1.0, now 0.7" in done.stderr
    assert "model_server.answer=None, now x" in done.stderr
    assert (toys.path / "out/r.jsonl").read_bytes() == before
    again = collect(toys, "+overwrite=true", "+responses_create_params.temperature=0.7")
    assert again.returncode == 0
    assert {row["responses_create_params"]["temperature"] for row in toys.rows("out/r.jsonl")} == {0.7}


def test_parameters_that_hold_a_secret_are_redacted_and_still_resume(toys: Project) -> None:
    write_tasks(toys.path / "tasks.jsonl", 2)
    secret = "+responses_create_params.metadata={api_key: s3cret-too, run: 7}"
    assert collect(toys, secret, "+limit=1").returncode == 0
    done = collect(toys, secret)
    assert done.returncode == 0, done.stderr
    assert len(toys.rows("out/r.jsonl")) == 2
    assert "s3cret" not in (toys.path / "out/r_run.json").read_text()


def test_overwriting_deletes_nothing_where_the_run_can_not_begin(toys: Project) -> None:
    write_tasks(toys.path / "tasks.jsonl", 2)
    collect(toys)
    before = (toys.path / "out/r.jsonl").read_bytes()
    (toys.path / "bad.jsonl").write_text("{\n")
    done = toys.run("ng_collect_rollouts", TOY, "+input_jsonl_fpath=bad.jsonl", OUTPUT, "+overwrite=true")
    assert done.returncode == 2
    assert (toys.path / "out/r.jsonl").read_bytes() == before


def test_where_and_how_it_runs_may_change_between_runs(toys: Project) -> None:
    write_tasks(toys.path / "tasks.jsonl", 4)
    assert collect(toys, "+limit=2").returncode == 0
    changed = [
        *(
            "num_workers=2",
            "++policy_model.responses_api_models.toy_model.api_key=other",
            "+rollout_timeout_s=99",
        ),
        "++toy_agent.responses_api_agents.simple_agent.rollout_timeout_s=55",
    ]
    assert collect(toys, *changed).returncode == 0
    assert len(toys.rows("out/r.jsonl")) == 4


def test_a_failed_rollout_is_data_and_the_run_goes_on(toys: Project) -> None:
    asked = ["fine", "fail model_error", "fail timeout 1", "fail bad_request", "lie"]
    write_jsonl(toys.path / "tasks.jsonl", [task(text) for text in asked])
    done = collect(toys)
    assert done.returncode == 0
    rows = {row["responses_create_params"]["input"]: row for row in toys.rows("out/r.jsonl")}
    assert set(rows) == {"fine", "fail timeout 1"}
    assert rows["fail timeout 1"]["metadata"]["attempts"] == 2
    failures = toys.rows("out/r_failures.jsonl")
    by_task = Counter(row["responses_create_params"]["input"] for row in failures)
    assert by_task == {"fail model_error": 3, "fail timeout 1": 1, "fail bad_request": 1, "lie": 3}
    last = [
        row["failure"] for row in failures if row["responses_create_params"]["input"] == "fail model_error"
    ][-1]
    assert last == {
        "kind": "model_error",
        "where": "provider",
        "message": "as asked: model_error",
        "status": 500,
        "attempts": 3,
        "terminal": True,
    }
    assert metrics(toys)["num_failed"] == 3
    assert "model_error in provider, 3 attempts; the last: as asked: model_error" in done.stdout


ODD_AGENT = """
from nemo_like.server import AgentConfig, AgentServer

class Odd(AgentServer[AgentConfig]):
    async def responses(self, params, calls):
        return await calls.model({"input": [{"role": "user", "content": params["input"]}]})

    async def run(self, row):
        is_odd = row["responses_create_params"]["input"] == "odd"
        return await super().run(row) | {"metadata": {"model_s": "long"} if is_odd else ["mine"]}
"""


def test_an_agents_answer_of_odd_shape_is_a_failure_of_its_rollout_alone(toys: Project) -> None:
    (toys.path / "agents/odd").mkdir(parents=True)
    (toys.path / "agents/odd/app.py").write_text(ODD_AGENT)
    stack = toys.path / "toy.yaml"
    stack.write_text(stack.read_text().replace("simple_agent:", "odd:"))
    write_jsonl(toys.path / "tasks.jsonl", [task("fine"), task("odd")])
    done = collect(toys, "+max_attempts=1")
    assert [row["reward"] for row in toys.rows("out/r.jsonl")] == [1.0], done.stderr
    [failed] = toys.rows("out/r_failures.jsonl")
    assert (failed["failure"]["kind"], failed["failure"]["where"]) == ("bad_response", "toy_agent")


def test_attempts_of_earlier_runs_count_and_a_higher_bound_tries_again(toys: Project) -> None:
    write_jsonl(toys.path / "tasks.jsonl", [task("fine"), task("fail model_error 4")])
    collect(toys)
    exhausted = collect(toys)
    assert asked_times(toys)["fail model_error 4"] == 3
    assert "1 failed too often" in exhausted.stdout
    assert collect(toys, "+max_attempts=9").returncode == 0
    assert asked_times(toys)["fail model_error 4"] == 5
    assert len(toys.rows("out/r.jsonl")) == 2


def test_a_wrong_key_stops_the_run_early_in_the_providers_words_and_costs_no_attempt(toys: Project) -> None:
    write_jsonl(toys.path / "tasks.jsonl", [task("fail unauthorized 60")] * 500)
    done = collect(toys, "+num_samples_in_parallel=4")
    assert done.returncode == 1
    assert (
        "stopped: 24 rollouts in a row failed in the same way: provider: unauthorized (401): as asked"
        in done.stderr
    )
    assert len(toys.rows("out/r_failures.jsonl")) < 60
    for _ in range(3):
        collect(toys, "+num_samples_in_parallel=4")
    assert len(toys.rows("out/r.jsonl")) == 500


def test_a_worker_that_dies_costs_its_rollouts_an_attempt_at_most(toys: Project) -> None:
    write_jsonl(toys.path / "tasks.jsonl", [*(task(f"question {i}") for i in range(30)), task("exit 1")])
    done = collect(toys, "+num_samples_in_parallel=8")
    assert done.returncode == 0, done.stderr
    assert len(toys.rows("out/r.jsonl")) == 31
    assert {row["failure"]["kind"] for row in toys.rows("out/r_failures.jsonl")} == {"unreachable"}


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_keeps_what_was_finished_and_resumes(toys: Project, signal_number: int) -> None:
    write_jsonl(toys.path / "tasks.jsonl", [*(task(f"question {i}") for i in range(20)), task("stall 100")])
    with toys.start("ng_collect_rollouts", TOY, INPUT, OUTPUT, "+num_samples_in_parallel=2") as process:
        wait_for_rows(toys.path / "out/r.jsonl", 20)
        process.send_signal(signal_number)
        _, err = process.communicate(timeout=15)
    assert process.returncode == 130
    assert "interrupted; what was finished is kept, the same command resumes" in err
    assert "Traceback" not in err
    assert len(toys.rows("out/r.jsonl")) == 20
    assert (toys.path / "out/r_aggregate_metrics.json").exists()


@pytest.mark.parametrize("layout", ["colocate=true", "colocate=false"])
def test_what_is_stuck_is_shown_on_demand_with_its_stage(toys: Project, layout: str) -> None:
    write_jsonl(toys.path / "tasks.jsonl", [task("fine"), task("stall 100")])
    with toys.start("ng_collect_rollouts", TOY, INPUT, OUTPUT, layout) as process:
        wait_for_rows(toys.path / "out/r.jsonl", 1)
        stage = re.compile(r"\.0\.\d+\.\d{6}: [\d.]+ s, [\d.]+ s of it in policy_model/v1/responses$")
        assert process.stderr is not None
        line = ""
        while not stage.search(line.strip()):
            # In its first milliseconds a call may still be on its way from server to server.
            if not line or " s of it in " in line:
                process.send_signal(signal.SIGUSR1)
            line = process.stderr.readline()
            assert line, "it ended"
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=15)


def wait_for_rows(path: Path, n: int) -> None:
    deadline = time.monotonic() + 30
    while not path.exists() or path.read_bytes().count(b"\n") < n:
        assert time.monotonic() < deadline, "the rows did not come"
        time.sleep(0.01)


@pytest.mark.slow
def test_killed_at_any_moment_and_resumed_each_rollout_is_there_exactly_once(toys: Project) -> None:
    write_tasks(toys.path / "tasks.jsonl", 300)
    rng = random.Random(0)
    for _ in range(8):
        with toys.start(
            "ng_collect_rollouts", TOY, INPUT, OUTPUT, "+num_repeats=2", "+num_samples_in_parallel=8"
        ) as process:
            time.sleep(rng.uniform(0.3, 1.6))
            process.send_signal(signal.SIGKILL)
            process.communicate()
        path = toys.path / "out/r.jsonl"
        if path.exists() and rng.random() < 0.5:
            os.truncate(path, max(0, path.stat().st_size - rng.randint(0, 700)))
    done = collect(toys, "+num_repeats=2")
    assert done.returncode == 0, done.stderr
    found = identities(toys.rows("out/r.jsonl"))
    assert len(found) == 600
    assert set(found.values()) == {1}


def test_two_collectors_on_one_output_are_kept_apart(toys: Project) -> None:
    write_jsonl(toys.path / "tasks.jsonl", [task("fine"), task("stall 100")])
    with toys.start("ng_collect_rollouts", TOY, INPUT, OUTPUT) as process:
        wait_for_rows(toys.path / "out/r.jsonl", 1)
        refused = [collect(toys), collect(toys, "+overwrite=true")]
        process.send_signal(signal.SIGKILL)
        process.communicate()
    for second in refused:
        assert second.returncode == 1
        assert "is being written by another process" in second.stderr
    assert len(toys.rows("out/r.jsonl")) == 1


def test_it_finds_the_stack_that_ng_run_started_here(toys: Project) -> None:
    write_tasks(toys.path / "tasks.jsonl", 3)
    with toys.start("ng_run", TOY) as process:
        assert process.stdout is not None
        while not process.stdout.readline().startswith("Ctrl-C"):
            assert process.poll() is None
        done = toys.run("ng_collect_rollouts", INPUT, OUTPUT, "+agent_name=toy_agent")
        unknown = toys.run(
            "ng_collect_rollouts", INPUT, "+output_jsonl_fpath=x.jsonl", "+agent_name=toy_agnt"
        )
        process.send_signal(signal.SIGINT)
        process.wait(10)
    assert done.returncode == 0, done.stderr
    assert len(toys.rows("out/r.jsonl")) == 3
    assert unknown.returncode == 2
    assert "tasks.jsonl:1: there is no agent 'toy_agnt'; did you mean 'toy_agent'?" in unknown.stderr


def mistakes() -> dict[str, tuple[list[str], int, str]]:
    return {
        "no stack": ([INPUT, OUTPUT], 1, "no run answers in this directory"),
        "no input": (
            [TOY, "+input_jsonl_fpath=no.jsonl", OUTPUT],
            2,
            "there is no file no.jsonl (looked in ",
        ),
        "bad row": ([TOY, "+input_jsonl_fpath=bad.jsonl", OUTPUT], 2, "bad.jsonl:2: not JSON"),
        "limit": ([TOY, INPUT, OUTPUT, "+limit=0"], 2, "limit: should be greater than or equal to 1 (got 0)"),
        "typo": ([TOY, INPUT, OUTPUT, "+num_repeat=3"], 2, "'num_repeat'; did you mean 'num_repeats'?"),
        "no output": ([TOY, INPUT], 2, "the command: output_jsonl_fpath is required"),
        "input is output": (
            [TOY, INPUT, "+output_jsonl_fpath=tasks.jsonl"],
            2,
            "output_jsonl_fpath is the input",
        ),
        "not jsonl": ([TOY, INPUT, "+output_jsonl_fpath=r.parquet"], 2, "should name a .jsonl file"),
        "too parallel": (
            [TOY, INPUT, OUTPUT, "+num_samples_in_parallel=9000000"],
            2,
            "open files, the limit is",
        ),
        "resume": (
            [TOY, INPUT, "+output_jsonl_fpath=old.jsonl", "+resume_from_cache=false"],
            1,
            "old.jsonl exists",
        ),
    }


@pytest.mark.parametrize("which", mistakes())
def test_a_mistake_is_one_readable_line_and_nothing_is_sent(toys: Project, which: str) -> None:
    arguments, status, words = mistakes()[which]
    write_tasks(toys.path / "tasks.jsonl", 2)
    (toys.path / "bad.jsonl").write_text(json.dumps(task("a")) + "\n{\n")
    (toys.path / "old.jsonl").write_text("{}\n")
    done = toys.run("ng_collect_rollouts", *arguments)
    assert (done.returncode, done.stdout) == (status, "")
    [line] = done.stderr.strip().splitlines()
    assert line.startswith("ng_collect_rollouts: ")
    assert words in line
    assert not (toys.path / "marks").exists()
    assert not (toys.path / "out").exists()


@pytest.mark.parametrize(
    "command", ["ng_run", "ng_collect_rollouts", "ng_make_data", "ng_status", "ng_version"]
)
def test_every_command_helps(project: Project, command: str) -> None:
    done = project.run(command, "--help")
    assert done.returncode == 0
    assert re.search(rf"^{command} ", done.stdout, re.MULTILINE)
    assert done.stderr == ""


def test_version_names_what_it_stands_on(project: Project) -> None:
    done = project.run("ng_version")
    assert done.returncode == 0
    assert done.stdout.startswith("nemo-like 0.")


def test_null_parameters_mean_their_defaults(toys: Project) -> None:
    write_tasks(toys.path / "tasks.jsonl", 2)
    done = collect(toys, "+limit=null", "+num_repeats=null", "+num_samples_in_parallel=null")
    assert done.returncode == 0, done.stderr
    assert len(read_jsonl(toys.path / "out/r.jsonl")) == 2
