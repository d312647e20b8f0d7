"""Rollouts as training data: what is kept, what the rows say, and that nothing is lost without a word."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nemo_like.errors import UsageError
from nemo_like.export import FORMATS
from nemo_like.export.export import export
from nemo_like.export.groups import advantages
from nemo_like.export.settings import ExportConfig
from nemo_like.settings import redacted
from nemo_like.table import pa, pq

from .conftest import Json, Project, read_jsonl, write_jsonl
from .exporting import TOOL, exported, items, mixed_rows, rollout, tool_items

patient = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
groups = st.lists(
    st.lists(
        st.tuples(
            st.sampled_from([0.0, 0.25, 0.5, 1.0, None]),
            st.sampled_from(["a", "bb", "", "c☃"]),
            st.booleans(),
        ),
        min_size=1,
        max_size=6,
    ),
    min_size=1,
    max_size=5,
)


def rows_of(some: list[list[tuple[float | None, str, bool]]]) -> list[Json]:
    return [
        rollout(f"t{task}", index, reward, text, truncated=cut)
        for task, group in enumerate(some)
        for index, (reward, text, cut) in enumerate(group)
    ]


def test_sft_rows_are_whole_conversations_with_tools_and_reasoning(tmp_path: Path) -> None:
    rows, _ = exported(tmp_path, mixed_rows(), "sft")
    first = rows[0]
    assert first["messages"][0] == {"role": "user", "content": "What is task 0?"}
    assert [m["role"] for m in first["messages"]] == [
        "user",
        "assistant",
        "tool",
        "assistant",
        "tool",
        "assistant",
    ]
    assert first["messages"][1]["tool_calls"][0]["function"]["name"] == "add"
    assert json.loads(first["tools"])[0]["function"]["parameters"] == TOOL["parameters"]
    assert rows[4]["messages"][1]["reasoning_content"] == "Hm, 0."
    assert [row["reward"] for row in rows] == [row["reward"] for row in mixed_rows()]
    assert not any(row["has_error"] for row in rows)


@pytest.mark.parametrize(
    ("reasoning", "content", "kept"),
    [
        ("keep", "It is 1. ", "Hm, 0."),
        ("drop", "It is 1. ", None),
        ("inline", "<think>\nHm, 0.\n</think>\n\nIt is 1. ", None),
    ],
)
def test_reasoning_is_kept_or_dropped_or_written_inline(
    tmp_path: Path, reasoning: str, content: str, kept: str | None
) -> None:
    rows, _ = exported(tmp_path, mixed_rows(), "prompt_completion", reasoning=reasoning)
    assert rows[4]["completion"] == [
        {"role": "assistant", "content": content} | ({"reasoning_content": kept} if kept else {})
    ]


def test_arguments_of_tool_calls_can_be_objects(tmp_path: Path) -> None:
    rows, _ = exported(tmp_path, mixed_rows(), "sft", tool_arguments="object")
    assert rows[0]["messages"][1]["tool_calls"][0]["function"]["arguments"] == {"a": 0, "b": 1}


def test_openais_rows_hold_nothing_that_its_check_refuses(tmp_path: Path) -> None:
    rows, _ = exported(tmp_path, mixed_rows(), "openai")
    for row in rows:
        assert row.keys() <= {"messages", "tools"}
        assert row["messages"][-1]["role"] == "assistant"
        for message in row["messages"]:
            assert message.keys() <= {"role", "content", "tool_calls", "tool_call_id"}
            assert message.get("content") or message.get("tool_calls")


def test_verls_dump_and_its_parts(tmp_path: Path) -> None:
    rows, _ = exported(tmp_path, mixed_rows(), "verl_dump", step=7)
    assert rows[5] == {
        "format_reward": 0.25,
        "input": "What is task 1?",
        "output": "It is 2. Because. ",
        "gts": "4",
        "score": 0.0,
        "step": 7,
    }


def test_the_flat_row_of_verifiers_has_each_part_of_the_reward(tmp_path: Path) -> None:
    row = rollout("x", 0, 1.3, "<n>2</n>", exact_match_reward=1.0, answer="2", info={"text": "a b", "n": 2})
    rows, _ = exported(tmp_path, [row], "verifiers")
    assert rows[0]["prompt"] == [{"role": "user", "content": "What is x?"}]
    assert rows[0]["completion"] == [{"role": "assistant", "content": "<n>2</n>"}]
    assert (rows[0]["reward"], rows[0]["exact_match_reward"]) == (1.3, 1.0)
    assert (rows[0]["answer"], rows[0]["info"]) == ("4", {"text": "a b", "n": 2})


def test_a_row_of_verifiers_has_metrics_and_times(tmp_path: Path) -> None:
    times = {"started_at": 5.0, "total_s": 2.0, "model_s": 0.5, "tools_s": 0.25, "verify_s": 0.125}
    rows = [rollout("x", metadata=times, exact_match_reward=1), rollout("y", metadata={})]
    exported(tmp_path, rows, "verifiers", container="parquet")
    first, second = pq.read_table(tmp_path / "out/train.parquet").to_pylist()
    assert first["metrics"] == {"exact_match_reward": 1.0} and second["metrics"] is None
    assert first["timing"] == {
        "start_time": 5.0,
        "generation_ms": 750.0,
        "scoring_ms": 125.0,
        "total_ms": 2000.0,
    }
    assert (first["error"], second["timing"]) == (None, None)


def test_what_varies_in_shape_becomes_json_text(tmp_path: Path) -> None:
    rows, _ = exported(tmp_path, mixed_rows(), "verifiers")
    assert json.loads(rows[0]["info"])["note"] == ["a", 0]
    assert json.loads(rows[4]["info"])["note"] == {"n": 1}


@patient
@given(some=groups, pairs=st.integers(1, 3), margin=st.sampled_from([0.0, 0.5]))
def test_a_pair_is_never_equal_in_reward_or_text_nor_its_chosen_side_cut_off(
    tmp_path: Path, some: list[list[tuple[float | None, str, bool]]], pairs: int, margin: float
) -> None:
    possible = {
        f"t{task}"
        for task, group in enumerate(some)
        for good, said, cut in group
        for bad, other, _ in group
        if good is not None and bad is not None and said and other
        if good > bad and good - bad >= margin and said != other and not cut
    }
    try:
        rows, _ = exported(tmp_path, rows_of(some), "dpo", pairs_per_task=pairs, margin=margin)
    except UsageError as error:
        said = str(error)
    else:
        said = ""
    if said:
        assert "nothing is kept" in said and not possible
        return
    assert {row["task_key"] for row in rows} == possible
    used: list[tuple[str, str, int]] = []
    for row in rows:
        group = some[int(row["task_key"][1:])]
        assert row["chosen_score"] > row["rejected_score"] and row["chosen"] != row["rejected"]
        assert row["chosen_score"] - row["rejected_score"] >= margin
        assert not group[row["chosen_index"]][2]
        assert row["chosen"][0]["content"] == group[row["chosen_index"]][1]
        used += [(row["task_key"], side, row[f"{side}_index"]) for side in ("chosen", "rejected")]
    assert len(used) == len(set(used))
    assert max(sum(row["task_key"] == key for row in rows) for key in possible) <= pairs


@patient
@given(
    some=groups,
    format=st.sampled_from(["sft", "kto", "best_of_n", "grpo", "prompts", "dpo"]),
    more=st.fixed_dictionaries(
        {},
        optional={
            "min_reward": st.just(0.25),
            "drop_truncated": st.just(True),
            "drop_duplicates": st.just(True),
            "best": st.just(2),
            "per_task": st.just(1),
            "max_characters": st.just(13),
            "drop_equal_groups": st.just(True),
            "query": st.just("reward < 1"),
        },
    ),
)
def test_each_rollout_is_kept_or_counted_under_a_reason(
    tmp_path: Path, some: list[list[tuple[float | None, str, bool]]], format: str, more: Json
) -> None:
    rows = rows_of(some)
    try:
        made, done = exported(tmp_path, rows, format, **more)
    except UsageError as error:
        refused = str(error)
    else:
        refused = ""
    if refused:
        assert f"nothing is kept of {len(rows):,}" in refused
        return
    count = done.facts["rollouts"]
    assert count["total"] == len(rows) == count["kept"] + sum(count["dropped"].values())
    assert all(count["dropped"].values())
    if format in ("sft", "kto", "grpo"):
        assert len(made) == count["kept"] == sum(done.facts["rows"].values())
        by_place = {(row["_ng_task_key"], row["_ng_rollout_index"]): row for row in rows}
        for row in made:
            assert row["reward"] == by_place[row["task_key"], row["rollout_index"]].get("reward")


@patient
@given(rewards=st.lists(st.floats(-5, 5), min_size=1, max_size=8))
def test_advantages_are_centred_and_nothing_where_all_rewards_are_equal(rewards: list[float]) -> None:
    n = len(rewards)
    for kind in ("trl", "dr_grpo", "leave_one_out"):
        made = advantages(rewards, kind)
        assert abs(sum(made)) < 1e-6 * n
        if len(set(rewards)) == 1:
            assert made == [0.0] * n
    if n > 1:
        others = [r - (sum(rewards) - r) / (n - 1) for r in rewards]
        assert advantages(rewards, "leave_one_out") == pytest.approx(others, abs=1e-9)


def test_best_duplicates_and_draws(tmp_path: Path) -> None:
    rows = [rollout("a", i, r, t) for i, (r, t) in enumerate([(0.5, "x"), (1, "longer"), (1, "y"), (1, "y")])]
    best, _ = exported(tmp_path, rows, "sft", best=1)
    assert [row["rollout_index"] for row in best] == [2]
    different, done = exported(tmp_path, rows, "sft", drop_duplicates=True)
    assert [row["rollout_index"] for row in different] == [0, 1, 2]
    assert done.facts["rollouts"]["dropped"] == {"duplicate": 1}
    drawn = [exported(tmp_path, rows, "sft", per_task=2, seed=seed)[0] for seed in (1, 1, 2, 3, 4)]
    assert drawn[0] == drawn[1] and any(some != drawn[0] for some in drawn)


def test_a_balanced_export_has_as_many_of_both(tmp_path: Path) -> None:
    rows, done = exported(tmp_path, mixed_rows(), "kto", balance=True)
    labels = [row["label"] for row in rows]
    assert labels.count(True) == labels.count(False) == 14
    assert done.facts["rollouts"]["dropped"] == {"not drawn, to balance": 12}
    assert (done.facts["mean_reward"], done.facts["success_rate"]) == (0.5, 0.5)


@patient
@given(n=st.integers(5, 30), seed=st.integers(0, 3))
def test_a_split_is_by_task_and_stays_as_tasks_are_added(tmp_path: Path, n: int, seed: int) -> None:
    def sides(tasks: int) -> dict[str, str]:
        rows = [rollout(f"t{i // 2}", i % 2, 1.0, f"{i}") for i in range(2 * tasks)]
        # Two tasks that ask the same.
        rows.append(
            rollout("t0 again", 0, 1.0, params={"input": rows[0]["responses_create_params"]["input"]})
        )
        exported(tmp_path, rows, "sft", validation_share=0.3, seed=seed, output=tmp_path / "out")
        found: dict[str, str] = {}
        for side in ("train", "validation"):
            for row in read_jsonl(path) if (path := tmp_path / "out" / f"{side}.jsonl").is_file() else []:
                assert found.setdefault(row["task_key"], side) == side
        assert found["t0"] == found["t0 again"]
        return found

    try:
        few, many = sides(n), sides(n + 5)
    except UsageError as error:
        refused = str(error)
    else:
        refused = ""
    if refused:
        assert "validation split" in refused
        return
    assert few.items() <= many.items()


def test_nothing_kept_is_an_error_that_says_why(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing is kept of 40 rollouts: 40 reward too low"):
        exported(tmp_path, mixed_rows(), "sft", min_reward=2)
    with pytest.raises(
        UsageError, match="no rollout that was asked has a field 'rewrad'; did you mean 'reward'"
    ):
        exported(tmp_path, mixed_rows(), "sft", query="rewrad > 0")
    with pytest.raises(UsageError, match="10 tasks: all rewards equal"):
        exported(tmp_path, [row | {"reward": 1.0} for row in mixed_rows()], "dpo")


def test_a_query_means_what_it_means_in_the_viewer(tmp_path: Path) -> None:
    rows, _ = exported(
        tmp_path, mixed_rows(), "sft", query='tool == "add" and tool_calls > 1 and not truncated'
    )
    assert {row["task_key"] for row in rows} == {"task 0", "task 3", "task 9"}
    rows, _ = exported(tmp_path, mixed_rows(), "sft", query="usage/output_tokens < 12 and note/n == 5")
    assert {row["task_key"] for row in rows} == {"task 5"}


def test_odd_lines_are_counted_and_stop_nothing(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "rollouts.jsonl", mixed_rows())
    image = [{"role": "user", "content": [{"type": "input_image", "image_url": "http://x"}]}]
    odd = [
        rollout("t", params={"input": image}),
        rollout("t", 1, output_items=[{"type": "web_search_call"}]),
        {"failure": {"kind": "timeout"}},
        {"responses_create_params": {}, "response": {"output": []}, "output": []},
        {"a": 1},
    ]
    path.write_text(path.read_text() + "".join(f"{json.dumps(row)}\n" for row in odd) + "[1]\n{torn\n")
    done = export(ExportConfig(rollouts=path, format="sft", output=tmp_path / "out"))
    assert done.facts["rollouts"] == {
        "total": 47,
        "kept": 40,
        "dropped": {"not only text": 2, "no rollout": 2, "failed": 1, "no answer": 1, "no JSON": 1},
    }


@pytest.mark.parametrize(
    ("format", "fields"),
    [
        ("sft", {"response": {"output": [], "status": "incomplete", "incomplete_details": "x"}}),
        ("sft", {"responses_create_params": {"input": ["hi"]}}),
        ("verifiers", {"_ng_task_index": "abc"}),
        ("verifiers", {"_ng_rollout_index": "abc"}),
        ("openai", {"agent_ref": "x"}),
        ("dpo", {"agent_ref": "x"}),
        ("sft", {"response": {"output": "text"}}),
        ("verifiers", {"response": {"output": [], "usage": "x"}}),
        ("sft", {"response": {"output": [], "model": {"name": "x"}}}),
        ("dpo", {"response": {"output": [], "usage": "x"}}),
        ("dpo", {"metadata": 5}),
        ("dpo", {"reward_components": 5}),
        ("dpo", {"_ng_rollout_index": "abc"}),
        ("dpo", {"_ng_rollout_index": 1e30}),
        ("dpo", {"_ng_task_index": {"a": 1}}),
        ("dpo", {"_ng_task_key": None, "_ng_rollout_index": "abc"}),
        ("kto", {"reward": "high"}),
    ],
)
def test_a_row_of_another_shape_costs_no_other_row(tmp_path: Path, format: str, fields: Json) -> None:
    odd = rollout("odd") | fields
    rows = [odd, rollout("t", 0, 1.0, "right"), rollout("t", 1, 0.0, "wrong"), odd | {"reward": 0.5}]
    exported_rows, done = exported(tmp_path, rows, format)
    assert done.facts["rollouts"]["total"] == 4
    assert "right" in json.dumps(exported_rows)


@pytest.mark.parametrize(
    "message",
    [
        {"tool_call_id": 5},
        {"reasoning_content": {"a": 1}},
        {"role": 5},
        {"tool_calls": 5},
        {"tool_calls": ["x"]},
        {"tool_calls": [{"function": "x"}]},
        {"tool_calls": [{"id": 5, "function": {"name": "add", "arguments": "{}"}}]},
    ],
)
def test_a_message_of_another_shape_costs_no_other_row_of_parquet(tmp_path: Path, message: Json) -> None:
    odd = rollout("odd") | {"output": [{"role": "assistant", "content": "4"} | message]}
    _, done = exported(tmp_path, [rollout("t"), odd], "sft", container="parquet")
    assert done.facts["rollouts"]["kept"] == 1
    assert pq.read_table(tmp_path / "out/train.parquet").num_rows == 1


def test_a_rollout_that_only_thought_is_no_row_of_fine_tuning(tmp_path: Path) -> None:
    thought = rollout("odd", text="") | {
        "output": [{"role": "assistant", "content": "", "reasoning_content": "Hm"}]
    }
    rows, done = exported(tmp_path, [thought, rollout("t")], "openai")
    assert len(rows) == 1 and done.facts["rollouts"]["dropped"] == {"no answer": 1}
    with pytest.raises(UsageError, match="openai has no place for tool_arguments=object"):
        exported(tmp_path, [rollout("t")], "openai", tool_arguments="object", container="jsonl")


def test_reasoning_counts_as_characters(tmp_path: Path) -> None:
    thought = rollout("long") | {
        "output": [{"role": "assistant", "content": "4", "reasoning_content": "Hm" * 5000}]
    }
    rows, _ = exported(tmp_path, [thought, rollout("t")], "sft", max_characters=5000)
    assert len(rows) == 1


def test_labels_are_what_is_balanced_and_counted(tmp_path: Path) -> None:
    rewards = (1.3, 1.1, 1.1, 0.2)
    rows = [rollout(f"t{i}", 0, r) | {"success": r > 1} for i, r in enumerate(rewards)]
    found, done = exported(tmp_path, rows, "kto", balance=True, success_threshold=1.2)
    assert sorted(row["label"] for row in found) == [False, True]
    assert done.facts["success_rate"] == 0.5


def test_numbers_of_the_task_are_no_parts_of_the_reward(tmp_path: Path) -> None:
    parts = {"exact_match_reward": 1.0, "schema_validity": 0.5, "acc": 1, "score2": 0.5, "exact-match": 0}
    rows, _ = exported(tmp_path, [rollout("t") | parts | {"account_id": 77, "max_score": 10}], "verl_dump")
    assert {*parts} <= {*rows[0]} and not {"account_id", "max_score"} & {*rows[0]}


def test_tasks_without_a_number_stay_apart_in_rows_of_verifiers(tmp_path: Path) -> None:
    given = [rollout("a", 0), rollout("a", 1), rollout("b"), rollout("c", truncated=True)]
    rows, _ = exported(tmp_path, [row | {"_ng_task_index": None} for row in given], "verifiers")
    a, again, b, last = (row["example_id"] for row in rows)
    assert a == again and len({a, b, last}) == 3
    assert [(row["is_completed"], row["is_truncated"]) for row in rows[2:]] == [(True, False), (True, True)]


def test_what_a_request_sent_along_is_not_on_the_card(tmp_path: Path) -> None:
    params = {"input": "?", "user": "anna", "seed": 3, "extra_headers": {"X-Api-Key": "sk-1"}}
    _, done = exported(tmp_path, [rollout("t", params=params | {"temperature": 0.5})], "sft")
    assert done.facts["made_by"]["sampling"] == [{"value": {"temperature": 0.5}, "rollouts": 1}]
    assert redacted({"X-Api-Key": "sk-1"}) == {"X-Api-Key": "***"}


def test_sampling_in_the_extra_body_is_on_the_card_and_many_ways_are_counted_together(tmp_path: Path) -> None:
    extra = {"extra_body": json.dumps({"top_k": 5, "seed": 3})}
    _, done = exported(tmp_path, [rollout("t", params={"metadata": extra})], "sft")
    assert done.facts["made_by"]["sampling"][0]["value"] == {"temperature": 0.7, "top_k": 5}
    rows = [rollout(f"t{i}", params={"top_p": i / 2000}) for i in range(1100)]
    _, done = exported(tmp_path, rows, "sft")
    assert done.facts["made_by"]["sampling"][0] == {"value": "others", "rollouts": 100}


def test_the_card_of_generated_rows_names_their_model(tmp_path: Path) -> None:
    header = {"made_with": {"source": "server", "model": "a-model", "extra_body": {"api_key": "s3cret"}}}
    write_jsonl(tmp_path / "rollouts_journal.jsonl", [header])
    exported(tmp_path, [generated(0, 0)], "sft")
    page = (tmp_path / "out/README.md").read_text()
    assert "| model | a-model |" in page and "s3cret" not in page


def test_the_card_of_rescored_rows_names_what_made_them_and_what_judged_them(project: Project) -> None:
    header = {"made_with": {"source": "server", "model": "a-model", "prompt_key": "question"}}
    write_jsonl(project.path / "g_journal.jsonl", [header])
    write_jsonl(project.path / "g.jsonl", [generated(0, 0)])
    wanted = ("+rollouts=g.jsonl", "+reward_fn=last_number", "+output_jsonl_fpath=r.jsonl")
    assert project.run("ng_rescore", *wanted).returncode == 0
    assert project.run("ng_export", "+rollouts=r.jsonl", "+format=sft", "+output=out").returncode == 0
    page = (project.path / "out/README.md").read_text()
    assert "| model | a-model |" in page and "| prompt_key | question |" in page
    assert "| verifier. | last_number@" in page


def test_arguments_as_objects_load_again(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    given = [{"a": 1}, {"query": "s"}, {"a": [1]}, {"a": {"b": None}}]
    rows: list[Json] = []
    for arguments in given:
        output = tool_items(["Let me see.", "4"], ["7"])
        output[1]["arguments"] = json.dumps(arguments)
        rows.append(rollout(f"{arguments}", output_items=output, params={"tools": [TOOL]}))
    exported(tmp_path, rows, "sft", tool_arguments="object", container="jsonl")
    loaded = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"), split="train")
    calls = [messages[1]["tool_calls"][0]["function"] for messages in loaded["messages"]]
    assert [call["arguments"] for call in calls] == given


def test_rollouts_of_several_files_are_grouped_by_task(tmp_path: Path) -> None:
    a = write_jsonl(tmp_path / "a.jsonl", [rollout("x", 0, 1.0, "right"), rollout("y", 0, 1.0, "alone")])
    b = write_jsonl(tmp_path / "b.jsonl", [rollout("x", 0, 0.0, "wrong")])
    done = export(ExportConfig(rollouts=[a, b], format="dpo", output=tmp_path / "dpo.jsonl"))
    assert read_jsonl(tmp_path / "dpo.jsonl")[0]["rejected"] == [{"role": "assistant", "content": "wrong"}]
    assert done.facts["tasks"] == {"total": 2, "kept": 1, "dropped": {"one rollout alone": 1}}
    assert [path.name for path in done.files] == ["dpo.jsonl", "dpo_README.md", "dpo_export.json"]


def generated(data_idx: int, sample_idx: int, **fields: Any) -> Json:
    return {
        "prompt": f"Sum {data_idx}?",
        "response": f"{sample_idx}",
        "sample_idx": sample_idx,
        "data_idx": data_idx,
        "temperature": 0.7,
        "top_p": 0.9,
        "max_tokens": 32,
        "original_question": f"Sum {data_idx}?",
        "original_answer": "1",
        "finish_reason": "stop",
        "prompt_tokens": 3,
        "completion_tokens": 1,
        "reasoning": None,
        "error": None,
        "reward": float(sample_idx == 1),
        **fields,
    }


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_generated_rows_are_exported_like_any_other(tmp_path: Path, suffix: str) -> None:
    rows = [generated(data, sample) for data in range(3) for sample in range(3)]
    rows[0] |= {"response": None, "error": "timeout", "reward": None}
    path = tmp_path / f"scored.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        write_jsonl(path, rows)
    done = export(ExportConfig(rollouts=path, format="dpo", output=tmp_path / "dpo.jsonl"))
    pairs = read_jsonl(tmp_path / "dpo.jsonl")
    assert done.facts["rollouts"]["dropped"] == {"failed": 1}
    assert [(p["prompt"][0]["content"], p["chosen"][0]["content"]) for p in pairs] == [
        (f"Sum {i}?", "1") for i in range(3)
    ]
    export(ExportConfig(rollouts=path, format="verl_rl", output=tmp_path / "rl.jsonl"))
    task = read_jsonl(tmp_path / "rl.jsonl")[1]
    assert task["reward_model"] == {"style": "rule", "ground_truth": "1"} and task["success_rate"] == 1 / 3


def test_generated_messages_come_back_as_messages(tmp_path: Path) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Sum 0?"}]
    text = "system: Be brief.\nuser: Sum 0?"
    path = write_jsonl(tmp_path / "g.jsonl", [generated(0, 1, prompt=text, original_question=messages)])
    export(ExportConfig(rollouts=path, format="sft", output=tmp_path / "sft.jsonl"))
    assert read_jsonl(tmp_path / "sft.jsonl")[0]["messages"][:2] == messages


def test_rows_without_a_key_are_grouped_by_what_was_asked(tmp_path: Path) -> None:
    rows = [rollout("x", 0, 1.0, "a"), rollout("x", 0, 0.0, "b"), rollout("z", 0, 0.5, "c")]
    for row in rows:
        del row["_ng_task_key"], row["_ng_rollout_index"]
    pairs, done = exported(tmp_path, rows, "dpo")
    assert len(pairs) == 1 and done.facts["tasks"]["total"] == 2


def test_several_processes_write_what_one_writes(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "rollouts.jsonl", mixed_rows())
    for format in ("sft", "dpo"):
        for workers in (1, 2):
            output = tmp_path / f"{format}{workers}"
            export(ExportConfig(rollouts=path, format=format, output=output, workers=workers))
        written = [(tmp_path / f"{format}{n}" / "train.jsonl").read_bytes() for n in (1, 2)]
        assert written[0] == written[1]


def test_pieces_of_a_file_hold_each_line_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [rollout(f"t{i}", 0, 1.0, "x" * (i * 37 % 500 + 1)) for i in range(60)]
    path = write_jsonl(tmp_path / "r.jsonl", rows)
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    from nemo_like.export.sources import Piece, lines_of

    size = path.stat().st_size
    for step in (1, 100, 777, size):
        lines = [
            line for at in range(0, size, step) for line in lines_of(path, Piece(0, at, min(size, at + step)))
        ]
        assert [orjson.loads(line) for line in lines] == rows


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@patient
@given(some=st.lists(st.dictionaries(st.text(max_size=2), json_values, max_size=3), min_size=1, max_size=4))
def test_no_field_of_extra_info_breaks_arrow_and_each_can_be_read_back(
    tmp_path: Path, some: list[Json]
) -> None:
    rows = [rollout(f"t{i}", extra_info=extra) for i, extra in enumerate(some)]
    exported(tmp_path, rows, "verl_rl", output=tmp_path / "x.parquet")
    for row, extra in zip(pq.read_table(tmp_path / "x.parquet").to_pylist(), some, strict=True):
        for name, value in extra.items():
            read = row["extra_info"][name]
            assert read == value or json.loads(read) == value


@patient
@given(
    notes=st.lists(json_values, min_size=1, max_size=4),
    format=st.sampled_from(["verifiers", "prompts", "verl_rl"]),
)
def test_no_field_of_a_task_breaks_arrow(tmp_path: Path, notes: list[Any], format: str) -> None:
    rows = [rollout(f"t{i}", note=note) for i, note in enumerate(notes)]
    exported(tmp_path, rows, format, output=tmp_path / "x.parquet")
    table = pq.read_table(tmp_path / "x.parquet").to_pylist()
    column = {"verifiers": "info", "prompts": "task", "verl_rl": "extra_info"}[format]
    for row, note in zip(table, notes, strict=True):
        value = row[column]["task"] if format == "verl_rl" else row[column]
        value = json.loads(value) if isinstance(value, str) else value
        assert value["note"] == note


def test_an_export_never_overwrites_unless_it_is_told_to(tmp_path: Path) -> None:
    exported(tmp_path, mixed_rows(), "sft", validation_share=0.3)
    assert (tmp_path / "out/validation.jsonl").is_file()
    with pytest.raises(UsageError, match=r"README\.md, .*train\.jsonl, .* exists; overwrite=true replaces"):
        exported(tmp_path, mixed_rows(), "sft", overwrite=False)
    (tmp_path / "out/mine.txt").write_text("stays")
    exported(tmp_path, mixed_rows(), "sft")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        *("README.md", "export.json", "mine.txt", "train.jsonl")
    ]


def test_overwriting_spares_what_no_export_made_and_the_rollouts(tmp_path: Path) -> None:
    rollouts = write_jsonl(tmp_path / "train.jsonl", mixed_rows())
    before = rollouts.read_bytes()
    with pytest.raises(UsageError, match="output would replace one of the rollouts files"):
        export(ExportConfig(rollouts=rollouts, format="sft", output=tmp_path, overwrite=True))
    assert rollouts.read_bytes() == before
    page = tmp_path / "mine/README.md"
    page.parent.mkdir()
    page.write_text("of a person")
    code = page.parent / "train/code.py"
    code.parent.mkdir()
    code.write_text("1")
    with pytest.raises(UsageError, match=r"no export made .*README\.md, .*code\.py, which would be replaced"):
        export(ExportConfig(rollouts=rollouts, format="sft", output=page.parent, overwrite=True))
    assert sorted(path.name for path in page.parent.iterdir()) == ["README.md", "train"]
    assert page.read_text() == "of a person" and code.read_text() == "1"


def test_overwriting_leaves_nothing_of_an_export_in_another_container(tmp_path: Path) -> None:
    kept: dict[str, set[str]] = {}
    for container in ("jsonl", "hf", "parquet"):
        exported(tmp_path, mixed_rows(), "sft", container=container, validation_share=0.3)
        kept[container] = {path.name for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert "dataset_dict.json" in kept["hf"] and not {"train.jsonl", "validation.jsonl"} & kept["hf"]
    assert kept["parquet"] == {"README.md", "export.json", "train.parquet", "validation.parquet"}
    of_a_person = tmp_path / "out/train.jsonl"
    of_a_person.write_text("{}")
    with pytest.raises(UsageError, match=r"no export made .*train\.jsonl"):
        exported(tmp_path, mixed_rows(), "sft", container="parquet")


def test_an_export_is_whole_or_leaves_what_was_there(tmp_path: Path) -> None:
    exported(tmp_path, mixed_rows(), "sft", container="hf")
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    # Too large for the column, which only the writing finds out.
    large = [rollout("t", _ng_rollout_index=2**64 - 1)]
    with pytest.raises(OverflowError):
        exported(tmp_path, large, "sft", container="hf")
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"format": "sftt"}, "no format named 'sftt'; did you mean 'sft'"),
        ({"container": "hf", "format": "openai"}, "openai is read as jsonl only"),
        ({"output": "x.csv"}, "output should be a folder"),
        ({"output": "x.parquet", "container": "jsonl"}, "does not go with the name"),
        ({"format": "dpo", "balance": True}, "balance is for formats of single rollouts"),
        ({"tool_arguments": "object", "container": "parquet"}, "needs container=jsonl"),
        ({"tool_arguments": "object", "output": "x.parquet"}, "needs container=jsonl"),
        ({"tool_arguments": "object", "format": "verl_rl"}, "needs container=jsonl"),
        ({"tool_arguments": "object", "format": "verl_sft"}, "has no place for tool_arguments=object"),
        ({"rollouts": "none.jsonl"}, "there is no file none.jsonl"),
        ({"query": "reward >"}, "can't be read"),
    ],
)
def test_a_wrong_request_is_answered_with_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Json, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "r.jsonl", mixed_rows())
    asked = {"rollouts": "r.jsonl", "format": "sft", "output": "out"} | settings
    with pytest.raises(UsageError, match=said):
        export(ExportConfig.from_mapping(asked, where="the test"))
    assert not (tmp_path / "out" / "README.md").exists()


def test_verls_own_columns_stay_as_they_are(tmp_path: Path) -> None:
    kwargs = {"search": {"create_kwargs": {"ground_truth": "4"}}}
    own: Json = {
        "reward_model": {"style": "rule", "ground_truth": {"target": ["4", "four"]}},
        "extra_info": {"split": "train", "index": 7, "need_tools_kwargs": True, "tools_kwargs": kwargs},
        "agent_name": "tool_agent",
    }
    other: Json = {
        "reward_model": own["reward_model"],
        "extra_info": {"split": "train", "index": 8, "note": "x"},
    }
    for format in ("verl_rl", "verl_responses"):
        exported(tmp_path, [rollout("a") | own, rollout("b", note=1) | other], format)
        first, second = pq.read_table(tmp_path / "out/train.parquet").to_pylist()
        assert first["reward_model"] == own["reward_model"] and first["agent_name"] == "tool_agent"
        assert first["extra_info"].items() >= own["extra_info"].items()
        assert second["extra_info"]["note"] == "x" and json.loads(second["extra_info"]["task"])["note"] == 1
        assert second["extra_info"]["tools_kwargs"] is None


def test_of_verls_own_columns_only_what_varies_becomes_text(tmp_path: Path) -> None:
    truths = ({"target": ["4"]}, "4")
    rows = [rollout(f"{t}", reward_model={"style": "rule", "ground_truth": t}) for t in truths]
    exported(tmp_path, rows, "verl_rl")
    found = [row["reward_model"] for row in pq.read_table(tmp_path / "out/train.parquet").to_pylist()]
    assert [model["style"] for model in found] == ["rule", "rule"]
    assert [json.loads(model["ground_truth"]) for model in found] == [*truths]


def test_verls_tools_stay_objects_and_tools_that_differ_are_refused(tmp_path: Path) -> None:
    exported(tmp_path, mixed_rows(), "verl_sft", query='tool == "add"')
    table = pq.read_table(tmp_path / "out/train.parquet").to_pylist()
    assert table[0]["tools"][0]["function"]["name"] == "add"
    other = TOOL | {"parameters": {"type": "object", "properties": {"x": {"type": "string"}}}}
    rows = [
        rollout("a", output_items=tool_items(["hm", "b"], ["1"]), params={"tools": [t]})
        for t in (TOOL, other)
    ]
    with pytest.raises(UsageError, match="verl_sft needs 'tools' as they are"):
        exported(tmp_path, rows, "verl_sft")


def test_the_card_says_what_made_the_data_and_no_secret(tmp_path: Path) -> None:
    kept = {
        "fingerprint": {"math.entrypoint": "app.py", "api_key": "s3cret"},
        "nemo_like": "0",
        "config": {"k": "s3cret"},
    }
    (tmp_path / "rollouts_run.json").write_text(json.dumps(kept))
    failures = [{"failure": {"kind": "timeout"}}, {"failure": {"kind": "timeout"}}]
    write_jsonl(tmp_path / "rollouts_failures.jsonl", failures)
    exported(tmp_path, mixed_rows(), "sft", min_reward=0.5)
    page, facts = (
        (tmp_path / "out/README.md").read_text(),
        json.loads((tmp_path / "out/export.json").read_text()),
    )
    assert facts["made_by"]["model"] == [{"value": "a-model", "rollouts": 14}]
    assert facts["made_by"]["sampling"][0]["value"] == {"temperature": 0.7}
    assert facts["sources"][0]["failed_attempts"] == {"timeout": 2}
    assert facts["selection"] == {"min_reward": 0.5}
    for said in ("14 of 40", "reward too low | 26", "math.entrypoint", "timeout | 2", "a-model"):
        assert said in page
    assert "s3cret" not in page + json.dumps(facts)


def test_every_format_is_described(tmp_path: Path) -> None:
    page = (Path(__file__).parent.parent / "nemo_like/export/README.md").read_text()
    for name in FORMATS.names():
        assert f"`{name}`" in page, name
        assert FORMATS.get(name).about.endswith(".")


def test_the_command_says_kept_of_total(project: Project) -> None:
    write_jsonl(project.path / "r.jsonl", [*mixed_rows(), rollout("t", 0, 1.0, "")])
    done = project.run("ng_export", "+rollouts=r.jsonl", "+format=sft", "+output=sft", "+query='reward > 0'")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[:2] == [
        "kept 14 of 41 rollouts (26 not of the query, 1 no answer)",
        "rows: 14 train",
    ]
    again = project.run("ng_export", "+rollouts=r.jsonl", "+format=sft", "+output=sft")
    assert again.returncode == 2 and "overwrite=true" in again.stderr
    assert "best_of_n" in project.run("ng_export", "--help").stdout


def test_items_are_folded_where_a_row_has_no_messages(tmp_path: Path) -> None:
    row = rollout("x", text="hello")
    del row["output"]
    rows, _ = exported(tmp_path, [row], "sft")
    assert rows[0]["messages"][-1] == {"role": "assistant", "content": "hello"}
    assert items("hello")
