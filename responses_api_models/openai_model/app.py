"""Any OpenAI-compatible endpoint: the Responses API where it has one, Chat Completions where it has not."""

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, AsyncIterable, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, nullcontext
from typing import Any, Literal, cast

import orjson
from pydantic import Field, SecretStr, field_validator

from nemo_like import chat
from nemo_like.chunk_reader import response_stream
from nemo_like.chunks import ChunkWriter, chunks_of
from nemo_like.client import Client
from nemo_like.engine_queue import EngineQueue
from nemo_like.errors import PartError, blame
from nemo_like.provider import Provider, base_url_of
from nemo_like.rate import Rate, RateConfig
from nemo_like.response_events import events_of, numbered, whole
from nemo_like.server import ModelConfig, ModelServer
from nemo_like.shapes import objects_in
from nemo_like.sse import DONE, decoded, encoded
from nemo_like.streams import ends_completion, ends_response, relayed
from nemo_like.turns import SIGNED
from nemo_like.types import Json, merged

log = logging.getLogger(__name__)

UNKNOWN = {*chat.TOKEN_FIELDS, *SIGNED, "audio", "logprobs"}
"""Keys of items that the Responses API does not know."""
CITED = ("url_citation", "file_citation", "container_file_citation", "file_path")
"""The annotations that it knows."""
NO_ENDPOINT = frozenset({404, 405, 501})
NO_ENDPOINT_WORDS = re.compile(r"responses api|/responses\b", re.I)
"""How servers that answer 400 instead say that they have no Responses API."""


class OpenAIConfig(ModelConfig, RateConfig):
    """Settings of an OpenAI-compatible endpoint."""

    openai_base_url: str
    """Where the endpoint is, with or without `/v1`."""
    openai_api_key: SecretStr = SecretStr("")
    """Its key; empty sends none."""
    openai_model: str
    """The model to ask for; it replaces the one that a request names."""
    api: Literal["auto", "responses", "chat"] = "auto"
    """What to call: `/responses`, `/chat/completions`, or the first of them that is there."""
    timeout_s: float = Field(600.0, gt=0)
    """Seconds that one try may take."""
    max_retries: int = Field(4, ge=0)
    """Tries after the first, where another may mend it: 408, 429, 5xx, no connection, a torn answer."""
    max_concurrent_requests: int | None = Field(None, ge=1)
    """Requests in flight at once from each worker process; the rest wait. Null is no bound."""
    extra_body: Json = Field(default_factory=dict[str, Any])
    """Merged deeply over every body that is sent, in the words of the API that is called; a null takes a key
    out."""
    default_headers: dict[str, SecretStr] = Field(default_factory=dict[str, SecretStr])
    """HTTP headers for every request to it, over those that are sent anyway; their values appear in no log,
    error or record."""

    @field_validator("openai_base_url")
    @classmethod
    def _prefix(cls, url: str) -> str:
        if not re.match(r"https?://[^\s/]", url):
            raise ValueError("should begin with http:// or https:// and a host")
        return base_url_of(url)


