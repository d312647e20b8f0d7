"""The tokens of a call: read off what engines answer, and kept the same from one step to the next.

A trainer needs the tokens that the model saw and said, not those that the text would be cut into again. Each
answer carries them (`TOKEN_FIELDS`), and the next request brings them back: the next prompt should begin with
them. Where a chat template words the past otherwise, `spliced` puts them back.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import Any, cast

from nemo_like.chat import TOKEN_FIELDS
from nemo_like.errors import PartError
from nemo_like.types import Json

PROMPT, GENERATION, LOG_PROBS = TOKEN_FIELDS
ASKED: Json = {"return_token_ids": True, "logprobs": True}
"""How vLLM and SGLang are asked; and llama.cpp until it is known to be one. transformers has none."""
RENDERED = (
    *("messages", "tools", "chat_template", "chat_template_kwargs", "add_special_tokens", "documents"),
    *("add_generation_prompt", "continue_final_message", "reasoning_effort"),
)
"""What of a request decides its prompt."""


def before(history: Any) -> list[int]:
    """The tokens up to the end of the last answer in items or messages; none where it carries none."""
    for entry in reversed(cast(list[Any], history) if isinstance(history, list) else []):
        fields = cast(Json, entry) if isinstance(entry, dict) else {}
        if fields.get(GENERATION) is not None and fields.get(PROMPT) is not None:
            return [*fields[PROMPT], *fields[GENERATION]]
    return []


def read(completion: Json) -> Json:
    """What a completion tells of `TOKEN_FIELDS`: the prompt's ids may be missing, the answer's may not.

    Raises:
        PartError: `bad_response`: there are none, or they do not belong to each other.
    """
    choices = cast(list[Json], completion.get("choices") or [])
    if not choices or not isinstance(choices[0].get("message"), dict):
        raise PartError("bad_response", f"the completion has no message: {completion!s:.500}")
    choice, message = choices[0], cast(Json, choices[0]["message"])
    if message.get(GENERATION) is not None:  # a model server of our own
        return {key: message[key] for key in TOKEN_FIELDS if message.get(key) is not None}
    logprobs = cast(Json, choice.get("logprobs") or {})
    entries = cast(list[Json], logprobs.get("content") or [])
    ids = choice.get("token_ids")
    if ids is None:
        asked = "return_token_ids and logprobs"
        hint = "it may not have them; return_token_id_information=false asks for none"
        raise PartError("bad_response", f"no token ids, for which it was asked with {asked}", hint=hint)
    if len(ids) != len(entries):
        counts = f"{len(ids)} token ids, but log-probabilities of {len(entries)} tokens"
        raise PartError("bad_response", counts)
    found: Json = {GENERATION: ids, LOG_PROBS: [entry["logprob"] for entry in entries]}
    prompt = completion.get("prompt_token_ids") or choice.get("prompt_token_ids")
    return {PROMPT: prompt} | found if prompt is not None else found


def diverges_at(past: Sequence[int], prompt: Sequence[int]) -> int | None:
    """The index of the first token of `prompt` that is not the one of `past`; None where it begins with
    `past`."""
    if [*prompt[: len(past)]] == [*past]:
        return None
    pairs = zip(past, prompt, strict=False)
    return next((at for at, (was, now) in enumerate(pairs) if was != now), len(prompt))


def spliced(past: list[int], said: list[int], other: list[int], whole: list[int]) -> list[int] | None:
    """The prompt `whole` with its past replaced by the tokens that it really was.

    `said` is what the chat template makes of the conversation up to its last answer, `other` the same with
    another text for that answer: what both end with is what the template puts behind an answer. The past
    ends with the first token of that, or, where the answer was cut, with the one before it; `whole` goes on
    from there. None where that is not so.
    """
    pairs = zip(reversed(said), reversed(other), strict=False)
    ending = len(said) - sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    places = (at for at in (ending, ending - 1) if 0 < at < len(said) and said[at] == past[-1])
    end = next(places, None)
    if end is None or whole[: end + 1] != said[: end + 1]:
        return None
    return [*past, *whole[end + 1 :]]
