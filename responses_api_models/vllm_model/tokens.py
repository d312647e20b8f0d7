"""The tokens of a call, read off what engines answer."""

from __future__ import annotations

from typing import cast

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
