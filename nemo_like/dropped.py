"""Keys that the API which is asked has no words for."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from functools import cache

log = logging.getLogger(__name__)


def tell_dropped(keys: Iterable[str]) -> None:
    """Logs each key once, however many requests hold it."""
    for key in sorted(keys):
        _tell(key)


@cache
def _tell(key: str) -> None:
    log.warning("%s: the API that is asked has no words for it, so it is left out", key)
