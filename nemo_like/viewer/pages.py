"""Every page as HTML, out of its route: what to look at, selected how, sorted by what."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import suppress
from functools import lru_cache
from typing import Any, cast
from urllib.parse import urlencode

import orjson

from nemo_like.errors import UsageError
from nemo_like.query import Query
from nemo_like.types import Json
from nemo_like.viewer import compare, overview, transcript
from nemo_like.viewer.catalog import Catalog, Entry, Selection
from nemo_like.viewer.formats import View, fields
from nemo_like.viewer.markup import card, cells, link, pretty, table, tag, text
from nemo_like.viewer.notes import MARKS, Notes
from nemo_like.viewer.route import Route, key, number

PAGE = 50
LARGE = 100_000
"""Rows beyond which the overview is made beside the page, and kept."""
CELLS = 32
"""Repeats of a task that are shown as cells."""
VIEWS = {"overview": "Overview", "rollouts": "Rollouts", "tasks": "Tasks", "compare": "Compare"}
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


class Site:
    """The pages over one file or several."""

    def __init__(self, catalogs: list[Catalog]) -> None:
        self.catalogs = catalogs
        self.notes = [Notes(catalog.path) for catalog in catalogs]
        self._overview = lru_cache(64)(self._make_overview)
        self._counting: set[Catalog] = set()
        """Files whose overview is being made."""

    def render(self, route: Route, warning: str = "") -> str:
        """The page of a route; a mistake in it is said on the page, and so is `warning`."""
        catalog = self.catalog(route)
        view = route.get("view", "overview")
        try:
            selection = selection_of(route)
            if view == "rollouts":
                body = self._rollouts(catalog, route, selection)
            elif view == "tasks":
                body = _tasks(catalog, route)
            elif view == "rollout":
                body = self._rollout(catalog, route, selection)
            elif view == "compare":
                body = compare.page(self.catalogs, route)
            else:
                body = self._overview_of(catalog, selection, route.get("file", ""))
        except UsageError as error:
            body, warning = _filters(catalog, route), str(error)
        alert = tag("p", text(warning), css="card bad", role="alert") if warning else ""
        return f'<div class="viewer">{self._head(route, view)}<main id="main">{alert}{body}</main></div>'

    def catalog(self, route: Route) -> Catalog:
        """The file that a route is about."""
        file = number(route, "file") or 0
        return self.catalogs[file if file < len(self.catalogs) else 0]

    def status(self, route: Route) -> str:
        """How much there is by now."""
        catalog = self.catalog(route)
        rows, size, scanned = catalog.count(), catalog.size, catalog.covered()
        counting = ", counting" if catalog in self._counting else ""
        if scanned < size:
            return f"reading: {rows:,} rows, {100 * scanned / max(size, 1):.0f} %{counting}"
        return f"{rows:,} rows{counting}"

    def note(self, route: Route, mark: str, remark: str) -> None:
        """Note something on the rollout of a route."""
        catalog = self.catalog(route)
        found = _entry_of(catalog, route)
        entry = None if found is None else catalog.entry(found)
        if entry is not None and (mark or remark.strip()):
            self.notes[self.catalogs.index(catalog)].add(
                entry.task_key, entry.rollout_index, mark=mark, remark=remark
            )

    def _head(self, route: Route, view: str) -> str:
        keep = {key: route[key] for key in ("file", "q") if route.get(key)}
        tabs = "".join(
            link(label, view=name, css="tab on" if name == view else "tab", **keep)
            for name, label in VIEWS.items()
        )
        files = "".join(
            link(
                text(catalog.path.name),
                view=view if view in VIEWS else "overview",
                file=at,
                css="tab on" if catalog is self.catalog(route) else "tab",
            )
            for at, catalog in enumerate(self.catalogs)
        )
        several = f'<nav aria-label="files" class="files">{files}</nav>' if len(self.catalogs) > 1 else ""
        path = self.catalog(route).path
        name = tag("span", text(path.name), css="file", title=path)
        views = tag("nav", tabs, aria_label="views")
        return tag("header", "<strong>ng_viewer</strong>", name, views, several, css="top")

    def _overview_of(self, catalog: Catalog, selection: Selection, file: str) -> str:
        version = catalog.version()
        if version <= LARGE or selection != Selection():
            return self._overview(self.catalogs.index(catalog), version, selection, file)
        kept = catalog.kept("overview")
        if (kept is None or kept[0] != version) and catalog not in self._counting:
            self._counting.add(catalog)
            threading.Thread(target=self._keep_overview, args=(catalog, version, file), daemon=True).start()
        return kept[1] if kept else f'<p class="card">counting {version:,} rows…</p>'

    def _keep_overview(self, catalog: Catalog, version: int, file: str) -> None:
        # The files may be closed meanwhile.
        with suppress(sqlite3.ProgrammingError):
            catalog.keep("overview", version, overview.page(catalog, Selection(), file))
        self._counting.discard(catalog)

    def _make_overview(self, number: int, version: int, selection: Selection, file: str) -> str:
        return overview.page(self.catalogs[number], selection, file)

    def _rollouts(self, catalog: Catalog, route: Route, selection: Selection) -> str:
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
        return _filters(catalog, route) + tools + listed

    def _rollout(self, catalog: Catalog, route: Route, selection: Selection) -> str:
        found = _entry_of(catalog, route)
        entry = None if found is None else catalog.entry(found, route.get("sort", "order"))
        if entry is None:
            raise UsageError("there is no such rollout")
        view = catalog.view(entry.id)
        notes = self.notes[self.catalogs.index(catalog)].of(entry.task_key, entry.rollout_index)
        who = tag("small", f"{text(entry.agent)} · {entry.kind}")
        title = tag("h2", f"task {text(entry.task_key)} · repeat {entry.rollout_index} ", who)
        conversation = transcript.render(transcript.blocks([*view.prompt, *view.output]))
        raw = f"<details class=card><summary>raw JSON</summary>{pretty(view.row)}</details>"
        side = transcript.verdict(view) + transcript.waterfall(view) + _facts(view) + _notes(notes) + raw
        group = _group(catalog, entry, route)
        return (
            f"{_neighbours(catalog, entry, route, selection)}{title}{group}"
            f'<div class="split"><section class="talk" aria-label="conversation">{conversation}</section>'
            f'<aside aria-label="verdict and facts">{side}</aside></div>'
        )


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


def _entry_of(catalog: Catalog, route: Route) -> int | None:
    if (entry := number(route, "id")) is not None:
        return entry
    return catalog.find(route.get("task", ""), number(route, "repeat") or 0)


def _encoded(route: Route) -> str:
    return urlencode({k: v for k, v in route.items() if v and k not in ("view", "after", "back")})


def _with(route: Route, **changes: Any) -> dict[str, Any]:
    return {k: v for k, v in route.items() if k not in ("after", "back")} | changes


def _column(route: Route, css: str, sort: str | None, title: str) -> tuple[str, str]:
    """The class and the markup of a column's head."""
    if sort is None:
        return css, title
    on, down = route.get("sort", "order") == sort, bool(route.get("desc"))
    arrow = (" ▼" if down else " ▲") if on else ""
    return css, link(title + arrow, **_with(route, sort=sort, desc="" if (on and down) else "1"))


