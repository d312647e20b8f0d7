"""The model endpoints that samples come from: what is sent, what came back, and which of several is asked.

A prompt's samples go to the same endpoint, whose prefix cache then holds the prompt, unless it is much busier
than another; one that fails is left alone for a while, and the request goes to the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from nemo_like.chat import GIVEN_UP
from nemo_like.client import Client, rollout_id
from nemo_like.errors import PartError, UsageError, blame
from nemo_like.journal import Sample
from nemo_like.prompts import Prompt
from nemo_like.provider import Provider
from nemo_like.replicas import Replicas
from nemo_like.types import Json, content_text

Api = Literal["chat", "completions"]
PATHS: dict[Api, str] = {"chat": "/chat/completions", "completions": "/completions"}
NEUTRAL: Json = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
"""What vLLM would otherwise take from the model's `generation_config.json`, so that temperature and top_p
were not all that decides."""
SLACK = 4
"""So many more requests than the least busy may a prompt's endpoint have in flight."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """What decides how a prompt is sampled."""

    temperature: float
    top_p: float
    max_tokens: int
    seed: int | None = None
    """Added to the sample's number; None is none."""
    with_token_ids: bool = False
    raw: bool = False
    """Whether a text is continued as it is, without a chat template."""

    def seed_of(self, number: int) -> int | None:
        """The seed of a sample, by its number in the run."""
        return None if self.seed is None else self.seed + number


class Endpoints:
    """One endpoint or several of the same model."""

    def __init__(
        self,
        client: Client,
        urls: Sequence[str],
        *,
        sampling: Sampling,
        body: Json,
        api_key: str = "",
        timeout_s: float = 600.0,
        max_retries: int = 4,
    ) -> None:
        """`body` is what every request carries; a null in it takes a key away."""
        providers = [
            Provider(client=client, base_url=u, api_key=api_key, timeout_s=timeout_s, max_retries=max_retries)
            for u in urls
        ]
        self._replicas = Replicas(providers, slack=SLACK)
        self.sampling = sampling
        self._api: Api = "completions" if sampling.raw else "chat"
        self._body = request_body(sampling, body)

    def effective(self, seed: int | None) -> Json:
        """The parameters that a sample with this seed was asked for with."""
        return {key: value for key, value in self._body.items() if key != "model"} | _seeded(seed)

    async def sample(self, prompt: Prompt, data_idx: int, sample_idx: int, seed: int | None) -> Sample:
        """One response.

        Raises:
            PartError: every endpoint failed, or one refused the request.
        """
        if self.sampling.raw and not prompt.plain:
            hint = "ask it without --completions"
            raise PartError("bad_request", "a list of messages can't be continued as text", hint=hint)
        asked: Json = {"prompt": prompt.text} if self.sampling.raw else {"messages": prompt.messages}
        rollout_id.set(f"{data_idx}.{sample_idx}")
        body = self._body | asked | _seeded(seed)
        try:
            completion, provider = await self._replicas.post(PATHS[self._api], body, key=str(data_idx))
        except PartError as error:
            error.hint = _hint(error)
            raise
        with blame(provider.base_url, "bad_response"):
            answer = read_choice(completion, with_token_ids=self.sampling.with_token_ids)
        return Sample(data_idx=data_idx, sample_idx=sample_idx, key=prompt.key, seed=seed, **answer)


async def model_at(client: Client, url: str) -> str:
    """The one model that an endpoint serves.

    Raises:
        UsageError: it does not say, or serves several.
    """
    answer: Any = await client.get(f"{url}/models", timeout_s=30.0)
    entries: Any = cast(Json, answer).get("data") if isinstance(answer, dict) else None
    listed = cast(list[Any], entries) if isinstance(entries, list) else []
    names = [str(cast(Json, entry)["id"]) for entry in listed if isinstance(entry, dict) and "id" in entry]
    if len(names) == 1:
        return names[0]
    serves = f"serves {', '.join(names)}" if names else "does not say which model it serves"
    raise UsageError(f"{url} {serves}; name one with --vllm_model_name")


