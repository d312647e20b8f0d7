"""When two JSON values are the same."""

from __future__ import annotations

from typing import Any, cast

from nemo_like.types import Json


def same(expected: Any, actual: Any, *, subset: bool = False) -> bool:
    """Whether `actual` is the JSON value `expected`: 1 and 1.0 are one number, true and 1 are two values.

    The order of an object's keys doesn't matter, that of a list's items does. With `subset`, objects may have
    keys that nobody expected, at any depth.
    """
    # A list in place of recursion: how deep a model's arguments go is not ours to say.
    pairs: list[tuple[Any, Any]] = [(expected, actual)]
    while pairs:
        wanted, given = pairs.pop()
        if isinstance(wanted, dict) and isinstance(given, dict):
            fields, found = cast(Json, wanted), cast(Json, given)
            if not (fields.keys() <= found.keys() if subset else fields.keys() == found.keys()):
                return False
            pairs += [(fields[name], found[name]) for name in fields]
        elif isinstance(wanted, list) and isinstance(given, list):
            items, found_items = cast(list[Any], wanted), cast(list[Any], given)
            if len(items) != len(found_items):
                return False
            pairs += zip(items, found_items, strict=True)
        elif isinstance(wanted, bool) or isinstance(given, bool):
            if wanted is not given:
                return False
        elif wanted != given:
            return False
    return True
