"""A policy model: one of three APIs is written, the others and all their streams follow."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from typing_extensions import TypeVar

from nemo_like import chat, messages
from nemo_like.chunks import chunks_of
from nemo_like.errors import PartError
from nemo_like.message_events import MessageWriter
from nemo_like.rate import queue_told
from nemo_like.response_events import events_of, numbered, whole
from nemo_like.server.server import Endpoint, Server, ServerConfig
from nemo_like.sse import DONE, decoded, encoded
from nemo_like.streams import Stream, fail_chat, fail_messages, fail_responses
from nemo_like.types import Json


class ModelConfig(ServerConfig):
    """Settings of every model server."""


ModelConfigT = TypeVar("ModelConfigT", bound=ModelConfig, default=ModelConfig)


class ModelServer(Server[ModelConfigT]):
    """A policy model. Write `responses` or `chat_completions`, whichever the engine speaks; the other
    follows, and so do Anthropic's Messages and all their streams.

    A stream of an engine that has none is its finished answer in events. One that has writes
    `stream_responses` or `stream_chat_completions`: bytes of that API's events, as they come; or both by one
    method, as a `ChunkedModelServer`.
    """

    kind = "responses_api_models"
    error_kind = "model_error"

    async def responses(self, params: Json) -> Json:
        """A Responses-API request → its response object."""
        return chat.to_response(await self.chat_completions(chat.to_chat(params)), params)

    async def chat_completions(self, body: Json) -> Json:
        """A Chat Completions request → its completion object."""
        return chat.to_completion(await self.responses(chat.to_params(body)))

    async def messages(self, body: Json) -> Json:
        """A request of Anthropic's Messages API → its message."""
        return messages.to_message(await self.responses(messages.to_params(body)), body)

    async def count_tokens(self, params: Json) -> int:
        """How many input tokens a Responses-API request has; only few engines can tell.

        Raises:
            PartError: `not_found`; this one can't.
        """
        hint = "an answer's usage tells"
        raise PartError("not_found", f"{self.name} can't count tokens before it answers", hint=hint)

    async def stream_responses(self, params: Json) -> AsyncGenerator[bytes]:
        """A Responses-API request → its server-sent events, as they come."""
        for event in numbered(events_of(await self.responses(_whole(params)))):
            yield encoded(event)

    async def stream_chat_completions(self, body: Json) -> AsyncGenerator[bytes]:
        """A Chat Completions request → its server-sent events, as they come."""
        completion = await self.chat_completions(_whole(body))
        for chunk in chunks_of(completion, usage=chat.wants_usage(body)):
            yield encoded(chunk, named=False)
        yield DONE

    async def stream_messages(self, body: Json) -> AsyncGenerator[bytes]:
        """A request of Anthropic's Messages API → its server-sent events, as they come."""
        writer = MessageWriter(body)
        async with aclosing(self.stream_responses(messages.to_params(body))) as pieces:
            async for event in whole(decoded(pieces)):
                for told in writer.write(event):
                    yield encoded(told)

    def endpoints(self) -> dict[str, Endpoint]:
        """The endpoints of every model server, and how busy it is."""
        responses = _streamed(self.responses, self.stream_responses, fail_responses)
        completions = _streamed(self.chat_completions, self.stream_chat_completions, fail_chat)
        return {
            "/v1/responses": queue_told(responses),
            "/v1/chat/completions": queue_told(completions),
            "/v1/messages": _streamed(self.messages, self.stream_messages, fail_messages),
            "/v1/messages/count_tokens": self._count_tokens,
            "/load": self.load,
        }

    def error_body(self, path: str, error: PartError) -> bytes:
        """In Anthropic's shape on the paths of its API."""
        return messages.error_body(error) if path.startswith("/v1/messages") else error.to_wire()

    async def _count_tokens(self, body: Json) -> Json:
        return {"input_tokens": await self.count_tokens(messages.to_params(body))}

    async def queued(self) -> int | None:
        """Requests that wait in the engine's own queue; None where it does not say."""
        return None

    async def load(self, _: Json) -> Json:
        """How often providers have refused this process (429, 503), and the engine's own queue."""
        return {"throttled": self.client.throttled, "queued": await self.queued()}


def _streamed(
    answer: Endpoint,
    stream: Callable[[Json], AsyncGenerator[bytes]],
    fail: Callable[[PartError, int], bytes],
) -> Endpoint:
    """The endpoint that answers whole, or in a stream to a request that says `stream: true`."""

    async def endpoint(body: Json) -> Any:
        return await Stream.begin(stream(body), fail) if body.get("stream") else await answer(body)

    return endpoint


def _whole(body: Json) -> Json:
    """The request for the same answer in one piece."""
    return {key: body[key] for key in body if key not in chat.STREAMING}
