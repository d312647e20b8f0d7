"""The tokens of an answer of llama.cpp's server, each of them.

Beside its log-probabilities it leaves out every token that ends within a character, which most of Chinese or
of emoji is, and the tokens of a stop text. `verbose` and `return_tokens` tell the ids of all; the
log-probability of one that is missing is asked for at its place.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

from nemo_like.errors import PartError
from nemo_like.turns import TOKEN_FIELDS
from nemo_like.types import Json

ASKED: Json = {"logprobs": True, "verbose": True, "return_tokens": True}
"""What a request for a chat completion says for `tokens_of`."""
DETAILS = "__verbose"
CANDIDATES = (256, 1_000_000)
"""How many tokens to ask for at a place, most probable first: a quarter megabyte has nearly every token that
is ever drawn, the whole vocabulary any."""
FORCED = 1000.0
"""A bias that no logit outweighs."""

Post = Callable[[str, Json], Awaitable[Json]]
"""Asks the server at a path of its root."""


def lacks_details(completion: Json) -> bool:
    """Whether a completion is llama.cpp's, and was not asked for as `ASKED` has it."""
    if "timings" not in completion or _drawn(completion):
        return False
    return any("id" in entry for entry in _entries(completion))


def is_whole(completion: Json) -> bool:
    """Whether a completion is llama.cpp's with what `tokens_of` takes."""
    return DETAILS in completion


async def tokenized(prompt: str, post: Post) -> list[int]:
    """The ids of a prompt, such as a chat template makes it."""
    asked = {"content": prompt, "add_special": True, "parse_special": True}
    tokens = (await post("/tokenize", asked)).get("tokens")
    if not isinstance(tokens, list) or not tokens:
        raise PartError("bad_response", "no tokens from /tokenize")
    return cast(list[int], tokens)


async def tokens_of(completion: Json, *, post: Post, top: int = 1) -> tuple[list[int], list[Json]]:
    """The ids of the prompt, and an entry per token of the answer, as in `logprobs.content`: `id`, `token`,
    `bytes`, `logprob` and, with at least `top` candidates where it was asked for anew, `top_logprobs`.

    Raises:
        PartError: `bad_response`: ids and log-probabilities do not belong to each other.
    """
    prompt = await tokenized(cast(Json, completion[DETAILS])["prompt"], post)
    ids = _drawn(completion)
    placed = _placed(_entries(completion), ids)
    missing = [at for at in range(len(ids)) if at not in placed]
    if missing and len(prompt) != cast(Json, completion.get("usage") or {}).get("prompt_tokens"):
        raise PartError("bad_response", "the prompt is not of text alone, so no token can be asked for")
    forced = (await tokenized(".", post))[-1] if missing else 0
    for at in missing:
        placed[at] = await _asked_for(ids[at], [*prompt, *ids[:at]], forced, post=post, top=top)
    return prompt, [placed[at] for at in range(len(ids))]


def token_fields(prompt: list[int], entries: list[Json]) -> Json:
    """Of the ids of a prompt and the entries of its answer, what trainers take."""
    ids, log_probs = [entry["id"] for entry in entries], [entry["logprob"] for entry in entries]
    return dict(zip(TOKEN_FIELDS, (prompt, ids, log_probs), strict=True))


def _drawn(completion: Json) -> list[int]:
    return cast(Json, completion.get(DETAILS) or {}).get("tokens") or []


def _entries(completion: Json) -> list[Json]:
    choices = cast(list[Json], completion.get("choices") or [{}])
    return cast(Json, choices[0].get("logprobs") or {}).get("content") or []


def _placed(entries: list[Json], ids: Sequence[int]) -> dict[int, Json]:
    """The entries by their places among the ids; without those that could have another one as well."""
    if not ids and entries:
        raise PartError("bad_response", "no token ids, for which llama.cpp was asked with return_tokens")
    drawn = [entry["id"] for entry in entries]
    first = _places(drawn, ids)
    last = [len(ids) - 1 - at for at in reversed(_places(drawn[::-1], ids[::-1]))]
    return {at: entry for at, other, entry in zip(first, last, entries, strict=True) if at == other}


def _places(drawn: Sequence[int], ids: Sequence[int]) -> list[int]:
    """The first place that each of `drawn` can have in `ids`, in order."""
    places: list[int] = []
    for token in drawn:
        try:
            places.append(ids.index(token, places[-1] + 1 if places else 0))
        except ValueError:
            what = f"a log-probability of a token that was not drawn: {token}"
            raise PartError("bad_response", what) from None
    return places


async def _asked_for(token: int, before: list[int], forced: int, *, post: Post, top: int) -> Json:
    """The entry of a token after those before it.

    `forced` is drawn there instead, whose text is whole, since llama.cpp says nothing of a token whose text
    is not; the candidates beside it are as they were.
    """
    asked: Json = {"prompt": before, "n_predict": 1, "temperature": 0, "cache_prompt": True}
    asked["logit_bias"] = [[forced, FORCED]]
    for candidates in CANDIDATES:
        answer = await post("/completion", asked | {"n_probs": candidates})
        told = cast(list[Json], answer.get("completion_probabilities") or [{}])
        likeliest = cast(list[Any], told[0].get("top_logprobs") or [])
        for entry in likeliest:
            if entry["id"] == token:
                return entry | {"top_logprobs": likeliest[: max(top, 1)]}
    raise PartError("bad_response", f"llama.cpp has no log-probability of a token that it drew: {token}")
