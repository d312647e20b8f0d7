"""Sessions: what an environment remembers of a rollout between seeding and verdict."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from nemo_like.errors import PartError


@dataclass(slots=True)
class Session:
    """The state of one rollout; calls that touch it run one at a time."""

    state: Any
    used_at: float
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Sessions:
    """Rollout id → session, in order of last use, so that what has outlived `ttl_s` seconds is freed in
    passing."""

    def __init__(self, ttl_s: float) -> None:
        self._ttl_s = ttl_s
        self._sessions: OrderedDict[str, Session] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sessions)

    def open(self, rollout: str, state: Any) -> None:
        """Begin the session of a rollout, over any earlier one."""
        self._free_old()
        self._sessions[rollout] = Session(state, time.monotonic())

    def get(self, rollout: str) -> Session:
        """The session of a rollout.

        Raises:
            PartError: `session_lost`, where there is none.
        """
        session = self._sessions.get(rollout)
        if session is None:
            message = f"no session {rollout!r}: its worker was restarted, or it was never seeded"
            raise PartError("session_lost", message, hint="POST /seed_session first")
        session.used_at = time.monotonic()
        self._sessions.move_to_end(rollout)
        return session

    def close(self, rollout: str) -> None:
        """End the session of a rollout, if there is one."""
        self._sessions.pop(rollout, None)

    def _free_old(self) -> None:
        now = time.monotonic()
        while self._sessions:
            oldest = next(iter(self._sessions))
            if now - self._sessions[oldest].used_at < self._ttl_s:
                return
            del self._sessions[oldest]
