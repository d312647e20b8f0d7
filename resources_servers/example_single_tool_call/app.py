"""One tool and a verifier that is always content: the smallest environment there is."""

from __future__ import annotations

from nemo_like.server import ResourcesServer, tool
from nemo_like.types import Json, Response, Task


class Weather(ResourcesServer):
    """Questions about the weather, and a tool that knows it."""

    @tool
    async def get_weather(self, city: str) -> Json:
        """The weather in a city."""
        return {"city": city, "weather_description": f"The weather in {city} is cold."}

    async def verify(self, task: Task, response: Response) -> float:
        """1.0, whatever the answer."""
        return 1.0
