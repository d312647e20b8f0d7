"""Asks, then asks for the answer alone."""

from __future__ import annotations

from pydantic import Field

from nemo_like.server import AgentConfig, AgentServer, Calls
from nemo_like.types import Json


class MyConfig(AgentConfig):
    """Settings of this agent."""

    again: str = Field("Now give only the final answer.", min_length=1)
    """What it says after the first answer."""


class MyAgent(AgentServer[MyConfig]):
    """Asks, then asks for the answer alone."""

    async def responses(self, params: Json, calls: Calls) -> Json:
        """The response whose output holds both turns."""
        asked = params["input"]
        items = [{"role": "user", "content": asked}] if isinstance(asked, str) else asked
        first = await calls.model(params)
        again = {"role": "user", "content": self.config.again}
        second = await calls.model(params | {"input": [*items, *first["output"], again]})
        return second | {"output": [*first["output"], *second["output"]]}
