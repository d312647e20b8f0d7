"""Real stacks: started, found, restarted, stopped, and never left behind."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from nemo_like.client import Client, owner, rollout_id
from nemo_like.config import load
from nemo_like.errors import PartError, StackError
from nemo_like.supervisor import running

from .conftest import Json, Project, worker_pids
from .toys import TOY, write_toys

TASK = {"responses_create_params": {"input": "2 + 2"}, "answer": "four"}


@pytest.fixture
def toys(project: Project, no_orphans: None) -> Project:
    write_toys(project.path)
    return project


def until(condition: Callable[[], object], within_s: float = 10) -> None:
    """Wait for an event that has no other sign."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def wait_ready(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    shown = ""
    while line := process.stdout.readline():
        shown += line
        if line.startswith("Ctrl-C"):
            return shown
    raise AssertionError(f"it ended: {shown}{process.stderr.read() if process.stderr else ''}")


async def run_some(client: Client, n: int = 20) -> list[Json]:
    async def one(number: int) -> Json:
        rollout_id.set(f"r{number}")
        return await client.post("toy_agent", "/run", TASK, timeout_s=10)

    return await asyncio.gather(*(one(i) for i in range(n)))


@pytest.mark.parametrize(
    ("layout", "processes"),
    [([], 1), (["num_workers=2"], 2), (["colocate=false"], 3), (["in_process=true"], 0)]
    + [(["++toy.resources_servers.toy.process=own", "++toy.resources_servers.toy.num_workers=2"], 3)],
)
def test_rollouts_are_the_same_in_every_layout(toys: Project, layout: list[str], processes: int) -> None:
    async def main() -> tuple[list[Json], set[int]]:
        async with running(load([TOY, *layout])) as supervisor:
            servers = supervisor.servers()
            async with supervisor.client() as client:
                return await run_some(client), {pid for server in servers for pid in server.pids}

    rows, pids = asyncio.run(main())
    assert [row["reward"] for row in rows] == [1.0] * 20
    assert len(pids) == processes
    workers = {row["pid"] for row in rows}
    assert len(workers) == (2 if layout and "num_workers=2" in layout[-1] else 1)


def test_a_cookie_keeps_a_session_together_across_workers(toys: Project) -> None:
    def call(url: str, body: Json, cookie: str = "") -> tuple[Json, str]:
        request = Request(url, json.dumps(body).encode(), {"cookie": cookie, "connection": "close"})
        with urlopen(request, timeout=10) as answer:
            return json.load(answer), answer.headers.get("set-cookie", "").split(";")[0]

    def session(url: str, name: str) -> list[Json]:
        _, cookie = call(f"{url}/seed_session", TASK, f"session_id={name}" if name else "")
        assert cookie.startswith(f"session_id={name}")
        counts = [call(f"{url}/add", {}, cookie)[0] for _ in range(4)]
        verdict, _ = call(f"{url}/verify", TASK | {"response": {"output": []}}, cookie)
        return [*counts, verdict]

    async def main() -> list[list[Json]]:
        async with running(load([TOY, "num_workers=2"])) as supervisor:
            url = next(server.url for server in supervisor.servers() if server.name == "toy")
            return [await asyncio.to_thread(session, url, name) for name in ("", first, second)]

    first = next(f"a{i}" for i in range(99) if owner(f"a{i}", 2) == 0)
    second = next(f"b{i}" for i in range(99) if owner(f"b{i}", 2) == 1)
    sessions = asyncio.run(main())
    for answers in sessions:
        assert [answer["count"] for answer in answers] == [1, 2, 3, 4, 4]
        assert len({answer["pid"] for answer in answers}) == 1
    assert sessions[1][0]["pid"] != sessions[2][0]["pid"]


def test_a_killed_worker_comes_back_on_the_same_address(toys: Project) -> None:
    async def main() -> None:
        async with running(load([TOY])) as supervisor, Client(supervisor.peers) as client:
            before = supervisor.servers()
            await run_some(client)
            os.kill(before[0].pids[0], signal.SIGKILL)
            with suppress(PartError):
                # What was in flight to it, or comes by a connection that it held, is lost.
                await run_some(client)
            rows = await run_some(client)
            after = supervisor.servers()
            assert [row["reward"] for row in rows] == [1.0] * 20
            assert [server.url for server in before] == [server.url for server in after]
            assert before[0].pids != after[0].pids

    asyncio.run(main())


