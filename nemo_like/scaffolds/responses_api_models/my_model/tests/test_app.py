"""The model server as its configuration composes it, asked in both ways."""

from __future__ import annotations

import asyncio

from nemo_like.config import load
from nemo_like.supervisor import running
from nemo_like.types import Json, Response

STACK = ["model=my_model", "in_process=true"]


def answer(path: str, body: Json) -> Json:
    """What the model server answers at `path`."""

    async def main() -> Json:
        async with running(load(STACK)) as supervisor, supervisor.client() as client:
            return await client.post("policy_model", path, body, timeout_s=60)

    return asyncio.run(main())


def test_it_repeats_the_last_message() -> None:
    response = answer("/v1/responses", {"input": "Hello"})
    assert Response.model_validate(response).text == "You said: Hello"
    completion = answer("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hello"}]})
    assert completion["choices"][0]["message"]["content"] == "You said: Hello"
    assert completion["usage"]["completion_tokens"] == 3
