"""An inference engine's own queue, as its `/metrics` tells it."""

from __future__ import annotations

import re

from nemo_like.client import Client
from nemo_like.errors import PartError

GAUGES = (
    "vllm:num_requests_waiting",
    "sglang:num_queue_reqs",
    "llamacpp:requests_deferred",
    "tgi_queue_size",
)
"""What vLLM, SGLang, llama.cpp's server and TGI call it."""
LINE = re.compile(rf"^(?:{'|'.join(GAUGES)})(?:\{{.*\}})? +(\S+)", re.MULTILINE)
ASK_S = 2.0
MISSES = 5
"""Answers without a queue after which it is not asked any more; one may be of a proxy while it loads."""


class EngineQueue:
    """How many requests wait in the engine at a base URL; not asked for ever where it can't say."""

    def __init__(self, client: Client, base_url: str, api_key: str = "") -> None:
        self._client = client
        self._headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        # The endpoints of the API lie under /v1, the metrics beside it.
        self._url = re.sub(r"/v\d+\w*$", "", base_url.rstrip("/")) + "/metrics"
        self._misses = 0

    async def length(self) -> int | None:
        """Requests that wait; None where the engine does not say, or does not answer now."""
        if self._misses == MISSES:
            return None
        try:
            text = (await self._client.fetch(self._url, timeout_s=ASK_S, headers=self._headers)).decode(
                "utf-8", "replace"
            )
        except (PartError, TimeoutError):
            return None
        length = read_queue(text)
        self._misses = 0 if length is not None else self._misses + 1
        return length


def read_queue(metrics: str) -> int | None:
    """The queue in Prometheus's text, of all its models together; None where there is none."""
    lengths = [float(value) for value in LINE.findall(metrics)]
    return int(sum(lengths)) if lengths else None
