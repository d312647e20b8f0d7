"""A LiteLLM proxy behind the OpenAI model server, in an environment of its own:
`scripts/set_up_engines.sh litellm` makes it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import orjson
import pytest

from nemo_like.asgi import call_app
from nemo_like.client import Client
from nemo_like.errors import PartError
from nemo_like.registry import load_file

from ..conftest import Project

ROOT = Path(__file__).parents[2]
LITELLM = ROOT / ".venvs/litellm/bin/litellm"
OpenAIModel = load_file(ROOT / "responses_api_models/openai_model/app.py").OpenAIModel
MASTER_KEY = "sk-a-long-master-key-of-the-tests-0123456789"
READY_S = 240.0

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        not LITELLM.exists(),
        reason="no LiteLLM proxy is installed; scripts/set_up_engines.sh litellm does that",
    ),
]

Json = dict[str, Any]


@contextmanager
def serving(config: Path, folder: Path, **environment: str) -> Generator[str]:
    """The URL of a proxy of this configuration."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    quiet = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False"}
    command = [LITELLM, "--config", config, "--host", "127.0.0.1", "--port", str(port)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=os.environ | quiet | environment, stdout=log, stderr=log
        )
        try:
            asyncio.run(_ready(f"http://127.0.0.1:{port}/health/liveliness", process))
            yield f"http://127.0.0.1:{port}"
        except TimeoutError:
            pytest.fail((folder / "log").read_text()[-3000:])
        finally:
            process.terminate()
            process.wait(30)


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a proxy whose models are mock answers."""
    folder = tmp_path_factory.mktemp("proxy")
    mocks = {"four": "It is 4.", "limited": "litellm.RateLimitError"}
    models = [
        {
            "model_name": name,
            "litellm_params": {"model": "openai/gpt-4o-mini", "api_key": "x", "mock_response": mock},
        }
        for name, mock in mocks.items()
    ]
    settings = {"num_retries": 0, "telemetry": False}
    config = {"model_list": models, "litellm_settings": settings, "router_settings": {"num_retries": 0}}
    (folder / "proxy.json").write_text(json.dumps(config))
    with serving(folder / "proxy.json", folder, LITELLM_MASTER_KEY=MASTER_KEY) as url:
        yield url


async def _ready(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + READY_S
    async with Client({}) as client:
        while process.poll() is None and time.monotonic() < deadline:
            try:
                await client.get(url, timeout_s=5)
            except (PartError, TimeoutError):
                await asyncio.sleep(0.2)
            else:
                return
    raise TimeoutError


def ask(url: str, model: str, key: str = MASTER_KEY, **settings: Any) -> tuple[int, Json]:
    async def run() -> tuple[int, Json]:
        given = {"openai_base_url": url, "openai_api_key": key, "openai_model": model, "max_retries": 0}
        async with Client({}) as client:
            config = OpenAIModel.config_class().from_mapping(given | settings, where="policy_model")
            app = OpenAIModel(config, name="policy_model", client=client).app()
            body = {"input": "What is 2 + 2?", "max_output_tokens": 9}
            status, answer = await call_app(app, "/v1/responses", orjson.dumps(body), {"x-rollout-id": "r1"})
            return status, orjson.loads(answer)

    return asyncio.run(run())


@pytest.mark.parametrize("api", ["auto", "chat"])
def test_a_proxy_answers_as_any_endpoint_does(proxy: str, api: str) -> None:
    status, answer = ask(proxy, "four", api=api)
    assert status == 200, answer
    assert answer["output"][-1]["content"][0]["text"] == "It is 4."
    assert answer["usage"]["total_tokens"] > 0


def test_its_errors_keep_their_names(proxy: str) -> None:
    status, answer = ask(proxy, "limited", api="chat")
    assert (status, answer["error"]["kind"]) == (429, "rate_limited")
    status, answer = ask(proxy, "none-such", api="chat")
    assert status in (400, 404) and "none-such" in answer["error"]["message"]


def test_another_key_is_refused_and_shown_nowhere(proxy: str) -> None:
    wrong = "sk-a-wrong-key-0123456789"
    status, answer = ask(proxy, "four", key=wrong, api="chat")
    # It looks the key up in a database, which it has not got: a 400.
    assert status in (400, 401)
    assert wrong not in json.dumps(answer)


def generated(project: Project, url: str, *options: str) -> tuple[str, Any]:
    """What the script of `rollout_generation` prints of an endpoint, and the dataset that it saves."""
    script = ROOT / "rollout_generation/generate_rollouts.py"
    done = subprocess.run(
        [sys.executable, script, *options],
        cwd=project.path,
        env=os.environ | {"API_BASE_URL": url},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, datasets.load_from_disk(project.path / "rollouts_api")


def test_rollouts_are_generated_through_a_proxy_that_mocks(project: Project) -> None:
    with serving(ROOT / "litellm/mock.yaml", project.path) as url:
        said, rows = generated(project, url)
    assert "Chamando modelo claude-sonnet" in said and "✅ 20 rollouts salvos" in said
    assert {row["completion"][-1]["content"] for row in rows} == {"<word_count>5</word_count>"}
    for row in rows:
        right = row["answer"] == "5"
        assert (row["exact_match_reward"], row["reward"] > 1.0) == (float(right), right)


def test_rollouts_are_generated_through_a_proxy_before_the_embedded_model(project: Project) -> None:
    port = "+policy_model.responses_api_models.embedded_model.port=0"
    process = project.start("ng_run", "model=embedded", "env=word_count", port)
    assert process.stdout is not None
    try:
        address = next(
            m[1] for line in process.stdout if (m := re.search(r"policy_model +\S+ +(http\S+)", line))
        )
        with serving(ROOT / "litellm/embedded.yaml", project.path, EMBEDDED_BASE_URL=f"{address}/v1") as url:
            _, rows = generated(project, url, "--worked_examples")
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert len(rows) == 20
    assert sum(row["format_reward"] for row in rows) > 10, rows["completion"]
