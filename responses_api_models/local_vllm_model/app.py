"""An engine that starts and stops with the run: vLLM, SGLang, llama.cpp, transformers, or any command."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, SecretStr, field_validator

from nemo_like.errors import PartError
from nemo_like.registry import load_file
from nemo_like.replicas import THE_REQUESTS_FAULT
from nemo_like.server import ModelServer
from nemo_like.types import Json

from .engine import Engine
from .launchers import ENVIRONMENT, command_line, launcher_of

if TYPE_CHECKING:
    from responses_api_models.vllm_model.app import EngineConfig, VLLMConfig, VLLMModel
else:
    # Its neighbour, which is a package of its own.
    _vllm = load_file(Path(__file__).parents[1] / "vllm_model" / "app.py")
    EngineConfig, VLLMConfig, VLLMModel = _vllm.EngineConfig, _vllm.VLLMConfig, _vllm.VLLMModel

LOGS = Path(".nemo_like") / "logs"


class LocalVLLMConfig(EngineConfig):
    """Settings of an engine that is started here, and of how it is asked."""

    model: str
    """The model's folder or file, or its name on a hub (then engine_env has to allow that:
    `{HF_HUB_OFFLINE: "0"}`)."""
    launcher: Literal["vllm", "sglang", "llama_server", "transformers"] | list[str] = "vllm"
    """What to start; or a command line, in which `{python}`, `{model}`, `{name}`, `{host}` and `{port}` are
    filled in."""
    python: str = ""
    """The interpreter that has the engine, such as `.venvs/vllm/bin/python`; empty is our own."""
    engine_args: Json = Field(default_factory=dict)
    """Any of the engine's own flags: `{max_model_len: 4096, enforce_eager: true}`."""
    engine_env: dict[str, str | int | float] = Field(default_factory=dict)
    """Environment variables for it."""
    served_model_name: str | None = None
    """What it calls the model; null is the last part of `model`."""
    api_key_variable: str | None = None
    """With a command line: the environment variable by which it takes the key that is made for it."""
    ready_path: str = "/health"
    """Path that answers, with anything but a 5xx, when it is ready."""
    start_timeout_s: float = Field(1800.0, gt=0)
    """Seconds in which it has to be ready."""
    max_restarts: int = Field(3, ge=0)
    """How often within ten minutes it is started again after it died."""

    @field_validator("num_workers")
    @classmethod
    def _one(cls, given: int | None) -> int | None:
        if given is not None and given > 1:
            raise ValueError("should be 1, as each worker would start an engine; engine_args scale it")
        return given


class LocalVLLMModel(ModelServer[LocalVLLMConfig]):
    """Starts the engine, and hands every request to a `vllm_model` in front of it."""

    @asynccontextmanager
    async def lifespan(self) -> AsyncGenerator[None]:
        """Waits until the engine is ready; it ends with this server, however that ends."""
        config = self.config
        launcher = launcher_of(config.launcher, key_variable=config.api_key_variable)
        name = config.model if launcher.named_by_path else Path(config.model).name
        name = config.served_model_name or name
        python = config.python and str(Path(config.python).absolute())
        line = partial(
            command_line, launcher, config.engine_args, python=python, model=config.model, name=name
        )
        line(port=0)  # so that a command line that can't be filled in is told at once
        self.engine = Engine(
            command=lambda port: line(port=port),
            name=self.name,
            noun=config.launcher if isinstance(config.launcher, str) else Path(config.launcher[0]).name,
            environment=ENVIRONMENT | {key: str(value) for key, value in config.engine_env.items()},
            key_variable=launcher.key_variable,
            log_file=LOGS / f"{self.name}-engine.log",
            ready_path=config.ready_path,
            start_timeout_s=config.start_timeout_s,
            max_restarts=config.max_restarts,
            hint=launcher.install,
            tell=self.tell,
        )
        async with self.engine.running(self.client):
            asked = VLLMConfig(
                **{key: getattr(config, key) for key in EngineConfig.model_fields},
                base_url=self.engine.base_url,
                api_key=SecretStr(self.engine.key),
                model=name,
            )
            self.served = name
            self._model = VLLMModel(asked, name=self.name, client=self.client)
            yield

    async def responses(self, params: Json) -> Json:
        """As `vllm_model` answers, once the engine is up; asked once more where the engine dies meanwhile.

        Raises:
            PartError: in the engine's words; `unreachable` where it died too often.
        """
        return await self._answer(self._model.responses, params)

    async def chat_completions(self, body: Json) -> Json:
        """As `vllm_model` answers, and else as `responses`."""
        return await self._answer(self._model.chat_completions, body)

    async def count_tokens(self, params: Json) -> int:
        """As `vllm_model` counts."""
        await self.engine.up()
        return await self._model.count_tokens(params)

    async def _answer(self, ask: Callable[[Json], Awaitable[Json]], body: Json) -> Json:
        await self.engine.up()
        asked = self.engine.pid
        try:
            return await ask(body)
        except PartError as error:
            # Meanwhile its successor may have answered, that it is loading.
            if error.kind in THE_REQUESTS_FAULT or not await self.engine.is_gone(asked):
                raise
        await self.engine.up()
        return await ask(body)

    async def stream_responses(self, params: Json) -> AsyncGenerator[bytes]:
        """As `vllm_model` streams, once the engine is up."""
        await self.engine.up()
        async with aclosing(self._model.stream_responses(params)) as events:
            async for event in events:
                yield event

    async def stream_chat_completions(self, body: Json) -> AsyncGenerator[bytes]:
        """As `vllm_model` streams, once the engine is up."""
        await self.engine.up()
        async with aclosing(self._model.stream_chat_completions(body)) as pieces:
            async for piece in pieces:
                yield piece

    async def queued(self) -> int | None:
        """Requests that wait in the engine, where it says so."""
        return await self._model.queued()
