"""LiteLLM's SDK, tamed: it looks nothing up at import, retries nothing, phones nobody, and its errors have
our names."""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from importlib import import_module, metadata
from typing import Any, TypeVar, cast

from nemo_like.client import backoff_s
from nemo_like.errors import Kind, MissingExtra, PartError
from nemo_like.provider import (
    MESSAGE_CHARACTERS,
    OVERFLOW,
    RETRY_AFTER_CAP_S,
    THROTTLED_STATUS,
    kind_of_status,
)
from nemo_like.rate import Turn
from nemo_like.settings import is_secret
from nemo_like.types import Json

log = logging.getLogger(__name__)

INSTALL = "pip install 'nemo-like[litellm]'"
COMPROMISED = ("1.82.7", "1.82.8")
"""Releases that carried malware which read keys and passwords (March 2026)."""
ERRORS: dict[str, tuple[Kind, int | None, str]] = {
    "AuthenticationError": (
        "unauthorized",
        401,
        "check policy_api_key, or the provider's environment variable",
    ),
    "PermissionDeniedError": ("unauthorized", 403, "the key may not use this model"),
    "PaymentRequiredError": ("unauthorized", 402, "the account has no credit"),
    "NotFoundError": ("not_found", 404, "check policy_model_name and litellm_api_base"),
    "LiteLLMUnknownProvider": ("not_found", 404, "name the model provider/model"),
    "ContextWindowExceededError": ("context_overflow", 400, ""),
    "ContentPolicyViolationError": ("bad_request", 400, "the provider's content policy refused it"),
    "UnsupportedParamsError": ("bad_request", 400, "drop_params: true leaves out what the provider lacks"),
    "BadRequestError": ("bad_request", None, ""),
    "UnprocessableEntityError": ("bad_request", 422, ""),
    "RateLimitError": ("rate_limited", 429, ""),
    "Timeout": ("timeout", 504, ""),
    "ServiceUnavailableError": ("model_error", 503, ""),
    "BadGatewayError": ("model_error", 502, ""),
    "InternalServerError": ("model_error", 500, ""),
    "APIResponseValidationError": ("bad_response", 502, ""),
    "APIConnectionError": ("unreachable", 502, ""),
    "APIError": ("model_error", None, ""),
}
"""LiteLLM's exceptions, the more particular before those that they are kinds of, and what they are here; the
status is its own where there is None."""
RETRIED: frozenset[Kind] = frozenset(
    {"rate_limited", "timeout", "unreachable", "model_error", "bad_response"}
)
"""What another try may mend."""
SECRET_CHARACTERS = 8
"""The fewest that a secret of the environment has; a shorter one would black out ordinary words."""
NO_PROVIDER = "LLM Provider NOT provided"
PREFIX = re.compile(r"^(litellm\.\w+: |\w+Exception - |\w+Error: )+")


T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Tries:
    """How often a provider is asked, and when."""

    timeout_s: float
    """Of one try; of a stream, of the wait for each chunk."""
    max_retries: int
    turn: Callable[[], Awaitable[Turn | None]]
    """Waits until it may be asked, which every try does."""
    refused: Callable[[], None]
    """Hears of every time that it is asked too much."""


