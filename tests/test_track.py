"""Rollouts in trackers of experiments, read back from what the trackers keep."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from nemo_like.errors import UsageError
from nemo_like.track.track import track
from nemo_like.track.tracker import TrackConfig

from .conftest import Project, write_jsonl
from .exporting import mixed_rows, rollout
from .wandb_store import logged

SECRET = "s3cret-key"


def rollouts(folder: Path) -> Path:
    run = {"fingerprint": {"agent.model": "a-model", "model.api_key": SECRET}, "config": {"key": SECRET}}
    (folder / "a_run.json").write_text(json.dumps(run))
    return write_jsonl(folder / "a.jsonl", mixed_rows())


def config(folder: Path, to: str, **more: Any) -> TrackConfig:
    values = {
        "rollouts": rollouts(folder),
        "to": to,
        "folder": folder / "tracking",
        "every": 10,
        "samples": 5,
    }
    return TrackConfig.from_mapping(values | more, where="the test")


def no_secret_in(folder: Path) -> bool:
    return not any(SECRET.encode() in path.read_bytes() for path in folder.rglob("*") if path.is_file())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_tensorboard_has_curves_samples_and_the_metrics(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    where = asyncio.run(track(config(tmp_path, "tensorboard")))
    events = EventAccumulator(where)
    events.Reload()
    curve = [(point.step, round(point.value, 4)) for point in events.Scalars("avg_reward")]
    rewards = [row["reward"] for row in mixed_rows()]
    assert curve == [(n, round(sum(rewards[:n]) / n, 4)) for n in (10, 20, 30, 40)]
    assert events.Scalars("final/metrics/pass@4/value")[0].value == 1.0
    table = events.Tensors(
        "rollouts/text_summary" if "rollouts/text_summary" in events.Tags()["tensors"] else "rollouts"
    )
    assert table[0].tensor_proto.string_val[0].decode().count("\n") == 6
    assert no_secret_in(tmp_path / "tracking")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_mlflow_has_curves_samples_and_the_metrics(tmp_path: Path) -> None:
    asyncio.run(track(config(tmp_path, "mlflow", name="first")))
    folder = tmp_path / "tracking" / "mlflow"
    with sqlite3.connect(folder / "mlflow.db") as db:
        curve = db.execute(
            "SELECT step, value FROM metrics WHERE key = 'avg_reward' ORDER BY step"
        ).fetchall()
        names = {name for (name,) in db.execute("SELECT key FROM metrics")}
        params = dict(db.execute("SELECT key, value FROM params").fetchall())
        runs = db.execute("SELECT name, status FROM runs").fetchall()
    db.close()
    assert [step for step, _ in curve] == [10, 20, 30, 40] and curve[-1][1] == 0.35
    assert "final/metrics/pass_at_1/value" in names
    assert params == {"rollouts": "a.jsonl", "agent.model": "a-model", "model.api_key": "***"}
    assert runs == [("first", "FINISHED")]
    table = json.loads(next(folder.rglob("rollouts.json")).read_text())
    assert table["columns"][0] == "task" and len(table["data"]) == 5
    assert no_secret_in(tmp_path / "tracking")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_mlflow_is_told_of_every_setting(tmp_path: Path) -> None:
    from nemo_like.track.mlflow import Mlflow

    about = {f"setting {i}": i for i in range(250)}
    Mlflow(config(tmp_path, "mlflow"), "first", about).close({})
    with sqlite3.connect(tmp_path / "tracking/mlflow/mlflow.db") as db:
        assert db.execute("SELECT COUNT(*) FROM params").fetchone() == (250,)
    db.close()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_rows_of_odd_shape_and_without_an_agent_are_tracked_as_far_as_they_go(tmp_path: Path) -> None:
    made = config(tmp_path, "mlflow", samples=100)
    odd = [
        rollout("a", agent_ref=None),
        rollout("b") | {"responses_create_params": []},
        rollout("c") | {"responses_create_params": [], "_ng_task_key": None},
        rollout("d", params={"input": [{"role": "user", "content": [{"type": "input_text", "text": "Hi"}]}]}),
        rollout("e") | {"output": 7, "response": {"output": [7]}},
    ]
    with (tmp_path / "a.jsonl").open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in odd)
    asyncio.run(track(made))
    with sqlite3.connect(tmp_path / "tracking/mlflow/mlflow.db") as db:
        finals = {name for (name,) in db.execute("SELECT key FROM metrics WHERE key LIKE 'final/%'")}
    db.close()
    assert {name.split("/")[1] for name in finals} == {"math_agent", "no agent"}
    [file] = (tmp_path / "tracking").rglob("rollouts.json")
    cells = {row[0]: row[-2:] for row in json.loads(file.read_text())["data"]}
    assert cells["b"] == ["", "4"] and cells["d"] == ["Hi", "4"] and cells["e"] == ["What is e?", ""]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_wandb_keeps_an_offline_run(tmp_path: Path) -> None:
    where = asyncio.run(track(config(tmp_path, "wandb")))
    rows, summary = logged(next(Path(where).glob("run-*.wandb")))
    points = [(row["_step"], row["avg_reward"]) for row in rows if "avg_reward" in row]
    assert [step for step, _ in points] == [10, 20, 30, 40] and points[-1][1] == 0.35
    assert any("pass@1" in name for name in summary)
    assert len(list(Path(where).rglob("rollouts*.table.json"))) == 1
    assert no_secret_in(tmp_path / "tracking")


@pytest.mark.slow
def test_a_file_that_grows_is_followed_to_its_end(project: Project) -> None:
    tasks = [
        {"expected_answer": "4", "responses_create_params": {"input": f"What is {n}?"}} for n in range(30)
    ]
    write_jsonl(project.path / "tasks.jsonl", tasks)
    settings = ("+to=tensorboard", "+follow=true", "+every=5", "+idle_s=1")
    with project.start("ng_track", "+rollouts=r.jsonl", *settings) as tracker:
        collected = project.run(
            "ng_collect_rollouts",
            *(
                "model=scripted",
                "env=arithmetic",
                "+input_jsonl_fpath=tasks.jsonl",
                "+output_jsonl_fpath=r.jsonl",
            ),
        )
        assert collected.returncode == 0, collected.stderr
        out, err = tracker.communicate(timeout=60)
    assert tracker.returncode == 0, err
    assert (project.path / out.strip()).is_dir()
    assert b"final/num_rollouts" in next((project.path / out.strip()).iterdir()).read_bytes()


def test_what_cannot_be_tracked_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no file"):
        asyncio.run(track(TrackConfig(rollouts=tmp_path / "no.jsonl", to="tensorboard")))
    with pytest.raises(UsageError, match=r"should name a \.jsonl"):
        asyncio.run(track(TrackConfig(rollouts=tmp_path / "no.parquet", to="tensorboard")))