class OpenAIModel(ModelServer[OpenAIConfig]):
    """Someone else's model, called over HTTP."""

    def __init__(self, config: OpenAIConfig, *, name: str, client: Client) -> None:
        super().__init__(config, name=name, client=client)
        self._provider = Provider(
            client=client,
            base_url=config.openai_base_url,
            api_key=config.openai_api_key.get_secret_value(),
            timeout_s=config.timeout_s,
            max_retries=config.max_retries,
            rate=Rate.of(config, workers=client.workers_of(name)),
            headers={key: value.get_secret_value() for key, value in config.default_headers.items()},
        )
        self._queue = EngineQueue(client, config.openai_base_url, config.openai_api_key.get_secret_value())
        bound = config.max_concurrent_requests
        self._slot: AbstractAsyncContextManager[None] = asyncio.Semaphore(bound) if bound else nullcontext()
        self._api = config.api

    async def responses(self, params: Json) -> Json:
        """The provider's response; what a server without the Responses API says, as one.

        Raises:
            PartError: in the provider's words. Where neither API is there, in those of Chat Completions: a
                wrong model name is a 404 too, and chat is what every server has.
        """
        if self._api == "chat":
            return await self._by_chat(params)
        try:
            response = await self._by_responses(params)
        except PartError as error:
            if self._api == "responses" or not _may_lack_endpoint(error):
                raise
            return await self._by_chat_instead(params, error)
        self._api = "responses"
        return response

    async def chat_completions(self, body: Json) -> Json:
        """The provider's completion as it is where chat is what it speaks; else made from its response."""
        if self._api != "chat":
            return await super().chat_completions(body)
        completion = await self._post("/chat/completions", body)
        with blame(self._provider.base_url, "bad_response"):
            chat.to_response(completion, body)  # for its checks
        return completion

    async def count_tokens(self, params: Json) -> int:
        """As the provider counts, where it has `/responses/input_tokens`."""
        try:
            counted = await self._post("/responses/input_tokens", _as_counted(params))
        except PartError as error:
            if error.status in NO_ENDPOINT:
                return await super().count_tokens(params)
            raise
        if not isinstance(tokens := counted.get("input_tokens"), int):
            raise PartError("bad_response", f"no count of tokens: {orjson.dumps(counted)[:200].decode()}")
        return tokens

    async def stream_responses(self, params: Json) -> AsyncGenerator[bytes]:
        """The provider's events as they come; made of its chunks, as those come, where it speaks chat."""

        async def by_responses() -> AsyncGenerator[bytes]:
            async with self._events(params) as pieces:
                async for piece in relayed(pieces, ends_response):
                    yield piece

        async def by_chat() -> AsyncGenerator[bytes]:
            asked = chat.to_chat(params) | {"stream_options": {"include_usage": True}}
            async with self._chunks(asked) as pieces:
                async for piece in response_stream(decoded(pieces), params):
                    yield piece

        async with aclosing(self._either(by_responses, by_chat)) as pieces:
            async for piece in pieces:
                yield piece

    async def stream_chat_completions(self, body: Json) -> AsyncGenerator[bytes]:
        """The provider's chunks as they come; made of its events, as those come, where it has these."""

        async def by_responses() -> AsyncGenerator[bytes]:
            writer = ChunkWriter(usage=chat.wants_usage(body))
            async with self._events(chat.to_params(body)) as pieces:
                async for event in whole(decoded(pieces)):
                    for chunk in writer.write(event):
                        yield encoded(chunk, named=False)
            yield DONE

        async def by_chat() -> AsyncGenerator[bytes]:
            async with self._chunks(body) as pieces:
                async for piece in relayed(pieces, ends_completion):
                    yield piece

        async with aclosing(self._either(by_responses, by_chat)) as pieces:
            async for piece in pieces:
                yield piece

    async def _either(
        self, by_responses: Callable[[], AsyncGenerator[bytes]], by_chat: Callable[[], AsyncGenerator[bytes]]
    ) -> AsyncGenerator[bytes]:
        """The stream of the API that is there; which it is, is remembered."""
        refused: PartError | None = None
        if self._api != "chat":
            begun = False
            try:
                async with aclosing(by_responses()) as pieces:
                    async for piece in pieces:
                        begun, self._api = True, "responses"
                        yield piece
                return
            except PartError as error:
                if begun or self._api == "responses" or not _may_lack_endpoint(error):
                    raise
                refused = error
        try:
            async with aclosing(by_chat()) as pieces:
                async for piece in pieces:
                    self._api = "chat"
                    yield piece
        except PartError as error:
            if refused and error.status in NO_ENDPOINT and refused.status not in NO_ENDPOINT:
                raise refused from error
            raise

    @asynccontextmanager
    async def _events(self, params: Json) -> AsyncGenerator[AsyncIterable[bytes]]:
        """The provider's stream of Responses events."""
        async with self._stream("/responses", _sent(params)) as answer:
            if isinstance(answer, dict):
                _check(answer, where=self._provider.base_url)
                answer = _given(b"".join(encoded(event) for event in numbered(events_of(answer))))
            yield answer

    @asynccontextmanager
    async def _chunks(self, body: Json) -> AsyncGenerator[AsyncIterable[bytes]]:
        """The provider's stream of chunks."""
        async with self._stream("/chat/completions", body) as answer:
            if isinstance(answer, dict):
                chunks = chunks_of(answer, usage=chat.wants_usage(body))
                answer = _given(b"".join(encoded(chunk, named=False) for chunk in chunks) + DONE)
            yield answer

    @asynccontextmanager
    async def _stream(self, path: str, body: Json) -> AsyncGenerator[AsyncGenerator[bytes] | Json]:
        body = self._asked(body) | {"stream": True}
        async with self._slot:
            with blame(self._provider.base_url, "bad_response"):
                async with self._provider.stream(path, body) as answer:
                    yield answer

    async def queued(self) -> int | None:
        """Requests that wait in the engine behind the endpoint, where it is one that says so."""
        return await self._queue.length()

    async def _by_chat_instead(self, params: Json, error: PartError) -> Json:
        """Chat Completions after `error` from `/responses`; remembered if that works."""
        try:
            response = await self._by_chat(params)
        except PartError as refusal:
            if refusal.status in NO_ENDPOINT and error.status not in NO_ENDPOINT:
                raise error from refusal
            raise
        if self._api == "auto":
            log.info("%s: no Responses API at %s (%s), so chat", self.name, error.where, error.message)
            self._api = "chat"
        return response

    async def _by_responses(self, params: Json) -> Json:
        response = await self._post("/responses", _sent(params))
        _check(response, where=self._provider.base_url)
        return response

    async def _by_chat(self, params: Json) -> Json:
        completion = await self._post("/chat/completions", chat.to_chat(params))
        with blame(self._provider.base_url, "bad_response"):
            return chat.to_response(completion, params)

    async def _post(self, path: str, body: Json) -> Json:
        body = {key: value for key, value in self._asked(body).items() if key not in chat.STREAMING}
        async with self._slot:
            return await self._provider.post(path, body)

    def _asked(self, body: Json) -> Json:
        """The body as it is sent."""
        body = merged(body | {"model": self.config.openai_model}, self.config.extra_body)
        return {key: body[key] for key in body if body[key] is not None}


