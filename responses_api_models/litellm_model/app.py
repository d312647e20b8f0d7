"""Any of LiteLLM's providers, through its SDK."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, nullcontext
from typing import Any

import orjson
from pydantic import Field, SecretStr

from nemo_like import chat
from nemo_like.chunk_reader import response_stream
from nemo_like.client import Client
from nemo_like.errors import blame
from nemo_like.rate import Rate, RateConfig, Turn
from nemo_like.server import ModelConfig, ModelServer
from nemo_like.settings import is_secret
from nemo_like.sse import DONE, encoded
from nemo_like.types import Json, merged

from .provider import LiteLLM, Tries

STEERING = frozenset(
    {"base_url", "custom_llm_provider", "fallbacks", "headers", "extra_headers", "client", "callbacks"}
)
"""Keys that tell LiteLLM whom to ask and how: settings, and none of a request's, which would take the key
elsewhere."""


class LiteLLMConfig(ModelConfig, RateConfig):
    """Settings of a provider that LiteLLM knows."""

    litellm_model: str
    """The model as LiteLLM names it, `provider/model`; it replaces the one that a request names."""
    litellm_api_key: SecretStr = SecretStr("")
    """The provider's key; empty leaves it to the provider's environment variable."""
    litellm_api_base: str | None = None
    """Where the provider is, where that is not what LiteLLM knows."""
    drop_params: bool = False
    """Whether parameters that the provider lacks are left out; if not, they are a `bad_request`."""
    timeout_s: float = Field(600.0, gt=0)
    """Seconds that one try may take."""
    max_retries: int = Field(4, ge=0)
    """Tries after the first, where another may mend it; LiteLLM itself tries once."""
    max_concurrent_requests: int | None = Field(None, ge=1)
    """Requests in flight at once from each worker process; the rest wait. Null is no bound."""
    extra_body: Json = Field(default_factory=dict[str, Any])
    """Merged deeply over what `litellm.completion` is called with: `{reasoning_effort: low}`,
    `{api_version: …}`; a null takes a key out."""
    mock_response: str | None = None
    """What LiteLLM answers without asking anybody; `litellm.RateLimitError` and the like raise that."""


class LiteLLMModel(ModelServer[LiteLLMConfig]):
    """Someone else's model, called through LiteLLM."""

    def __init__(self, config: LiteLLMConfig, *, name: str, client: Client) -> None:
        super().__init__(config, name=name, client=client)
        bound = config.max_concurrent_requests
        self._slot: AbstractAsyncContextManager[None] = asyncio.Semaphore(bound) if bound else nullcontext()
        self._rate = Rate.of(config, workers=client.workers_of(name))

    @asynccontextmanager
    async def lifespan(self) -> AsyncGenerator[None]:
        """Imports LiteLLM. Its connections are those of the process, and end with it."""
        extra = self.config.extra_body
        secrets = [str(value) for key, value in extra.items() if is_secret(key)]
        secrets.append(self.config.litellm_api_key.get_secret_value())
        self._litellm = await asyncio.to_thread(LiteLLM, secrets)
        yield

    async def responses(self, params: Json) -> Json:
        """The provider's answer as a response, with its cost in `usage.cost`.

        Raises:
            PartError: in the provider's words.
        """
        completion = await self.chat_completions(chat.to_chat(params))
        response = chat.to_response(completion, params)
        usage: Json = completion.get("usage") or {}
        if "cost" in usage:
            response["usage"] |= {"cost": usage["cost"]}
        return response

    async def chat_completions(self, body: Json) -> Json:
        """The provider's completion; what it cost in dollars, where LiteLLM knows that, is `usage.cost`.

        Raises:
            PartError: in the provider's words.
        """
        async with self._slot:
            completion, cost = await self._litellm.complete(self._options(body), self._tries(body))
        with blame(self.config.litellm_model, "bad_response"):
            chat.to_response(completion, body)  # for its checks
        if cost is not None:
            completion["usage"] = (completion.get("usage") or {}) | {"cost": cost}
        return completion

    async def stream_responses(self, params: Json) -> AsyncGenerator[bytes]:
        """Events made of the provider's chunks, as those come."""
        async with (
            aclosing(self._chunks(chat.to_chat(params))) as chunks,
            aclosing(response_stream(chunks, params)) as pieces,
        ):
            async for piece in pieces:
                yield piece

    async def stream_chat_completions(self, body: Json) -> AsyncGenerator[bytes]:
        """The provider's chunks as they come."""
        async with aclosing(self._chunks(body)) as chunks:
            async for chunk in chunks:
                if chunk.get("choices") or chat.wants_usage(body):
                    yield encoded(chunk, named=False)
        yield DONE

    async def _chunks(self, body: Json) -> AsyncGenerator[Json]:
        options = self._options(body) | {"stream_options": {"include_usage": True}}
        async with self._slot, aclosing(self._litellm.stream(options, self._tries(body))) as chunks:
            async for chunk in chunks:
                yield chunk

    def _tries(self, body: Json) -> Tries:
        async def turn() -> Turn | None:
            return await self._rate.turn(body, len(orjson.dumps(body))) if self._rate else None

        def refused() -> None:
            self.client.throttled += 1

        config = self.config
        return Tries(timeout_s=config.timeout_s, max_retries=config.max_retries, turn=turn, refused=refused)

    def _options(self, body: Json) -> Json:
        config = self.config
        options = {key: value for key, value in body.items() if key not in chat.STREAMING | STEERING}
        options |= {
            "model": config.litellm_model,
            "api_key": config.litellm_api_key.get_secret_value() or None,
            "api_base": config.litellm_api_base,
            "drop_params": config.drop_params,
            "mock_response": config.mock_response,
        }
        return {key: value for key, value in merged(options, config.extra_body).items() if value is not None}
