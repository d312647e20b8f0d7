"""The language that selects rollouts: what it understands, what it refuses, and that SQL says the same."""

from __future__ import annotations

import sqlite3
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_like.errors import UsageError
from nemo_like.query import Query

ROW: dict[str, Any] = {
    "reward": 0.25,
    "success": False,
    "tool": ["search", "fetch"],
    "answer": "A Timeout occurred",
    "agent": "math_agent",
    "failure": None,
    "metadata": {"total_s": 3.5},
    "usage/output_tokens": 120,
}


@pytest.mark.parametrize(
    ("query", "selected"),
    [
        ("", True),
        ('reward < 0.5 and tool == "search"', True),
        ('reward < 0.5 and tool == "sea"', False),
        ("reward = 0.25", True),
        ("not success", True),
        ("success", False),
        ("success == false", True),
        ("'timeout' in answer", True),
        ("'timeout' not in answer", False),
        ("agent in ['math_agent', 'other']", True),
        ("metadata.total_s >= 3.5 && usage/output_tokens > 100", True),
        ("metadata.nothing > 0", False),
        ("metadata.nothing == null", True),
        ("failure != null", False),
        ("reward > -1", True),
        ("-1 < reward", True),
        ("answer < 3", False),
        ("tool < 3", False),
        ("metadata < 3", False),
        ("not (reward > 1 or success) AND 'fetch' in tool", True),
        ("tool != 'search'", False),
    ],
)
def test_a_query_selects_what_it_says(query: str, selected: bool) -> None:
    assert Query.parse(query).matches(ROW) is selected


@pytest.mark.parametrize(
    "query",
    [
        "__import__('os')",
        "reward.__class__()",
        "1 < reward < 3",
        "reward <",
        "lambda: 1",
        "tool[0] == 'a'",
        "reward + 1 > 2",
        "f'{reward}'",
        "(reward := 1)",
        "[x for x in tool]",
        "'" * 3000,
        "not " * 60 + "reward",
        "reward > 99999999999999999999",
        "reward == 1j",
        "not " * 5000 + "reward",
        "reward == 1; drop table",
    ],
)
def test_what_is_not_of_the_language_is_refused(query: str) -> None:
    with pytest.raises(UsageError, match="query"):
        Query.parse(query)


def test_an_unknown_field_is_named_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"there is no field 'rewrd'; did you mean 'reward'"):
        Query.parse("rewrd > 1").sql({"reward": "reward", "agent": "agent"})


def test_a_query_tells_its_fields() -> None:
    assert Query.parse("a.b.c > 1 and d in e and not f == true").fields == {"a/b/c", "d", "e", "f"}


numbers = st.sampled_from([-1, 0, 0.25, 0.5, 1, 2])
texts = st.sampled_from(["search", "SEA", "x", "", "it's", 'say "x"', "100%", "a_b"])
signs = st.sampled_from(["==", "!=", "<", "<=", ">", ">="])


def quoted(text: str) -> str:
    return "'" + text.replace("'", r"\'") + "'"


leaves = st.one_of(
    st.builds(lambda s, n: f"reward {s} {n}", signs, numbers),
    st.builds(lambda s, t: f"answer {s} {quoted(t)}", signs, texts),
    st.builds(lambda t: f"{quoted(t)} in answer", texts),
    st.builds(lambda t: f"{quoted(t)} not in answer", texts),
    st.builds(lambda s, t: f"tool {s} {quoted(t)}", st.sampled_from(["==", "!="]), texts.filter(bool)),
    st.builds(lambda t: f"{quoted(t)} in tool", texts.filter(bool)),
    st.builds(lambda t, u: f"answer in [{quoted(t)}, {quoted(u)}]", texts, texts),
    st.sampled_from(["success", "success == true", "reward == null", "answer != null", "answer > 3"]),
)
queries = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds(lambda a, b: f"({a} and {b})", inner, inner),
        st.builds(lambda a, b: f"({a} or {b})", inner, inner),
        st.builds(lambda a: f"not {a}", inner),
    ),
    max_leaves=5,
)
rows = st.fixed_dictionaries(
    {
        "reward": st.none() | numbers,
        "answer": st.none() | texts,
        "success": st.booleans(),
        "tool": st.lists(texts.filter(bool), max_size=2),
    }
)


@given(queries, rows)
def test_sql_selects_what_the_query_selects(text: str, row: dict[str, Any]) -> None:
    query = Query.parse(text)
    where, arguments = query.sql({name: name for name in row})
    tools = "\n" + "".join(f"{tool}\n" for tool in row["tool"])
    db = sqlite3.connect(":memory:")
    db.execute("CREATE TABLE t (reward, answer, success, tool)")
    db.execute("INSERT INTO t VALUES (?, ?, ?, ?)", (row["reward"], row["answer"], row["success"], tools))
    found = db.execute(f"SELECT count(*) FROM t WHERE {where}", arguments).fetchone()[0]
    db.close()
    assert bool(found) == query.matches(row)
