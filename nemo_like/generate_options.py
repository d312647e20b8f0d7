"""The options of a generation: what each is, and the command line that names them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast, get_args

import orjson
from pydantic import Field, field_validator

from nemo_like.endpoints import Sampling
from nemo_like.errors import ConfigError
from nemo_like.journal import journal_of
from nemo_like.settings import Settings
from nemo_like.types import Json

DEFAULT_URL = "http://localhost:8000/v1"
SUFFIX_OF = {".parquet": "parquet", ".pq": "parquet", ".jsonl": "jsonl", ".ndjson": "jsonl"}


class GenerateConfig(Settings):
    """What `generate_rollouts.py` does."""

    model_path: str | None = None
    """Model path or name; with a server, only what it is called there."""
    data_path: Path
    """Input data: Parquet or JSONL."""
    use_vllm: bool = False
    """Ask a vLLM server, or any other with an OpenAI-compatible API (much faster)."""
    vllm_base_url: list[str] = Field(default_factory=lambda: [DEFAULT_URL])
    """The server's URL; several, separated by commas, share the work."""
    vllm_model_name: str | None = None
    """Model name on the server; the default is model_path, or the one model that the server lists."""
    vllm_max_concurrent: int = Field(100, ge=1)
    """Requests in flight at once."""
    embedded: bool = False
    """Ask a small model that comes along, in a process of its own: no server, no GPU, no download."""
    request_timeout_s: float = Field(600.0, gt=0)
    """Seconds that one request may take, each time it is tried."""
    max_retries: int = Field(4, ge=0)
    """How often a request that fails is repeated before its row becomes an error."""
    extra_body: Json = Field(default_factory=dict)
    """JSON that goes with every request, over what is sent anyway; a null takes a key away."""
    num_samples: int = Field(8, ge=1)
    """Responses a prompt."""
    temperature: float = Field(0.7, ge=0)
    """Sampling temperature; 0 is greedy."""
    top_p: float = Field(0.9, gt=0, le=1)
    """Nucleus sampling."""
    max_tokens: int = Field(512, ge=1)
    """Most tokens to generate."""
    batch_size: int = Field(8, ge=1)
    """Responses that a local model generates at once; a server is bounded by vllm_max_concurrent."""
    seed: int | None = Field(None, ge=0)
    """The same seed samples the same; by default none is sent to a server, and a local model has 0."""
    completions: bool = False
    """Continue the text as it is: /v1/completions, or a local model without its chat template."""
    return_token_ids: bool = False
    """Add token ids, their log-probabilities and the sampling parameters that were sent."""
    prompt_key: str = "prompt"
    """Column of the prompts: text, or a list of chat messages."""
    trust_remote_code: bool = False
    """Let a local model run the code that comes with it."""
    output_path: Path = Path("rollouts.parquet")
    """Output file."""
    output_format: Literal["parquet", "jsonl"] | None = None
    """parquet or jsonl; the default is what output_path is named, else parquet."""
    overwrite: bool = False
    """Begin anew; without it the same command resumes."""

    @field_validator("vllm_base_url", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        urls = value.split(",") if isinstance(value, str) else value
        return [url.strip() for url in cast(list[str], urls) if url.strip()] or [DEFAULT_URL]

    @field_validator("extra_body", mode="before")
    @classmethod
    def _object(cls, value: Any) -> Any:
        return orjson.loads(value) if isinstance(value, str) else value

    @property
    def output_is_given(self) -> bool:
        """Whether the output's name was asked for."""
        return "output_path" in self.model_fields_set

    @property
    def is_local(self) -> bool:
        """Whether the model runs in this process."""
        return not (self.use_vllm or self.embedded)

    @property
    def format(self) -> Literal["parquet", "jsonl"]:
        """What the output file holds."""
        named = "jsonl" if SUFFIX_OF.get(self.output_path.suffix) == "jsonl" else "parquet"
        return self.output_format or named

    @property
    def output(self) -> Path:
        """The output file; where only the format was given, the default name takes its suffix."""
        return self.output_path if self.output_is_given else self.output_path.with_suffix(f".{self.format}")

    @property
    def journal(self) -> Path:
        """The journal, beside the output."""
        return journal_of(self.output_path)

    @property
    def sampling(self) -> Sampling:
        """How a prompt is sampled."""
        return Sampling(
            temperature=self.temperature,
            top_p=self.top_p,
            max_tokens=self.max_tokens,
            seed=0 if self.seed is None and self.is_local else self.seed,
            with_token_ids=self.return_token_ids,
            raw=self.completions,
        )

    def made_with(self, model: str) -> Json:
        """What decides what the samples are; where, how fast and how many does not."""
        source = "local" if self.is_local else "embedded" if self.embedded else "server"
        decides = ("temperature", "top_p", "max_tokens", "seed", "completions", "extra_body")
        settings: Json = {name: getattr(self, name) for name in (*decides, "return_token_ids", "prompt_key")}
        return {"source": source, "model": model} | settings


GROUPS: dict[str, Sequence[str]] = {
    "Required": ("model_path", "data_path"),
    "VLLM options": (
        *("use_vllm", "vllm_base_url", "vllm_model_name", "vllm_max_concurrent"),
        *("embedded", "request_timeout_s", "max_retries", "extra_body"),
    ),
    "Generation options": (
        *("num_samples", "temperature", "top_p", "max_tokens", "batch_size"),
        *("seed", "completions", "return_token_ids"),
    ),
    "Data options": ("prompt_key", "trust_remote_code"),
    "Output options": ("output_path", "output_format", "overwrite"),
}
ALIASES: dict[str, Sequence[str]] = {
    "vllm_base_url": ("--vllm_url",),
    "vllm_max_concurrent": ("--max_concurrent",),
    "completions": ("--raw_prompt",),
}
ABOUT = """Generate responses to prompts and save them, without rewards: figure those out later.

Prompts are text or chat messages, in a column of a Parquet or JSONL file; each is sampled num_samples times.
The model is a vLLM server (--use_vllm), one that comes along (--embedded), or a local Hugging Face model.
The same command resumes what was interrupted. See README_generate_rollouts.md."""


def read_options(arguments: Sequence[str] | None = None) -> GenerateConfig:
    """The options on a command line, `sys.argv` if none is given.

    Raises:
        ConfigError: a value is wrong. What argparse refuses, and `--help`, ends the process as usual.
    """
    given = vars(_parser().parse_args(arguments))
    config = GenerateConfig.from_mapping(given, where="generate_rollouts")
    if conflict := _conflict(config):
        raise ConfigError(conflict)
    return config


def _conflict(config: GenerateConfig) -> str | None:
    """Why these options don't go together."""
    if config.use_vllm and config.embedded:
        return "--use_vllm and --embedded are two sources; choose one"
    if config.is_local and not config.model_path:
        return "--model_path is required, unless there is --use_vllm or --embedded"
    if config.embedded and config.completions:
        return "the embedded model has chat only; leave out --completions"
    named = SUFFIX_OF.get(config.output_path.suffix)
    if config.output_is_given and named and config.output_format not in (None, named):
        return f"--output_path {config.output_path} is not a name for {config.output_format}"
    return None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="generate_rollouts",
        description=ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    for title, names in GROUPS.items():
        group = parser.add_argument_group(title)
        for name in names:
            field = GenerateConfig.model_fields[name]
            shown: Any = field.get_default(call_default_factory=True)
            shown = DEFAULT_URL if name == "vllm_base_url" else shown
            help_text = " ".join((field.description or "").split())
            if not field.is_required() and shown not in (None, False, {}):
                help_text += f" (default: {shown})"
            flags = (f"--{name}", *ALIASES.get(name, ()))
            if field.annotation is bool:
                group.add_argument(*flags, dest=name, action="store_true", help=help_text)
            else:
                required = field.is_required()
                choices = get_args(get_args(field.annotation)[0]) if name == "output_format" else ()
                meta = "|".join(choices) or name.rsplit("_", 1)[-1].upper()
                group.add_argument(*flags, dest=name, required=required, metavar=meta, help=help_text)
    return parser
