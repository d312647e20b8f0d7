"""Rollouts in a tracker of experiments: a reader of the rollouts file, or of its live tail.

    ng_track +rollouts=results/a.jsonl +to=tensorboard

track        what is read and told: means as they come in, the metrics at the end, a few whole rollouts
tracker      what a tracker is, and the registry of them
wandb mlflow tensorboard   the trackers, each in a module of its name
"""

from nemo_like.track.tracker import TRACKERS

TRACKERS.found_in({name: f"{__name__}.{name}" for name in ("wandb", "mlflow", "tensorboard")})
