"""Two rollouts side by side, or two runs over the same tasks: won, lost, tied, and by how much."""

from __future__ import annotations

from nemo_like.errors import UsageError
from nemo_like.estimates import paired_difference
from nemo_like.viewer import transcript
from nemo_like.viewer.catalog import Catalog
from nemo_like.viewer.formats import View
from nemo_like.viewer.markup import card, cells, link, table, tag, text
from nemo_like.viewer.route import Route, number

SHOWN = 200
"""Tasks of two runs that are listed, those that differ most."""


def page(catalogs: list[Catalog], route: Route) -> str:
    """What a route asks to be compared."""
    entries = number(route, "a"), number(route, "b")
    if entries[0] is not None and entries[1] is not None:
        return _rollouts(catalogs, route, (entries[0], entries[1]))
    if len(catalogs) > 1:
        return _runs(catalogs[0], catalogs[1])
    return (
        '<p class="card empty">Open a rollout and choose another repeat of its task to see them side by '
        "side, or start with two files to compare runs: +jsonl_fpath=[a.jsonl,b.jsonl]</p>"
    )


def _rollouts(catalogs: list[Catalog], route: Route, entries: tuple[int, int]) -> str:
    sides: list[tuple[Catalog, int, int]] = []
    for name, entry in zip(("fa", "fb"), entries, strict=True):
        file = number(route, name if name in route else "file") or 0
        if file >= len(catalogs):
            raise UsageError(f"there is no file {file}")
        sides.append((catalogs[file], entry, file))
    views = [catalog.view(entry) for catalog, entry, _ in sides]
    heads = "".join(
        _heading(view, catalog, entry, file)
        for view, (catalog, entry, file) in zip(views, sides, strict=True)
    )
    left, right = (transcript.blocks([*view.prompt, *view.output]) for view in views)
    same = (
        ""
        if views[0].task_key == views[1].task_key
        else '<p class="warn">these are rollouts of different tasks</p>'
    )
    return f'{same}<div class="pair heads">{heads}</div>{transcript.aligned(left, right)}'


def _runs(a: Catalog, b: Catalog) -> str:
    means = [dict(catalog.means()) for catalog in (a, b)]
    both = sorted(means[0].keys() & means[1].keys())
    if not both:
        raise UsageError(f"{a.path.name} and {b.path.name} have no task in common")
    differences = [(means[1][key] - means[0][key], key) for key in both]
    difference = paired_difference(means[1], means[0]).difference
    won = sum(d > 0 for d, _ in differences)
    lost = sum(d < 0 for d, _ in differences)
    mean, error = difference.value or 0.0, difference.se
    by = f"{mean:+.4f}" + ("" if error is None else f" ± {error:.4f}")
    counts = f"<b>{won:,} won</b>, <b>{lost:,} lost</b>, {len(both) - won - lost:,} tied"
    summary = card(
        f"<p>{len(both):,} tasks in both: {counts}. Mean reward {by} (paired, by task).</p>",
        title=f"{b.path.name} against {a.path.name}",
    )
    listed = sorted(differences, key=lambda pair: (-abs(pair[0]), pair[1]))[:SHOWN]
    rows = [
        tag("td", text(key[:16]), css="key")
        + cells(f"{means[0][key]:.3g}", f"{means[1][key]:.3g}")
        + cells(f"{d:+.3g}", css=f"num {'good' if d > 0 else 'bad' if d < 0 else ''}")
        + tag("td", _both(a, b, key))
        for d, key in listed
    ]
    names = [("num", text(catalog.path.name)) for catalog in (a, b)]
    return summary + table([("", "task"), *names, ("num", "difference"), ("", "")], rows)


def _heading(view: View, catalog: Catalog, entry: int, file: int) -> str:
    title = f"task {text(view.task_key)} · repeat {view.rollout_index}"
    name = tag("small", text(catalog.path.name))
    to = link(title, view="rollout", id=entry, file=file)
    return tag("div", tag("h2", to, " ", name), transcript.verdict(view))


def _both(a: Catalog, b: Catalog, key: str) -> str:
    first, second = a.find(key, 0), b.find(key, 0)
    if first is None or second is None:
        return ""
    return link("side by side", view="compare", a=first, fa=0, b=second, fb=1)