class LiteLLM:
    """The library, and what it may never show."""

    def __init__(self, secrets: Sequence[str]) -> None:
        """Import it, which takes some seconds; `secrets` beside those of the environment are never shown.

        Raises:
            MissingExtra: it is not installed, or is one of the compromised releases.
        """
        self._library = _imported()
        of_environment = [v for k, v in os.environ.items() if is_secret(k) and len(v) >= SECRET_CHARACTERS]
        self._secrets = [secret for secret in (*secrets, *of_environment) if secret]
        self._classes = [(getattr(self._library, name), name) for name in ERRORS]

    async def complete(self, options: Json, tries: Tries) -> tuple[Json, float | None]:
        """The chat completion that `litellm.acompletion` has for `options`, and its cost in dollars, where it
        knows that.

        Raises:
            PartError: as the table says, in the provider's words.
        """
        answer, turn = await self._tried(lambda: self._library.acompletion(**options), options, tries)
        cost: Any = getattr(answer, "_hidden_params", {}).get("response_cost")
        completion = _plain(answer)
        if turn is not None:
            turn.done(completion)
        return completion, None if cost is None else float(cost)

    async def stream(self, options: Json, tries: Tries) -> AsyncGenerator[Json]:
        """The chunks of a completion as they come; its cost is in the usage of the last one. Tried again only
        before the first.

        Raises:
            PartError: as the table says, in the provider's words.
        """
        (first, rest), turn = await self._tried(lambda: self._begun(options), options, tries)
        try:
            chunk = first
            while chunk is not None:
                told = _plain(chunk)
                if turn is not None:
                    turn.hear(told)
                yield told
                try:
                    async with asyncio.timeout(tries.timeout_s):
                        chunk = await anext(rest, None)
                except Exception as error:  # noqa: BLE001 what it raises is mapped here
                    raise self._failure(error, options) from None
        finally:
            if turn is not None:
                turn.end()
            await rest.aclose()

    async def _begun(self, options: Json) -> tuple[Any, Any]:
        """The first chunk of a stream, and the rest of it."""
        rest = await self._library.acompletion(**options, stream=True)
        return await anext(rest, None), rest

    async def _tried(
        self, attempt: Callable[[], Awaitable[T]], options: Json, tries: Tries
    ) -> tuple[T, Turn | None]:
        """What an attempt comes to, and the turn that it had; what another may mend is tried again."""
        # It tries once; how often is decided here.
        options |= {"timeout": tries.timeout_s, "num_retries": 0, "max_retries": 0}
        for number in range(tries.max_retries + 1):
            turn = await tries.turn()
            try:
                async with asyncio.timeout(tries.timeout_s):
                    return await attempt(), turn
            except Exception as error:  # noqa: BLE001 what it raises is mapped here
                failure = self._failure(error, options)
                if failure.status in THROTTLED_STATUS:
                    tries.refused()
                if number == tries.max_retries or failure.kind not in RETRIED:
                    raise failure from None
                wait_s = _retry_after_s(error) + backoff_s(number)
                log.warning("%s; trying again in %.1f s", failure, wait_s)
                await asyncio.sleep(wait_s)
        raise AssertionError("unreachable code")

    def _failure(self, error: Exception, options: Json) -> PartError:
        if isinstance(error, TimeoutError):
            failure = PartError("timeout", f"said nothing for {options['timeout']:g} s", status=504)
        else:
            failure = self.mapped(error)
        failure.where = str(options["model"])
        return failure

    def mapped(self, error: Exception) -> PartError:
        """LiteLLM's error as ours, without secrets."""
        message = PREFIX.sub("", str(getattr(error, "message", "") or error)).strip()
        for secret in self._secrets:
            message = message.replace(secret, "***")
        message = message[:MESSAGE_CHARACTERS] or type(error).__name__
        name = next((name for cls, name in self._classes if isinstance(error, cls)), "APIError")
        kind, status, hint = ERRORS[name]
        own: int | None = getattr(error, "status_code", None)
        if NO_PROVIDER in message:
            kind, status, hint = "not_found", 404, "name the model provider/model, as openai/gpt-4.1-mini"
        elif name == "APIError" and own:
            # What it has no class for, such as the 403 of an endpoint like OpenAI's.
            kind = kind_of_status(own, message)
        elif kind == "bad_request" and OVERFLOW.search(message):
            # It knows the words of most providers, not of all.
            kind, hint = "context_overflow", ""
        return PartError(kind, message, status=status or own, hint=hint)


def _plain(answer: Any) -> Json:
    return cast(Json, answer.model_dump(exclude_none=True))


def _retry_after_s(error: Exception) -> float:
    """Seconds that the provider asks to wait, capped."""
    of_response: Any = getattr(getattr(error, "response", None), "headers", None)
    headers: Any = getattr(error, "litellm_response_headers", None) or of_response
    try:
        asked_s = float(headers["retry-after"])
    except (KeyError, TypeError, ValueError):
        return 0.0
    return min(asked_s, RETRY_AFTER_CAP_S) if asked_s >= 0 else 0.0


def _imported() -> Any:
    try:
        version = metadata.version("litellm")
    except metadata.PackageNotFoundError as error:
        raise MissingExtra(f"LiteLLM is not installed; install it: {INSTALL}") from error
    if version in COMPROMISED:
        raise MissingExtra(
            f"litellm {version} is a compromised release; remove it, change every key: {INSTALL}"
        )
    # Read at import: its prices come from the package, not from GitHub.
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    os.environ.setdefault("LITELLM_TELEMETRY", "False")
    library: Any = import_module("litellm")
    library.telemetry = False
    library.suppress_debug_info = True
    library.success_callback = library.failure_callback = library.callbacks = []
    return library
