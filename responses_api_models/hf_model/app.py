"""A local Hugging Face model: requests gathered into batches, weights replaced while it runs."""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from secrets import randbits
from typing import TYPE_CHECKING, Any, Literal
from uuid import uuid4

from pydantic import Field, field_validator

from nemo_like import chat
from nemo_like.chunk_reader import read_chunks
from nemo_like.chunks import chunks_of
from nemo_like.errors import ConfigError, MissingExtra, PartError, UsageError
from nemo_like.past_tokens import DIVERGES, Divergences, diverges_at, endings, past_of, spliced
from nemo_like.response_events import ENDINGS
from nemo_like.server import Endpoint, ModelConfig, ModelServer
from nemo_like.sse import DONE, encoded
from nemo_like.types import Json

from .answer import THINK, Spoken, read_answer
from .batcher import Batcher, Size
from .request import Request

if TYPE_CHECKING:
    from nemo_like.drawing import Wanted
    from nemo_like.local_model import Answer, LocalModel

log = logging.getLogger(__name__)

INSTALL = 'pip install "nemo-like[hf]"'


class HFConfig(ModelConfig):
    """Settings of a local Hugging Face model."""

    model: str
    """The folder of the model and its tokenizer."""
    served_name: str = ""
    """The name that answers give it; that of the folder where there is none."""
    device: str = "auto"
    """`cpu`, `cuda`, `cuda:1`, …; `auto` is CUDA where there is any."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """What it computes in; `auto` is bfloat16 on CUDA and float32 on the processor."""
    threads: int | None = Field(None, ge=1)
    """Processor threads; null leaves that to torch."""
    chat_template: Path | None = None
    """A file with a chat template in place of the model's own."""
    context_tokens: int | None = Field(None, ge=1)
    """Tokens that one conversation may have, answer included; null is what the model says."""
    max_output_tokens: int = Field(1024, ge=1)
    """Tokens of an answer where the request sets no bound."""
    max_batch_rows: int = Field(16, ge=1)
    """Requests answered together."""
    max_batch_tokens: int = Field(32_768, ge=1)
    """Tokens of a batch: its rows, each as long as the longest prompt and the longest answer in it may be."""
    batch_wait_s: float = Field(0.01, ge=0)
    """Seconds that a request waits for others to share its batch, where none is running."""
    return_token_id_information: bool = False
    """Answer every request with token ids and log-probabilities, not only those that ask for `logprobs`."""
    keep_prompt_prefix: bool = True
    """With token ids: where the chat template words the past otherwise, go on from the tokens that it really
    was."""
    logprobs_mode: Literal["raw_logprobs", "processed_logprobs"] = "raw_logprobs"
    """Log-probabilities of the model itself, at temperature 1, or of what was sampled from: after
    temperature, top_k, top_p and min_p."""
    trust_remote_code: bool = False
    """Run code that comes with the model."""

    @field_validator("num_workers")
    @classmethod
    def _one(cls, workers: int | None) -> int | None:
        if workers not in (None, 1):
            raise ValueError("should be 1: what is asked at once is gathered in one process")
        return workers


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """The weights that answers come from."""

    version: int
    path: str

    def as_json(self) -> Json:
        """As `/health` and `/reload_weights` answer it."""
        return {"version": self.version, "path": self.path}


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """A request, and what is to be generated for it."""

    request: Request
    wanted: "Wanted"
    past: list[int]
    """The tokens of the steps before, where they are known."""
    gone: threading.Event
    """Says that nobody waits for it any more."""


