"""Every page as HTML, out of its route: what to look at, selected how, sorted by what."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import suppress
from functools import lru_cache

from nemo_like.errors import UsageError
from nemo_like.viewer import compare, overview, rollout_page, rollouts_page, tasks_page
from nemo_like.viewer.catalog import Catalog, Selection
from nemo_like.viewer.markup import link, tag, text
from nemo_like.viewer.notes import Notes
from nemo_like.viewer.rollout_page import entry_of
from nemo_like.viewer.rollouts_page import filters, selection_of
from nemo_like.viewer.route import Route, number

LARGE = 100_000
"""Rows beyond which the overview is made beside the page, and kept."""
VIEWS = {"overview": "Overview", "rollouts": "Rollouts", "tasks": "Tasks", "compare": "Compare"}


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
                body = rollouts_page.page(catalog, route, selection)
            elif view == "tasks":
                body = tasks_page.page(catalog, route)
            elif view == "rollout":
                body = rollout_page.page(catalog, self._notes_of(catalog), route, selection)
            elif view == "compare":
                body = compare.page(self.catalogs, route)
            else:
                body = self._overview_of(catalog, selection, route.get("file", ""))
        except UsageError as error:
            body, warning = filters(catalog, route), str(error)
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
        found = entry_of(catalog, route)
        entry = None if found is None else catalog.entry(found)
        if entry is not None and (mark or remark.strip()):
            notes = self._notes_of(catalog)
            notes.add(entry.task_key, entry.rollout_index, mark=mark, remark=remark)

    def _notes_of(self, catalog: Catalog) -> Notes:
        return self.notes[self.catalogs.index(catalog)]

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
