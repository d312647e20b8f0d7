"""Pictures of an analysis: rewards, problems by mean reward, and buckets; as PNG and as a page of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nemo_like.buckets import Assignment
from nemo_like.problems import Problems

COLOURS = ("#440154", "#3b528b", "#21918c", "#5ec962", "#e6c200")
"""One a bucket, hardest first, told apart by any eye and in grey."""
PLAIN = "#5f6b7a"
BINS = 20
WIDTH, HEIGHT, LEFT, RIGHT, BOTTOM, TOP = 420, 260, 56, 16, 56, 28
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem; color: #1d232a; background: #fff }
svg { margin: 0 1rem 1rem 0 } svg text { font: 11px system-ui, sans-serif; fill: #1d232a }
table { border-collapse: collapse }
td, th { padding: .2rem .8rem; border-bottom: 1px solid #dde; text-align: left }
td.n { text-align: right; font-variant-numeric: tabular-nums }
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    """Bars: `stacks[i]` is how high each colour is at `labels[i]`; a tick is a place, in bars, and a text."""

    title: str
    x: str
    y: str
    labels: list[str]
    ticks: list[tuple[float, str]]
    stacks: list[list[int]]
    colours: Sequence[str]


def panels(problems: Problems, assignment: Assignment) -> list[Panel]:
    """The three pictures of an analysis."""
    edges, rewards = problems.histogram(BINS)
    values, names, counts = problems.column("mean_reward"), assignment.names, assignment.counts()
    low, high = float(values.min()), float(values.max())
    bins: list[float] = np.linspace(low, high, BINS + 1).tolist() if low < high else edges
    per_bucket = [np.histogram(values[assignment.codes == c], bins)[0].tolist() for c in range(len(names))]
    own = [[n if i == c else 0 for i in range(len(names))] for c, n in enumerate(map(counts.get, names)) if n]
    return [
        Panel(
            title="Rewards",
            x="reward",
            y="rollouts",
            labels=_ranges(edges),
            ticks=_ticks(edges),
            stacks=[[n] for n in rewards],
            colours=[PLAIN],
        ),
        Panel(
            title="Problems by mean reward",
            x="mean reward",
            y="problems",
            labels=_ranges(bins),
            ticks=_ticks(bins),
            stacks=[list(stack) for stack in zip(*per_bucket, strict=True)],
            colours=COLOURS,
        ),
        Panel(
            title="Buckets",
            x="",
            y="problems",
            labels=list(counts),
            ticks=list(enumerate(counts)),
            stacks=own,
            colours=COLOURS,
        ),
    ]


def draw_png(panels: Sequence[Panel], title: str, path: Path) -> None:
    """Write the panels side by side."""
    figure: Any = Figure(figsize=(5 * len(panels), 4), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    for i, panel in enumerate(panels):
        axes: Any = figure.add_subplot(1, len(panels), i + 1)
        at, base = np.arange(len(panel.labels)), np.zeros(len(panel.labels))
        for colour, heights in zip(panel.colours, zip(*panel.stacks, strict=True), strict=False):
            axes.bar(at, heights, bottom=base, color=colour, width=0.9)
            base += np.asarray(heights)
        axes.set_xticks([place for place, _ in panel.ticks], [text for _, text in panel.ticks])
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set(title=panel.title, xlabel=panel.x, ylabel=panel.y)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120, format="png")


def html(panels: Sequence[Panel], title: str, buckets: Mapping[str, int], notes: Sequence[str]) -> str:
    """The page: the panels with numbers under the pointer, and a table; it refers to nothing outside."""
    total = sum(buckets.values())
    rows = "".join(
        f'<tr><td>{escape(name)}</td><td class="n">{n:,}</td><td class="n">{n / total:.1%}</td></tr>'
        for name, n in buckets.items()
    )
    said = "".join(f"<p>{escape(note)}</p>" for note in notes)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style><h1>{escape(title)}</h1>{said}{''.join(map(_svg, panels))}"
        f"<table><tr><th>bucket</th><th>problems</th><th>share</th></tr>{rows}</table></html>\n"
    )


def _svg(panel: Panel) -> str:
    high = max((sum(stack) for stack in panel.stacks), default=0) or 1
    width = (WIDTH - LEFT - RIGHT) / max(1, len(panel.labels))
    depth = HEIGHT - BOTTOM - TOP
    parts: list[str] = []
    for i, (label, stack) in enumerate(zip(panel.labels, panel.stacks, strict=True)):
        y = float(HEIGHT - BOTTOM)
        for colour, n in zip(panel.colours, stack, strict=False):
            y -= depth * n / high
            tall = depth * n / high
            place = f'x="{LEFT + i * width + 1:.1f}" y="{y:.1f}" width="{max(1, width - 2):.1f}"'
            hint = f"<title>{escape(label)}: {n:,}</title>"
            parts.append(f'<rect {place} height="{tall:.1f}" fill="{colour}">{hint}</rect>')
    for at, text in panel.ticks:
        place = f'x="{LEFT + (at + 0.5) * width:.1f}" y="{HEIGHT - BOTTOM + 16}"'
        parts.append(f'<text {place} text-anchor="middle">{escape(text)}</text>')
    for share in (0.0, 0.5, 1.0):
        y = HEIGHT - BOTTOM - depth * share + 4
        parts.append(f'<text x="{LEFT - 6}" y="{y:.1f}" text-anchor="end">{high * share:,.4g}</text>')
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img">'
        f'<text x="{LEFT}" y="14"><tspan font-weight="bold">{escape(panel.title)}</tspan>, {panel.y}</text>'
        f'{"".join(parts)}<text x="{(WIDTH + LEFT) / 2}" y="{HEIGHT - 20}" text-anchor="middle">'
        f"{escape(panel.x)}</text></svg>"
    )


def _ranges(edges: Sequence[float]) -> list[str]:
    return [f"{low:.3g} to {high:.3g}" for low, high in pairwise(edges)]


def _ticks(edges: Sequence[float]) -> list[tuple[float, str]]:
    return [(i - 0.5, f"{edges[i]:.3g}") for i in range(0, BINS + 1, BINS // 4)]