async def _given(whole_stream: bytes) -> AsyncGenerator[bytes]:
    yield whole_stream


def _as_counted(params: Json) -> Json:
    """The part of a request that has input tokens."""
    counted = ("input", "instructions", "tools", "tool_choice", "parallel_tool_calls", "reasoning", "text")
    return {key: value for key, value in _sent(params).items() if key in counted}


def _sent(params: Json) -> Json:
    """A Responses request with its items as providers take them."""
    items = params.get("input")
    if isinstance(items, list):
        items = [_as_sent(item) for item in cast(list[Any], items)]
    return params | {"input": items}


def _as_sent(item: Any) -> Any:
    """An input item without nulls and what only Chat has: providers refuse fields that they do not know."""
    if not isinstance(item, dict):
        return item
    fields = cast(Json, item)
    spoken = fields.get("type") in (None, "message", "function_call_output")
    unknown = UNKNOWN | {"name"} if spoken else UNKNOWN
    kept = {key: fields[key] for key in fields if fields[key] is not None and key not in unknown}
    parts = objects_in(kept.get("content"))
    if any(part.get("annotations") for part in parts):
        kept["content"] = [_as_cited(part) for part in parts]
    return kept


def _as_cited(part: Json) -> Json:
    """A part of a message without what is cited in the words of another API."""
    cited = objects_in(part.get("annotations"))
    return part | {"annotations": [each for each in cited if each.get("type") in CITED]} if cited else part


def _may_lack_endpoint(error: PartError) -> bool:
    """Whether `error` is how a server without a Responses API answers; some say 200, and something else."""
    said = error.status == 400 and NO_ENDPOINT_WORDS.search(error.message)
    return error.status in NO_ENDPOINT or error.kind == "bad_response" or bool(said)


def _check(response: Json, *, where: str) -> None:
    """Raises a `PartError` for a response that failed, is not finished, or is none."""
    status, output = response.get("status"), response.get("output")
    if status in ("failed", "cancelled"):
        error = response.get("error")
        message = cast(Json, error).get("message") if isinstance(error, dict) else error
        raise PartError(
            "model_error", str(message or f"the response {status}, without a reason"), where=where
        )
    whole = isinstance(output, list) and all(isinstance(item, dict) for item in cast(list[Any], output))
    if not whole or status in ("queued", "in_progress"):
        shown = orjson.dumps(response)[:300].decode("utf-8", "replace")
        raise PartError("bad_response", f"not a finished response with a list of items: {shown}", where=where)
