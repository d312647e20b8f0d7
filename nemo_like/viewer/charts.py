"""Numbers as bars, each of them a link to what it counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nemo_like.viewer.markup import address, tag, text


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """One bar: `query` selects what it counts."""

    label: str
    value: float
    query: str = ""
    view: str = "rollouts"
    shown: str = ""
    """The value as text; the value itself where it is empty."""


def columns(title: str, bars: Sequence[Bar], *, low: str = "", high: str = "") -> str:
    """Bars that stand side by side, such as a histogram, with the ends of their axis."""
    if not any(bar.value for bar in bars):
        return _figure(title, '<p class="empty">nothing to show</p>')
    most = max(bar.value for bar in bars)
    standing = "".join(
        _link(
            bar,
            f'<i style="height:{_share(bar.value, most)}%"></i>',
            aria_label=f"{bar.label}: {_shown(bar)}",
        )
        for bar in bars
    )
    axis = tag("div", *(tag("span", text(end)) for end in (low, f"most: {_number(most)}", high)), css="axis")
    return _figure(title, f'<div class="columns">{standing}</div>{axis}')


def rows(title: str, bars: Sequence[Bar]) -> str:
    """Bars that lie below each other, each with its name and value."""
    if not bars:
        return _figure(title, '<p class="empty">nothing to show</p>')
    most = max((bar.value for bar in bars), default=0)
    lying = "".join(
        _link(
            bar,
            tag("span", text(bar.label), css="name"),
            f'<span class="track"><i style="width:{_share(bar.value, most)}%"></i></span>',
            tag("span", text(_shown(bar)), css="value"),
        )
        for bar in bars
    )
    return _figure(title, f'<div class="rows">{lying}</div>')


def _link(bar: Bar, *parts: str, aria_label: str | None = None) -> str:
    to = address(view=bar.view, q=bar.query)
    return tag("a", *parts, data_go="", href=to, title=f"{bar.label}: {_shown(bar)}", aria_label=aria_label)


def _figure(title: str, body: str) -> str:
    return f'<figure class="card"><figcaption>{text(title)}</figcaption>{body}</figure>'


def _share(value: float, most: float) -> str:
    return f"{max(0.0, 100 * value / most) if most > 0 else 0:.2f}"


def _shown(bar: Bar) -> str:
    return bar.shown or _number(bar.value)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 or value == int(value) else f"{value:.4g}"
