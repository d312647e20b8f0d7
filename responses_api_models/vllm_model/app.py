"""A running vLLM server, or several; and what else speaks as it does: SGLang, llama.cpp, transformers."""

import asyncio
import logging
import re
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, cast
from uuid import uuid4

from pydantic import Field, SecretStr, field_validator

from nemo_like import chat, llama_cpp
from nemo_like.client import Client, rollout_id
from nemo_like.engine_queue import EngineQueue
from nemo_like.errors import PartError, blame
from nemo_like.past_tokens import DIVERGES, Divergences, diverges_at, endings, past_of, spliced
from nemo_like.provider import Provider, base_url_of
from nemo_like.rate import Rate, RateConfig
from nemo_like.replicas import Replicas
from nemo_like.server import ChunkedModelServer, ModelConfig
from nemo_like.shapes import TEXT_PARTS
from nemo_like.types import Json, merged

from . import tokens
from .request import NEUTRAL, Reasoning, request_body, sampling_of, seed_of

log = logging.getLogger(__name__)


class EngineConfig(ModelConfig, RateConfig):
    """How an engine is asked, wherever it runs."""

    timeout_s: float = Field(600.0, gt=0)
    """Seconds that one try may take."""
    max_retries: int = Field(4, ge=0)
    """Tries after the first, where another may mend it: 408, 429, 5xx, no connection, a torn answer."""
    return_token_id_information: bool = False
    """Put `prompt_token_ids`, `generation_token_ids` and `generation_log_probs` on the last item of every
    answer, for trainers. An engine that has none is an error."""
    keep_prompt_prefix: bool = True
    """With token ids: where the chat template words the past otherwise, send the tokens that it really was,
    if the engine takes them."""
    uses_reasoning_parser: bool = True
    """Earlier reasoning goes back to the engine as a field, `reasoning_content` and `reasoning`; false writes
    it into the text, between `<think>` tags. Answers are understood both ways."""
    preserve_reasoning_in_assistant_content: bool = False
    """Earlier reasoning goes back in the text, as with `uses_reasoning_parser: false`."""
    uses_interleaved_reasoning: bool = True
    """Earlier reasoning goes back at all; false leaves it out, also where a text begins with it."""
    replace_developer_role_with_system: bool = False
    """For chat templates that know no `developer`."""
    chat_template_kwargs: Json = Field(default_factory=dict[str, Any])
    """Given to the chat template with every request: `{enable_thinking: false}`. A request's own win."""
    sampling_defaults: Json = Field(default_factory=dict[str, Any])
    """What a request is sent with where it does not say, merged over temperature 1, top_p 1, top_k -1, min_p
    0 and repetition_penalty 1: else the engine takes them from the model's `generation_config.json`. A null
    leaves one to the engine."""
    seed: int | None = None
    """Seeds each call with this, its task, repeat and turn, so that a run can be repeated; a request's own
    `seed` wins."""
    extra_body: Json = Field(default_factory=dict[str, Any])
    """Merged deeply over every body that is sent; a null takes a key out."""
    default_headers: dict[str, SecretStr] = Field(default_factory=dict[str, SecretStr])
    """HTTP headers for every request to it, over those that are sent anyway; their values appear in no log,
    error or record."""
    on_context_overflow: Literal["truncate", "error"] = "truncate"
    """A conversation that no longer fits: an empty, incomplete answer, which is verified like any other; or
    the error `context_overflow`."""

    @property
    def reasoning(self) -> Reasoning:
        """How earlier reasoning goes back."""
        if not self.uses_interleaved_reasoning:
            return "left out"
        as_field = self.uses_reasoning_parser and not self.preserve_reasoning_in_assistant_content
        return "field" if as_field else "text"


