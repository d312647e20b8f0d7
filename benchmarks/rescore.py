"""How fast stored rollouts are verified again and compared, and in how much memory.

python benchmarks/rescore.py
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import orjson

WORDS = "word " * 200


def write_rollouts(path: Path, n: int, repeats: int = 4) -> Path:
    """`n` rollouts of about 2 kB, a quarter of them right."""
    with path.open("wb") as file:
        for i in range(n):
            said = {"type": "message", "role": "assistant", "content": f"{WORDS}{i % 4}"}
            row = {
                "responses_create_params": {"input": f"question {i // repeats}"},
                "expected_answer": "0",
                "level": str(i // repeats % 7),
                "agent_ref": {"name": "agent"},
                "response": {"output": [said], "usage": {"output_tokens": 200}},
                "reward": float(i % 3 == 0),
                "_ng_task_key": f"{i // repeats:020}",
                "_ng_task_index": i // repeats,
                "_ng_rollout_index": i % repeats,
            }
            file.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
    return path


def measured(what: str, n: int, command: list[str]) -> None:
    """Run a command and print a line of the table; CPU of the process and of what it started."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    process = subprocess.Popen(
        [Path(sys.executable).parent / command[0], *command[1:]], stdout=subprocess.DEVNULL
    )
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, command
    wall_s, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"| {what} | {n:,} | {wall_s:.1f} | {cpu_s:.1f} | {used.ru_maxrss / 1024:,.0f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=1_000_000)
    n = parser.parse_args().n
    print("| | rollouts | s | CPU s | peak MB |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        stored, again = write_rollouts(Path(name) / "r.jsonl", n), Path(name) / "again.jsonl"
        rescore = ["ng_rescore", f"+rollouts={stored}", f"+output_jsonl_fpath={again}"]
        measured("rescored by `last_number`", n, [*rescore, "+reward_fn=last_number"])
        measured("the same command again", n, [*rescore, "+reward_fn=last_number"])
        compare = ["ng_compare", f"+rollouts=[{stored},{again}]", f"+output_dir={name}/comparison"]
        measured("compared, one file without an index", 2 * n, compare)
        measured("compared, by a field of the tasks", 2 * n, [*compare, "+by=level"])


if __name__ == "__main__":
    main()
