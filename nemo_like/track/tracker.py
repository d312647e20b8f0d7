"""What a tracker is: numbers by step, a table of rollouts, and the numbers at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import Field

from nemo_like.registry import Registry
from nemo_like.settings import Settings
from nemo_like.types import Json


class TrackConfig(Settings):
    """What `ng_track` does."""

    rollouts: Path
    """JSONL of rollouts: collected, rescored or generated."""
    to: Literal["wandb", "mlflow", "tensorboard"]
    """The tracker."""
    folder: Path = Path("tracking")
    """Where its files go; each tracker has a folder of its own in it."""
    project: str = "nemo-like"
    """Project of wandb, experiment of MLflow."""
    name: str | None = None
    """Name of the run; null is the name of the rollouts file."""
    online: bool = False
    """Whether to send it to the server that the tracker's own environment variables name."""
    follow: bool = False
    """Whether to go on as the file grows, until nobody writes it and it rests, or until Ctrl-C."""
    idle_s: float = Field(10.0, ge=0)
    """Seconds without a new rollout after which a file that nobody writes is done."""
    every: int = Field(100, ge=1)
    """Rollouts between two points of a curve."""
    samples: int = Field(20, ge=0)
    """Whole rollouts to show, drawn with the seed."""
    seed: int = 0
    """What the samples are drawn from."""


class Tracker(Protocol):
    """A run of a tracker that is open."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """A point of each curve; a step is so many rollouts."""
        ...

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """A few rollouts."""
        ...

    def close(self, values: Mapping[str, float]) -> str:
        """End the run with its numbers; where it is."""
        ...


class OpenTracker(Protocol):
    """What opens a run: `about` is what made the rollouts, without secrets."""

    def __call__(self, config: TrackConfig, name: str, about: Json) -> Tracker: ...


TRACKERS: Registry[OpenTracker] = Registry("tracker")
