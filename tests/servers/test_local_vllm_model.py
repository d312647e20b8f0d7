"""The engine that starts and stops with the run: its command line, its start, its death, and nothing left."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from nemo_like.client import Client
from nemo_like.errors import ConfigError, PartError, StackError
from nemo_like.registry import load_file
from tests.conftest import Project, write_jsonl

FOLDER = Path(__file__).parents[2] / "responses_api_models/local_vllm_model"
app = load_file(FOLDER / "app.py")
launchers = load_file(FOLDER / "launchers.py")
ENGINE = Path(__file__).parent / "fake_engine.py"

Json = dict[str, Any]
Ask = Callable[[str], Awaitable[Json]]


def command(*what: str) -> list[str]:
    return ["{python}", str(ENGINE), "{port}", *(what or ("ok",))]


def settings(*what: str, **others: Any) -> Json:
    return {"model": "folder/m", "launcher": command(*what), "max_retries": 0} | others


def with_engine(work: Callable[[Ask, Any], Awaitable[Any]], *what: str, **others: Any) -> Any:
    """Does `work` with a running server: asks the fake engine, which answers facts about itself."""

    async def run() -> Any:
        async with Client({}) as client:
            config = app.LocalVLLMConfig.from_mapping(settings(*what, **others), where="policy_model")
            server = app.LocalVLLMModel(config, name="policy_model", client=client)

            async def ask(text: str) -> Json:
                response = await server.responses({"input": text})
                return json.loads(response["output"][-1]["content"][0]["text"])

            async with server.lifespan():
                return await work(ask, server)

    return asyncio.run(run())


def alive(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] != "Z"
    return False


def wait_until_gone(*pids: int) -> None:
    deadline = time.monotonic() + 60
    while left := [pid for pid in pids if alive(pid)]:
        assert time.monotonic() < deadline, f"left behind: {left}"
        time.sleep(0.05)


@pytest.fixture(autouse=True)
def here(project: Project) -> None:
    """Logs are written into the working directory."""


class TestCommandLine:
    def test_flags_are_passed_through(self) -> None:
        given = {"max_model_len": 4096, "enforce_eager": True, "off": False, "hf_overrides": {"a": 1}}
        line = launchers.command_line(
            launchers.LAUNCHERS["vllm"], given | {"-x": [1, 2]}, python="", model="dir", name="m", port=8
        )
        assert line[:3] == [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
        assert line[3:11] == [
            *("--model", "dir", "--served-model-name", "m"),
            *("--host", "127.0.0.1", "--port", "8"),
        ]
        assert line[11:13] == ["--generation-config", "vllm"]
        assert line[13:] == [
            *("--max-model-len", "4096", "--enforce-eager", "--hf-overrides", '{"a":1}'),
            *("-x", "1", "2"),
        ]

    @pytest.mark.parametrize("name", ["vllm", "sglang", "transformers", "llama_server"])
    def test_every_launcher_can_be_filled_in(self, name: str) -> None:
        launcher = launchers.launcher_of(name, key_variable=None)
        line = launchers.command_line(launcher, {}, python="", model="dir/m", name="m", port=8000)
        assert "dir/m" in line and "8000" in line and "127.0.0.1" in line

    def test_a_place_that_means_nothing_is_an_error(self) -> None:
        with pytest.raises(ConfigError, match=r"can fill in \{python\}, .*\{port\} \(got 'prot'\)"):
            with_engine(lambda *_: asyncio.sleep(0), launcher=["engine", "{prot}"])

    def test_several_workers_are_refused(self) -> None:
        with pytest.raises(ConfigError, match="each worker would start an engine"):
            app.LocalVLLMConfig.from_mapping(settings(num_workers=2), where="policy_model")

    def test_a_launcher_that_there_is_not_is_named(self) -> None:
        with pytest.raises(ConfigError, match="launcher"):
            app.LocalVLLMConfig.from_mapping(settings(launcher="vlm"), where="policy_model")


class TestStart:
    def test_it_answers_with_its_flags_its_key_and_its_environment(self) -> None:
        facts = with_engine(
            lambda ask, _: ask("?"),
            engine_args={"max_len": 5},
            engine_env={"FAKE_FLAG": 1},
            api_key_variable="FAKE_KEY",
        )
        assert facts["arguments"][1:] == ["ok", "--max-len", "5"]
        assert (facts["key"], facts["flag"], facts["model"]) == (True, "1", "m")
        assert "serving" in Path(".nemo_like/logs/policy_model-engine.log").read_text()

    def test_one_that_dies_shows_the_end_of_its_log(self) -> None:
        with pytest.raises(StackError) as caught:
            with_engine(lambda *_: asyncio.sleep(0), "die", "no", "kernel", "image")
        message = "policy_model: {python} exited with status 3; its log ("
        assert str(caught.value).startswith(message) and str(caught.value).endswith("no kernel image")

    def test_one_that_is_not_installed_says_how_to_install_it(self) -> None:
        with pytest.raises(StackError, match=r"No module named .*; pip install \"nemo-like\[vllm\]\""):
            with_engine(lambda *_: asyncio.sleep(0), launcher="vllm")

    def test_a_program_that_is_not_there_is_named(self) -> None:
        with pytest.raises(StackError, match="no-such-engine can't be started: No such file"):
            with_engine(lambda *_: asyncio.sleep(0), launcher=["no-such-engine"])

    def test_one_that_never_gets_ready_is_given_up(self) -> None:
        with pytest.raises(StackError, match=r"is not ready after start_timeout_s=0\.1"):
            with_engine(lambda *_: asyncio.sleep(0), "wait", "never", start_timeout_s=0.1)

    def test_it_is_gone_with_the_server(self) -> None:
        async def work(ask: Ask, server: Any) -> tuple[int, int]:
            return (await ask("?"))["pid"], server.engine.pid

        wait_until_gone(*with_engine(work))


class TestDeath:
    def test_it_is_started_again_on_the_same_port(self) -> None:
        async def work(ask: Ask, server: Any) -> None:
            first, url = (await ask("?"))["pid"], server.engine.base_url
            with pytest.raises(PartError) as caught:
                await ask("die")
            assert caught.value.kind == "unreachable"
            while (second := await answered(ask)) is None:
                pass
            assert second["pid"] != first and server.engine.base_url == url

        with_engine(work)

    def test_what_was_asked_when_it_was_killed_is_answered_by_the_next(self) -> None:
        async def work(ask: Ask, server: Any) -> None:
            first = (await ask("?"))["pid"]
            waiting = [asyncio.create_task(ask(f"hang {first}")) for _ in range(20)]
            while log.read_text().count("hanging") < len(waiting):  # noqa: ASYNC110 another process writes it
                await asyncio.sleep(0.05)
            os.kill(server.engine.pid, signal.SIGKILL)
            assert {(await answer)["pid"] for answer in waiting} == {(await ask("?"))["pid"]} != {first}

        log = Path(".nemo_like/logs/policy_model-engine.log")
        with_engine(work)

    def test_after_too_many_deaths_every_call_tells_why(self) -> None:
        async def work(ask: Ask, _: Any) -> PartError:
            with pytest.raises(PartError):
                await ask("die")
            while (failure := await refused(ask)) is None or "after 0 restarts" not in failure.message:
                pass
            return failure

        error = with_engine(work, max_restarts=0)
        assert error.message.startswith("{python} exited with status 7 after 0 restarts; its log (")
        assert error.message.endswith("CUDA out of memory")


async def answered(ask: Ask) -> Json | None:
    with suppress(PartError):
        return await ask("?")
    return None


async def refused(ask: Ask) -> PartError | None:
    try:
        await ask("?")
    except PartError as error:
        return error
    return None


@pytest.mark.slow
class TestOrphans:
    """An engine with a child that ignores SIGTERM, under a real stack."""

    def start(self, project: Project) -> tuple[subprocess.Popen[str], list[int]]:
        instance = {"entrypoint": "app.py", "process": "own", **settings("child")}
        (project.path / "model.yaml").write_text(
            json.dumps({"policy_model": {"responses_api_models": {"local_vllm_model": instance}}})
        )
        process = project.start("ng_run", "+config_paths=[model.yaml]", stderr=subprocess.DEVNULL)
        assert process.stdout is not None
        while not (line := process.stdout.readline()).startswith("All "):
            assert line, "ng_run ended"
        child = int((project.path / ".nemo_like/logs/policy_model-engine.log").read_text().split()[0])
        return process, [child, *ancestors(child, process.pid)]

    @pytest.mark.parametrize("who", ["supervisor", "worker", "leash"])
    def test_nothing_is_left_when_somebody_is_killed(self, project: Project, who: str) -> None:
        process, family = self.start(project)
        child, engine, leash, worker = family
        with process:
            victim = {"supervisor": process.pid, "worker": worker, "leash": leash}[who]
            os.kill(victim, signal.SIGKILL)
            wait_until_gone(engine, child)
            process.terminate()

    def test_nothing_is_left_after_ctrl_c(self, project: Project) -> None:
        process, family = self.start(project)
        with process:
            process.send_signal(signal.SIGINT)
        wait_until_gone(*family)

    def test_who_waits_for_the_start_sees_how_far_it_is(self, project: Project) -> None:
        task = {"responses_create_params": {"input": "?"}}
        write_jsonl(project.path / "tasks.jsonl", [task])
        instance = {"entrypoint": "app.py", "process": "own", **settings("wait", str(project.path / "go"))}
        (project.path / "model.yaml").write_text(
            json.dumps({"policy_model": {"responses_api_models": {"local_vllm_model": instance}}})
        )
        process = project.start("ng_run", "+config_paths=[model.yaml]")
        assert process.stdout is not None and process.stderr is not None
        with process:
            line = process.stderr.readline()
            # The last line of its log, whatever that is.
            assert re.search(r"policy_model: \{python\} is starting, \d+ s: \S", line)
            (project.path / "go").touch()
            while not (line := process.stdout.readline()).startswith("All "):
                assert line, "ng_run ended"
            process.send_signal(signal.SIGINT)


def ancestors(pid: int, until: int) -> list[int]:
    """The processes between `pid` and `until`."""
    found: list[int] = []
    while (pid := int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])) not in (until, 1):
        found.append(pid)
    return found
