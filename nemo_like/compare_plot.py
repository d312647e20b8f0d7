"""The picture of a comparison: each difference with its interval, and how many tasks were won and lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nemo_like.compare import entries_of
from nemo_like.types import Json

WON, TIED, LOST = "#21918c", "#d5d9de", "#3b528b"
PLAIN = "#1d232a"


def draw_comparison(result: Json, path: Path) -> None:
    """Write the picture of what `compare` answered, as PNG."""
    rows = [entry for each in result["comparisons"] for entry in entries_of(each, result["by"])]
    figure: Any = Figure(figsize=(11, 1.8 + 0.32 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    differences, counts = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    _draw_differences(differences, rows, result["field"])
    _draw_counts(counts, rows)
    differences.set_yticks(range(len(rows)), [name for name, _ in rows])
    differences.invert_yaxis()
    for axes in (differences, counts):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120, format="png")


def _draw_differences(axes: Any, rows: list[tuple[str, Json]], field: str) -> None:
    axes.axvline(0, color=TIED, zorder=0)
    for at, (_, entry) in enumerate(rows):
        if entry["ci95"]:
            axes.plot(entry["ci95"], [at, at], color=PLAIN, linewidth=1.5)
        axes.plot([entry["difference"]], [at], "o", color=PLAIN, markersize=5)
    axes.set(title="Difference, with its 95 % interval", xlabel=f"{field}, run minus baseline")


def _draw_counts(axes: Any, rows: list[tuple[str, Json]]) -> None:
    starts = [0.0] * len(rows)
    for key, colour in (("won", WON), ("tied", TIED), ("lost", LOST)):
        shares = [entry[key] / entry["tasks"] for _, entry in rows]
        axes.barh(range(len(rows)), shares, left=starts, color=colour, label=key, height=0.7)
        starts = [start + share for start, share in zip(starts, shares, strict=True)]
    axes.set(title="Tasks", xlabel="share", xlim=(0, 1))
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=3, frameon=False)
