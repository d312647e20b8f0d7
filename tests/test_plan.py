"""The plan: what is owed, against the slow obvious version; and what a bad row is answered with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nemo_like.errors import NOT_THE_TASKS_FAULT, REPEATS_ITSELF, RowError, StoreError, UsageError
from nemo_like.plan import Plan, task_hash
from nemo_like.store import Files, RolloutStore

from .conftest import Json, rollout_row, write_jsonl

KINDS = ["timeout", "model_error", "unauthorized", "bad_request", "session_lost"]


def task(text: str, **fields: object) -> Json:
    return {"responses_create_params": {"input": text}, **fields}


def keys_of(texts: list[str]) -> list[str]:
    """The slow obvious version of the key: hash, then occurrence among equals."""
    seen: dict[str, int] = {}
    keys: list[str] = []
    for text in texts:
        digest = task_hash(task(text))
        keys.append(digest + (f"-{seen[digest]}" if digest in seen else ""))
        seen[digest] = seen.get(digest, 0) + 1
    return keys


def fill(path: Path, done: set[tuple[str, int]], failed: list[tuple[str, int, str]]) -> Path:
    with RolloutStore(path) as store:
        for key, index in sorted(done):
            store.append("rollouts", rollout_row(key, index))
        for key, index, kind in failed:
            store.append(
                "failures", {"_ng_task_key": key, "_ng_rollout_index": index, "failure": {"kind": kind}}
            )
    return Files(path).index


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=80)
@given(data=st.data())
def test_what_is_owed_is_what_is_neither_done_nor_exhausted(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("plan")
    texts = data.draw(st.lists(st.sampled_from("abcd"), max_size=9))
    repeats, limit = data.draw(st.integers(1, 4)), data.draw(st.none() | st.integers(1, 10))
    attempts = data.draw(st.integers(1, 3))
    everything = [(key, i) for key in [*keys_of(texts), "foreign"] for i in range(5)]
    done = data.draw(st.sets(st.sampled_from(everything)))
    failed = data.draw(
        st.lists(st.tuples(st.sampled_from(everything), st.sampled_from(KINDS)).map(lambda p: (*p[0], p[1])))
    )
    again = data.draw(st.booleans())

    tasks = write_jsonl(folder / "tasks.jsonl", [task(text) for text in texts])
    index = fill(folder / "out.jsonl", done, failed)
    with Plan(
        tasks, agent_of=lambda _: "agent", limit=limit, num_repeats=repeats, max_attempts=attempts
    ) as plan:
        plan.attach(index)
        owed = [(job.task_key, job.rollout_index) for job in plan.owed(again=again)]
        counts = plan.counts()
        num_failed = plan.num_failed("agent")

    asked = [(key, i) for key in keys_of(texts)[:limit] for i in range(repeats)]
    kinds = {one: [kind for key, i, kind in failed if (key, i) == one] for one in asked}
    tries = {one: sum(kind not in NOT_THE_TASKS_FAULT for kind in kinds[one]) for one in asked}
    open_ = [one for one in asked if one not in done and tries[one] < attempts]
    assert owed == [
        one for one in open_ if not again or (kinds[one] and kinds[one][-1] not in REPEATS_ITSELF)
    ]
    assert counts.total == len(asked)
    assert counts.done == len(done & set(asked))
    assert counts.owed == len(open_)
    assert counts.foreign == sum(key not in keys_of(texts)[:limit] for key, _ in done)
    assert num_failed == sum(bool(kinds[one]) and one not in done for one in asked)


def test_a_key_does_not_depend_on_how_the_row_is_written(tmp_path: Path) -> None:
    spaced = '{ "answer": 1,\t"responses_create_params": {"input": "é"} }'
    tight = '{"responses_create_params":{"input":"\\u00e9"},"answer":1,"_ng_task_index":7}'
    assert task_hash(json.loads(spaced)) == task_hash(json.loads(tight))


def test_blank_lines_and_a_byte_order_mark_are_no_rows(tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    file.write_bytes(
        b"\xef\xbb\xbf" + json.dumps(task("a")).encode() + b"\r\n\n  \n" + json.dumps(task("b")).encode()
    )
    with Plan(file, agent_of=lambda _: "agent") as plan:
        plan.attach(fill(tmp_path / "o.jsonl", set(), []))
        inputs = [plan.task(job)["responses_create_params"]["input"] for job in plan.owed()]
    assert inputs == ["a", "b"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{nope", "not JSON"),
        ("[1]", "expected a JSON object (got list)"),
        ('{"a": 1}', "expected an object 'responses_create_params'"),
        (
            '{"responses_create_params": {}}',
            "expected 'responses_create_params.input' to be a string or a list",
        ),
        ('{"responses_create_params": {"input": [1]}}', "to be a string or a list of items"),
        ('{"responses_create_params": {"input": "", "tools": 3}}', "to be a list of objects"),
        ('{"responses_create_params": {"input": ""}, "reward": 1}', "the field 'reward' belongs to rollouts"),
        ('{"responses_create_params": {"input": ""}, "_ng_x": 1}', "the field '_ng_x' belongs to rollouts"),
        (
            '{"responses_create_params": {"input": ""}, "agent_ref": "me"}',
            "expected 'agent_ref' to be an object",
        ),
    ],
)
def test_a_malformed_row_is_named_by_file_and_line(tmp_path: Path, line: str, words: str) -> None:
    file = tmp_path / "t.jsonl"
    file.write_text(json.dumps(task("a")) + "\n\n" + line + "\n")
    with pytest.raises(RowError) as caught:
        Plan(file, agent_of=lambda _: "agent")
    assert str(caught.value).startswith(f"{file}:3: ")
    assert words in str(caught.value)


def test_an_unknown_agent_is_named_by_file_and_line(tmp_path: Path) -> None:
    def agent_of(_: Json) -> str:
        raise UsageError("there is no agent 'x'")

    file = write_jsonl(tmp_path / "t.jsonl", [task("a")])
    with pytest.raises(RowError, match=r"t\.jsonl:1: there is no agent 'x'"):
        Plan(file, agent_of=agent_of)


def test_an_input_that_changes_under_the_run_is_noticed(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "t.jsonl", [task("a"), task("b")])
    with Plan(file, agent_of=lambda _: "agent") as plan:
        plan.attach(fill(tmp_path / "o.jsonl", set(), []))
        jobs = list(plan.owed())
        write_jsonl(file, [task("b"), task("a")])
        with pytest.raises(StoreError, match="was changed while it was being collected"):
            plan.task(jobs[0])