class VLLMConfig(EngineConfig):
    """Settings of running engines."""

    base_url: str | list[str]
    """Where the engine is, with or without `/v1`; of several that serve the same model, a list."""
    api_key: SecretStr = SecretStr("")
    """Its key; empty sends none."""
    model: str
    """The model to ask for; it replaces the one that a request names."""
    health_path: str = "/health"
    """Path at the server's root that several engines are watched by; anything but a 5xx is well."""
    health_interval_s: float = Field(5.0, gt=0)
    """Seconds between two looks."""

    @field_validator("base_url")
    @classmethod
    def _urls(cls, given: str | list[str]) -> list[str]:
        urls = [given] if isinstance(given, str) else given
        if not urls:
            raise ValueError("should name at least one URL")
        for url in urls:
            if not re.match(r"https?://[^\s/]", url):
                raise ValueError(f"should begin with http:// or https:// and a host (got {url!r})")
        if len(urls) != len(set(urls)):
            raise ValueError("names a URL twice")
        return [base_url_of(url) for url in urls]


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """A completion, and how it came about."""

    completion: Json
    body: Json
    """What was sent."""
    where: str
    cut: bool = False
    """Whether the conversation did not fit, so that there was no answer."""
    diverges_at: int | None = None
    """The first token of its prompt that is not the one of the step before."""


