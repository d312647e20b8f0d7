"""Settings: a class beside the code that it configures. The string under a field is its help."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeVar, cast

from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError

from nemo_like.errors import ConfigError, did_you_mean
from nemo_like.types import Json

SECRET_KEY = re.compile(
    r"(^|_)(api_?key|key|password|passwd|secret|credentials?|authorization|(?<!s_)token)$", re.I
)
REDACTED = "***"

S = TypeVar("S", bound="Settings")


class Settings(BaseModel):
    """A closed set of named, typed and documented values."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    @classmethod
    def from_mapping(cls: type[S], values: Mapping[str, Any], *, where: str) -> S:
        """These settings out of `values`; `where` names them in what a person reads when they are wrong.

        Raises:
            ConfigError: every value that is wrong: its key, the reason and the value.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ConfigError(explain(error, where=where, known=list(cls.model_fields))) from error


def explain(error: ValidationError, *, where: str, known: list[str], noun: str = "setting") -> str:
    """A validation error as one line a value: `WHERE: KEY: REASON (got VALUE)`."""
    lines: list[str] = []
    for item in error.errors(include_url=False):
        key = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            lines.append(f"{where}: there is no {noun} '{key}'{did_you_mean(key, known)}")
            continue
        if item["type"] == "missing":
            lines.append(f"{where}: {key} is required")
            continue
        reason = item["msg"].removeprefix("Input ").removeprefix("Value error, ")
        got = "" if is_secret(key) else f" (got {_short(item['input'])})"
        lines.append(f"{where}: {key}: {reason}{got}")
    return "\n".join(lines)


def is_secret(key: str) -> bool:
    """Whether a value under this key must appear nowhere: `policy_api_key`, `password`, not
    `max_output_tokens`."""
    return SECRET_KEY.search(key.rsplit(".", 1)[-1]) is not None


def redacted(value: Any, key: str = "") -> Any:
    """`value` with every secret in it, and every password inside a URL, replaced."""
    if isinstance(value, dict):
        return {k: redacted(v, str(k)) for k, v in cast(Json, value).items()}
    if isinstance(value, list):
        return [redacted(v, key) for v in cast(list[Any], value)]
    if isinstance(value, SecretStr) or (key and is_secret(key) and value not in (None, "")):
        return REDACTED
    if isinstance(value, str):
        return re.sub(r"(://[^/\s:@]*):[^/\s@]+@", rf"\1:{REDACTED}@", value)
    return value


def _short(value: Any) -> str:
    text = repr(redacted(value))
    return text if len(text) <= 100 else text[:100] + "…"
