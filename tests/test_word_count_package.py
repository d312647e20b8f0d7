"""The environment as a package for verifiers: the same tasks and verdicts. And the files for prime-rl."""

from __future__ import annotations

import shlex
import subprocess
import tomllib
from pathlib import Path
from random import Random
from types import ModuleType

import datasets
import pytest
import yaml

from nemo_like.registry import load_file

from .conftest import BIN, Json, Project, write_jsonl
from .exporting import rollout

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
    if name == "train_with_rollouts":
        assert config["environment"]["env_id"] == "word-count"
        assert config["data"]["rollout_dir"] == "./rollout_generation/rollouts_custom"
    if name == "prime_rl_rl":
        [source] = config["orchestrator"]["train"]["source"]
        assert source["env"]["taskset"]["id"] == "nemo_gym"


def test_the_file_for_supervised_training_reads_what_its_comment_makes(project: Project) -> None:
    text = (ROOT / "configs/prime_rl_sft.toml").read_text()
    _, _, typed = text.splitlines()[1].partition("The data: ")
    (project.path / "results").mkdir()
    rows = [rollout(f"t{reward}", reward=reward) for reward in (0.2, 1.1, 1.3)]
    write_jsonl(project.path / "results/word_count.jsonl", rows)
    done = project.run(*shlex.split(typed))
    assert done.returncode == 0, done.stderr
    folder = project.path / tomllib.loads(text)["data"]["name"]
    loaded = datasets.load_dataset(str(folder), split="train", cache_dir=str(project.path / "cache"))
    assert loaded["reward"][:] == [1.1, 1.3]
    assert loaded[0]["messages"][-1] == {"role": "assistant", "content": "4"}


@pytest.mark.parametrize("name", ["litellm_config", "embedded", "mock"])
def test_a_configuration_of_litellm_serves_the_model_that_the_script_asks_for(name: str) -> None:
    config = yaml.safe_load((ROOT / f"litellm/{name}.yaml").read_text())
    served = [entry["model_name"] for entry in config["model_list"]]
    assert load_file(ROOT / "rollout_generation/generate_rollouts.py").MODEL in served


def generated(sample: int, **fields: object) -> Json:
    asked = {"prompt": "How many?", "data_idx": 0, "sample_idx": sample}
    return asked | {"response": "<word_count>2</word_count>"} | fields


WHOLE = rollout("whole")


@pytest.mark.parametrize(
    ("rows", "more", "said"),
    [
        ([generated(0, reward=1.3), generated(1, reward=0.2)], "", "✅ 2 rollouts salvos em: rollouts/"),
        ([WHOLE, rollout("t", reward=None)], "", "✅ 2 rollouts salvos em: rollouts/\n⚠️  sem reward: 1"),
        ([WHOLE, {"failure": {"kind": "timeout"}}], "", "⚠️  fora do dataset: 1 (failed)"),
        ([WHOLE], '{"torn', "⚠️  fora do dataset: 1 (no JSON)"),
    ],
)
def test_the_script_saves_a_file_of_any_kind(tmp_path: Path, rows: list[Json], more: str, said: str) -> None:
    file = write_jsonl(tmp_path / "given.jsonl", rows)
    file.write_text(file.read_text() + more)
    script = ROOT / "rollout_generation/generate_rollouts.py"
    done = subprocess.run(
        [BIN / "python", script, "custom", file],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert said in done.stdout + done.stderr
    assert f"✅ {len(datasets.load_from_disk(tmp_path / 'rollouts'))} rollouts" in done.stdout
