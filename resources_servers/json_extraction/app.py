"""The facts of a sentence as a JSON object."""

from __future__ import annotations

from nemo_like.rewards.json_fields import JsonTask, json_fields
from nemo_like.server import ResourcesServer
from nemo_like.types import Json, Response


class JsonExtraction(ResourcesServer):
    """The facts of a sentence as a JSON object of a given schema."""

    async def verify(self, task: JsonTask, response: Response) -> Json:
        """1.0 iff the answer is the expected object; `field_accuracy` is the share of right fields."""
        return json_fields(task, response)
