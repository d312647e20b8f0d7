"""What the address of a view says: anything, since people type addresses."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

import orjson

Route = Mapping[str, str]


def number(route: Route, name: str) -> int | None:
    """The whole number under `name`; None where there is none."""
    value = route.get(name, "")
    return int(value) if re.fullmatch(r"[0-9]{1,15}", value) else None


def key(route: Route) -> list[Any] | None:
    """Behind which entry a page begins: what it is sorted by, and which it is."""
    try:
        after = orjson.loads(route.get("after", "null"))
    except orjson.JSONDecodeError:
        return None
    if not isinstance(after, list) or len(pair := cast(list[Any], after)) != 2:
        return None
    return pair if all(isinstance(part, str | float) or _fits(part) for part in pair) else None


def changed(route: Route, **changes: Any) -> dict[str, Any]:
    """A route with other values, from its first page on."""
    return {k: v for k, v in route.items() if k not in ("after", "back")} | changes


def _fits(part: Any) -> bool:
    return isinstance(part, int) and part.bit_length() < 64
