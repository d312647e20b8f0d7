"""What a run amounts to, on one page: what ran, metrics with their errors, charts whose bars are filters."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

from nemo_like.estimates import mean_and_error, pass_at_k, pass_hat_k
from nemo_like.viewer.catalog import Catalog, Selection
from nemo_like.viewer.charts import Bar, columns, rows
from nemo_like.viewer.formats import View, fields
from nemo_like.viewer.markup import cells, link, tag, text

BINS = 20
NOTHING = "\N{EN DASH}"
SAMPLE = 200
"""Rollouts in which components of the reward are looked for."""
RATES = ((0.0, "0"), (0.25, "to 25 %"), (0.5, "to 50 %"), (0.75, "to 75 %"), (0.9999, "below 1"), (1.0, "1"))
"""Pass rates up to this, and their name."""


def page(catalog: Catalog, selection: Selection, file: str) -> str:
    """The whole page for what is selected."""
    if not catalog.version():
        return '<p class="card empty">there is nothing here yet; rollouts appear as they are written</p>'
    charts = "".join(
        (
            _histogram(catalog, selection, "reward", "reward", "e.reward"),
            _pass_rates(catalog, selection),
            _failures(catalog, selection),
            _tools(catalog, selection),
            _histogram(catalog, selection, "output tokens", "tokens", "e.output_tokens"),
            _histogram(catalog, selection, "turns", "turns", "e.turns"),
            _histogram(catalog, selection, "seconds", "time", "e.total_s"),
            _over_time(catalog, selection),
            _components(catalog, selection),
            _agents(catalog, selection),
        )
    )
    chosen = ""
    if selection.query:
        only = tag("code", text(selection.query))
        chosen = tag("p", "only ", only, link("all", view="overview", file=file), css="tools")
    numbers = _facts(catalog) + _tiles(catalog, selection) + pass_table(catalog, selection)
    return chosen + numbers + tag("div", charts, css="charts")


def pass_table(catalog: Catalog, selection: Selection) -> str:
    """pass@k and pass^k over the tasks, from how many of whose rollouts succeeded."""
    groups = {(n, correct): tasks for n, correct, tasks in catalog.groups(selection)}
    most = max((n for n, _ in groups), default=0)
    if not most:
        return ""
    ks = [k for k in (1, 2, 3, 4, 5, 8, 10, 16, 32, 64, 128) if k <= most]
    lines: list[str] = []
    for k in ks:
        fitting = {group: m for group, m in groups.items() if group[0] >= k}
        tasks = sum(fitting.values())
        at = sum(pass_at_k(n, c, k) * m for (n, c), m in fitting.items()) / tasks
        hat = sum(pass_hat_k(n, c, k) * m for (n, c), m in fitting.items()) / tasks
        lines.append(tag("tr", cells(str(k), f"{at:.3f}", f"{hat:.3f}", f"{tasks:,}")))
    all_0 = sum(m for (_, c), m in groups.items() if not c)
    all_1 = sum(m for (n, c), m in groups.items() if c == n)
    note = f"<p>{sum(groups.values()):,} tasks: {all_0:,} never right, {all_1:,} always right</p>"
    heads = tag("tr", *(tag("th", title, css="num") for title in ("k", "pass@k", "pass^k", "tasks")))
    return f'<section class="card pass"><table class="parts">{heads}{"".join(lines)}</table>{note}</section>'


def _facts(catalog: Catalog) -> str:
    views = _sample(catalog, Selection(), 1)
    view = views[0] if views else None
    [(first, last, rows_, failed)] = catalog.aggregate(
        "min(started_at), max(started_at + ifnull(total_s, 0)), count(*), sum(kind = 'failure')", Selection()
    )
    response = fields(view.row.get("response")) if view else {}
    facts: dict[str, Any] = {
        "file": catalog.path,
        "rows": f"{rows_:,}",
        "failed attempts": f"{failed or 0:,}",
    }
    if response.get("model"):
        facts["model"] = response["model"]
    if view:
        facts |= {
            k: v for k, v in view.params.items() if isinstance(v, int | float | str) and len(str(v)) < 60
        }
    if first:
        facts["began"] = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(first))
        facts["took"] = f"{last - first:,.1f} s"
    shown = "".join(f"<div><dt>{text(k)}</dt><dd>{text(v)}</dd></div>" for k, v in facts.items())
    return f'<dl class="card facts">{shown}</dl>'


def _tiles(catalog: Catalog, selection: Selection) -> str:
    [(n, mean, success, calls, tokens, truncated, seconds)] = catalog.aggregate(
        "count(e.reward), avg(e.reward), avg(e.success), avg(e.tool_calls), avg(e.output_tokens), "
        "sum(e.truncated), avg(e.total_s)",
        selection,
        "AND e.kind NOT IN ('failure', 'malformed')",
    )
    means = mean_and_error(catalog.task_means(selection))
    tiles = (
        ("reward", mean, "" if means.se is None else f"± {means.se:.3f} over {means.n:,} tasks"),
        ("success", success, f"{n:,} scored"),
        ("tool calls", calls, "mean a rollout"),
        ("output tokens", tokens, "mean a rollout"),
        ("seconds", seconds, "mean a rollout"),
        ("truncated", truncated, "rollouts"),
    )
    shown = "".join(
        tag(
            "div",
            tag("span", name),
            tag("b", NOTHING if value is None else shown_number(value)),
            tag("small", note),
            css="tile card",
        )
        for name, value, note in tiles
    )
    return f'<section class="tiles" aria-label="metrics">{shown}</section>'


def shown_number(value: float) -> str:
    """A mean as a tile shows it."""
    return f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:.4g}"


def _histogram(catalog: Catalog, selection: Selection, title: str, field: str, column: str) -> str:
    [(low, high, distinct)] = catalog.aggregate(
        f"min({column}), max({column}), count(DISTINCT {column})", selection
    )
    if low is None:
        return ""
    if distinct <= BINS:
        found = catalog.aggregate(
            f"{column}, count(*)", selection, f"AND {column} IS NOT NULL GROUP BY 1 ORDER BY 1"
        )
        bars = [
            Bar(label=f"{title} = {v:g}", value=n, query=_both(selection, f"{field} == {v!r}"))
            for v, n in found
        ]
        return columns(title, bars, low=f"{low:g}", high=f"{high:g}")
    width = (high - low) / BINS
    found = dict(
        catalog.aggregate(
            f"min({BINS - 1}, CAST(({column} - {low!r}) / {width!r} AS INTEGER)), count(*)",
            selection,
            f"AND {column} IS NOT NULL GROUP BY 1",
        )
    )
    bars: list[Bar] = []
    for at in range(BINS):
        begin, end = low + at * width, low + (at + 1) * width
        last = at == BINS - 1
        query = f"{field} >= {begin!r} and {field} {'<=' if last else '<'} {high if last else end!r}"
        bars.append(
            Bar(
                label=f"{title} {begin:.4g} to {end:.4g}",
                value=found.get(at, 0),
                query=_both(selection, query),
            )
        )
    return columns(title, bars, low=f"{low:.4g}", high=f"{high:.4g}")


def _pass_rates(catalog: Catalog, selection: Selection) -> str:
    groups = catalog.groups(selection)
    if not groups:
        return ""
    counts = Counter[str]()
    for n, correct, tasks in groups:
        counts[next(label for most, label in RATES if correct / n <= most)] += tasks
    labels = [label for _, label in RATES]
    bars = [Bar(label=f"pass rate {label}", value=counts[label], view="tasks") for label in labels]
    return columns("tasks by pass rate", bars, low="never right", high="always right")


def _failures(catalog: Catalog, selection: Selection) -> str:
    found = catalog.aggregate(
        "e.failure, count(*) n", selection, "AND e.failure IS NOT NULL GROUP BY 1 ORDER BY n DESC LIMIT 20"
    )
    bars = [Bar(label=kind, value=n, query=_both(selection, f'failure == "{kind}"')) for kind, n in found]
    return rows("failed attempts by kind", bars)


def _tools(catalog: Catalog, selection: Selection) -> str:
    found = catalog.aggregate(
        "u.tool, sum(u.calls) n, count(*)",
        selection,
        "GROUP BY 1 ORDER BY n DESC LIMIT 20",
        "JOIN tools u USING (id)",
    )
    bars = [
        Bar(label=tool, value=n, query=_both(selection, f"tool == {_literal(tool)}"), shown=f"{n:,} in {m:,}")
        for tool, n, m in found
    ]
    return rows("tool calls", bars)


def _agents(catalog: Catalog, selection: Selection) -> str:
    found = catalog.aggregate(
        "e.agent, avg(e.reward), count(e.reward)",
        selection,
        "AND e.reward IS NOT NULL GROUP BY 1 ORDER BY 2 DESC LIMIT 20",
    )
    bars = [
        Bar(
            label=agent or "no agent",
            value=max(0.0, mean),
            query=_both(selection, f"agent == {_literal(agent)}"),
            shown=f"{mean:.3g} ({n:,})",
        )
        for agent, mean, n in found
    ]
    return rows("mean reward by agent", bars)


def _over_time(catalog: Catalog, selection: Selection) -> str:
    [(first, last)] = catalog.aggregate("min(e.started_at), max(e.started_at)", selection)
    if first is None or last <= first:
        return ""
    width = (last - first) / 40
    bins = f"min(39, CAST((e.started_at - {first!r}) / {width!r} AS INTEGER))"
    known = "AND e.started_at IS NOT NULL GROUP BY 1"
    rows_ = catalog.aggregate(f"{bins}, avg(e.total_s), count(*)", selection, known)
    found = {int(at): (mean, n) for at, mean, n in rows_}
    bars: list[Bar] = []
    for at in range(40):
        mean, n = found.get(at, (0.0, 0))
        begin, end = first + at * width, first + (at + 1) * width
        query = _both(
            selection, f"started_at >= {begin!r} and started_at {'<=' if at == 39 else '<'} {end!r}"
        )
        label = f"after {at * width:.4g} s, {n:,} rollouts"
        bars.append(Bar(label=label, value=mean or 0.0, query=query, shown=f"{mean or 0:.3g} s"))
    return columns("mean seconds of a rollout, over the run", bars, low="begin", high="end")


def _components(catalog: Catalog, selection: Selection) -> str:
    sums: dict[str, list[float]] = {}
    views = _sample(catalog, selection, SAMPLE)
    nested = any(view.row.get("reward_components") for view in views)
    for view in views:
        for name, value in view.components.items():
            if value is not None:
                sums.setdefault(name, []).append(value)
    if not sums:
        return ""
    bars: list[Bar] = []
    for name, values in sums.items():
        mean = sum(values) / len(values)
        field = f"reward_components/{name}" if nested else name
        below = _both(selection, f"{field} < {max(values)!r}") if name.isidentifier() else selection.query
        bars.append(Bar(label=name, value=max(0.0, mean), query=below, shown=f"{mean:.3g} ({len(values)})"))
    return rows(f"components of the reward, mean of the first {SAMPLE}: those below the highest", bars)


def _sample(catalog: Catalog, selection: Selection, size: int) -> list[View]:
    entries = catalog.page(selection, size=size)
    return [
        view
        for view in (catalog.view(entry.id) for entry in entries)
        if view.kind not in ("failure", "malformed")
    ]


def _both(selection: Selection, query: str) -> str:
    return f"({selection.query}) and {query}" if selection.query else query


def _literal(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
