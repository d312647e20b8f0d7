"""Prompts and tables: every layout of a prompt, and rows that Arrow has no type for."""

from __future__ import annotations

import datetime
import decimal
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nemo_like.errors import RowError, UsageError
from nemo_like.prompts import read_prompt, sound
from nemo_like.table import AS_JSON, ENCODING, cells, open_table, read_rows, written

from .conftest import write_jsonl
from .generating import Json, endpoint, generate, rows_of

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2 + 2?"}]

texts = st.text(st.characters(exclude_categories=[]), max_size=8)
floats = st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | floats | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)


def replaced(value: Any) -> Any:
    """The value with no lone surrogate in it."""
    if isinstance(value, str):
        return sound(value)
    if isinstance(value, list):
        return [replaced(part) for part in value]
    return {sound(k): replaced(v) for k, v in value.items()} if isinstance(value, dict) else value


class TestPrompts:
    @pytest.mark.parametrize(
        "cell",
        [
            MESSAGES,
            tuple(MESSAGES),
            np.array(MESSAGES, dtype=object),
            json.dumps(MESSAGES),
            json.dumps(MESSAGES, indent=2),
            [message | {"name": None} for message in MESSAGES],
            [{"role": "system", "content": "Be brief."}, np.array([MESSAGES[1]], dtype=object)[0]],
        ],
        ids=["list", "tuple", "array", "JSON", "indented JSON", "struct with nulls", "array of one"],
    )
    def test_messages_are_the_same_however_they_are_stored(self, cell: Any):
        prompt = read_prompt(cell)
        assert prompt.messages == MESSAGES
        assert prompt.key == read_prompt(MESSAGES).key
        assert (prompt.text, prompt.plain) == ("system: Be brief.\nuser: 2 + 2?", False)

    @pytest.mark.parametrize(
        "text", ["2 + 2?", "[1, 2]", '{"a": 1}', "[{'role': 'user'}]", '"quoted"', "[", "7"]
    )
    def test_any_other_text_is_a_users_turn(self, text: str):
        prompt = read_prompt(text)
        assert prompt.messages == [{"role": "user", "content": text}]
        assert (prompt.text, prompt.plain) == (text, True)

    def test_one_message_may_come_without_its_list(self):
        assert read_prompt(MESSAGES[1]).messages == [MESSAGES[1]]
        assert read_prompt(MESSAGES[1]).text == "2 + 2?"

    def test_images_are_asked_as_they_are(self):
        parts = [
            {"type": "image_url", "image_url": {"url": "http://x/y.png"}, "text": None},
            {"type": "text", "text": "What is this?", "image_url": None},
        ]
        prompt = read_prompt([{"role": "user", "content": np.array(parts, dtype=object)}])
        assert prompt.messages[0]["content"] == [
            {"type": "image_url", "image_url": {"url": "http://x/y.png"}},
            {"type": "text", "text": "What is this?"},
        ]
        assert prompt.text == "What is this?"

    @pytest.mark.parametrize(
        "cell", ["", " \n", None, [], {}, 7, 1.5, b"text", [None], ["text"], [{"role": 1}]]
    )
    def test_what_is_no_prompt_is_refused(self, cell: Any):
        with pytest.raises(RowError, match=r"prompt"):
            read_prompt(cell)

    @given(values)
    def test_any_cell_is_a_prompt_or_refused(self, value: Any):
        for cell in (value, json.dumps(value)):
            try:
                prompt = read_prompt(cell)
            except RowError:
                continue
            prompt.text.encode()
            json.dumps(prompt.messages).encode()
            assert prompt.key == read_prompt(prompt.messages).key


