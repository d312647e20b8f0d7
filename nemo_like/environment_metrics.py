"""What an environment says of all its rollouts together, where it overrides `aggregate_metrics`.

It is shown the numbers of every rollout, a page at a time, with what it answered for the page before: so it
needs to hold nothing, and neither do we. A task's rollouts are always on one page.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import attrgetter

from nemo_like.client import Client
from nemo_like.errors import PartError
from nemo_like.types import Json, Scored

PAGE = 1000
"""Rollouts from which on a page is full."""
PAGE_S = 300.0
NO_ENDPOINT = 404


async def environment_metrics(client: Client, environment: str, rollouts: Iterable[Scored]) -> Json | None:
    """The metrics of an environment; `rollouts` has those of a task side by side. None where it has none.

    Raises:
        PartError: the environment failed.
    """
    totals: Json = {}
    ahead = pages(rollouts)
    page = next(ahead, list[Json]())
    while True:
        following = next(ahead, None)
        body = {"totals": totals, "rollouts": page, "last": following is None}
        try:
            totals = await client.post(environment, "/aggregate_metrics", body, timeout_s=PAGE_S)
        except PartError as error:
            if error.status == NO_ENDPOINT:
                return None
            raise
        if following is None:
            return totals
        page = following


def pages(rollouts: Iterable[Scored], size: int = PAGE) -> Iterator[list[Json]]:
    """The rollouts as an environment sees them, in pages of `size` or somewhat more."""
    page: list[Json] = []
    for _, group in groupby(rollouts, key=attrgetter("task_key")):
        page += map(as_seen, group)
        if len(page) >= size:
            yield page
            page = []
    if page:
        yield page


def as_seen(scored: Scored) -> Json:
    """A rollout as an environment sees it: which one, whether it was a success, and its numbers."""
    who = {"task_key": scored.task_key, "rollout_index": scored.rollout_index, "success": scored.success}
    return scored.numbers | who
