"""A small language model inside the process: SmolLM2-135M-Instruct, run by llama.cpp on the processor."""

import asyncio
import os
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager

from pydantic import Field

from nemo_like import chat, llama_cpp
from nemo_like.client import Client
from nemo_like.errors import PartError
from nemo_like.provider import Provider
from nemo_like.server import ChunkedModelServer, ModelConfig
from nemo_like.types import Json

from .engine import MODEL, Engine
from .request import Request
from .toolbox import Toolbox, in_words

ANSWER_TIMEOUT_S = 1200.0
"""Seconds that one answer may take, once it has begun."""
MOST_THREADS = 8
OVERFLOW = "exceeds the available context size"
"""llama.cpp's words for a conversation that is too long."""


class EmbeddedConfig(ModelConfig):
    """Settings of the embedded model."""

    context_tokens: int = Field(4096, ge=256, le=8192)
    """Tokens that one conversation may have, answer included. Each takes 23 KB, times `parallel`."""
    max_output_tokens: int = Field(512, ge=1)
    """Tokens of an answer where the request sets no bound: a model of this size rambles."""
    parallel: int = Field(4, ge=1, le=64)
    """Requests answered at once; the rest wait."""
    threads: int | None = Field(None, ge=1)
    """Processor threads; null is one less than there are cores, between 1 and 8. With all of them it slows
    down manifold as soon as anything else runs, and a model of this size has no work for many."""
    return_token_id_information: bool = False
    """Answer every request with token ids and log-probabilities, not only those that ask for `logprobs`."""
    verbose: bool = False
    """Let llama.cpp write its log."""


class EmbeddedModel(ChunkedModelServer[EmbeddedConfig]):
    """SmolLM2-135M-Instruct: no key, no GPU, no download."""

    @asynccontextmanager
    async def lifespan(self) -> AsyncGenerator[None]:
        """Loads the weights; at the end, what is still being answered is given up."""
        config = self.config
        engine = Engine(
            parallel=config.parallel,
            context_tokens=config.context_tokens,
            threads=config.threads or min(max((os.cpu_count() or 1) - 1, 1), MOST_THREADS),
            verbose=config.verbose,
        )
        await asyncio.to_thread(engine.start)
        try:
            # A client of its own, because its connections have to be closed before the engine can stop.
            async with Client({}) as client:
                self._engine = Provider(
                    client=client,
                    base_url=engine.address,
                    api_key=engine.key,
                    name=self.name,
                    timeout_s=ANSWER_TIMEOUT_S,
                    max_retries=1,
                )
                self._slot = asyncio.Semaphore(config.parallel)
                yield
        finally:
            await asyncio.to_thread(engine.stop)

    async def chat_completions(self, body: Json) -> Json:
        """The model's completion.

        Raises:
            PartError: `bad_request`; `context_overflow` where the conversation has more than
                `context_tokens`.
        """
        request = Request.of(body)
        with_ids, toolbox = self._with_ids(request), _toolbox(request)
        asked = self._asked(request, toolbox)
        completion = await self._complete(asked)
        choice, logprobs = completion["choices"][0], None
        message: Json = {"role": "assistant", "content": choice["message"].get("content") or ""}
        if toolbox:
            message = toolbox.read(message["content"])
        if with_ids:
            async with self._slot:
                prompt, entries = await llama_cpp.tokens_of(
                    completion, post=self._engine.post, top=request.top_logprobs
                )
            message |= llama_cpp.token_fields(prompt, entries)
            logprobs = _logprobs(entries, request.top_logprobs) if request.logprobs else None
        return {
            "id": completion["id"],
            "object": "chat.completion",
            "created": completion["created"],
            "model": MODEL,
            "choices": [
                {
                    "index": 0,
                    "message": message,
                    "finish_reason": "tool_calls" if message.get("tool_calls") else choice["finish_reason"],
                    "logprobs": logprobs,
                }
            ],
            "usage": completion["usage"],
        }

    async def count_tokens(self, params: Json) -> int:
        """Tokens of a Responses-API request as the model reads it, what is said of its tools included."""
        request = Request.of(chat.to_chat(params))
        asked = self._asked(request, _toolbox(request))
        prompt: Json = await self._engine.post("/apply-template", {"messages": asked["messages"]})
        return len(await llama_cpp.tokenized(prompt["prompt"], self._engine.post))

    @asynccontextmanager
    async def chunks(self, body: Json) -> AsyncGenerator[AsyncGenerator[bytes] | None]:
        """What llama.cpp streams; None where an answer is read when it is whole: with tools or token ids."""
        request = Request.of(body)
        if self._with_ids(request) or _toolbox(request):
            yield None
            return
        asked = self._asked(request, None) | {"stream": True}
        asked["stream_options"] = {"include_usage": chat.wants_usage(body)}
        with self._overflow_named():
            async with self._slot, self._engine.stream("/v1/chat/completions", asked) as chunks:
                if isinstance(chunks, dict):
                    raise PartError("bad_response", "llama.cpp did not stream", where=self.name)
                yield chunks

    def _with_ids(self, request: Request) -> bool:
        return request.logprobs or self.config.return_token_id_information

    def _asked(self, request: Request, toolbox: Toolbox | None) -> Json:
        """What llama.cpp is asked."""
        with_ids = self._with_ids(request)
        schema = toolbox.schema() if toolbox else request.schema_of_answer
        asked: Json = request.sampling(self.config.max_output_tokens) | {
            "messages": toolbox.messages() if toolbox else in_words(request.messages),
            "logprobs": with_ids,
        }
        if schema is not None:
            asked["response_format"] = {"type": "json_schema", "json_schema": {"schema": schema}}
        if with_ids:
            # One candidate is the fewest for which there are log-probabilities.
            asked |= llama_cpp.ASKED | {"top_logprobs": max(1, request.top_logprobs)}
        return asked

    async def _complete(self, asked: Json) -> Json:
        with self._overflow_named():
            async with self._slot:
                return await self._engine.post("/v1/chat/completions", asked)

    @contextmanager
    def _overflow_named(self) -> Generator[None]:
        try:
            yield
        except PartError as error:
            if OVERFLOW not in error.message:
                raise
            hint = f"{self.name} has context_tokens={self.config.context_tokens}"
            raise PartError("context_overflow", error.message, where=self.name, hint=hint) from error


def _toolbox(request: Request) -> Toolbox | None:
    return Toolbox(request) if request.tools and request.tool_choice != "none" else None


def _logprobs(entries: list[Json], top: int) -> Json:
    """Log-probabilities with as many candidates as were asked for."""
    return {"content": [entry | {"top_logprobs": entry["top_logprobs"][:top]} for entry in entries]}
