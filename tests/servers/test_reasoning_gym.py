"""reasoning-gym's puzzles as rows: what they earn, and that they are the same everywhere."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import subprocess
import sys

import orjson
import pytest

from nemo_like.asgi import call_app
from nemo_like.rewards.reasoning_gym import EXCLUDED
from nemo_like.types import Json

from .environment import Environment

GYM = Environment("reasoning_gym")


@pytest.mark.parametrize("row", GYM.rows)
def test_the_puzzle_s_own_answer_earns_the_reward_and_no_hack_does(row: Json) -> None:
    right, prompt = row["answer"], row["responses_create_params"]["input"][0]["content"]
    record = GYM.rollout(row, f"Let me think.\n<answer>{right}</answer>")
    name = row["reasoning_gym_metadata"]["source_dataset"]
    assert (record["reward"], record["score"], record["task_name"]) == (1.0, 1.0, name)
    assert record["extracted_answer"] == right.strip()
    for hack in (
        *("", "I don't know", prompt, "<answer></answer>", f"<answer>{right}</answer><answer>?</answer>"),
        *(f"<answer>{right}\nor 999</answer>", f"<answer>{right}", "<answer>" * 1000),
    ):
        assert GYM.rollout(row, hack)["reward"] < 1.0
    assert GYM.rollout(row, "")["reward"] == GYM.rollout(row, prompt)["reward"] == 0.0


def test_a_row_of_an_excluded_data_set_is_refused_with_the_reason() -> None:
    row = GYM.rows[0] | {"reasoning_gym_metadata": {"source_dataset": "sokoban"}}
    body = orjson.dumps(row | {"response": {"output": []}})
    status, answer = asyncio.run(call_app(GYM.apps([])["reasoning_gym"], "/verify", body, {}))
    assert status == 400
    assert EXCLUDED["sokoban"] in answer.decode()


def test_the_example_is_what_the_generator_makes() -> None:
    assert GYM.generated(5) == GYM.rows
    assert GYM.generated(5, seed=1) != GYM.rows


def test_every_row_can_be_scored_and_is_solved_by_its_answer() -> None:
    rows = GYM.generated(40)
    names = {row["reasoning_gym_metadata"]["source_dataset"] for row in rows}
    assert len(names) > 15 and not names & EXCLUDED.keys()
    for row in rows:
        assert GYM.rollout(row, f"<answer>{row['answer']}</answer>")["reward"] == 1.0


@pytest.mark.slow
def test_the_rows_do_not_depend_on_how_a_process_hashes() -> None:
    code = (
        "import json, random, sys; from pathlib import Path; from itertools import islice;"
        f"from nemo_like.registry import load_file; file = Path({str(GYM.folder / 'make_data.py')!r});"
        "sys.stdout.write(json.dumps(list(islice(load_file(file).tasks(random.Random(0)), 400))))"
    )
    made = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert hashlib.sha256(made[0]).digest() == hashlib.sha256(made[1]).digest()
    assert len({row["reasoning_gym_metadata"]["source_dataset"] for row in json.loads(made[0])}) == 41
