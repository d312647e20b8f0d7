"""The command that tells trackers of experiments about rollouts."""

from __future__ import annotations

from collections.abc import Sequence

from nemo_like.command import command
from nemo_like.track.tracker import TrackConfig


def track() -> int:
    """Tell a tracker of experiments about a rollouts file: curves, the metrics, a few whole rollouts.

        ng_track +rollouts=results/a.jsonl +to=tensorboard
        ng_track +rollouts=results/a.jsonl +to=wandb +follow=true &

    With `follow=true` it goes on as the file grows, until the collector is done, or until Ctrl-C.
    """
    from nemo_like.config import load
    from nemo_like.errors import MissingExtra
    from nemo_like.track.track import track as tell

    async def main(arguments: Sequence[str]) -> int:
        wanted: TrackConfig = load(arguments, TrackConfig).settings(TrackConfig)
        try:
            print(await tell(wanted))
        except MissingExtra as error:
            raise MissingExtra(
                f"{error}".split(":")[0] + f": pip install 'nemo-like[{wanted.to}]'"
            ) from error
        return 0

    return command("ng_track", track, [TrackConfig], main)