def _row(entry: Entry, route: Route) -> str:
    here = _with(route, view="rollout", id=entry.id)
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


def badge(entry: Entry) -> str:
    """What became of a rollout, by sign, words and colour."""
    if entry.kind == "malformed":
        return '<span class="badge bad" title="malformed line">⚠ malformed</span>'
    if entry.failure:
        return (
            f'<span class="badge failed" title="failed: {text(entry.failure)}">! {text(entry.failure)}</span>'
        )
    if entry.reward is None:
        return '<span class="badge" title="not scored">not scored</span>'
    state, sign = ("good", "✓") if entry.success else ("bad", "✗")
    words = "success" if entry.success else "no success"
    return tag("span", f"{sign} {entry.reward:.3g}", css=f"badge {state}", title=words)


def _pages(entries: list[Entry], route: Route, *, has_next: bool, has_previous: bool) -> str:
    if not entries:
        return ""
    first, last = (orjson.dumps([e.key, e.id]).decode() for e in (entries[0], entries[-1]))
    previous = link("◀ previous", key="k", **_with(route, after=first, back="1")) if has_previous else ""
    following = link("next ▶", key="j", **_with(route, after=last)) if has_next else ""
    return f'<span class="pages">{previous} {following}</span>'


def _searching(catalog: Catalog, selection: Selection) -> str:
    if selection.search.strip() and not catalog.is_searchable():
        return '<span class="warn">texts are still being indexed; what is found so far</span> '
    return ""


def _filters(catalog: Catalog, route: Route) -> str:
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


def _input(name: str, route: Route, **attributes: Any) -> str:
    return tag("input", name=name, value=route.get(name, ""), **attributes).removesuffix("</input>")


def _tool_name(tool: Json) -> str:
    function = tool.get("function")
    return str(
        tool.get("name") or (cast(Json, function).get("name") if isinstance(function, dict) else "tool")
    )


