"""MLflow: a local store (SQLite), or with `online=true` the server that MLFLOW_TRACKING_URI names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import mlflow
import orjson
from mlflow.entities import Metric, Param
from mlflow.tracking import MlflowClient

from nemo_like.track.tracker import TRACKERS, TrackConfig
from nemo_like.types import Json

PARAM_CHARACTERS = 500
BATCH = 500
"""Metrics that a server takes at once, less than its limit of 1,000."""
PARAMS = 100
"""Parameters that a server takes at once."""


@TRACKERS.register("mlflow")
class Mlflow:
    """A run of MLflow."""

    def __init__(self, config: TrackConfig, name: str, about: Json) -> None:
        folder = (config.folder / "mlflow").absolute()
        folder.mkdir(parents=True, exist_ok=True)
        uri = mlflow.get_tracking_uri() if config.online else f"sqlite:///{folder}/mlflow.db"
        self._where = uri
        self._client: Any = MlflowClient(uri)
        experiment = self._client.get_experiment_by_name(config.project)
        number = experiment.experiment_id if experiment else None
        if number is None:
            artifacts = None if config.online else (folder / "artifacts").as_uri()
            number = self._client.create_experiment(config.project, artifact_location=artifacts)
        self._run: str = self._client.create_run(number, run_name=name).info.run_id
        params = [Param(_named(key), f"{value}"[:PARAM_CHARACTERS]) for key, value in about.items()]
        for start in range(0, len(params), PARAMS):
            self._client.log_batch(self._run, params=params[start : start + PARAMS])

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """A point of each curve."""
        metrics = [Metric(_named(name), value, 0, step) for name, value in values.items()]
        for start in range(0, len(metrics), BATCH):
            self._client.log_batch(self._run, metrics=metrics[start : start + BATCH])

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """A few rollouts, as the artifact rollouts.json, in the form of MLflow's tables."""
        table = orjson.dumps({"columns": list(columns), "data": [list(row) for row in rows]})
        self._client.log_text(self._run, table.decode(), "rollouts.json")

    def close(self, values: Mapping[str, float]) -> str:
        """The numbers as metrics of their own."""
        self.log(0, {f"final/{name}": value for name, value in values.items()})
        self._client.set_terminated(self._run)
        return f"{self._where}, run {self._run}"


def _named(name: str) -> str:
    """A name in letters that MLflow takes."""
    said = name.replace("@", "_at_").replace("^", "_hat_")
    return "".join(c if c.isalnum() or c in "_-. :/" else "_" for c in said)