class HFModel(ModelServer[HFConfig]):
    """A causal language model of transformers in this process."""

    @asynccontextmanager
    async def lifespan(self) -> AsyncGenerator[None]:
        """Loads the model; at the end, what is still being answered is given up."""
        config = self.config
        self._model = await asyncio.to_thread(load, config, self.name)
        self._weights = Held(version=0, path=config.model)
        self._limit = config.context_tokens or self._model.context_tokens
        self._reloading = asyncio.Lock()
        self._divergences = Divergences(self.name, self._metrics)
        async with Batcher[Any, Any](
            self._generate,
            rows=config.max_batch_rows,
            tokens=config.max_batch_tokens,
            wait_s=config.batch_wait_s,
        ) as self._batcher:
            yield

    def endpoints(self) -> dict[str, Endpoint]:
        """Those of every model server, and one that replaces the weights."""
        return super().endpoints() | {"/reload_weights": self.reload_weights}

    def health(self) -> Json:
        """With the weights that are held, and how many requests wait."""
        if self.state != "ready":
            return super().health()
        device = str(self._model.device)
        return super().health() | {
            "weights": self._weights.as_json(),
            "device": device,
            "waiting": self._batcher.waiting,
        }

    async def responses(self, params: Json) -> Json:
        """The model's response; the version of its weights stands in it, and beside token ids."""
        completion = await self._complete(chat.to_chat(params), past_of(params.get("input")))
        return _told(chat.to_response(completion, params), completion)

    async def chat_completions(self, body: Json) -> Json:
        """The model's completion.

        Raises:
            PartError: `bad_request`; `context_overflow` where the conversation leaves no room for an answer.
        """
        return await self._complete(body, past_of(body.get("messages")))

    async def _complete(self, body: Json, past: list[int]) -> Json:
        asked = self._asked(body, past)
        try:
            answer, weights = await self._batcher.ask(asked.wanted, _size(asked.wanted))
        finally:
            asked.gone.set()
        thinks, tools = self._thinks(asked.wanted), bool(asked.request.offered)
        message = read_answer(answer.text, thinking=thinks, tools=tools)
        return self._head() | self._completion(asked, answer, message, weights)

    async def stream_chat_completions(self, body: Json) -> AsyncGenerator[bytes]:
        """Chunks of the completion, as its tokens are drawn."""
        past, usage = past_of(body.get("messages")), chat.wants_usage(body)
        async with aclosing(self._chunks(body, past, usage=usage)) as chunks:
            async for chunk in chunks:
                yield encoded(chunk, named=False)
        yield DONE

    async def stream_responses(self, params: Json) -> AsyncGenerator[bytes]:
        """Events of the response, as its tokens are drawn."""
        number, whole, past = 0, dict[str, Any](), past_of(params.get("input"))
        async with aclosing(self._chunks(chat.to_chat(params), past, usage=True, whole=whole)) as chunks:
            async for event in read_chunks(chunks, params):
                if event["type"] in ENDINGS:
                    event["response"] = _told(event["response"], whole)
                yield encoded(event | {"sequence_number": number})
                number += 1

    async def _chunks(
        self, body: Json, past: list[int], *, usage: bool, whole: Json | None = None
    ) -> AsyncGenerator[Json]:
        """Text and reasoning piece by piece; then calls, tokens and log-probabilities, which are whole. What
        no chunk has words for is put into `whole`, as the completion has it."""
        loop = asyncio.get_running_loop()
        drawn = asyncio.Queue[tuple[int, int] | None]()

        def hear(number: int, token: int) -> None:
            loop.call_soon_threadsafe(drawn.put_nowait, (number, token))

        asked = self._asked(body, past, hear)
        thinks, tools = self._thinks(asked.wanted), bool(asked.request.offered)
        spoken = Spoken(thinking=thinks, tools=tools, stop=asked.wanted.stop)
        asking = asyncio.create_task(self._batcher.ask(asked.wanted, _size(asked.wanted)))
        asking.add_done_callback(lambda _: drawn.put_nowait(None))
        head, tokens = self._head(), list[int]()
        try:
            while (heard := await drawn.get()) is not None:
                number, token = heard
                if number <= len(tokens):
                    continue  # A batch that was halved begins anew, with the same.
                tokens.append(token)
                if not drawn.empty():
                    continue
                for delta in spoken.feed(self._model.decode(tokens)):
                    choice = {"index": 0, "delta": {"role": "assistant"} | delta, "finish_reason": None}
                    yield head | {"object": "chat.completion.chunk", "choices": [choice]}
            answer, weights = await asking
            message = read_answer(answer.text, thinking=thinks, tools=tools)
            rest = self._completion(asked, answer, message, weights)
            if whole is not None:
                whole |= rest
            rest["choices"][0]["message"] = spoken.rest(rest["choices"][0]["message"])
            for chunk in chunks_of(head | rest, usage=usage):
                yield chunk
        finally:
            asked.gone.set()
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)

    def _thinks(self, wanted: "Wanted") -> bool:
        """Whether the prompt ends within a thought."""
        return self._model.decode(wanted.ids[-8:]).rstrip().endswith(THINK)

    def _head(self) -> Json:
        model = self.config.served_name or Path(self.config.model).name
        return {"id": f"chatcmpl-{uuid4().hex}", "created": int(time.time()), "model": model}

    def _completion(self, asked: Asked, answer: "Answer", message: Json, weights: Held) -> Json:
        """The completion, but for its head."""
        request, wanted, diverges = asked.request, asked.wanted, None
        if self._with_ids(request):
            diverges = self._divergences.note(asked.past, wanted.ids)
            message |= {
                "prompt_token_ids": wanted.ids,
                "generation_token_ids": answer.tokens,
                "generation_log_probs": answer.logprobs,
            }
        read, written = len(wanted.ids), len(answer.tokens)
        return {
            "object": "chat.completion",
            "choices": [
                {
                    "index": 0,
                    "message": message,
                    "finish_reason": "tool_calls" if message.get("tool_calls") else answer.finish_reason,
                    "logprobs": self._logprobs(answer) if request.logprobs else None,
                }
            ],
            "usage": {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written},
            "weights_version": weights.version,
        } | ({} if diverges is None else {DIVERGES: diverges})

    async def reload_weights(self, body: Json) -> Json:
        """Takes other weights of the same model from the folder `path`; the batch that runs ends before.

        Their version is `version`, or one more than before. Answers the version and the path.

        Raises:
            PartError: `bad_request`: there are none that fit; those before stay.
        """
        path, version = body.get("path"), body.get("version")
        if not isinstance(path, str) or not (version is None or isinstance(version, int)):
            raise PartError(
                "bad_request", 'should be {"path": folder, "version": number, which may be left out}'
            )
        async with self._reloading:
            try:
                weights = await asyncio.to_thread(self._model.read_weights, path)
            except UsageError as error:
                kept = f"version {self._weights.version} from {self._weights.path} stays"
                raise PartError("bad_request", f"{error}; {kept}") from error
            async with self._batcher.pause():
                await asyncio.to_thread(self._model.replace_weights, weights)
                self._weights = Held(
                    version=self._weights.version + 1 if version is None else version, path=path
                )
        log.info("%s: weights of version %d from %s", self.name, self._weights.version, path)
        return self._weights.as_json()

    async def count_tokens(self, params: Json) -> int:
        """Tokens of a Responses-API request, in the words of the chat template."""
        return len(self._prompt(Request.of(chat.to_chat(params)), past_of(params.get("input"))))

    def _with_ids(self, request: Request) -> bool:
        return request.logprobs or self.config.return_token_id_information

    def _prompt(self, request: Request, past: list[int]) -> list[int]:
        """The conversation in the words of the chat template, and its past in the tokens that it was."""
        whole = self._encoded(request, request.messages)
        keeps = self.config.keep_prompt_prefix and self._with_ids(request)
        if not keeps or not past or diverges_at(past, whole) is None or not self._knows(past):
            return whole
        try:
            said, other = (
                self._encoded(request, ended, add_generation_prompt=False)
                for ended in endings(request.messages)
            )
        except PartError:
            return whole  # A template that takes no conversation which ends with an answer.
        return spliced(past, said, other, whole) or whole

    def _knows(self, tokens: Sequence[Any]) -> bool:
        """Whether they are all tokens of this model; somebody else may have sent them."""
        return all(isinstance(token, int) and 0 <= token < self._model.vocabulary for token in tokens)

    def _encoded(self, request: Request, messages: list[Json], **how: bool) -> list[int]:
        options: Json = {"tools": request.offered} if request.offered else {}
        if options and "tools" not in self._model.chat_template:
            hint = "set chat_template to one that has, or take tools out of the request"
            raise PartError("bad_request", "the model's chat template has no place for tools", hint=hint)
        ids = self._model.encode(messages, **request.chat_template_kwargs, **options, **how)
        if not ids:
            raise PartError("bad_request", "the conversation has no tokens")
        return ids

    def _asked(self, body: Json, past: list[int], hear: Callable[[int, int], None] | None = None) -> Asked:
        """What a request asks for; `hear` is told of every token that is drawn."""
        from nemo_like.drawing import Wanted

        request = Request.of(body)
        ids = self._prompt(request, past)
        room = request.max_tokens or self.config.max_output_tokens
        if self._limit is not None:
            if len(ids) >= self._limit:
                message = f"the conversation has {len(ids)} tokens, and the model's context {self._limit}"
                raise PartError("context_overflow", message)
            room = min(room, self._limit - len(ids))
        gone = threading.Event()
        wanted = Wanted(
            ids=ids,
            max_tokens=room,
            temperature=request.temperature,
            top_p=request.top_p,
            top_k=request.top_k,
            min_p=request.min_p,
            seed=randbits(63) if request.seed is None else request.seed,
            stop=request.stops,
            top_logprobs=request.top_logprobs if request.logprobs else 0,
            given_up=gone.is_set,
            hear=hear,
        )
        return Asked(request=request, wanted=wanted, past=past, gone=gone)

    def _generate(self, batch: "Sequence[Wanted]") -> "list[tuple[Answer, Held] | Exception]":
        """A batch, halved where the device has too little memory for it; runs in the batcher's thread."""
        from nemo_like.local_model import OutOfMemory

        try:
            answers = self._model.generate(batch)
        except OutOfMemory as error:
            if len(batch) == 1:
                return [PartError("out_of_resources", str(error), where=self.name)]
            log.warning("%s: %s; halving it", self.name, error)
            half = len(batch) // 2
            return [*self._generate(batch[:half]), *self._generate(batch[half:])]
        return [answer if isinstance(answer, PartError) else (answer, self._weights) for answer in answers]

    def _logprobs(self, answer: "Answer") -> Json:
        def entry(token: int, logprob: float) -> Json:
            text, its_bytes = self._model.token_text(token), self._model.token_bytes(token)
            return {"id": token, "token": text, "logprob": logprob, "bytes": [*its_bytes]}

        tops = answer.top_logprobs or [[]] * len(answer.tokens)
        each = zip(answer.tokens, answer.logprobs, tops, strict=True)
        return {
            "content": [entry(t, p) | {"top_logprobs": [entry(*pair) for pair in top]} for t, p, top in each]
        }


