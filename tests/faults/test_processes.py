"""Processes that die, and people who press Ctrl-C twice."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import time
from collections import Counter

import pytest

from ..conftest import BIN, Project, worker_pids, write_jsonl
from ..test_collect import INPUT, OUTPUT, wait_for_rows
from ..toys import TOY, task, write_tasks, write_toys

OWN = "++policy_model.responses_api_models.toy_model.process=own"


@pytest.fixture
def toys(project: Project, no_orphans: None) -> Project:
    write_toys(project.path)
    return project


@pytest.mark.slow
def test_a_killed_model_server_comes_back_and_the_run_goes_on(toys: Project) -> None:
    tasks = [task(f"question {i}") for i in range(30)]
    write_jsonl(toys.path / "tasks.jsonl", [*tasks[:15], task("exit 2"), *tasks[15:]])
    done = toys.run("ng_collect_rollouts", TOY, INPUT, OUTPUT, OWN, "+num_samples_in_parallel=4")
    assert done.returncode == 0, done.stderr
    assert len(toys.rows("out/r.jsonl")) == 31
    assert "it is back as process" in done.stderr
    kinds = {row["failure"]["kind"] for row in toys.rows("out/r_failures.jsonl")}
    assert kinds <= {"unreachable", "session_lost"}


@pytest.mark.slow
@pytest.mark.parametrize("layout", [["num_workers=2"], ["colocate=false"]])
def test_workers_killed_at_random_cost_no_rollout(toys: Project, layout: list[str]) -> None:
    write_tasks(toys.path / "tasks.jsonl", 400)
    rng = random.Random(0)
    with toys.start(
        "ng_collect_rollouts", TOY, INPUT, OUTPUT, *layout, "+num_samples_in_parallel=8"
    ) as process:
        wait_for_rows(toys.path / "out/r.jsonl", 1)
        for _ in range(2):
            for pid in rng.sample(sorted(worker_pids(toys.path)), 1):
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.3)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, out + err
    found = Counter((row["_ng_task_key"], row["_ng_rollout_index"]) for row in toys.rows("out/r.jsonl"))
    assert len(found) == 400
    assert set(found.values()) == {1}


@pytest.mark.slow
def test_a_worker_that_dies_with_many_in_flight_does_not_look_like_a_hopeless_run(toys: Project) -> None:
    write_jsonl(toys.path / "tasks.jsonl", [task(f"stall 0.5{i}") for i in range(100, 180)])
    with toys.start("ng_collect_rollouts", TOY, INPUT, OUTPUT, "+num_samples_in_parallel=60") as process:
        wait_for_marks(toys, 60)
        [worker] = worker_pids(toys.path)
        os.kill(worker, signal.SIGKILL)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, out + err
    assert len(toys.rows("out/r.jsonl")) == 80
    assert len(toys.rows("out/r_failures.jsonl")) >= 24


def wait_for_marks(toys: Project, n: int) -> None:
    """Wait until the toy model was asked `n` questions."""
    deadline = time.monotonic() + 30
    while not (toys.path / "marks").exists() or len(list((toys.path / "marks").iterdir())) < n:
        assert time.monotonic() < deadline, "they were not asked"
        time.sleep(0.01)


@pytest.mark.slow
def test_a_second_ctrl_c_ends_at_once_and_what_was_finished_is_there(toys: Project) -> None:
    write_jsonl(toys.path / "tasks.jsonl", [task("fine"), task("stall 100")])
    with toys.start("ng_collect_rollouts", TOY, INPUT, OUTPUT) as process:
        wait_for_rows(toys.path / "out/r.jsonl", 1)
        process.send_signal(signal.SIGINT)
        time.sleep(0.05)
        start = time.monotonic()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
    assert time.monotonic() - start < 10
    assert process.returncode == 130
    assert len(toys.rows("out/r.jsonl")) == 1


def test_too_few_files_are_refused_before_the_start_by_name(toys: Project) -> None:
    write_tasks(toys.path / "tasks.jsonl", 2)
    many = "+num_samples_in_parallel=64"
    command = f"ulimit -n 200 && exec {BIN}/ng_collect_rollouts {TOY} {INPUT} {OUTPUT} {many}"
    done = subprocess.run(
        ["bash", "-c", command.replace("[", "\\[")],
        cwd=toys.path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "num_samples_in_parallel=64 needs 228 open files, the limit is 200 (ulimit -Hn)" in done.stderr
    assert "at most 50 are possible" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("who", ["workers", "collector"])
def test_running_out_of_files_in_the_middle_of_a_run_costs_no_rollout(toys: Project, who: str) -> None:
    write_tasks(toys.path / "tasks.jsonl", 3000)
    arguments = (TOY, INPUT, OUTPUT, "+num_samples_in_parallel=32", "colocate=false", "+max_attempts=1")
    with toys.start("ng_collect_rollouts", *arguments) as process:
        wait_for_rows(toys.path / "out/r.jsonl", 50)
        for pid in worker_pids(toys.path) if who == "workers" else {process.pid}:
            _, most = resource.prlimit(pid, resource.RLIMIT_NOFILE)
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (12, most))
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1, err
    assert "Too many open files" in err
    again = toys.run("ng_collect_rollouts", *arguments)
    assert again.returncode == 0, again.stderr
    found = Counter((row["_ng_task_key"], row["_ng_rollout_index"]) for row in toys.rows("out/r.jsonl"))
    assert len(found) == 3000
    assert set(found.values()) == {1}
