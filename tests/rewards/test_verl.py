"""verl's entry point: the arguments that people pass, and what they do with the answer."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nemo_like.errors import PartError, UsageError
from nemo_like.rewards import rewards
from nemo_like.rewards.scoring import Scorer
from nemo_like.rewards.verl import default_compute_score
from nemo_like.types import Json, Response

PROGRAM = "```python\nprint(int(input()) * 2)\n```"
TESTS: Json = {"inputs": ["1\n", "2\n"], "outputs": ["2\n", "5\n"]}
SCRIPT = """
from nemo_like.rewards.verl import default_compute_score
names = ("original_data_source", "response", "original_ground_truth")
rows = [dict(zip(names, ("openai/gsm8k", "#### 72", "72"))),
        dict(zip(names, ("numina_olympiads", r"\\boxed{1/2}", "0.5")))]
rewards = []
for row in rows:
    reward = default_compute_score(
        data_source=row["original_data_source"],
        solution=row["response"],
        ground_truth=row["original_ground_truth"],
    )
    rewards.append(reward["score"])
print(rewards)
"""


@pytest.mark.parametrize(
    ("data_source", "solution", "truth", "score"),
    [
        ("openai/gsm8k", "so #### 72", "72", 1.0),
        ("openai/gsm8k", "so 72", "72", 0.0),
        ("HuggingFaceH4/MATH-500", r"\boxed{\frac12}", "0.5", 1.0),
        ("math_dapo", "Answer: 34", "34", 1.0),
        ("math_dapo", "Answer: 35", "34", -1.0),
        ("aime2024", "Answer: 34", "34", 1.0),
        ("searchR1_nq", "<answer>the Paris</answer>", {"target": ["Paris"]}, 1.0),
        ("codecontests", PROGRAM, TESTS, 0.5),
    ],
)
def test_each_data_set_has_its_rule(data_source: str, solution: str, truth: Any, score: float) -> None:
    assert default_compute_score(data_source, solution, truth) == score
    assert (
        default_compute_score(data_source=data_source, solution=solution, ground_truth=truth)["score"]
        == score
    )


def test_what_else_a_rule_says_can_be_asked_for() -> None:
    score = default_compute_score("math_dapo", "Answer: 35", "34", {"index": 1}, sandbox_fusion_url=None)
    assert (score["acc"], score.get("pred"), score.get("nothing")) == (False, "35", None)
    assert score + 1 == 0.0


def test_an_unknown_data_set_or_no_answer_is_refused() -> None:
    with pytest.raises(UsageError, match=r"no scoring rule for data_source 'openai/gsm8'; did you mean"):
        default_compute_score("openai/gsm8", "1", "1")
    with pytest.raises(UsageError, match="needs solution_str"):
        default_compute_score("openai/gsm8k", ground_truth="1")


def test_a_rule_that_takes_too_long_is_no_zero() -> None:
    endless = "```python\nwhile True: pass\n```"
    with pytest.raises(PartError, match=r"took longer than 0\.5 s"):
        default_compute_score("taco", endless, TESTS, timeout_s=0.5)


def test_a_plain_script_without_a_main_guard_can_score(tmp_path: Path) -> None:
    (tmp_path / "score.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "score.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("[1.0, 1.0]\n", "")


@pytest.mark.parametrize(("source", "text"), [("math_dapo", "Answer: 34"), ("taco", PROGRAM)])
def test_it_is_a_reward_for_rows_of_verls_training_data(source: str, text: str) -> None:
    truth: Any = TESTS if source == "taco" else "34"
    row = {"responses_create_params": {}, "data_source": source, "reward_model": {"ground_truth": truth}}
    response = Response(output=[{"type": "message", "role": "assistant", "content": text}])

    async def main() -> Json:
        return await Scorer(timeout_s=30)(rewards.get("verl"), row, response)

    assert asyncio.run(main())["reward"] == (0.5 if source == "taco" else 1.0)
