"""The error tree, and the way an error crosses from one process to another.

    Error
    ├── UsageError           what a person wrote is wrong: one readable line, exit status 2
    │   ├── ConfigError      a YAML file, an override or a setting
    │   ├── RowError         a line of an input file
    │   └── MissingExtra     an optional part is not installed
    ├── StackError           a server would not start, or none is running
    ├── StoreError           the rollouts file can't be written, or belongs to another run
    └── PartError            a part of a running stack failed: kind, where, message, status, hint

A `PartError` is raised once, where it happened, with the name of the part (`where`), and travels under its
own HTTP status as `{"error": {"kind", "where", "message", "status", "hint"}}`. Nobody on the way renames it.
Verifiers, tools and agents raise plain Python errors; `blame` names the part.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Generator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any, Literal, cast, get_args

import orjson

Kind = Literal[
    "bad_request",  # 400: the request can't be served as it is
    "bad_arguments",  # 422: a tool call whose arguments do not fit
    "unauthorized",  # 401, 403: the provider refused the key
    "not_found",  # 404: no such tool, server or model
    "rate_limited",  # 429
    "context_overflow",  # 400: the conversation no longer fits the model
    "out_of_resources",  # 503: the machine has no file descriptor, memory or disk left
    "unreachable",  # 502: refused or dropped connection
    "bad_response",  # 502: an answer that is not what was asked for
    "timeout",  # 504: a deadline passed
    "session_lost",  # 410: the session's worker died, or the session was never seeded
    "model_error",  # 5xx of a provider, or an exception in a model server
    "tool_error",  # an exception in a tool
    "verifier_error",  # an exception in seed_session or verify
    "agent_error",  # an exception in an agent
]
KINDS: tuple[str, ...] = get_args(Kind)
STATUS: dict[Kind, int] = {
    "bad_request": 400,
    "bad_arguments": 422,
    "unauthorized": 401,
    "not_found": 404,
    "rate_limited": 429,
    "context_overflow": 400,
    "out_of_resources": 503,
    "unreachable": 502,
    "bad_response": 502,
    "timeout": 504,
    "session_lost": 410,
    "model_error": 500,
    "tool_error": 500,
    "verifier_error": 500,
    "agent_error": 500,
}
NOT_THE_TASKS_FAULT: frozenset[str] = frozenset(
    {"unauthorized", "not_found", "out_of_resources", "unreachable", "session_lost"}
)
"""Kinds that say nothing about the task: such an attempt does not count towards a task's `max_attempts`."""
REPEATS_ITSELF: frozenset[str] = frozenset({"bad_request", "bad_arguments", "unauthorized", "not_found"})
"""Kinds that a second try within the same run would only repeat."""
OUT_OF_RESOURCES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC})
"""`errno` of an `OSError` that tells of the machine, not of what was tried."""
MESSAGE_CHARACTERS = 2000


class Error(Exception):
    """Everything this package raises on purpose."""


class UsageError(Error):
    """What a person wrote is wrong."""


class ConfigError(UsageError):
    """A YAML file, an override or a setting is wrong."""


class RowError(UsageError):
    """A line of an input file is wrong."""


class MissingExtra(UsageError):
    """An optional part is not installed; the message holds the line that brings it."""


class StackError(Error):
    """A server would not start, or none is running."""


class StoreError(Error):
    """The rollouts file can't be written, or belongs to another run."""


class PartError(Error):
    """A part of a running stack failed.

    `kind` says how, `where` names the part (an instance's name, a provider's URL, a tool), `status` is the
    HTTP status that the error has or will have, `hint` what to do about it. `response` is what the agent had
    got to when it was the verdict that failed.
    """

    def __init__(
        self,
        kind: Kind,
        message: str,
        *,
        where: str = "",
        status: int | None = None,
        hint: str = "",
        response: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.kind: Kind = kind
        self.message = message[:MESSAGE_CHARACTERS]
        self.where = where
        self.status = STATUS[kind] if status is None else status
        self.hint = hint
        self.response = response

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        hint = f"; {self.hint}" if self.hint else ""
        return f"{place}{self.kind} ({self.status}): {self.message}{hint}"

    def to_wire(self) -> bytes:
        """The JSON body that carries this error."""
        error = {
            "kind": self.kind,
            "where": self.where,
            # Text from outside may hold lone surrogates, which no JSON encoder accepts.
            "message": self.message.encode("utf-8", "replace").decode(),
            "status": self.status,
            "hint": self.hint,
        }
        got = {} if self.response is None else {"response": self.response}
        return orjson.dumps({"error": error} | got)


def from_wire(status: int, body: bytes, *, where: str) -> PartError:
    """The error that an answer of `status` >= 400 carries; `where` names who sent it if the body does not."""
    try:
        answer: dict[str, Any] = orjson.loads(body)
        error: dict[str, Any] = answer["error"]
        kind = error["kind"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        answer, error, kind = {}, {}, None
    if kind not in KINDS:
        text = body[:MESSAGE_CHARACTERS].decode("utf-8", "replace") or f"empty answer with status {status}"
        return PartError("bad_response", text, where=where, status=status)
    return PartError(
        cast(Kind, kind),
        str(error.get("message", "")),
        where=str(error.get("where") or where),
        status=int(error.get("status") or status),
        hint=str(error.get("hint") or ""),
        response=answer.get("response"),
    )


@contextmanager
def blame(where: str, kind: Kind) -> Generator[None]:
    """Turn whatever goes wrong inside into a `PartError` of `where`; one that has a name passes through."""
    try:
        yield
    except PartError as error:
        error.where = error.where or where
        raise
    except BaseExceptionGroup as group:
        # Of several things that went wrong at once, the first that has a name.
        named, _ = group.split(PartError)
        if named is None:
            raise PartError(kind, f"{type(group).__name__}: {group}", where=where) from group
        while isinstance(named, BaseExceptionGroup):
            named = named.exceptions[0]
        raise named from group
    except TimeoutError as error:
        raise PartError("timeout", str(error) or "a deadline passed", where=where) from error
    except (asyncio.CancelledError, KeyboardInterrupt):
        raise
    except Exception as error:
        raise PartError(kind_of(error, kind), f"{type(error).__name__}: {error}", where=where) from error


def kind_of(error: Exception, otherwise: Kind) -> Kind:
    """`out_of_resources` where the operating system said so, else `otherwise`."""
    return "out_of_resources" if getattr(error, "errno", None) in OUT_OF_RESOURCES else otherwise


def did_you_mean(name: str, known: list[str]) -> str:
    """`; did you mean 'x'?`, or the known names where none is near, or nothing where none is known."""
    near = get_close_matches(name, known, n=1)
    if near:
        return f"; did you mean '{near[0]}'?"
    return f"; there are: {', '.join(sorted(known))}" if known else ""
