"""The page of one rollout: its conversation, its verdict, its neighbours, its repeats, what was noted."""

from __future__ import annotations

from typing import Any, cast

from nemo_like.errors import UsageError
from nemo_like.types import Json
from nemo_like.viewer import transcript
from nemo_like.viewer.catalog import Catalog, Selection
from nemo_like.viewer.entry import CELLS, Entry, badge
from nemo_like.viewer.formats import View, fields
from nemo_like.viewer.markup import card, link, pretty, tag, text
from nemo_like.viewer.notes import MARKS, Notes
from nemo_like.viewer.route import Route, changed, number


def page(catalog: Catalog, notes: Notes, route: Route, selection: Selection) -> str:
    """The page.

    Raises:
        UsageError: there is no such rollout.
    """
    found = entry_of(catalog, route)
    entry = None if found is None else catalog.entry(found, route.get("sort", "order"))
    if entry is None:
        raise UsageError("there is no such rollout")
    view = catalog.view(entry.id)
    who = tag("small", f"{text(entry.agent)} · {entry.kind}")
    title = tag("h2", f"task {text(entry.task_key)} · repeat {entry.rollout_index} ", who)
    conversation = transcript.render(transcript.blocks([*view.prompt, *view.output]))
    raw = f"<details class=card><summary>raw JSON</summary>{pretty(view.row)}</details>"
    side = (
        transcript.verdict(view)
        + transcript.waterfall(view)
        + _facts(view)
        + _noted(notes.of(entry.task_key, entry.rollout_index))
        + raw
    )
    group = _group(catalog, entry, route)
    return (
        f"{_neighbours(catalog, entry, route, selection)}{title}{group}"
        f'<div class="split"><section class="talk" aria-label="conversation">{conversation}</section>'
        f'<aside aria-label="verdict and facts">{side}</aside></div>'
    )


def entry_of(catalog: Catalog, route: Route) -> int | None:
    """The rollout that a route is about: by its place, or by its task and repeat."""
    if (entry := number(route, "id")) is not None:
        return entry
    return catalog.find(route.get("task", ""), number(route, "repeat") or 0)


def _neighbours(catalog: Catalog, entry: Entry, route: Route, selection: Selection) -> str:
    sort, descending = route.get("sort", "order"), bool(route.get("desc"))

    def near(which: Selection, *, backwards: bool = False) -> dict[str, Any] | None:
        found = catalog.page(
            which, sort=sort, descending=descending, after=(entry.key, entry.id), backwards=backwards, size=1
        )
        return changed(route, view="rollout", id=found[0].id, task="", repeat="") if found else None

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
        "↑ list <kbd>u</kbd>", key="u", css="button", **changed(route, view="rollouts", id="", repeat="")
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


def _tool_name(tool: Json) -> str:
    function = tool.get("function")
    return str(
        tool.get("name") or (cast(Json, function).get("name") if isinstance(function, dict) else "tool")
    )


def _noted(notes: list[Json]) -> str:
    shown = "".join(
        f"<li><b>{text(MARKS.get(str(note.get('mark')), ''))}</b> {text(note.get('remark', ''))}</li>"
        for note in notes
    )
    marks = "".join(f'<button name="mark" value="{mark}">{label}</button>' for mark, label in MARKS.items())
    add = '<button name="mark" value="">add</button>'
    form = tag("form", '<label>remark<input name="remark"></label>', add, marks, data_note="")
    return card(tag("ul", shown, css="notes"), form, title="notes")
