"""Preparing data: the data sets of a configuration, and files of other layouts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_like.errors import RowError
from nemo_like.prompt_config import PromptConfig
from nemo_like.task_rows import as_task, read_tasks

from .conftest import Json, Project, write_jsonl

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2 + 2?"}]
CONFIG = """
adder:
  resources_servers:
    arithmetic: {entrypoint: app.py}
adder_simple_agent:
  responses_api_agents:
    simple_agent:
      entrypoint: app.py
      resources_server: {type: resources_servers, name: adder}
      model_server: {type: responses_api_models, name: policy_model}
      datasets:
      - {name: first, type: train, license: Apache 2.0, jsonl_fpath: first.jsonl, num_repeats: 2}
      - {name: second, type: train, jsonl_fpath: second.parquet, prompt_config: prompt.yaml}
      - {name: held_out, type: validation, jsonl_fpath: first.jsonl}
      - name: more
        type: example
        jsonl_fpath: not_here.jsonl
        huggingface_identifier: {repo_id: somebody/sums}
"""


def content(task: Json) -> list[str]:
    return [item["content"] for item in task["responses_create_params"]["input"]]


@pytest.mark.parametrize(
    ("row", "said", "answer"),
    [
        (
            {"prompt": MESSAGES, "reward_model": {"style": "rule", "ground_truth": "4"}},
            ["Be brief.", "2 + 2?"],
            "4",
        ),
        (
            {"prompt": MESSAGES, "reward_spec": {"method": "rule", "ground_truth": "4"}},
            ["Be brief.", "2 + 2?"],
            "4",
        ),
        ({"prompt": json.dumps(MESSAGES), "ground_truth": "4"}, ["Be brief.", "2 + 2?"], "4"),
        ({"question": "2 + 2?", "answer": "2 + 2 = 4\n#### 4"}, ["2 + 2?"], "4"),
        ({"problem": "2 + 2?", "solution": r"It is \boxed{4}."}, ["2 + 2?"], "4"),
        ({"instruction": "2 + 2?", "expected_answer": 4}, ["2 + 2?"], 4),
    ],
)
def test_rows_of_other_layouts_become_tasks(row: Json, said: list[str], answer: Any) -> None:
    task = as_task(dict(row))
    assert content(task) == said
    assert task["expected_answer"] == answer
    others = {name: value for name, value in row.items() if name != "prompt"}
    assert task | others == task


def test_a_prompt_config_makes_the_prompt_of_any_columns() -> None:
    config = PromptConfig(system="In {language}.", user="{question}\n{{}}")
    task = as_task({"question": "2 + 2?", "language": "Latin", "answer": "4"}, config)
    assert content(task) == ["In Latin.", "2 + 2?\n{}"]
    assert task["language"] == "Latin"
    kept = as_task(
        {"responses_create_params": {"temperature": 0.5}, "question": "?", "language": "x"}, config
    )
    assert kept["responses_create_params"]["temperature"] == 0.5
    with pytest.raises(RowError, match="'language'"):
        as_task({"question": "2 + 2?"}, config)


def test_a_task_stays_as_it_is_and_what_belongs_to_rollouts_is_renamed() -> None:
    row = {"responses_create_params": {"input": "?"}, "id": 3, "answer": "x"}
    assert as_task(dict(row)) == row
    task = as_task({"prompt": "?", "metadata": {"a": 1}, "reward": 0.5})
    assert (task["original_metadata"], task["original_reward"]) == ({"a": 1}, 0.5)
    with pytest.raises(RowError, match=r"there is no prompt in it \(columns: x\)"):
        as_task({"x": 1})


@given(st.dictionaries(st.text(min_size=1), st.text() | st.integers(-9, 9) | st.none(), max_size=4))
def test_nothing_of_a_row_is_lost(fields: dict[str, Any]) -> None:
    task = as_task({**fields, "prompt": "What?"})
    for name, value in fields.items():
        if name not in ("prompt", "responses_create_params", "reward_model", "extra_info", "expected_answer"):
            assert value in (task.get(name, value), task.get(f"original_{name}"))


@pytest.fixture
def sums(project: Project) -> Project:
    rows = [
        {"responses_create_params": {"input": f"{i} + 1?"}, "expected_answer": str(i + 1)} for i in range(3)
    ]
    write_jsonl(project.path / "first.jsonl", [*rows, rows[0] | {"agent_ref": {"name": "other"}}])
    table = pyarrow.table({"a": [1, 2], "b": [3, 4], "answer": ["4", "6"]})
    pyarrow.parquet.write_table(table, project.path / "second.parquet")
    (project.path / "prompt.yaml").write_text("user: What is {a} + {b}?\n")
    (project.path / "adder.yaml").write_text(CONFIG)
    return project


def test_the_data_sets_of_a_configuration_become_a_file_a_split(sums: Project) -> None:
    prepare = (
        "ng_prepare_data",
        "+config_paths=[adder.yaml]",
        "+mode=train_preparation",
        "+output_dirpath=out",
    )
    done = sums.run(*prepare)
    assert done.returncode == 0, done.stderr
    train = sums.rows("out/train.jsonl")
    assert [row["agent_ref"]["name"] for row in train] == ["adder_simple_agent"] * 6 + ["other"] * 2 + [
        "adder_simple_agent"
    ] * 2
    assert content(train[-1]) == ["What is 2 + 4?"] and train[-1]["expected_answer"] == "6"
    assert len(sums.rows("out/validation.jsonl")) == 4
    metrics = json.loads((sums.path / "out/train_metrics.json").read_text())
    assert (metrics["count"], metrics["mean/turns"], metrics["unique/expected_answer"]) == (10, 1.0, 5)
    assert metrics["datasets"]["adder_simple_agent/second"]["max/b"] == 4
    assert "out/train.jsonl exists; +overwrite=true" in sums.run(*prepare).stderr


def test_data_that_is_not_there_is_told_with_its_source(sums: Project) -> None:
    done = sums.run(
        "ng_prepare_data", "+config_paths=[adder.yaml]", "+mode=example_validation", "+output_dirpath=out"
    )
    assert done.returncode == 2
    assert "adder.yaml:15: adder_simple_agent: data set more: there is no file not_here.jsonl" in done.stderr
    assert "huggingface_identifier: {'repo_id': 'somebody/sums'}, and nothing is downloaded" in done.stderr


def test_one_file_is_converted_and_can_be_collected(sums: Project) -> None:
    convert = ("ng_prepare_data", "+input_fpath=second.parquet", "+output_jsonl_fpath=tasks.jsonl")
    assert "there is no prompt in it (columns: a, b, answer)" in sums.run(*convert).stderr
    assert not (sums.path / "tasks.jsonl").exists()
    done = sums.run(*convert, "+prompt_config=prompt.yaml", "+agent_name=arithmetic_simple_agent")
    assert (done.returncode, done.stdout) == (0, "2 tasks in tasks.jsonl\n")
    collected = sums.run(
        *("ng_collect_rollouts", "model=scripted", "env=arithmetic", "+policy_script=['4']"),
        *("+input_jsonl_fpath=tasks.jsonl", "+output_jsonl_fpath=r.jsonl"),
    )
    assert sorted(row["reward"] for row in sums.rows("r.jsonl")) == [0.0, 1.0], collected.stderr


def test_a_wrong_row_is_named_by_file_and_line(project: Project) -> None:
    file = write_jsonl(project.path / "a.jsonl", [{"prompt": "?"}, {"prompt": ""}])
    with pytest.raises(RowError, match=r"a\.jsonl:2: the prompt is empty"):
        list(read_tasks(Path(file)))