class VLLMModel(ChunkedModelServer[VLLMConfig]):
    """Chat Completions of one engine or several; a rollout stays with one, for its prefix cache."""

    def __init__(self, config: VLLMConfig, *, name: str, client: Client) -> None:
        super().__init__(config, name=name, client=client)
        urls = cast(list[str], config.base_url)
        self._rate = Rate.of(config, workers=client.workers_of(name))
        """Of all the engines together."""
        self._replicas = Replicas([self._provider(url) for url in urls])
        key = config.api_key.get_secret_value()
        self._queues = [EngineQueue(client, url, key) for url in urls]
        given = merged(NEUTRAL, config.sampling_defaults)
        self._neutral: Json = {key: value for key, value in given.items() if value is not None}
        self._defaults = dict(self._neutral)
        """Of these, what the engine is not known to refuse."""
        self._asks_tokens = tokens.ASKED if config.return_token_id_information else {}
        """How the engine is asked for them."""
        self._splices = config.return_token_id_information and config.keep_prompt_prefix
        self._divergences = Divergences(name, self._metrics)

    def _provider(self, base_url: str) -> Provider:
        config = self.config
        return Provider(
            client=self.client,
            base_url=base_url,
            api_key=config.api_key.get_secret_value(),
            timeout_s=config.timeout_s,
            max_retries=config.max_retries,
            rate=self._rate,
            headers={key: value.get_secret_value() for key, value in config.default_headers.items()},
        )

    async def queued(self) -> int | None:
        """The queues of all engines that tell theirs; None where none does."""
        told = await asyncio.gather(*(queue.length() for queue in self._queues))
        lengths = [length for length in told if length is not None]
        return sum(lengths) if lengths else None

    @asynccontextmanager
    async def lifespan(self) -> AsyncGenerator[None]:
        """Watches the health of several engines."""
        if len(self.config.base_url) == 1:
            yield
            return
        config = self.config
        watching = asyncio.create_task(
            self._replicas.watch(self.client, config.health_path, every_s=config.health_interval_s)
        )
        try:
            yield
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def responses(self, params: Json) -> Json:
        """The response, with how it was sampled as `sampling`, and with its tokens if they are wanted.

        Raises:
            PartError: in the engine's words.
        """
        answer = await self._answer(chat.to_chat(params), past_of(params.get("input")))
        with blame(answer.where, "bad_response"):
            response = chat.to_response(answer.completion, params)
        if answer.cut:
            response["output"] = []
        if answer.diverges_at is not None:
            response["output"][-1][DIVERGES] = answer.diverges_at
        return response | {
            "temperature": answer.body.get("temperature"),
            "top_p": answer.body.get("top_p"),
            "sampling": sampling_of(answer.body),
        }

    async def chat_completions(self, body: Json) -> Json:
        """The completion, as the engine gives it; tokens are on its message.

        Raises:
            PartError: in the engine's words.
        """
        answer = await self._answer(body, past_of(body.get("messages")))
        with blame(answer.where, "bad_response"):
            chat.to_response(answer.completion, body)  # for its checks
        return answer.completion

    async def count_tokens(self, params: Json) -> int:
        """As the engine's chat template and tokenizer have it; an image counts as what stands for it.

        Raises:
            PartError: `not_found`; the engine has no `/tokenize`.
        """
        try:
            return len((await self._tokenized(self._body(chat.to_chat(params))))["tokens"])
        except PartError as error:
            if error.kind != "not_found":
                raise
            return await super().count_tokens(params)

    @asynccontextmanager
    async def chunks(self, body: Json) -> AsyncGenerator[AsyncGenerator[bytes] | None]:
        """What the engine streams; None where its whole answer is wanted: for its token ids, and after a
        refusal, which a whole answer knows how to mend."""
        if self.config.return_token_id_information:
            yield None
            return
        asked = self._body(body) | {"stream": True}
        asked |= {key: body[key] for key in ("stream_options",) if key in body}
        async with AsyncExitStack() as stack:
            yield await self._opened(stack, asked)

    async def _opened(self, stack: AsyncExitStack, asked: Json) -> AsyncGenerator[bytes] | None:
        while True:
            opening = self._replicas.stream("/chat/completions", asked, key=rollout_id.get())
            try:
                answer = await stack.enter_async_context(opening)
            except PartError as error:
                if self._left_out(error, asked):
                    continue
                if error.kind not in ("bad_request", "context_overflow"):
                    raise
                return None
            return None if isinstance(answer, dict) else answer

    async def _answer(self, asked: Json, past: list[int]) -> Answer:
        body = self._body(asked)
        try:
            if past and self._splices:
                body = await self._with_past(body, past)
            completion, provider = await self._post_fitting(body)
        except PartError as error:
            if error.kind != "context_overflow" or self.config.on_context_overflow == "error":
                raise
            log.info("%s: an answer is cut off before it begins: %s", self.name, error)
            return Answer(completion=_cut(self.config.model), body=body, where=error.where, cut=True)
        answer = Answer(completion=completion, body=body, where=provider.base_url)
        if not self.config.return_token_id_information:
            return answer
        with blame(answer.where, "bad_response"):
            if llama_cpp.lacks_details(completion) and not body.keys() >= llama_cpp.ASKED.keys():
                self._asks_tokens = llama_cpp.ASKED
                return await self._answer(asked, past)
            return await self._with_tokens(answer, past, keep_logprobs=bool(asked.get("logprobs")))

    def _body(self, body: Json) -> Json:
        config = self.config
        if config.return_token_id_information and (body.get("n") or 1) != 1:
            raise PartError("bad_request", "n should be 1 where return_token_id_information is on")
        if config.seed is not None and body.get("seed") is None:
            body = body | {"seed": seed_of(config.seed, rollout_id.get(), body.get("messages"))}
        return request_body(
            body,
            model=config.model,
            defaults=self._defaults,
            extra=config.extra_body,
            template=config.chat_template_kwargs,
            with_tokens=self._asks_tokens,
            reasoning=config.reasoning,
            developer_as_system=config.replace_developer_role_with_system,
        )

    async def _post_fitting(self, body: Json) -> tuple[Json, Provider]:
        """What the engine answers; where only `max_tokens` is too much, to as many as there is room for."""
        try:
            return await self._post(body)
        except PartError as error:
            key = next((key for key in ("max_tokens", "max_completion_tokens") if key in body), None)
            if error.kind != "context_overflow" or key is None:
                raise
            try:
                prompt = await self._tokenized(body)
            except PartError:
                raise error from None
            room = prompt["max_model_len"] - len(prompt["tokens"]) if "max_model_len" in prompt else 0
            if not 0 < room < body[key]:
                raise
            log.info("%s: %s=%s lowered to the %d that fit", self.name, key, body[key], room)
            body[key] = room
            return await self._post(body)

    async def _post(self, body: Json) -> tuple[Json, Provider]:
        while True:
            try:
                return await self._replicas.post("/chat/completions", body, key=rollout_id.get())
            except PartError as error:
                if not self._left_out(error, body):
                    raise

    def _left_out(self, error: PartError, body: Json) -> bool:
        """Takes what the engine refuses by name, as it is not of the OpenAI API, out of the body, and out of
        those to come; whether there was any."""
        unknown = {key for key in _refused(error, self._neutral) if body.get(key) == self._neutral[key]}
        if unknown & self._defaults.keys():
            log.warning("%s: %s left out from now on: %s", self.name, ", ".join(sorted(unknown)), error)
        for key in unknown:
            self._defaults.pop(key, None)
            del body[key]
        return bool(unknown)

    async def _tokenized(self, body: Json) -> Json:
        """The prompt that the chat template makes of a body, as vLLM's `/tokenize` answers it."""
        asked = {key: body[key] for key in tokens.RENDERED if key in body} | {"model": body["model"]}
        answer = await self._post_at_root("/tokenize", asked)
        if isinstance(answer.get("tokens"), list) and answer["tokens"]:
            return answer
        # llama.cpp's `/tokenize` wants the text.
        text = await self._post_at_root("/apply-template", asked)
        return {"tokens": await llama_cpp.tokenized(str(text.get("prompt")), self._post_at_root)}

    async def _with_past(self, body: Json, past: list[int]) -> Json:
        """`body` with the prompt that begins with `past`, where the chat template's does not."""
        messages = cast(list[Json], body["messages"])
        if any(_holds_media(message) for message in messages):
            return body  # An engine unfolds images into tokens of its own.
        try:
            whole = (await self._tokenized(body))["tokens"]
            if diverges_at(past, whole) is None:
                return body
            said, other = [
                (await self._tokenized(body | {"messages": ended, "add_generation_prompt": False}))["tokens"]
                for ended in endings(messages)
            ]
        except PartError as error:
            if error.kind == "not_found":
                log.warning("%s: prompts stay as rendered: %s", self.name, error)
                self._splices = False
            return body
        prompt = spliced(past, said, other, whole)
        return body if prompt is None else body | {"kv_transfer_params": {"prompt_token_ids": prompt}}

    async def _with_tokens(self, answer: Answer, past: list[int], *, keep_logprobs: bool) -> Answer:
        """The answer with its tokens on the message, where they are of one form whatever the engine."""
        completion, body = answer.completion, answer.body
        found = await self._tokens_of(completion, body)
        choice = cast(Json, completion["choices"][0])
        choice["message"] |= found
        completion.pop("prompt_token_ids", None)
        choice.pop("token_ids", None)
        if not keep_logprobs:
            choice["logprobs"] = None
        prompt = found[tokens.PROMPT]
        sent = cast(Json, body.get("kv_transfer_params") or {}).get("prompt_token_ids")
        if sent is not None and sent != prompt:
            log.warning("%s: the engine takes no tokens as a prompt, so prompts stay as rendered", self.name)
            self._splices = False
        return replace(answer, diverges_at=self._divergences.note(past, prompt))

    async def _tokens_of(self, completion: Json, body: Json) -> Json:
        """What a completion tells of `TOKEN_FIELDS`, and its engine of what is missing."""
        if llama_cpp.is_whole(completion):
            top = int(body.get("top_logprobs") or 0)
            prompt, entries = await llama_cpp.tokens_of(completion, post=self._post_at_root, top=top)
            completion["choices"][0]["logprobs"] = {"content": entries}
            del completion[llama_cpp.DETAILS]
            return llama_cpp.token_fields(prompt, entries)
        found = tokens.read(completion)
        if tokens.PROMPT not in found:
            found[tokens.PROMPT] = (await self._tokenized(body))["tokens"]
        return found

    async def _post_at_root(self, path: str, body: Json) -> Json:
        answer, _ = await self._replicas.post(path, body, key=rollout_id.get(), at_root=True)
        return answer


def _cut(model: str) -> Json:
    """The completion of a conversation that does not fit."""
    message = {"role": "assistant", "content": ""}
    choice = {"index": 0, "message": message, "finish_reason": "length"}
    head = {"id": f"chatcmpl-{uuid4().hex}", "object": "chat.completion", "created": int(time.time())}
    return head | {"model": model, "choices": [choice]}


def _holds_media(message: Json) -> bool:
    """Whether a message holds anything but text."""
    parts = cast(Any, message.get("content"))
    return isinstance(parts, list) and any(
        not isinstance(part, dict) or cast(Json, part).get("type") not in (None, *TEXT_PARTS)
        for part in cast(list[Any], parts)
    )


def _refused(error: PartError, neutral: Json) -> set[str]:
    """The sampling parameters, of those that are not of the OpenAI API, whose names a refusal holds."""
    ours = neutral.keys() - {"temperature", "top_p"} if error.kind == "bad_request" else set[str]()
    return {key for key in ours if re.search(rf"\b{key}\b", error.message)}
