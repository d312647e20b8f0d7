"""How each engine is started: its command line, and what it takes from the environment."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import orjson

from nemo_like.errors import ConfigError
from nemo_like.types import Json

HERE = Path(__file__).parent
PLACES = ("python", "model", "name", "host", "port")
"""What a command line may leave open."""
HOST = ("--host", "{host}", "--port", "{port}")
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    # By default it closes a connection after 5 s, perhaps while we send.
    "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "75",
    "PYTHONUNBUFFERED": "1",
}
"""No download, no telemetry."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Launcher:
    """An engine's command line; `{…}` is filled in."""

    command: Sequence[str]
    key_variable: str | None = None
    """The environment variable by which it takes its key: everybody can read its arguments."""
    named_by_path: bool = False
    """Whether requests name the model by its path."""
    install: str = ""
    """What to do where it is not installed."""


LAUNCHERS: Mapping[str, Launcher] = {
    # The same server as `vllm serve`, whose command the CPU build breaks.
    "vllm": Launcher(
        command=(
            *("{python}", "-m", "vllm.entrypoints.openai.api_server"),
            *("--model", "{model}", "--served-model-name", "{name}", *HOST),
            # Else the model's generation_config.json bounds every answer, and no answer says so.
            *("--generation-config", "vllm"),
        ),
        key_variable="VLLM_API_KEY",
        install='pip install "nemo-like[vllm]", or python=… names the interpreter that has it',
    ),
    "sglang": Launcher(
        command=(
            *("{python}", "-m", "sglang.launch_server"),
            *("--model-path", "{model}", "--served-model-name", "{name}", *HOST, "--enable-metrics"),
        ),
        install='pip install "sglang[all]", or python=… names the interpreter that has it',
    ),
    "transformers": Launcher(
        command=(
            *("{python}", "-c", "from transformers.cli.transformers import main; main()"),
            *("serve", "{model}", *HOST),
        ),
        named_by_path=True,
        install='pip install "transformers[serving]", or python=… names the interpreter that has it',
    ),
    "llama_server": Launcher(
        command=(
            *("{python}", str(HERE / "llama_server.py")),
            *("--model", "{model}", "--alias", "{name}", *HOST, "--metrics"),
        ),
        key_variable="LLAMA_API_KEY",
        install='pip install "nemo-like[embedded]", or put llama-server onto the PATH',
    ),
}


def launcher_of(launcher: str | Sequence[str], *, key_variable: str | None) -> Launcher:
    """The launcher of a name, or of a command line of one's own."""
    if not isinstance(launcher, str):
        return Launcher(command=launcher, key_variable=key_variable)
    if launcher == "llama_server" and (binary := shutil.which("llama-server")):
        named = LAUNCHERS[launcher]
        return Launcher(command=(binary, *named.command[2:]), key_variable=named.key_variable)
    return LAUNCHERS[launcher]


def command_line(launcher: Launcher, arguments: Json, **values: object) -> list[str]:
    """The command, filled in, and the engine's own arguments behind it.

    Raises:
        ConfigError: it holds a `{…}` that means nothing.
    """
    values = {"host": "127.0.0.1"} | values | {"python": values.get("python") or sys.executable}
    try:
        command = [part.format_map(values) if "{" in part else part for part in launcher.command]
    except (KeyError, ValueError, IndexError) as error:
        known = ", ".join(f"{{{place}}}" for place in PLACES)
        shown = " ".join(launcher.command)
        raise ConfigError(f"launcher: {shown}: can fill in {known} (got {error})") from error
    return command + [part for key, value in arguments.items() for part in flag(key, value)]


def flag(key: str, value: Any) -> list[str]:
    """An argument as engines take it: `max_model_len: 4096` is `--max-model-len 4096`.

    True is the flag alone, false and null none, a list several values, an object its JSON.
    """
    name = key if key.startswith("-") else f"--{key.replace('_', '-')}"
    if value is None or value is False:
        return []
    if value is True:
        return [name]
    if isinstance(value, list):
        return [name, *(str(each) for each in cast(list[Any], value))]
    return [name, orjson.dumps(value).decode() if isinstance(value, dict) else str(value)]