def request_body(sampling: Sampling, extra: Json) -> Json:
    """What every request carries, but for prompt and seed."""
    body: Json = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_tokens,
    }
    if sampling.with_token_ids:
        body |= {"return_token_ids": True, "logprobs": 1 if sampling.raw else True}
    return {key: value for key, value in (body | extra).items() if value is not None}


def read_choice(completion: Json, *, with_token_ids: bool = False) -> Json:
    """The fields of a `Sample` that a chat or text completion gives.

    Raises:
        PartError: `bad_response`, where there is no answer in it; an answer that a model did give may be "".
    """
    choices: Any = completion.get("choices")
    choice: Any = cast(list[Any], choices)[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, dict):
        raise PartError("bad_response", f"the completion has no choices: {completion!s:.300}")
    return _fields_of(cast(Json, choice), completion, with_token_ids)


def _fields_of(choice: Json, completion: Json, with_token_ids: bool) -> Json:
    message = _object(choice.get("message"))
    finish = _text(choice.get("finish_reason"))
    reasoning = _text(message.get("reasoning_content")) or _text(message.get("reasoning"))
    if finish in GIVEN_UP:
        raise PartError("bad_response", f"the model server gave the answer up: finish_reason {finish}")
    said = (choice.get("text"), message.get("content"), message.get("refusal"))
    text = next((_text(each) for each in said if each is not None), None)
    if text is None and not (reasoning or message.get("tool_calls")):
        raise PartError("bad_response", f"the answer has no text: {choice!s:.300}")
    if text == "" and finish is None:
        raise PartError("bad_response", f"an empty answer without a finish_reason: {choice!s:.300}")
    usage = _object(completion.get("usage"))
    fields: Json = {
        "response": text,
        "finish_reason": finish,
        "prompt_tokens": _count(usage.get("prompt_tokens")),
        "completion_tokens": _count(usage.get("completion_tokens")),
        "reasoning": reasoning,
    }
    return fields | _token_fields(choice, message, completion) if with_token_ids else fields


def _token_fields(choice: Json, message: Json, completion: Json) -> Json:
    """Token ids and log-probabilities, where vLLM, and where our own model servers put them."""
    logprobs = _object(choice.get("logprobs"))
    entries = cast(list[Json], logprobs.get("content") or [])
    found: Json = {
        "prompt_token_ids": completion.get("prompt_token_ids") or choice.get("prompt_token_ids"),
        "response_token_ids": choice.get("token_ids") or message.get("generation_token_ids"),
        "response_logprobs": logprobs.get("token_logprobs") or message.get("generation_log_probs"),
    }
    found["prompt_token_ids"] = found["prompt_token_ids"] or message.get("prompt_token_ids")
    found["response_logprobs"] = found["response_logprobs"] or [e["logprob"] for e in entries] or None
    return found


def _hint(error: PartError) -> str:
    """What to do about it, in the words of this command."""
    if error.kind == "unauthorized":
        return "put the key into the environment variable VLLM_API_KEY"
    if error.kind == "not_found":
        return "check --vllm_base_url and --vllm_model_name"
    if error.kind == "bad_request" and (refused := [key for key in NEUTRAL if key in error.message]):
        return f"--extra_body '{{\"{refused[0]}\": null}}' leaves it out"
    return error.hint


def _seeded(seed: int | None) -> Json:
    return {} if seed is None else {"seed": seed}


def _text(value: Any) -> str | None:
    """Text, or the text of content parts; None is none, and anything else no answer."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, list):
        return content_text(value)
    raise PartError("bad_response", f"where text should be there is {value!s:.100}")


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) else None


def _object(value: Any) -> Json:
    return cast(Json, value) if isinstance(value, dict) else {}
