"""A prompt config: templates over a row's fields that make a task of it.

    system: You are a careful assistant.        # may be left out
    user: |-
      {question}

      Put the final answer into \\boxed{{}}.

`{field}` is a field of the row, `{extra[topic]}` or `{extra.topic}` one inside another, `{{` and `}}` are
braces. Text is put in as it is, anything else as JSON, or by a format of Python's, `{difficulty:.1f}`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from string import Formatter
from typing import Any, cast

import orjson
import yaml

from nemo_like.errors import ConfigError, RowError, did_you_mean
from nemo_like.settings import Settings
from nemo_like.types import Json

STEP = re.compile(r"[^.\[\]]+")
"""A name on the way to a field: `metadata[topic]` and `metadata.topic` have two."""


class PromptConfig(Settings):
    """What `prompt_config` names: the messages of every task."""

    user: str
    """The user's message."""
    system: str | None = None
    """The system message before it; null is none."""

    @property
    def fingerprint(self) -> str:
        """What tells these templates from others, wherever they lie."""
        return blake2b(self.model_dump_json().encode(), digest_size=8).hexdigest()

    def complete(self, row: Json) -> Json:
        """The task that the templates make of a row, whose other parameters stay.

        Raises:
            RowError: the row has an input already, or lacks a field.
        """
        params: Any = row.get("responses_create_params")
        params = {} if params is None else params
        if not isinstance(params, dict):
            raise RowError("expected 'responses_create_params' to be an object")
        if "input" in params:
            raise RowError(
                "the row has a 'responses_create_params.input' already; prompt_config is for rows without"
            )
        turns = [("system", self.system), ("user", self.user)]
        messages = [{"role": role, "content": filled(text, row)} for role, text in turns if text is not None]
        return row | {"responses_create_params": {**cast(Json, params), "input": messages}}


def read_prompt_config(file: Path) -> PromptConfig:
    """The prompt config in a YAML file.

    Raises:
        ConfigError: it is none; the message names the file and what is wrong.
    """
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{file} should hold a mapping with 'user' and, if wanted, 'system'")
    config = PromptConfig.from_mapping(cast(Json, values), where=str(file))
    for name, template in (("system", config.system or ""), ("user", config.user)):
        try:
            places = [place for _, place, _, _ in Formatter().parse(template)]
        except ValueError as error:
            raise ConfigError(
                f"{file}: {name}: {error}; a brace of its own is written {{{{ or }}}}"
            ) from None
        if odd := [place for place in places if place is not None and not STEP.findall(place)]:
            raise ConfigError(
                f"{file}: {name}: '{{{odd[0]}}}' names no field; a brace of its own is written {{{{ or }}}}"
            )
    return config


def filled(template: str, row: Json) -> str:
    """`template` with the fields of `row` put in.

    Raises:
        RowError: a field is not there, or its format does not fit it.
    """
    try:
        return _Fields().vformat(template, (), row)
    except (ValueError, TypeError) as error:
        raise RowError(f"the prompt's template does not fit the row: {error}") from error


class _Fields(Formatter):
    """Python's format strings, over the fields of JSON alone: no attribute of any object is ever read."""

    def get_field(self, field_name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, str]:
        value: Any = kwargs
        for step in STEP.findall(field_name):
            if isinstance(value, list) and step.isdigit() and int(step) < len(cast(list[Any], value)):
                value = cast(list[Any], value)[int(step)]
            elif isinstance(value, Mapping) and step in value:
                value = cast(Json, value)[step]
            else:
                there = [*cast(Json, value)] if isinstance(value, Mapping) else list[str]()
                raise RowError(
                    f"the prompt needs a field '{field_name}', which the row lacks{did_you_mean(step, there)}"
                )
        return value, field_name

    def format_field(self, value: Any, format_spec: str) -> str:
        if format_spec or isinstance(value, str):
            return format(value, format_spec)
        return orjson.dumps(value).decode()