def _neighbours(catalog: Catalog, entry: Entry, route: Route, selection: Selection) -> str:
    sort, descending = route.get("sort", "order"), bool(route.get("desc"))

    def near(which: Selection, *, backwards: bool = False) -> dict[str, Any] | None:
        found = catalog.page(
            which, sort=sort, descending=descending, after=(entry.key, entry.id), backwards=backwards, size=1
        )
        return _with(route, view="rollout", id=found[0].id, task="", repeat="") if found else None

    failed = " and ".join([*([f"({selection.query})"] if selection.query else []), "success != true"])
    targets = (
        ("◀ previous", "k", near(selection, backwards=True)),
        ("next ▶", "j", near(selection)),
        ("next failed ▶", "n", near(Selection(query=failed, search=selection.search))),
    )
    shown = " ".join(
        link(f"{label} <kbd>{key}</kbd>", key=key, css="button", **target)
        if target
        else f'<span class="button off">{label}</span>'
        for label, key, target in targets
    )
    back = link(
        "↑ list <kbd>u</kbd>", key="u", css="button", **_with(route, view="rollouts", id="", repeat="")
    )
    return f'<p class="tools">{back} {shown}</p>'


def _group(catalog: Catalog, entry: Entry, route: Route) -> str:
    group = catalog.group(entry.task_key)
    if len(group) < 2:
        return ""
    file = route.get("file")
    others = " ".join(
        link(
            badge(other),
            view="rollout",
            id=other.id,
            file=file,
            css="cell on" if other.id == entry.id else "cell",
        )
        for other in group[:CELLS]
    )
    pairs = " ".join(
        link(f"with {other.rollout_index}", view="compare", a=entry.id, b=other.id, file=file)
        for other in group[:8]
        if other.id != entry.id
    )
    return f'<p class="group">repeats: {others} <span class="pairs">side by side: {pairs}</span></p>'


def _facts(view: View) -> str:
    usage = fields(fields(view.row.get("response")).get("usage"))
    facts = {**view.params, **{k: v for k, v in usage.items() if isinstance(v, int | float)}}
    shown = "".join(
        f"<dt>{text(k)}</dt><dd>{text(v)}</dd>" for k, v in facts.items() if not isinstance(v, dict | list)
    )
    tools = "".join(
        tag("details", tag("summary", text(_tool_name(tool))), pretty(tool), css="inner")
        for tool in view.tools
    )
    offered = f"<h4>{len(view.tools)} tools</h4>{tools}" if tools else ""
    return (
        f'<section class="card"><h3>request</h3><dl>{shown}</dl>{offered}</section>'
        if shown or offered
        else ""
    )


def _notes(notes: list[Json]) -> str:
    shown = "".join(
        f"<li><b>{text(MARKS.get(str(note.get('mark')), ''))}</b> {text(note.get('remark', ''))}</li>"
        for note in notes
    )
    marks = "".join(f'<button name="mark" value="{mark}">{label}</button>' for mark, label in MARKS.items())
    add = '<button name="mark" value="">add</button>'
    form = tag("form", '<label>remark<input name="remark"></label>', add, marks, data_note="")
    return card(tag("ul", shown, css="notes"), form, title="notes")


def _tasks(catalog: Catalog, route: Route) -> str:
    order = "easiest" if route.get("order") == "easiest" else "hardest"
    rows = catalog.tasks(order, key(route), PAGE + 1)
    more, rows = len(rows) > PAGE, rows[:PAGE]
    file = route.get("file")
    lines: list[str] = []
    for task_key, n, scored, correct, mean, first, _ in rows:
        entries = catalog.group(task_key)
        shown_cells = "".join(
            link(badge(e), view="rollout", id=e.id, file=file, css="cell") for e in entries[:CELLS]
        )
        if len(entries) > CELLS:
            shown_cells += f" + {len(entries) - CELLS}"
        mark = "all 0" if scored and not correct else ("all 1" if scored and correct == scored else "")
        opened = catalog.entry(first)
        prompt = link(text(opened.prompt), view="rollouts", task=task_key, file=file) if opened else ""
        right = f"{correct}/{scored}" + (f" of {n}" if n != scored else "")
        lines.append(
            tag("td", text(task_key[:12]), css="key", title=task_key)
            + tag("td", prompt, css="wide")
            + tag("td", shown_cells)
            + cells(right, "" if mean is None else f"{mean:.3g}")
            + tag("td", mark)
        )
    orders = " ".join(
        link(
            f"{name} first",
            view="tasks",
            order=name,
            file=file,
            css="button on" if name == order else "button",
        )
        for name in ("hardest", "easiest")
    )
    following = ""
    if more:
        after = orjson.dumps([rows[-1][-1], rows[-1][0]]).decode()
        following = link("next ▶", view="tasks", order=order, after=after, file=file, key="j", css="button")
    heads = [
        ("", "task"),
        ("wide", "prompt"),
        ("", "repeats"),
        ("num", "right"),
        ("num", "mean reward"),
        ("", ""),
    ]
    chosen = tag("p", orders, following, css="tools")
    return chosen + overview.pass_table(catalog, Selection()) + table(heads, lines, "no tasks yet")
