"""Failures in a row: when everything fails in the same way, a wrong key say, a run had better stop."""

from __future__ import annotations

import time

from nemo_like.errors import NOT_THE_TASKS_FAULT, PartError, StackError

SAME_FAILURE = 24
"""So many rollouts in a row that begin, and then fail in the same way, end the run."""


class Streak:
    """The failures of one kind in one place with nothing else between them."""

    def __init__(self) -> None:
        self._what: tuple[str, str] | None = None
        self._since = 0.0
        self._length = 0
        self._any_done = False

    def succeeded(self) -> None:
        """Something was done."""
        self._what = None
        self._any_done = True

    def failed(self, error: PartError, *, began: float) -> None:
        """What began in the monotonic second `began` failed.

        Raises:
            StackError: so did everything of late.
        """
        what = (error.kind, error.where)
        if self._what != what:
            self._what, self._since, self._length = what, time.monotonic(), 0
        # What was in flight when it began may share one cause that is gone by now, such as a worker's death.
        self._length += began >= self._since
        if self._length < SAME_FAILURE or (self._any_done and error.kind not in NOT_THE_TASKS_FAULT):
            return
        raise StackError(f"stopped: {SAME_FAILURE} rollouts in a row failed in the same way: {error}")
