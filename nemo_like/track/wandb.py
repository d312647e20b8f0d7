"""Weights & Biases: offline, unless `online=true`; `wandb sync` sends an offline run later.

Nothing of this machine goes along: no command line, no code, no console, no system metrics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import wandb

from nemo_like.track.tracker import TRACKERS, TrackConfig
from nemo_like.types import Json


@TRACKERS.register("wandb")
class Wandb:
    """A run of Weights & Biases."""

    def __init__(self, config: TrackConfig, name: str, about: Json) -> None:
        config.folder.mkdir(parents=True, exist_ok=True)
        quiet = wandb.Settings(
            console="off",
            silent=True,
            disable_git=True,
            disable_code=True,
            save_code=False,
            x_disable_meta=True,
            x_disable_stats=True,
            x_disable_machine_info=True,
        )
        self._run: Any = wandb.init(
            project=config.project,
            name=name,
            dir=f"{config.folder}",
            mode="online" if config.online else "offline",
            config=about,
            settings=quiet,
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """A point of each curve."""
        self._run.log(dict(values), step=step)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """A few rollouts, as a `wandb.Table` named rollouts."""
        self._run.log({"rollouts": wandb.Table(columns=list(columns), data=[list(row) for row in rows])})

    def close(self, values: Mapping[str, float]) -> str:
        """The numbers as the run's summary."""
        self._run.summary.update(dict(values))
        folder = str(self._run.settings.sync_dir)
        self._run.finish()
        # Waits for the process that writes the file: `finish` alone may return before the last of it.
        wandb.teardown()
        return folder
