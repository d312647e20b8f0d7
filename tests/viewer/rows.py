"""Rollouts to look at, as this project writes them, and a catalog that has read them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nemo_like.viewer.catalog import Catalog

Json = dict[str, Any]


def rollout(
    task: int, repeat: int = 0, reward: float = 1.0, *, tools: tuple[str, ...] = (), **fields: Any
) -> Json:
    """A finished rollout with a thought, calls of tools, and an answer."""
    output: list[Json] = [
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": f"thought {task}"}]}
    ]
    for number, tool in enumerate(tools):
        output += [
            {"type": "function_call", "name": tool, "arguments": '{"q": "x"}', "call_id": f"c{number}"},
            {"type": "function_call_output", "call_id": f"c{number}", "output": f'{{"found": {number}}}'},
        ]
    text = fields.pop("answer", f"the answer of {task} is {repeat}")
    output.append(
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]}
    )
    tokens = 100 * task + repeat
    return {
        "responses_create_params": {
            "input": [{"role": "user", "content": f"question {task}"}],
            "temperature": 0.5,
        },
        "response": {
            "output": output,
            "status": "completed",
            "usage": {"input_tokens": 7, "output_tokens": tokens},
        },
        "expected_answer": str(task),
        "extracted_answer": str(repeat),
        "reward": reward,
        "success": reward >= 1.0,
        "metadata": {"total_s": 0.5 + task, "model_s": 0.4, "verify_s": 0.1, "started_at": 1e9 + task},
        "agent_ref": {"name": f"agent_{task % 2}"},
        "_ng_task_key": f"key{task}",
        "_ng_task_index": task,
        "_ng_rollout_index": repeat,
        **fields,
    }


def failure(task: int, kind: str = "timeout") -> Json:
    return {
        "responses_create_params": {"input": f"question {task}"},
        "failure": {"kind": kind, "where": "policy_model", "message": "too slow", "attempts": 1},
        "agent_ref": {"name": "agent_0"},
        "_ng_task_key": f"key{task}",
        "_ng_rollout_index": 0,
    }


def some_rollouts() -> list[Json]:
    """Ten tasks of three repeats: task 0 never right, task 1 always, the others now and then."""
    return [
        rollout(
            task,
            repeat,
            float(task == 1 or (task > 1 and (task + repeat) % 2)),
            tools=("search",) * (task % 3),
        )
        for task in range(10)
        for repeat in range(3)
    ]


def write(path: Path, rows: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        for row in rows:
            file.write(row if isinstance(row, bytes) else json.dumps(row).encode() + b"\n")
    return path


@contextmanager
def opened(path: Path) -> Iterator[Catalog]:
    """A catalog that has read all there is."""
    with Catalog(path) as catalog:
        wait_for(lambda: catalog.covered() == catalog.size)
        yield catalog


def wait_for(holds: Any) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)