def test_a_worker_that_keeps_dying_ends_the_run(toys: Project) -> None:
    async def main() -> None:
        async with running(load([TOY])) as supervisor:
            seen: set[int] = set()
            while True:
                for pid in supervisor.servers()[0].pids:
                    if pid not in seen:
                        seen.add(pid)
                        os.kill(pid, signal.SIGKILL)
                await asyncio.sleep(0.02)

    with pytest.raises(StackError, match="worker shared was ended by SIGKILL after 3 restarts"):
        asyncio.run(main())


def test_ng_run_shows_its_servers_and_ctrl_c_leaves_nothing_behind(toys: Project) -> None:
    with toys.start("ng_run", TOY) as process:
        shown = wait_ready(process)
        for name, kind in (
            ("policy_model", "responses_api_models"),
            ("toy", "resources_servers"),
            ("toy_agent", "agents"),
        ):
            assert any(
                line.split()[:2] == [name, kind] and "http://127.0.0.1:" in line
                for line in shown.splitlines()
            )
        assert "All 3 servers are ready" in shown
        status = toys.run("ng_status")
        assert (status.returncode, "3 servers found (3 healthy, 0 unhealthy)" in status.stdout) == (0, True)
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
    assert toys.run("ng_status").returncode == 1


def test_workers_stop_when_the_supervisor_is_killed(toys: Project) -> None:
    with toys.start("ng_run", TOY, "num_workers=2", "++toy.resources_servers.toy.process=own") as process:
        wait_ready(process)
        assert len(worker_pids(toys.path)) == 3
        process.kill()
        process.wait(10)
    until(lambda: not worker_pids(toys.path))


def test_secrets_are_nowhere_to_be_seen(toys: Project) -> None:
    with toys.start("ng_run", TOY) as process:
        shown = wait_ready(process)
        [head] = json.loads((toys.path / ".nemo_like/head.json").read_text())
        for path in ("/servers", "/global_config_dict_yaml"):
            with urlopen(head["url"] + path, timeout=5) as answer:
                shown += answer.read().decode()
        for pid in (process.pid, *worker_pids(toys.path)):
            shown += Path(f"/proc/{pid}/cmdline").read_text() + Path(f"/proc/{pid}/environ").read_text()
        process.terminate()
        assert process.wait(10) == 130
        shown += process.stderr.read() if process.stderr else ""
    shown += "".join(log.read_text() for log in (toys.path / ".nemo_like/logs").glob("*/*.log"))
    assert "policy_model" in shown
    assert "s3cret" not in shown


def test_two_runs_in_one_directory_have_to_be_told_apart(toys: Project) -> None:
    with toys.start("ng_run", TOY) as one, toys.start("ng_run", TOY) as two:
        wait_ready(one)
        wait_ready(two)
        heads = json.loads((toys.path / ".nemo_like/head.json").read_text())
        refused = toys.run("ng_status")
        assert refused.returncode == 1
        assert all(head["url"] in refused.stderr for head in heads)
        port = heads[0]["url"].rsplit(":", 1)[1]
        assert toys.run("ng_status", f"+head_server.port={port}").returncode == 0
        for process in (one, two):
            process.terminate()
            process.wait(10)


BROKEN = {
    "an exception": ("raise RuntimeError('no such disk')", "RuntimeError: no such disk"),
    "a missing library": ("import no_such_library", "No module named 'no_such_library'"),
    "an exit": ("import os; print('the last words', flush=True); os._exit(3)", "exited with status 3"),
    "no class": ("x = 1", "should hold one server class (got none)"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_server_that_will_not_start_is_shown_with_its_reason(toys: Project, how: str) -> None:
    code, words = BROKEN[how]
    (toys.path / "resources_servers/toy/app.py").write_text(code)
    done = toys.run("ng_run", TOY)
    assert done.returncode in (1, 2)
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert how != "an exit" or "the last words" in done.stderr


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (
            "++policy_model.responses_api_models.toy_model.anwser=x",
            "there is no setting 'anwser'; did you mean 'answer'?",
        ),
        (
            "++policy_model.responses_api_models.toy_model.answer=[1]",
            "policy_model: answer: should be a valid string",
        ),
        ("++toy_agent.responses_api_agents.simple_agent.resources_server.name=tay", "did you mean 'toy'?"),
        ("++toy.resources_servers.toy.entrypoint=ap.py", "there is no file"),
    ],
)
def test_a_wrong_setting_is_one_readable_line(toys: Project, override: str, words: str) -> None:
    done = toys.run("ng_run", TOY, override)
    assert done.returncode in (1, 2)
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_busy_port_is_named(toys: Project) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = toys.run("ng_run", TOY, f"++toy.resources_servers.toy.port={port}")
    assert done.returncode == 1
    assert f"toy can't listen on 127.0.0.1:{port}: Address already in use" in done.stderr
