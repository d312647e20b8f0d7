"""Rescoring, as a person does it: stored rollouts, another verdict, what has changed, and what is refused."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nemo_like import cli, rescore_commands

from .conftest import Json, Project, read_jsonl, write_jsonl
from .toys import CONFIG, TOY, task, write_tasks, write_toys

OUTPUT = "+output_jsonl_fpath=out/again.jsonl"
STORED = "+rollouts=out/r.jsonl"
VERIFY = "    async def verify(self, task: ToyTask, response: Response, state: dict) -> dict:\n"
STATELESS = """
import os, pathlib, asyncio
from nemo_like.server import ResourcesServer
from nemo_like.types import Response, Task

class ToyTask(Task):
    answer: str

class Toy(ResourcesServer):
    async def verify(self, task: ToyTask, response: Response) -> dict:
        asked = task.responses_create_params["input"]
        if pathlib.Path("broken").exists() and asked in pathlib.Path("broken").read_text():
            raise RuntimeError("the verifier is broken")
        return {"reward": float(task.answer in response.text), "strict": False}
"""
ANY_NUMBER = STATELESS.replace('float(task.answer in response.text), "strict": False', '0.5, "note": "any"')


def write_verifier(folder: Path, code: str = STATELESS) -> None:
    (folder / "resources_servers/toy/app.py").write_text(code)


@dataclass
class Folder(Project):
    """A person's folder, with the commands run in this process, which is quicker."""

    capsys: pytest.CaptureFixture[str]

    def call(self, command: Callable[[], int], *arguments: str) -> subprocess.CompletedProcess[str]:
        before, sys.argv = sys.argv, ["ng", *arguments]
        try:
            status = command()
        finally:
            sys.argv = before
        return subprocess.CompletedProcess(arguments, status, *self.capsys.readouterr())

    def rescore(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.call(rescore_commands.rescore, *arguments)

    def collect(self, *arguments: str) -> int:
        files = ("+input_jsonl_fpath=tasks.jsonl", "+output_jsonl_fpath=out/r.jsonl", "+num_repeats=2")
        return self.call(cli.collect_rollouts, TOY, *files, *arguments).returncode


@pytest.fixture
def folder(project: Project, no_orphans: None, capsys: pytest.CaptureFixture[str]) -> Folder:
    return Folder(project.path, capsys)


@pytest.fixture
def collected(folder: Folder) -> Folder:
    """A folder with six rollouts of a stateless environment, two of them right."""
    write_toys(folder.path)
    write_verifier(folder.path)
    write_tasks(folder.path / "tasks.jsonl", 3)
    assert folder.collect("+in_process=true") == 0
    return folder


def identities(rows: list[Json]) -> Counter[tuple[str, int]]:
    return Counter((row["_ng_task_key"], row["_ng_rollout_index"]) for row in rows)


def stored_rows(n: int) -> list[Json]:
    """Rollouts that were never generated."""
    said = {"type": "message", "role": "assistant", "content": "four"}
    return [
        {
            "responses_create_params": {"input": f"question {i}"},
            "answer": "four",
            "response": {"output": [said]},
            "reward": float(i % 2),
            "_ng_task_key": f"k{i:04}",
            "_ng_rollout_index": 0,
        }
        for i in range(n)
    ]


def test_an_environments_verifier_is_asked_again_and_both_rewards_are_kept(collected: Folder) -> None:
    before = (collected.path / "out/r.jsonl").read_bytes()
    write_verifier(collected.path, ANY_NUMBER)
    done = collected.rescore(TOY, STORED, OUTPUT)
    assert done.returncode == 0, done.stderr
    assert (collected.path / "out/r.jsonl").read_bytes() == before
    old, new = collected.rows("out/r.jsonl"), collected.rows("out/again.jsonl")
    assert identities(old) == identities(new)
    by_key = {(row["_ng_task_key"], row["_ng_rollout_index"]): row for row in old}
    for row in new:
        was = by_key[row["_ng_task_key"], row["_ng_rollout_index"]]
        assert (row["reward"], row["note"], row["old_reward"]) == (0.5, "any", was["reward"])
        expected = {"reward": was["reward"], "strict": False, "_ng_verifier": was["_ng_verifier"]}
        assert row["old_verdict"] == expected and "strict" not in row
        assert row["_ng_verifier"] != was["_ng_verifier"]
        assert (row["response"], row["output"], row["answer"]) == (
            was["response"],
            was["output"],
            was["answer"],
        )
        assert row["metadata"]["total_s"] == was["metadata"]["total_s"]
        assert row["success"] is False and row["metadata"]["verification_score"] == 0.5
    assert "verdicts: 4 up, 2 down, 0 same" in done.stdout
    changes = collected.rows("out/again_changes.jsonl")
    assert Counter((c["old_reward"], c["reward"]) for c in changes) == {(0.0, 0.5): 4, (1.0, 0.5): 2}
    assert f"{changes[0]['_ng_task_key']} repeat 0: {changes[0]['old_reward']:g} → 0.5" in done.stdout
    [summary] = json.loads((collected.path / "out/again_aggregate_metrics.json").read_text())
    assert summary["rescored"] == {"up": 4, "down": 2, "same": 0, "new": 0}
    assert summary["agent_metrics"]["mean/old_reward"] == pytest.approx(1 / 3)


@pytest.mark.slow
def test_neither_agent_nor_model_is_needed_or_started(collected: Folder) -> None:
    (collected.path / "responses_api_models/toy_model/app.py").write_text("raise RuntimeError('a GPU')")
    done = collected.rescore(TOY, STORED, OUTPUT)
    assert done.returncode == 0 and "6 of 6" in done.stdout, done.stderr
    alone = CONFIG[CONFIG.index("toy:") :]
    (collected.path / "alone.yaml").write_text(alone)
    done = collected.run(
        "ng_rescore", "+config_paths=[alone.yaml]", STORED, "+output_jsonl_fpath=out/b.jsonl"
    )
    assert done.returncode == 0 and "6 of 6" in done.stdout, done.stderr


@pytest.mark.slow
def test_the_servers_that_run_are_asked_and_stay(collected: Folder) -> None:
    with collected.start("ng_run", TOY, stderr=None) as process:
        assert process.stdout is not None
        while not (line := process.stdout.readline()).startswith("Ctrl-C"):
            assert line
        try:
            assert "6 of 6" in collected.rescore(STORED, OUTPUT).stdout
            assert collected.run("ng_status").returncode == 0
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 130


def test_a_verifier_that_needs_the_live_session_is_refused_with_the_reason(collected: Folder) -> None:
    takes_state = STATELESS.replace("response: Response)", "response: Response, state: dict)")
    declared = STATELESS.replace(
        "class Toy(ResourcesServer):",
        'class Toy(ResourcesServer):\n    needs_session = "it looks into the sandbox"',
    )
    for code, reason in (
        (takes_state, "its verify takes the state of the session, which ended with the rollout"),
        (declared, "it looks into the sandbox"),
    ):
        write_verifier(collected.path, code)
        done = collected.rescore(TOY, STORED, OUTPUT)
        assert done.returncode == 2
        assert f"toy can't verify stored rollouts again: {reason}" in done.stderr
        assert not (collected.path / "out/again.jsonl").exists()


def test_a_verifier_whose_state_is_what_seed_makes_is_seeded_again(collected: Folder) -> None:
    code = STATELESS.replace("response: Response)", "response: Response, state: dict)")
    seeded = """class Toy(ResourcesServer):
    needs_session = False

    async def seed(self, task: ToyTask) -> dict:
        return {"bonus": 2.0}
"""
    code = code.replace("class Toy(ResourcesServer):\n", seeded)
    code = code.replace('"reward": float', '"reward": state["bonus"] + float')
    write_verifier(collected.path, code)
    done = collected.rescore(TOY, STORED, OUTPUT, "+num_repeats=2")
    assert done.returncode == 0, done.stderr
    assert {row["reward"] for row in collected.rows("out/again.jsonl")} == {2.0, 3.0}


@pytest.mark.slow
def test_rollouts_whose_verdict_failed_are_scored_later_and_fit_into_their_file(collected: Folder) -> None:
    write_jsonl(collected.path / "tasks.jsonl", [task(f"question {i}") for i in range(5)])
    (collected.path / "broken").write_text("question 3 question 4")
    collected.collect("+max_attempts=1")
    failed = collected.rows("out/r_failures.jsonl")
    assert len(failed) == 4 and all(row["response"]["output"] for row in failed)
    (collected.path / "broken").unlink()
    done = collected.rescore(TOY, STORED, OUTPUT, "+only=failed")
    assert done.returncode == 0 and "verdicts: 0 up, 0 down, 0 same, 4 new" in done.stdout, done.stderr
    rows = collected.rows("out/again.jsonl")
    assert [(row["reward"], row["old_reward"], "failure" in row) for row in rows] == [(1.0, None, False)] * 4
    asked = {path.name: path.stat().st_size for path in (collected.path / "marks").iterdir()}
    with (collected.path / "out/r.jsonl").open("a") as file:
        file.write((collected.path / "out/again.jsonl").read_text())
    assert collected.collect() == 0
    assert asked == {path.name: path.stat().st_size for path in (collected.path / "marks").iterdir()}


@pytest.mark.slow
def test_only_the_verdicts_of_an_older_verifier_are_asked_for(collected: Folder) -> None:
    write_verifier(collected.path, ANY_NUMBER)
    write_tasks(collected.path / "tasks.jsonl", 4)
    assert collected.collect() == 0
    current = [row for row in collected.rows("out/r.jsonl") if row["reward"] == 0.5]
    (collected.path / "broken").write_text("question 3")
    done = collected.rescore(TOY, STORED, OUTPUT, "+only=older")
    assert done.returncode == 0 and "8 of 8" in done.stdout, done.stderr
    assert "verdicts: 4 up, 2 down, 0 same\n" in done.stdout
    assert "not rescored: 2 of this verifier already" in done.stdout
    rows = collected.rows("out/again.jsonl")
    assert {row["reward"] for row in rows} == {0.5}
    assert [row for row in rows if "old_verdict" not in row] == current and len(current) == 2


@pytest.mark.slow
def test_a_verdict_that_fails_is_data_and_is_tried_again(collected: Folder) -> None:
    (collected.path / "broken").write_text("question 1")
    done = collected.rescore(TOY, STORED, OUTPUT, "+max_attempts=2")
    assert done.returncode == 0
    assert "4 of 6 rollouts are in out/again.jsonl" in done.stdout
    assert "2 failed too often (out/again_failures.jsonl)" in done.stdout
    failures = collected.rows("out/again_failures.jsonl")
    assert [row["failure"]["kind"] for row in failures] == ["verifier_error"] * 4
    assert failures[0]["failure"]["message"] == "RuntimeError: the verifier is broken"
    assert failures[0]["response"] and failures[-1]["failure"]["terminal"]
    (collected.path / "broken").unlink()
    done = collected.rescore(TOY, STORED, OUTPUT, "+max_attempts=3")
    assert "6 of 6" in done.stdout
    assert set(identities(collected.rows("out/again.jsonl")).values()) == {1}


def test_several_verdicts_are_kept_with_their_mean_and_spread(collected: Folder) -> None:
    (collected.path / "mine.py").write_text(
        "def by_turns(task, response, *, step):\n"
        "    with open('turns', 'ab') as file:\n"
        "        file.write(b'x')\n"
        "        return {'reward': step * (file.tell() % 2), 'why': 'turn'}\n"
    )
    reward = ("+reward_fn=mine.py:by_turns", "+reward_options.step=0.5", "+num_samples_in_parallel=1")
    done = collected.rescore(STORED, OUTPUT, *reward, "+num_repeats=4")
    assert done.returncode == 0, done.stderr
    row = collected.rows("out/again.jsonl")[0]
    assert sorted(v["reward"] for v in row["verdicts"]) == [0.0, 0.0, 0.5, 0.5]
    assert row["verdicts"][0]["why"] == "turn"
    assert (row["reward"], row["reward_std"]) == (0.25, pytest.approx(0.288675, abs=1e-6))
    assert "4 verdicts on a rollout: standard deviation 0.289 on average" in done.stdout


def test_what_a_function_answers_that_is_no_json_is_its_failure(folder: Folder) -> None:
    write_jsonl(folder.path / "s.jsonl", stored_rows(2))
    (folder.path / "mine.py").write_text("def huge(task, response):\n    return {'reward': 1, 'n': 2**70}\n")
    done = folder.rescore("+rollouts=s.jsonl", "+reward_fn=mine.py:huge", OUTPUT, "+max_attempts=1")
    assert done.returncode == 1 and "verifier_error in mine.py:huge" in done.stdout, done.stderr
    assert "64-bit" in folder.rows("out/again_failures.jsonl")[0]["failure"]["message"]


def test_a_row_of_odd_shape_costs_no_other_its_verdict(folder: Folder) -> None:
    odd, worse, fine = stored_rows(3)
    odd["metadata"] = True
    worse["response"]["output"] = [7]
    write_jsonl(folder.path / "s.jsonl", [odd, worse, fine])
    (folder.path / "mine.py").write_text("def right(task, response):\n    return 1.0\n")
    done = folder.rescore("+rollouts=s.jsonl", "+reward_fn=mine.py:right", OUTPUT, "+max_attempts=1")
    assert done.returncode == 0, done.stderr
    assert {row["_ng_task_key"] for row in folder.rows("out/again.jsonl")} == {"k0000", "k0002"}
    [failed] = folder.rows("out/again_failures.jsonl")
    assert failed["_ng_task_key"] == "k0001" and "output" in failed["failure"]["message"]


@pytest.mark.slow
def test_a_judge_is_asked_by_an_environment_or_by_a_reward(folder: Folder) -> None:
    rows = [row | {"question": "How many?", "expected_answer": "4"} for row in stored_rows(2)]
    write_jsonl(folder.path / "s.jsonl", rows)
    (folder.path / "script.yaml").write_text("- '[[A=B]]'\n")
    model = ("model=scripted", "+policy_script=script.yaml", "+rollouts=s.jsonl")
    by_reward = folder.rescore(*model, "+reward_fn=llm_judge", "+output_jsonl_fpath=reward.jsonl")
    assert by_reward.returncode == 0 and "1 up, 0 down, 1 same" in by_reward.stdout, by_reward.stderr
    environment = ("env=equivalence_llm_judge", "+num_repeats=2", "+output_jsonl_fpath=env.jsonl")
    by_environment = folder.rescore(*model, *environment)
    assert by_environment.returncode == 0, by_environment.stderr
    row = folder.rows("env.jsonl")[0]
    assert (row["reward"], row["reward_std"], len(row["verdicts"])) == (1.0, 0.0, 2)
    assert len(row["verdicts"][0]["judge_evaluations"]) == 2
    kept = json.loads((folder.path / "env_run.json").read_text())["fingerprint"]
    assert any(key.startswith("judge.policy_model.") for key in kept)
    lonely = folder.rescore("env=equivalence_llm_judge", "+rollouts=s.jsonl", "+output_jsonl_fpath=no.jsonl")
    assert lonely.returncode == 1 and "no server named 'policy_model'" in lonely.stdout


def test_generated_rows_are_rescored_from_parquet_as_from_jsonl(folder: Folder) -> None:
    rows = [
        {
            "prompt": "2+2?",
            "response": text,
            "sample_idx": i % 2,
            "data_idx": i // 2,
            "original_data_source": "openai/gsm8k",
            "original_reward_model": {"ground_truth": "4", "style": "rule"},
            "reward": 0.0,
        }
        for i, text in enumerate(["#### 4", "#### 5", "so \\boxed{4}", None])
    ]
    write_jsonl(folder.path / "g.jsonl", rows)
    pq.write_table(pa.Table.from_pylist(rows), folder.path / "g.parquet")
    for name in ("g.jsonl", "g.parquet"):
        done = folder.rescore(
            *(f"+rollouts={name}", "+reward_fn=last_number"),
            f"+output_jsonl_fpath={name}.out.jsonl",
        )
        assert done.returncode == 0, done.stderr
        assert "not rescored: 1 without a response" in done.stdout
        new = sorted(folder.rows(f"{name}.out.jsonl"), key=lambda row: row["_ng_task_key"])
        assert [(row["_ng_task_key"], row["_ng_rollout_index"]) for row in new] == [
            ("0", 0),
            ("0", 1),
            ("1", 0),
        ]
        assert [(row["reward"], row["old_reward"]) for row in new] == [(1.0, 0.0), (0.0, 0.0), (1.0, 0.0)]
        assert new[0]["original_reward_model"] == {"ground_truth": "4", "style": "rule"}
        assert new[1]["reward_details"]["extracted_answer"] == "5" and new[1]["reward_status"] == "ok"


@pytest.mark.slow
def test_another_kind_of_verdict_never_gets_into_the_same_file(collected: Folder) -> None:
    assert collected.rescore(TOY, STORED, OUTPUT).returncode == 0
    done = collected.rescore(TOY, STORED, OUTPUT, "+num_repeats=2")
    assert done.returncode == 1 and "was made with num_repeats=1, now 2" in done.stderr
    write_verifier(collected.path, ANY_NUMBER)
    done = collected.rescore(TOY, STORED, OUTPUT)
    assert done.returncode == 1 and "was made with verifier.toy_agent=toy@" in done.stderr
    write_jsonl(collected.path / "other.jsonl", stored_rows(2))
    done = collected.rescore(TOY, "+rollouts=other.jsonl", OUTPUT)
    assert done.returncode == 1 and "first_rollout_hash=" in done.stderr
    done = collected.rescore(TOY, "+rollouts=other.jsonl", "+output_jsonl_fpath=out/r.jsonl")
    assert done.returncode == 1 and "out/r.jsonl was not made by ng_rescore" in done.stderr
    done = collected.rescore(TOY, STORED, "+output_jsonl_fpath=out/r.jsonl")
    assert done.returncode == 2 and "output_jsonl_fpath is what is rescored" in done.stderr
    done = collected.rescore(TOY, STORED, OUTPUT, "+overwrite=true")
    assert {row["reward"] for row in collected.rows("out/again.jsonl")} == {0.5}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["+rollouts=none.jsonl", "+reward_fn=math"], "there is no file none.jsonl"),
        (["+rollouts=s.jsonl", "+reward_fn=mth"], "no reward named 'mth'; did you mean 'math'?"),
        (["+rollouts=s.jsonl", "+reward_fn=no.py:f"], "there is no file"),
        (["+rollouts=s.jsonl", "+reward_fn=math", "+only=failed"], "there is no file s_failures.jsonl"),
        (["+rollouts=s.jsonl", "+reward_fn=math", "+only=old"], "only: should be 'failed' or 'older'"),
        (["+rollouts=s.jsonl", "+reward_fn=math", "+num_repeats=0"], "num_repeats: should be greater than"),
        (["+rollouts=s.jsonl", "+reward_fn=math", "+resources_server=toy"], "are two verifiers"),
        (["+rollouts=s.jsonl"], "no run answers in this directory"),
        (["+rollouts=bad.jsonl", "+reward_fn=math"], "bad.jsonl:2: not JSON"),
        (["+rollouts=nobody.jsonl", "+reward_fn=math"], "has no _ng_task_key or data_idx or _ng_task_index"),
        (["+rollouts=odd.jsonl", "+reward_fn=math"], "or its repeat is no whole number"),
        (["+rollouts=t.parquet", "+reward_fn=math"], "t.parquet is not a readable Parquet file"),
        (["+rollouts=s.jsonl", TOY, "+resources_server=toi"], "no environment 'toi'; did you mean 'toy'?"),
        (["+rollouts=s.jsonl", TOY, "+reward_fn=llm_judge", "+judge_model_server=no"], "say which"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_asked(
    folder: Folder, arguments: list[str], message: str
) -> None:
    write_toys(folder.path)
    write_verifier(folder.path)
    write_jsonl(folder.path / "s.jsonl", stored_rows(2))
    write_jsonl(folder.path / "nobody.jsonl", [{"response": "4"}])
    write_jsonl(folder.path / "odd.jsonl", [stored_rows(1)[0] | {"_ng_rollout_index": "x"}])
    (folder.path / "bad.jsonl").write_text(json.dumps(stored_rows(1)[0]) + "\n{oops\n")
    (folder.path / "t.parquet").write_bytes(b"PAR1 and then nothing")
    done = folder.rescore(*arguments, OUTPUT)
    assert done.returncode in (1, 2) and message in done.stderr, done.stderr
    assert not (folder.path / "out/again.jsonl").exists()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_rescoring_that_is_killed_again_and_again_ends_with_each_verdict_once(project: Project) -> None:
    write_jsonl(project.path / "s.jsonl", stored_rows(300))
    (project.path / "mine.py").write_text(
        "import time\ndef slow(task, response):\n    time.sleep(0.004)\n    return 0.5\n"
    )
    command = (
        "ng_rescore",
        "+rollouts=s.jsonl",
        "+reward_fn=mine.py:slow",
        OUTPUT,
        "+num_samples_in_parallel=8",
    )
    out, chance = project.path / "out/again.jsonl", random.Random(0)
    for _ in range(3):
        enough = (out.stat().st_size if out.exists() else 0) + chance.randrange(1, 10_000)
        with project.start(*command) as process:
            assert process.stderr is not None
            # Its progress line grows as rows are on disk.
            while (not out.exists() or out.stat().st_size < enough) and process.stderr.read(1):
                pass
            process.kill()
            process.communicate()
    rows = read_jsonl(out) if out.read_bytes().endswith(b"\n") else []
    done = project.run(*command, timeout_s=300)
    assert done.returncode == 0, done.stderr
    assert rows == project.rows("out/again.jsonl")[: len(rows)]
    assert identities(project.rows("out/again.jsonl")) == {(f"k{i:04}", 0): 1 for i in range(300)}
