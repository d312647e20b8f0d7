"""Facts of a document, in the format and by the schema that the prompt names."""

from __future__ import annotations

from nemo_like.rewards.json_schema import SchemaTask, json_schema
from nemo_like.server import ResourcesServer
from nemo_like.types import Json, Response


class StructuredOutputs(ResourcesServer):
    """Facts of a document as JSON, YAML, XML, TOML or CSV that fits a schema."""

    async def verify(self, task: SchemaTask, response: Response) -> Json:
        """1.0 iff the answer is one such document, fits the schema, and holds the expected values."""
        return await self.score(json_schema, task, response)
