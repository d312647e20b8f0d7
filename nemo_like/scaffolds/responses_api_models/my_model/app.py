"""A model server: its engine speaks Chat Completions, and the Responses API follows."""

from __future__ import annotations

from nemo_like.server import ModelConfig, ModelServer
from nemo_like.types import Json, content_text


class MyConfig(ModelConfig):
    """Settings of this model server."""

    prefix: str = "You said: "
    """What it says first."""


class MyModel(ModelServer[MyConfig]):
    """Repeats the last message."""

    async def chat_completions(self, body: Json) -> Json:
        """A completion; an engine of yours is asked here."""
        asked = content_text(body["messages"][-1].get("content"))
        text = self.config.prefix + asked
        message = {"role": "assistant", "content": text}
        prompt, completion = len(asked.split()), len(text.split())
        usage = {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
        }
        return {
            "object": "chat.completion",
            "model": body.get("model") or self.name,
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": usage,
        }
