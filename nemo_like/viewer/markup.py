"""HTML in which only what is written here is markup, and text of rollouts, rendered so that nothing in it is
ever run or fetched: no scripts, handlers, styles, frames, links or remote images."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from typing import Any, cast
from urllib.parse import urlencode

import orjson
from latex2mathml.converter import convert as to_mathml  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]  # it has none
from markdown_it import MarkdownIt
from markdown_it.common.utils import escapeHtml
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from pygments import highlight
from pygments.formatters import HtmlFormatter  # pyright: ignore[reportUnknownVariableType]  # no types
from pygments.lexers import get_lexer_by_name  # pyright: ignore[reportUnknownVariableType]  # no types
from pygments.util import ClassNotFound

LONG = 20_000
"""Characters beyond which text is shown as it stands, not rendered."""
MATH = re.compile(
    r"\$\$(.+?)\$\$|\\\[(.+?)\\\]|\\\((.+?)\\\)|(?<![\\$\w])\$(?=\S)([^$\n]{1,300}?\S)\$(?![\w$])", re.DOTALL
)
MATHML_HARM = re.compile(r"\s(?:href|style|on\w+|xlink:\w+|src)\s*=\s*(\"[^\"]*\"|'[^']*')", re.IGNORECASE)
DATA_IMAGE = re.compile(r"data:image/(?:png|jpeg|gif|webp);base64,[A-Za-z0-9+/=\s]+$")
PLACE = "\ue000{}\ue001"
PLACES = re.compile("\ue000(\\d+)\ue001")


def text(value: Any) -> str:
    """`value` as text between tags, or in a quoted attribute."""
    return escape(
        str(value).replace("\x00", "\N{SYMBOL FOR NULL}").encode("utf-8", "replace").decode(), quote=True
    )


def tag(element: str, /, *parts: str, css: str = "", **attributes: Any) -> str:
    """An element round `parts`, which are markup; attributes are text, and left out where they are None."""
    given = {"class": css or None} | {key.rstrip("_").replace("_", "-"): v for key, v in attributes.items()}
    written = "".join(f' {key}="{text(value)}"' for key, value in given.items() if value is not None)
    return f"<{element}{written}>{''.join(parts)}</{element}>"


def card(*parts: str, css: str = "", title: str = "") -> str:
    """A box with a title."""
    return tag("section", tag("h3", text(title)) if title else "", *parts, css=f"card {css}".strip())


def cells(*values: str, css: str = "num") -> str:
    """Cells of a table; the values are markup."""
    return "".join(tag("td", value, css=css) for value in values)


def table(heads: Sequence[tuple[str, str]], rows: Sequence[str], empty: str = "nothing here") -> str:
    """A table that scrolls by itself: heads are (class, markup), rows are markup of cells."""
    head = "".join(tag("th", title, css=css, scope="col") for css, title in heads)
    body = "".join(tag("tr", row) for row in rows)
    body = body or tag("tr", tag("td", text(empty), css="empty", colspan=len(heads)))
    return tag(
        "div", tag("table", tag("thead", tag("tr", head)), tag("tbody", body), css="list"), css="scroll"
    )


def link(label: str, /, *, key: str = "", title: str = "", css: str = "", **route: Any) -> str:
    """A link to another view; `label` is markup, `key` the key that follows it."""
    attributes = f' data-key="{key}"' if key else ""
    attributes += f' title="{text(title)}"' if title else ""
    attributes += f' class="{css}"' if css else ""
    return f'<a data-go href="{text(address(**route))}"{attributes}>{label}</a>'


def address(**route: Any) -> str:
    """The address of a view: what is None or empty is left out."""
    return "?" + urlencode({k: v for k, v in route.items() if v not in (None, "", False)})


def pretty(value: Any) -> str:
    """JSON as a person reads it, highlighted; anything else as text."""
    try:
        shown = orjson.dumps(value, option=orjson.OPT_INDENT_2, default=str).decode()
    except (TypeError, orjson.JSONEncodeError):
        return f"<pre>{text(value)}</pre>"
    return code(shown, "json") if len(shown) <= LONG else f"<pre>{text(shown)}</pre>"


def code(source: str, language: str) -> str:
    """Highlighted source."""
    try:
        lexer: Any = get_lexer_by_name(language or "text")
    except ClassNotFound:
        return f"<pre>{text(source)}</pre>"
    safe = source.replace("\x00", "\N{SYMBOL FOR NULL}").encode("utf-8", "replace").decode()
    formatter = cast(Any, HtmlFormatter)(nowrap=False, cssclass="code")
    return str(cast(Any, highlight)(safe, lexer, formatter))


def prose(source: str) -> str:
    """Markdown and LaTeX as a person reads them; HTML in it is text."""
    if len(source) > LONG:
        return f'<pre class="wrap">{text(source)}</pre>'
    source = source.encode("utf-8", "replace").decode().replace("\x00", "\N{SYMBOL FOR NULL}")
    source = source.replace("\ue000", "").replace("\ue001", "")
    kept: list[str] = []

    def keep(match: re.Match[str]) -> str:
        formula = next(group for group in match.groups() if group is not None)
        display = match[1] is not None or match[2] is not None
        kept.append(_formula(formula, match[0], display=display))
        return PLACE.format(len(kept) - 1)

    parts = re.split(r"(```.*?(?:```|\Z)|`[^`\n]*`)", source, flags=re.DOTALL)
    parts[::2] = [MATH.sub(keep, part) for part in parts[::2]]
    html = MARKDOWN.render("".join(parts))
    return PLACES.sub(lambda place: kept[int(place[1])] if int(place[1]) < len(kept) else "", html)


def image(url: str, alt: str) -> str:
    """A picture that the rollout itself holds; one that would have to be fetched is named instead."""
    if DATA_IMAGE.match(url):
        return f'<img src="{text(url)}" alt="{text(alt)}">'
    return f'<span class="inert" title="{text(url[:300])}">[image: {text(alt or url[:100])}]</span>'


def _formula(source: str, whole: str, *, display: bool) -> str:
    try:
        markup = str(to_mathml(source, display="block" if display else "inline"))
    except Exception:  # noqa: BLE001  # the boundary: whatever a model writes as LaTeX is shown as it stands
        return text(whole)
    return MATHML_HARM.sub("", markup)


class _Renderer(RendererHTML):
    """Markdown in which links and remote images are only named."""

    def fence(self, tokens: Any, idx: int, options: Any, env: Any) -> str:
        token: Token = tokens[idx]
        return code(token.content, token.info.split(maxsplit=1)[0] if token.info.strip() else "")

    def image(self, tokens: Any, idx: int, options: Any, env: Any) -> str:
        token: Token = tokens[idx]
        return image(str(token.attrs.get("src", "")), token.content)

    def link_open(self, tokens: Any, idx: int, options: Any, env: Any) -> str:
        return f'<span class="inert" title="{escapeHtml(str(tokens[idx].attrs.get("href", "")))}">'

    def link_close(self, tokens: Any, idx: int, options: Any, env: Any) -> str:
        return "</span>"


MARKDOWN = MarkdownIt("commonmark", {"html": False}, renderer_cls=_Renderer).enable(
    ["table", "strikethrough"]
)
