"""What the catalog finds in a file, however it is sorted, filtered, searched, and while it grows."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_like.errors import UsageError
from nemo_like.query import Query
from nemo_like.viewer.catalog import SORTS, Catalog, Selection
from nemo_like.viewer.formats import read
from nemo_like.viewer.pages import Site

from .rows import failure, opened, rollout, some_rollouts, wait_for, write


def everything(
    catalog: Catalog, selection: Selection = Selection(), size: int = 7, **order: Any
) -> list[int]:
    """The ids of all pages, one after the other."""
    ids: list[int] = []
    after = None
    while page := catalog.page(selection, size=size, after=after, **order):
        ids += [entry.id for entry in page]
        after = (page[-1].key, page[-1].id)
    return ids


@pytest.mark.parametrize("sort", SORTS)
@pytest.mark.parametrize("descending", [False, True])
def test_pages_hold_every_row_once_in_order(tmp_path: Path, sort: str, descending: bool) -> None:
    with opened(write(tmp_path / "r.jsonl", [*some_rollouts(), failure(3), b"no json\n"])) as catalog:
        ids = everything(catalog, sort=sort, descending=descending)
        assert sorted(ids) == list(range(1, 33))
        keys = [(entry.key, entry.id) for i in ids if (entry := catalog.entry(i, sort))]
        assert keys == sorted(keys, reverse=descending)
        last = catalog.page(sort=sort, descending=descending, after=keys[-1], backwards=True, size=5)
        assert [entry.id for entry in last] == ids[-6:-1]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("reward < 0.5", 15),
        ("success", 15),
        ('tool == "search"', 18),
        ('tool == "sear"', 0),
        ("tool_calls == 2 and not success", 5),
        ('agent == "agent_1"', 15),
        ("failure != null", 1),
        ('failure == "timeout"', 1),
        ("tokens >= 900", 3),
        ("time > 9 and turns == 1", 3),
        ('task == "key1"', 3),
        ("repeat == 2", 10),
        ("metadata.model_s == 0.4", 30),
        ('"question 3" in prompt', 4),
        ('"is 2" in answer', 10),
        ("truncated", 0),
    ],
)
def test_a_query_selects_the_rows_it_says(tmp_path: Path, query: str, expected: int) -> None:
    with opened(write(tmp_path / "r.jsonl", [*some_rollouts(), failure(3)])) as catalog:
        selection = Selection(query=query)
        assert catalog.count(selection) == len(everything(catalog, selection, sort="tokens")) == expected


def test_a_query_over_an_unknown_field_selects_nothing_and_a_broken_one_is_refused(tmp_path: Path) -> None:
    with opened(write(tmp_path / "r.jsonl", some_rollouts())) as catalog:
        assert catalog.count(Selection(query="nothing_like_it > 3")) == 0
        assert catalog.count(Selection(query="x.y == null")) == 30
        with pytest.raises(UsageError, match="the query"):
            catalog.count(Selection(query="reward >"))


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["reward", "tokens", "turns", "time", "tool_calls"]),
    st.sampled_from(["<", "<=", ">", ">=", "=="]),
    st.floats(-1, 1100, width=16),
)
def test_sql_selects_what_the_query_selects(
    shared_catalog: Catalog, field: str, sign: str, number: float
) -> None:
    query = Query.parse(f"{field} {sign} {number!r}")
    names = {"reward": "reward", "tokens": "tokens", "turns": "turns", "time": "total_s"}
    wanted: list[int] = []
    for entry in shared_catalog.page(size=100):
        view = shared_catalog.view(entry.id)
        value = len(view.calls) if field == "tool_calls" else getattr(entry, names[field])
        if query.matches({field: value}):
            wanted.append(entry.id)
    assert everything(shared_catalog, Selection(query=query.text)) == wanted


@pytest.fixture(scope="module")
def shared_catalog(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with opened(write(tmp_path_factory.mktemp("shared") / "r.jsonl", some_rollouts())) as catalog:
        yield catalog


def test_texts_are_found_wherever_they_stand(tmp_path: Path) -> None:
    rows = [rollout(1), rollout(2, answer="a zebra at the zoo"), rollout(3, tools=("giraffe",)), failure(4)]
    with opened(write(tmp_path / "r.jsonl", rows)) as catalog:
        wait_for(catalog.is_searchable)
        found = {
            words: everything(catalog, Selection(search=words))
            for words in ("zebra", "zeb", '"the zoo"', "zoo the zebra")
        }
        assert set(map(tuple, found.values())) == {(2,)}
        assert everything(catalog, Selection(search="giraffe")) == [3]
        assert everything(catalog, Selection(search="thought 1")) == [1]
        assert everything(catalog, Selection(search="zebra giraffe")) == []
        assert everything(catalog, Selection(search='")(* OR "')) == []
        assert everything(catalog, Selection(search="question", query="task == 'key1'")) == [1]


def test_a_file_that_grows_is_followed_and_a_torn_line_waits_for_its_end(tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", [rollout(0)])
    with opened(path) as catalog:
        line = json.dumps(rollout(1)).encode() + b"\n"
        write(path, [line[:50]])
        write(tmp_path / "r_failures.jsonl", [failure(2)])
        wait_for(lambda: catalog.count() == 2)
        write(path, [line[50:]])
        wait_for(lambda: catalog.count() == 3)
        assert [catalog.view(i).task_key for i in (1, 2, 3)] == ["key0", "key2", "key1"]


def test_a_file_that_is_begun_again_is_read_again(tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", [rollout(0), rollout(1)])
    with opened(path) as catalog:
        path.write_bytes(json.dumps(rollout(7)).encode() + b"\n")
        wait_for(lambda: catalog.count() == 1)
        assert catalog.view(catalog.page()[0].id).task_key == "key7"


def test_what_was_read_is_not_read_again(tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", some_rollouts())
    with opened(path) as catalog:
        assert catalog.count() == 30
    with Catalog(path) as catalog:
        assert (catalog.count(), catalog.covered()) == (30, path.stat().st_size)


def test_a_broken_database_is_made_again(tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", some_rollouts())
    (tmp_path / "r.viewer.sqlite").write_bytes(b"this is no database" * 1000)
    with opened(path) as catalog:
        assert catalog.count() == 30


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_can_not_be_written_to_is_no_obstacle(tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", some_rollouts())
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        with opened(path) as catalog:
            assert catalog.count() == 30
    finally:
        tmp_path.chmod(stat.S_IRWXU)


def test_what_is_selected_comes_out_byte_for_byte(tmp_path: Path) -> None:
    lines = [
        json.dumps(row, indent=None, separators=(", ", ":  ")).encode() + b"\n" for row in some_rollouts()
    ]
    with opened(write(tmp_path / "r.jsonl", [*lines])) as catalog:
        assert b"".join(catalog.lines(Selection())) == b"".join(lines)
        assert [*catalog.lines(Selection(query="task == 'key4'"))] == lines[12:15]


def test_tasks_come_hardest_first(tmp_path: Path) -> None:
    with opened(write(tmp_path / "r.jsonl", some_rollouts())) as catalog:
        keys = [row[0] for row in catalog.tasks("hardest", None, 100)]
        means = [row[4] for row in catalog.tasks("hardest", None, 100)]
        assert means == sorted(means)
        assert (keys[0], keys[-1]) == ("key0", "key1")
        first = catalog.tasks("hardest", None, 4)
        rest = catalog.tasks("hardest", (first[-1][-1], first[-1][0]), 100)
        assert [row[0] for row in [*first, *rest]] == keys


GYM: dict[str, Any] = {
    "responses_create_params": {"input": [{"role": "user", "content": "2+2?"}]},
    "response": {
        "output": [
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "4"}]}
        ]
    },
    "reward": 1.0,
    "agent_ref": {"type": "responses_api_agents", "name": "simple_agent"},
    "_ng_task_index": 5,
}
OTHERS: list[tuple[Any, str, float | None, str, str]] = [
    (GYM, "rollout", 1.0, "2+2?", "4"),
    ({"input": "2+2?", "output": "5", "gts": "4", "score": 0.0, "step": 1}, "verl", 0.0, "2+2?", "5"),
    (
        {"step": 1, "prompt": "2+2?", "completion": "4", "accuracy_reward": 1.0, "advantage": 0.5},
        "trl",
        1.0,
        "2+2?",
        "4",
    ),
    (
        {
            "prompt": [{"role": "user", "content": "2+2?"}],
            "completion": [{"role": "assistant", "content": "4"}],
        },
        *("trl", None, "2+2?", "4"),
    ),
    (
        {"prompt": "2+2?", "response": "4", "sample_idx": 1, "data_idx": 2, "reward": 0.5},
        "generated",
        0.5,
        "2+2?",
        "4",
    ),
    (
        {"prompt": "2+2?", "response": None, "sample_idx": 0, "data_idx": 2, "error": "503"},
        "generated",
        None,
        "2+2?",
        "",
    ),
    ({"anything": [1, {"else": None}]}, "other", None, "", ""),
    ([1, 2], "malformed", None, "", ""),
    (b"{torn", "malformed", None, "", ""),
    (
        {"responses_create_params": {"input": 5}, "response": {"output": [1, None, {"type": "new"}]}},
        "rollout",
        None,
        "",
        "",
    ),
]


@pytest.mark.parametrize(("row", "kind", "reward", "asked", "answer"), OTHERS)
def test_files_of_others_are_recognised_by_their_fields(
    row: Any, kind: str, reward: float | None, asked: str, answer: str
) -> None:
    view = read(row if isinstance(row, bytes) else json.dumps(row).encode())
    assert (view.kind, view.reward, view.asked, view.answer) == (kind, reward, asked, answer)
    assert bool(view.task_key) == (kind != "malformed")


def test_repeats_of_a_task_are_known_without_a_key(tmp_path: Path) -> None:
    rows = [{"input": "a", "output": str(i), "score": float(i % 2)} for i in range(4)]
    with opened(write(tmp_path / "r.jsonl", [*rows, {"input": "b", "output": "x", "score": 1.0}])) as catalog:
        assert sorted((n, correct) for _, n, _, correct, *_ in catalog.tasks("hardest", None, 10)) == [
            (1, 1),
            (4, 2),
        ]


def test_a_reward_too_large_to_be_added_up_is_none_and_its_success_does_not_count(tmp_path: Path) -> None:
    rows = [rollout(0, 0, reward=1e200, success=True), rollout(0, 1, reward=1.0)]
    with opened(write(tmp_path / "r.jsonl", rows)) as catalog:
        assert [entry.reward for entry in catalog.page()] == [None, 1.0]
        [(_, n, scored, correct, mean, *_)] = catalog.tasks("hardest", None, 9)
        assert (n, scored, correct, mean) == (2, 1, 1, 1.0)
        assert "1e+200" not in Site([catalog]).render({"view": "overview"})
