"""Settings: a class beside the code that it configures. The string under a field is its help."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeVar, cast

from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError
from pydantic_core import ErrorDetails

from nemo_like.errors import ConfigError, did_you_mean
from nemo_like.types import Json

SECRET_KEY = re.compile(
    r"(^|[_-])(api[_-]?key|key|password|passwd|secret|credentials?|authorization|(?<!s_)token)$", re.I
)
NO_SECRETS = frozenset({"reward_fn_key", "prompt_key", "prompt_cache_key", "task_key", "_ng_task_key"})
"""Names of fields and of tasks, which only look like keys."""
BRANCH = re.compile(r"(constrained|function|literal|dict|list|tuple|set|nullable)[\[-]|(int|str|float|bool)$")
"""How pydantic names a type of several in the place of an error."""
REDACTED = "***"

S = TypeVar("S", bound="Settings")


class Settings(BaseModel):
    """A closed set of named, typed and documented values."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    @classmethod
    def names(cls) -> set[str]:
        """The names of the settings, as they are written."""
        return {field.alias or name for name, field in cls.model_fields.items()}

    @classmethod
    def from_mapping(
        cls: type[S], values: Mapping[str, Any], *, where: str, origins: Mapping[str, str] | None = None
    ) -> S:
        """These settings out of `values`; `where` names them in what a person reads when they are wrong.

        `origins` maps keys to the `file:line` that they were written at, "" to that of the whole.

        Raises:
            ConfigError: every value that is wrong: where it stands, its key, the reason and the value.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            known = sorted(cls.names())
            raise ConfigError(explain(error, where=where, known=known, origins=origins)) from error


def explain(
    error: ValidationError,
    *,
    where: str,
    known: list[str],
    noun: str = "setting",
    origins: Mapping[str, str] | None = None,
) -> str:
    """A validation error as one line a value: `FILE:LINE: WHERE: KEY: REASON (got VALUE)`."""
    lines: list[str] = []
    for key, item in _told(error):
        place = f"{origin}: {where}" if (origin := origin_of(origins or {}, key)) else where
        if item["type"] == "extra_forbidden":
            hint = "" if "." in key else did_you_mean(key, known)
            lines.append(f"{place}: there is no {noun} '{key}'{hint}")
            continue
        if item["type"] == "missing":
            lines.append(f"{place}: {key} is required")
            continue
        reason = item["msg"].removeprefix("Input ").removeprefix("Value error, ")
        got = "" if is_secret(key) else f" (got {_short(item['input'])})"
        lines.append(f"{place}: {key}: {reason}{got}")
    return "\n".join(lines)


def _told(error: ValidationError) -> list[tuple[str, ErrorDetails]]:
    """What is wrong with each key; of one that may be of several types, what is wrong with the type it is."""
    told = [
        (".".join(str(part) for part in item["loc"] if not BRANCH.match(str(part))), item)
        for item in error.errors(include_url=False)
    ]
    of_a_type = {key for key, item in told if not item["type"].endswith("_type")}
    return [(k, item) for k, item in told if k not in of_a_type or not item["type"].endswith("_type")]


def origin_of(origins: Mapping[str, str], key: str) -> str:
    """Where the value at `key`, or the nearest that it is part of, was written; "" if unknown."""
    while key and key not in origins:
        key = key.rpartition(".")[0]
    return origins.get(key, "")


def is_secret(key: str) -> bool:
    """Whether a value under this key must appear nowhere: `policy_api_key`, `password`, not
    `max_output_tokens`."""
    name = key.rsplit(".", 1)[-1]
    return name not in NO_SECRETS and SECRET_KEY.search(name) is not None


def redacted(value: Any, key: str = "") -> Any:
    """`value` with every secret in it, every header and every password inside a URL, replaced."""
    if isinstance(value, dict) and key.endswith("_headers"):
        return dict.fromkeys(cast(Json, value), REDACTED)
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
