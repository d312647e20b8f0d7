"""A policy model whose engine streams chunks of Chat Completions."""

from abc import abstractmethod
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, aclosing

from nemo_like import chat
from nemo_like.chunk_reader import response_stream
from nemo_like.server.model import ModelConfigT, ModelServer
from nemo_like.sse import decoded
from nemo_like.streams import ends_completion, relayed
from nemo_like.types import Json


class ChunkedModelServer(ModelServer[ModelConfigT]):
    """Both streams come of `chunks`, as the engine speaks."""

    @abstractmethod
    def chunks(self, body: Json) -> AbstractAsyncContextManager[AsyncGenerator[bytes] | None]:
        """A Chat Completions request → the server-sent events of the engine's chunks; None where an answer is
        read when it is whole, which then is told in events."""

    async def stream_responses(self, params: Json) -> AsyncGenerator[bytes]:
        """Events made of the engine's chunks, as those come."""
        asked = chat.to_chat(params) | {"stream_options": {"include_usage": True}}
        async with self.chunks(asked) as chunks:
            if chunks is None:
                events = super().stream_responses(params)
            else:
                events = response_stream(decoded(chunks), params)
            async with aclosing(events):
                async for event in events:
                    yield event

    async def stream_chat_completions(self, body: Json) -> AsyncGenerator[bytes]:
        """The engine's chunks as they come."""
        async with self.chunks(body) as chunks:
            if chunks is None:
                pieces = super().stream_chat_completions(body)
            else:
                pieces = relayed(chunks, ends_completion)
            async with aclosing(pieces):
                async for piece in pieces:
                    yield piece
