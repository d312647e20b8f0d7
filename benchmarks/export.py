"""How fast rollouts become training data: `python benchmarks/export.py --rows 1000000`.

Makes a rollouts file as the collector writes it, with its index, and exports it in several formats, each with
`ng_export` as a process of its own. CPU is that of the process and its workers; memory the largest of them.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import orjson

from nemo_like import chat
from nemo_like.index import Index
from nemo_like.store import Files

TASK_ROLLOUTS = 4
BATCH = 2000
EXPORTS = {
    "sft": ["+format=sft"],
    "prompt_completion": ["+format=prompt_completion"],
    "openai": ["+format=openai"],
    "kto": ["+format=kto"],
    "verl_dump": ["+format=verl_dump"],
    "sft, reward at least 1, no truncated, no duplicates": [
        *("+format=sft", "+min_reward=1", "+drop_truncated=true", "+drop_duplicates=true"),
    ],
    "sft, a query, 10 % validation": [
        "+format=sft",
        "+query='reward > 0.5 and tool_calls < 3'",
        "+validation_share=0.1",
    ],
    "sft, the best of a task": ["+format=sft", "+best=1"],
    "dpo": ["+format=dpo"],
    "grpo": ["+format=grpo"],
    "sft as parquet": ["+format=sft", "+container=parquet"],
    "sft by save_to_disk": ["+format=sft", "+container=hf"],
}


def rollout(rng: random.Random, number: int) -> dict[str, Any]:
    """A rollout of 1 to 3 kB: a question, some reasoning, now and then a tool call, an answer."""
    task, repeat = divmod(number, TASK_ROLLOUTS)
    good = rng.random() < (task % 10) / 9
    output: list[dict[str, Any]] = []
    if rng.random() < 0.25:
        said = '{"found": "' + "something that was found. " * rng.randint(1, 10) + '"}'
        output += [
            {
                "type": "function_call",
                "name": "search",
                "arguments": '{"query": "a b c"}',
                "call_id": "call_1",
            },
            {"type": "function_call_output", "call_id": "call_1", "output": said},
        ]
    text = f"The answer is **{rng.randint(0, 50)}**. " + "Because of this and that. " * rng.randint(1, 40)
    content = [{"type": "output_text", "text": text, "annotations": []}]
    output.append(
        {
            "type": "message",
            "id": f"msg_{number}",
            "role": "assistant",
            "status": "completed",
            "content": content,
        }
    )
    tokens = rng.randint(20, 2000)
    usage = {"input_tokens": 300, "output_tokens": tokens, "total_tokens": 300 + tokens}
    question = f"What is task number {task}? " + "Some context here. " * 20
    return {
        "responses_create_params": {"input": [{"role": "user", "content": question}], "temperature": 1.0},
        "expected_answer": str(task % 50),
        "agent_ref": {"name": "math_agent"},
        "response": {
            "id": f"resp_{number}",
            "object": "response",
            "model": "a-model",
            "output": output,
            "status": "completed" if rng.random() < 0.95 else "incomplete",
            "usage": usage,
        },
        "reward": float(good),
        "output": chat.conversation(output),
        "success": good,
        "metadata": {
            "reasoning_steps": 1,
            "tool_calls_made": 0,
            "total_s": 1.5,
            "started_at": 1.7e9 + number * 0.01,
        },
        "_ng_task_key": f"{task * 2654435761 % 2**64:020x}",
        "_ng_task_index": task,
        "_ng_rollout_index": repeat,
    }


def write(path: Path, rows: int) -> None:
    """The rollouts and their index, as a collector leaves them."""
    rng = random.Random(0)
    with path.open("wb") as file, Index(Files(path).index) as index:
        for start in range(0, rows, BATCH):
            batch = [rollout(rng, number) for number in range(start, min(rows, start + BATCH))]
            placed: list[tuple[dict[str, Any], int, int]] = []
            for row in batch:
                line = orjson.dumps(row) + b"\n"
                placed.append((row, file.tell(), len(line)))
                file.write(line)
            file.flush()
            index.add(path, "rollouts", placed)


def measure(rollouts: Path, folder: Path, arguments: list[str]) -> tuple[float, float, float]:
    """Seconds, CPU seconds, and the megabytes of the largest process."""
    command = [
        Path(sys.executable).parent / "ng_export",
        f"+rollouts={rollouts}",
        f"+output={folder}",
        *arguments,
    ]
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    took = time.monotonic() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return took, cpu, after.ru_maxrss / 1024


def main() -> None:
    """Measure each export of `EXPORTS`, or those whose name holds `--only`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rollouts = Path(folder) / "rollouts.jsonl"
        write(rollouts, options.rows)
        print(f"{options.rows:,} rollouts, {rollouts.stat().st_size / 1e9:.2f} GB, {os.cpu_count()} cores")
        print("| | seconds | rollouts a second | CPU µs a rollout | peak MB of a process |")
        print("|---|---|---|---|---|")
        for number, (name, arguments) in enumerate(EXPORTS.items()):
            if options.only in name:
                took, cpu, memory = measure(rollouts, Path(folder) / str(number), arguments)
                rate, each = options.rows / took, cpu / options.rows * 1e6
                print(f"| {name} | {took:.1f} | {rate:,.0f} | {each:.1f} | {memory:.0f} |", flush=True)


if __name__ == "__main__":
    main()
