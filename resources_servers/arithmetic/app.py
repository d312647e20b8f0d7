"""Sums of small numbers; the last number of the answer is the answer."""

from __future__ import annotations

from nemo_like.rewards.last_number import NumberTask, last_number
from nemo_like.server import ResourcesServer
from nemo_like.types import Json, Response


class Arithmetic(ResourcesServer):
    """Sums of small numbers."""

    async def verify(self, task: NumberTask, response: Response) -> Json:
        """1.0 iff the answer's last number is the sum."""
        return last_number(task, response)
