"""Word problems of several steps with a whole number as the answer."""

from __future__ import annotations

from nemo_like.rewards.math import MathTask, math
from nemo_like.server import ResourcesServer
from nemo_like.types import Json, Response


class Gsm8kLike(ResourcesServer):
    """Word problems of several steps."""

    async def verify(self, task: MathTask, response: Response) -> Json:
        """1.0 iff the boxed answer is the number that comes out."""
        return await self.score(math, task, response)