class TestTables:
    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=80)
    @given(st.lists(st.dictionaries(st.sampled_from("abc"), values, max_size=3), max_size=5))
    def test_jsonl_survives_a_round_trip_through_either_format(self, tmp_path: Path, rows: list[Json]):
        source = write_jsonl(tmp_path / "d.jsonl", rows)
        table = open_table(source)
        names = table.schema.names
        expected = [replaced({name: row.get(name) for name in names}) for row in rows]
        for kind in ("parquet", "jsonl"):
            copy = tmp_path / f"copy.{kind}"
            with written(copy, kind, table.schema) as write:
                for batch in table.batches(2):
                    write(batch)
            if names:
                assert json.dumps([*read_rows(copy)]) == json.dumps(expected)

    @pytest.mark.parametrize(
        "column",
        [
            ["72", ["72"]],
            [{}, {}],
            [{"a": {}}, None],
            [{"num_words": 3}, {"keyword": "x"}],
            [1, "1"],
            [True, 1],
            [1, 2.5],
            [2**70, 1],
            ["\ud800 alone", "fine"],
            ["007", "12"],
            [[1], ["a"]],
            [None, None],
            [[], []],
            [float("nan"), 1.0],
        ],
        ids=repr,
    )
    def test_arrows_traps_survive_a_generation(self, tmp_path: Path, monkeypatch: Any, column: list[Any]):
        monkeypatch.chdir(tmp_path)
        data = write_jsonl(tmp_path / "d.jsonl", [{"prompt": "?", "truth": value} for value in column])
        with endpoint() as model:
            for name in ("r.parquet", "s.jsonl"):
                assert generate(data, "--num_samples", 1, "--output_path", name, url=model.url) == 0
        expected = ["\ufffd alone" if value == "\ud800 alone" else value for value in column]
        for name in ("r.parquet", "s.jsonl"):
            there = [row["original_truth"] for row in read_rows(Path(name))]
            assert json.dumps(there).replace("null", "NaN") == json.dumps(expected).replace("null", "NaN")

    def test_a_column_of_several_types_is_json_text_and_says_so(self, tmp_path: Path):
        table = open_table(write_jsonl(tmp_path / "d.jsonl", [{"a": "72", "b": 1}, {"a": ["72"], "b": 2}]))
        assert table.schema.field("a").metadata == {ENCODING: AS_JSON}
        assert table.schema.field("b").type == pa.int64()
        assert [*cells(table, "a")] == ["72", ["72"]]

    def test_types_are_those_of_the_whole_file(self, tmp_path: Path):
        rows: list[Json] = [{"a": None, "b": [], "c": {"x": None}, "d": 1}] * 3000
        table = open_table(
            write_jsonl(tmp_path / "d.jsonl", [*rows, {"a": 1, "b": ["z"], "c": {"x": 2}, "d": "1"}])
        )
        kinds = [str(field.type) for field in table.schema]
        assert kinds == ["int64", "list<item: string>", "struct<x: int64>", "string"]
        assert [*cells(table, "d")][-2:] == [1, "1"]
        assert len(table) == 3001

    def test_parquet_keeps_its_types(self, tmp_path: Path, monkeypatch: Any):
        monkeypatch.chdir(tmp_path)
        columns = {
            "prompt": ["a", "b"],
            "kind": pa.array(["x", "y"]).dictionary_encode(),
            "when": [datetime.datetime(2026, 1, 2, 3, 4, 5, 6), None],
            "day": [datetime.date(2026, 1, 2), None],
            "exact": [decimal.Decimal("1.50"), None],
            "raw": [b"\xff\x00", b"text"],
            "took": pa.array([datetime.timedelta(seconds=2), None], pa.duration("s")),
            "map": pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int64())),
            "nan": [float("nan"), 1.0],
            "long": pa.array([2**63, 1], pa.uint64()),
        }
        pq.write_table(pa.table(columns), "d.parquet")
        with endpoint() as model:
            for name in ("r.parquet", "s.jsonl"):
                assert generate("d.parquet", "--num_samples", 2, "--output_path", name, url=model.url) == 0
        before, after = pq.read_table("d.parquet"), pq.read_table("r.parquet")
        for name in columns:
            assert after.schema.field(f"original_{name}").type == before.schema.field(name).type
            assert repr(after[f"original_{name}"].to_pylist()[::2]) == repr(before[name].to_pylist())
        first = next(read_rows(Path("s.jsonl")))
        assert first["original_when"] == "2026-01-02T03:04:05.000006"
        assert (first["original_exact"], first["original_raw"], first["original_took"]) == (
            "1.50",
            "/wA=",
            2.0,
        )
        assert (first["original_nan"], first["original_map"], first["original_long"]) == (
            None,
            [["k", 1]],
            2**63,
        )

    def test_many_row_groups_become_many_batches(self, tmp_path: Path, monkeypatch: Any):
        monkeypatch.chdir(tmp_path)
        names = [f"name {i % 700}" for i in range(1500)]
        columns = {"prompt": [f"{i}" for i in range(1500)], "name": pa.array(names).dictionary_encode()}
        pq.write_table(pa.table(columns), "d.parquet", row_group_size=500)
        with endpoint() as model:
            assert generate("d.parquet", "--num_samples", 3, url=model.url) == 0
        rows = rows_of("rollouts.parquet")
        assert [row["prompt"] for row in rows[::3]] == columns["prompt"]
        assert [row["response"] for row in rows] == [f"re: {i}" for i in range(1500) for _ in range(3)]
        assert [row["original_name"] for row in rows[2::3]] == names

    def test_what_pandas_says_of_its_index_is_not_kept(self, tmp_path: Path, monkeypatch: Any):
        monkeypatch.chdir(tmp_path)
        frame = pd.DataFrame({"prompt": ["a", "b"]}, index=["x", "y"])
        frame.to_parquet("d.parquet")
        with endpoint() as model:
            assert generate("d.parquet", "--num_samples", 1, url=model.url) == 0
        assert [*pd.read_parquet("rollouts.parquet").index] == [0, 1]
        assert [row["original___index_level_0__"] for row in rows_of("rollouts.parquet")] == ["x", "y"]

    def test_an_array_in_a_json_file_is_read_too(self, tmp_path: Path):
        (tmp_path / "d.json").write_text('\n[{"prompt": "a"},\n {"prompt": "b"}]')
        assert [row["prompt"] for row in read_rows(tmp_path / "d.json")] == ["a", "b"]

    def test_two_columns_of_one_name_are_refused(self, tmp_path: Path):
        table = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
        pq.write_table(table, tmp_path / "d.parquet")
        with pytest.raises(UsageError, match="two columns named 'a'"):
            open_table(tmp_path / "d.parquet")

    def test_a_file_damaged_in_the_middle_is_named(self, tmp_path: Path):
        path = tmp_path / "d.parquet"
        pq.write_table(pa.table({"a": [f"{i:032}" for i in range(10_000)]}), path, compression="zstd")
        data = bytearray(path.read_bytes())
        data[1000:3000] = bytes(2000)
        path.write_bytes(data)
        with pytest.raises(RowError, match=r"d\.parquet can't be read to its end"):
            list(cells(open_table(path), "a"))

    def test_a_file_that_is_not_finished_never_appears(self, tmp_path: Path):
        table = open_table(write_jsonl(tmp_path / "d.jsonl", [{"a": 1}]))

        def write_half() -> None:
            with written(tmp_path / "r.parquet", "parquet", table.schema) as write:
                write(next(table.batches(1)))
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            write_half()
        assert [path.name for path in tmp_path.iterdir()] == ["d.jsonl"]
