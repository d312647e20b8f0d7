"""The environment as a package for verifiers: the same tasks and verdicts. And the files for prime-rl."""

from __future__ import annotations

import tomllib
from pathlib import Path
from random import Random
from types import ModuleType

import pytest

from nemo_like.registry import load_file

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "environments/word_count"


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(PACKAGE)
    import word_count.tasks  # pyright: ignore[reportMissingImports]  # a package of its own

    return word_count.tasks


def test_its_tasks_are_those_of_the_environment(tasks: ModuleType) -> None:
    made = load_file(ROOT / "resources_servers/word_count/make_data.py").tasks(Random(5))
    for task in tasks.tasks(10, 5, worked_examples=True):
        row = next(made)
        assert task["messages"] == row["responses_create_params"]["input"]
        assert (task["answer"], task["info"]) == (row["answer"], row["info"])
    [alone] = tasks.tasks(1, 5, worked_examples=False)
    assert [message["role"] for message in alone["messages"]] == ["user"]


@pytest.mark.parametrize(
    ("reply", "reward"),
    [("<word_count>4</word_count>", 1.3), ("It is 4.", 1.1), ("<word_count>2</word_count>", 0.25), ("", 0.0)],
)
def test_its_weighted_parts_are_the_reward(tasks: ModuleType, reply: str, reward: float) -> None:
    verdict = tasks.score("4", reply)
    assert verdict["reward"] == pytest.approx(reward)
    assert sum(weight * verdict[name] for name, weight in tasks.WEIGHTS.items()) == pytest.approx(reward)


@pytest.mark.parametrize("name", ["train_with_rollouts", "prime_rl_sft", "prime_rl_rl"])
def test_a_configuration_of_prime_rl_is_toml_and_names_what_is_here(name: str) -> None:
    config = tomllib.loads((ROOT / f"configs/{name}.toml").read_text())
    assert config["model"]["name"]
    if name == "prime_rl_sft":
        # What its own comment makes is what it reads.
        text = (ROOT / f"configs/{name}.toml").read_text()
        assert f"+container=parquet +output={config['data']['name']}\n" in text
    if name == "train_with_rollouts":
        assert config["environment"]["env_id"] == "word-count"
        assert config["data"]["rollout_dir"] == "./rollout_generation/rollouts_custom"
    if name == "prime_rl_rl":
        [source] = config["orchestrator"]["train"]["source"]
        assert source["env"]["taskset"]["id"] == "nemo_gym"
