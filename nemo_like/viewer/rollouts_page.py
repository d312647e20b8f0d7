"""The page of many rollouts: filters, and a table in any order, a page at a time."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import orjson

from nemo_like.errors import UsageError
from nemo_like.query import Query
from nemo_like.viewer.catalog import Catalog, Selection
from nemo_like.viewer.entry import Entry, badge
from nemo_like.viewer.markup import cells, link, table, tag, text
from nemo_like.viewer.route import Route, changed, key

PAGE = 50
COLUMNS = (
    *(
        ("", "order", "#"),
        ("num", "reward", "reward"),
        ("", "task", "task"),
        ("", None, "agent"),
        ("wide", None, "prompt"),
    ),
    *(
        ("wide", None, "answer"),
        ("", "tool_calls", "tools"),
        ("num", "turns", "turns"),
        ("num", "tokens", "tokens"),
    ),
    ("num", "time", "time"),
)
"""Class, what it sorts by, title."""
FILTERS = (
    *(
        ("rmin", "reward ≥", "reward >= {}"),
        ("rmax", "reward ≤", "reward <= {}"),
        ("tokmin", "tokens ≥", "tokens >= {}"),
    ),
    *(("turnmin", "turns ≥", "turns >= {}"), ("tmin", "seconds ≥", "time >= {}")),
)
"""Name, label and query of the filters that take a number."""
EXAMPLE = 'reward < 0.5 and tool == "search"'
STATES = {
    "success": "success == true",
    "no success": "success == false and failure == null",
    "failed": "failure != null",
    "truncated": "truncated == true",
    "malformed": 'kind == "malformed"',
}


def page(catalog: Catalog, route: Route, selection: Selection) -> str:
    """The page."""
    sort, descending = route.get("sort", "order"), bool(route.get("desc"))
    backwards = bool(route.get("back"))
    entries = catalog.page(
        selection, sort=sort, descending=descending, after=key(route), backwards=backwards, size=PAGE + 1
    )
    more = len(entries) > PAGE
    if more:
        entries = entries[1:] if backwards else entries[:PAGE]
    total = catalog.count(selection)
    heads = [_column(route, *column) for column in COLUMNS]
    listed = table(heads, [_row(entry, route) for entry in entries], "nothing is selected")
    pages = _pages(
        entries,
        route,
        has_next=more or backwards,
        has_previous=key(route) is not None and (more or not backwards),
    )
    export = text("export?" + _encoded(route))
    tools = (
        f'<p class="tools"><b>{total:,}</b> selected {_searching(catalog, selection)}'
        f'<a href="{export}" download class="button">export as JSONL</a>{pages}</p>'
    )
    return filters(catalog, route) + tools + listed


def selection_of(route: Route) -> Selection:
    """What the filters, the query and the search of a route select.

    Raises:
        UsageError: the query can't be read, or a filter that takes a number holds none.
    """
    parts = [f"({route['q']})"] if route.get("q", "").strip() else []
    Query.parse(route.get("q", ""))
    for name, label, query in FILTERS:
        if value := route.get(name, "").strip():
            try:
                parts.append(query.format(float(value)))
            except ValueError:
                raise UsageError(f"{label} takes a number (got {value})") from None
    if route.get("state") in STATES:
        parts.append(f"({STATES[route['state']]})")
    for name, field in (("agent", "agent"), ("tool", "tool"), ("failure", "failure"), ("task", "task")):
        if route.get(name) and not (name == "task" and route.get("view") == "rollout"):
            parts.append(f"{field} == {orjson.dumps(route[name]).decode()}")
    return Selection(query=" and ".join(parts), search=route.get("s", ""))


def filters(catalog: Catalog, route: Route) -> str:
    """The form that selects."""

    def select(name: str, values: list[str], label: str) -> str:
        options = "".join(
            tag("option", text(value), value=value, selected="" if route.get(name) == value else None)
            for value in values
        )
        return f'<label>{label}<select name="{name}"><option value="">any</option>{options}</select></label>'

    agents, tools, failures = catalog.names()
    numbers = "".join(
        tag("label", text(label), _input(name, route, inputmode="decimal", size=5))
        for name, label, _ in FILTERS
    )
    keep = "".join(
        f'<input type="hidden" name="{name}" value="{text(route[name])}">'
        for name in ("file", "sort", "desc", "task")
        if route.get(name)
    )
    return tag(
        "form",
        '<input type="hidden" name="view" value="rollouts">',
        keep,
        tag("label", "query", _input("q", route, spellcheck="false", placeholder=EXAMPLE), css="grow"),
        tag("label", "search prompts and answers", _input("s", route), css="grow"),
        select("state", [*STATES], "state"),
        select("agent", agents, "agent"),
        select("tool", tools, "tool"),
        select("failure", failures, "failure"),
        numbers,
        "<button>select</button>",
        link("clear", view="rollouts", file=route.get("file")),
        data_form="",
        css="filters card",
        role="search",
    )


def _encoded(route: Route) -> str:
    return urlencode({k: v for k, v in route.items() if v and k not in ("view", "after", "back")})


def _column(route: Route, css: str, sort: str | None, title: str) -> tuple[str, str]:
    """The class and the markup of a column's head."""
    if sort is None:
        return css, title
    on, down = route.get("sort", "order") == sort, bool(route.get("desc"))
    arrow = (" ▼" if down else " ▲") if on else ""
    return css, link(title + arrow, **changed(route, sort=sort, desc="" if (on and down) else "1"))


def _row(entry: Entry, route: Route) -> str:
    here = changed(route, view="rollout", id=entry.id)
    tools = ", ".join(entry.tools)
    tokens = "" if entry.tokens is None else f"{entry.tokens:,.0f}"
    return "".join(
        (
            tag("td", str(entry.id)),
            cells(badge(entry)),
            tag(
                "td",
                text(entry.task_key[:12]),
                tag("small", f"·{entry.rollout_index}"),
                css="key",
                title=entry.task_key,
            ),
            tag("td", text(entry.agent), css="name", title=entry.agent),
            tag("td", link(text(entry.prompt) or "…", css="open", **here), css="wide"),
            tag("td", text(entry.answer), css="wide"),
            tag("td", text(tools), css="name", title=tools),
            cells(str(entry.turns), tokens + ("<abbr title=truncated>✂</abbr>" if entry.truncated else "")),
            cells("" if entry.total_s is None else f"{entry.total_s:.2f} s"),
        )
    )


def _pages(entries: list[Entry], route: Route, *, has_next: bool, has_previous: bool) -> str:
    if not entries:
        return ""
    first, last = (orjson.dumps([e.key, e.id]).decode() for e in (entries[0], entries[-1]))
    previous = link("◀ previous", key="k", **changed(route, after=first, back="1")) if has_previous else ""
    following = link("next ▶", key="j", **changed(route, after=last)) if has_next else ""
    return f'<span class="pages">{previous} {following}</span>'


def _searching(catalog: Catalog, selection: Selection) -> str:
    if selection.search.strip() and not catalog.is_searchable():
        return '<span class="warn">texts are still being indexed; what is found so far</span> '
    return ""


def _input(name: str, route: Route, **attributes: Any) -> str:
    return tag("input", name=name, value=route.get(name, ""), **attributes).removesuffix("</input>")
