"""The page of the tasks: those that are hard first, or those that are easy, with all repeats of each."""

from __future__ import annotations

import orjson

from nemo_like.viewer import overview
from nemo_like.viewer.catalog import Catalog, Selection
from nemo_like.viewer.entry import CELLS, badge
from nemo_like.viewer.markup import cells, link, table, tag, text
from nemo_like.viewer.route import Route, key

PAGE = 50


def page(catalog: Catalog, route: Route) -> str:
    """The page."""
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
