"""What the tests share: rows to collect, a project folder, and the commands as a person runs them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from nemo_like.serve import STOP_S

# No test judges by the clock: the machine may be busy with something else. Nor by chance: the same commit has
# the same examples; `pytest --hypothesis-profile=search` looks for others.
settings.register_profile("patient", deadline=None, derandomize=True)
settings.register_profile("search", deadline=None, max_examples=2000)
settings.load_profile("patient")

Json = dict[str, Any]
BIN = Path(sys.executable).parent


def write_jsonl(path: Path, rows: list[Json]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read_jsonl(path: Path) -> list[Json]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def rollout_row(key: str, index: int = 0, reward: float = 1.0, **fields: Any) -> Json:
    """A finished rollout as the collector writes it, without what the test at hand does not look at."""
    return {
        "responses_create_params": {"input": "?"},
        "response": {"output": [], "status": "completed", "usage": {"output_tokens": 3}},
        "reward": reward,
        "output": [],
        "success": reward >= 1.0,
        "metadata": {"tool_calls_made": 0, "total_s": 0.5},
        "agent_ref": {"name": "agent"},
        "_ng_task_key": key,
        "_ng_task_index": 0,
        "_ng_rollout_index": index,
        **fields,
    }


@dataclass
class Project:
    """A person's folder, with the commands run in it."""

    path: Path

    def start(self, command: str, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
        return subprocess.Popen([BIN / command, *arguments], cwd=self.path, text=True, **(streams | options))

    def run(self, command: str, *arguments: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        with self.start(command, *arguments) as process:
            out, err = process.communicate(timeout=timeout_s)
        return subprocess.CompletedProcess([command, *arguments], process.returncode, out, err)

    def rows(self, name: str) -> list[Json]:
        return read_jsonl(self.path / name)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(tmp_path)
    return Project(tmp_path)


@pytest.fixture
def no_orphans(project: Project) -> Iterator[None]:
    """Checks that no worker in the project's folder outlives the test by more than its time to stop."""
    yield
    deadline = time.monotonic() + STOP_S + 2
    while left := worker_pids(project.path):
        assert time.monotonic() < deadline, f"workers left behind: {left}"
        time.sleep(0.05)


def worker_pids(folder: Path) -> set[int]:
    """The worker processes that run in a folder."""
    found: set[int] = set()
    for process in Path("/proc").iterdir():
        # A process may end while it is looked at.
        with suppress(OSError):
            here = process.name.isdigit() and (process / "cwd").readlink() == folder
            if here and b"nemo_like.serve" in (process / "cmdline").read_bytes():
                found.add(int(process.name))
    return found