def _told(response: Json, completion: Json) -> Json:
    """A response that says which weights it is of, also where its tokens stand, and where those leave the
    past."""
    version = {"weights_version": completion["weights_version"]}
    last = response["output"][-1]
    if last.keys() & {*chat.TOKEN_FIELDS}:
        last |= version | {key: completion[key] for key in (DIVERGES,) if key in completion}
    return response | version


def _size(wanted: "Wanted") -> Size:
    return Size(prompt=len(wanted.ids), answer=wanted.max_tokens)


def load(config: HFConfig, name: str) -> "LocalModel":
    """The model of a configuration.

    Raises:
        MissingExtra: torch or transformers is not installed.
        ConfigError: there is no such model, or it has no chat template.
    """
    try:
        import torch

        from nemo_like.local_model import LocalModel
    except ModuleNotFoundError as error:
        raise MissingExtra(f"a local model needs {error.name}; install it: {INSTALL}") from error
    if config.threads:
        torch.set_num_threads(config.threads)
    try:
        template = config.chat_template.read_text("utf-8") if config.chat_template else None
        model = LocalModel(
            config.model,
            device=config.device,
            dtype=config.dtype,
            chat_template=template,
            logprobs_mode=config.logprobs_mode,
            trust_remote_code=config.trust_remote_code,
        )
    except (OSError, UsageError) as error:
        raise ConfigError(f"{name}: {error}") from error
    if not model.chat_template:
        raise ConfigError(
            f"{name}: the model {config.model} has no chat template; set chat_template to a file"
        )
    return model
