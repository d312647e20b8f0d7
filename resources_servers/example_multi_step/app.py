"""Several tool calls, in the right order: synonyms are found, valued one by one, and extracted together."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from nemo_like.server import ResourcesServer, tool
from nemo_like.types import Json, Response

from .document import Document
from .reward import SynonymTask, synonym_values
from .terms import value_of


class MultiStep(ResourcesServer):
    """Reading comprehension in several steps, over a thesaurus or a long document."""

    async def seed(self, task: SynonymTask) -> Document:
        """The document of this task, which may be empty."""
        return Document(task.document)

    @tool
    async def get_synonym_value(self, synonym: Annotated[str, Field(description="One synonym")]) -> Json:
        """The value of a synonym."""
        return {"synonym_value": value_of(synonym)}

    @tool
    async def extract_synonym_values(
        self, synonym_values: Annotated[list[int], Field(description="The values of all synonyms, in order")]
    ) -> Json:
        """Hand in the values of all synonyms. Call this once, at the end."""
        return {"success": True}

    @tool
    async def search_document(
        self, state: Document, query: Annotated[str, Field(description="Words to look for")]
    ) -> Json:
        """The few passages of the document that hold the words of a query."""
        return {"passages": state.search(query)}

    async def verify(self, task: SynonymTask, response: Response) -> Json:
        """1.0 iff the last list handed in is the expected one, in order."""
        return synonym_values(task, response)
