"""TensorBoard: event files in `folder/tensorboard/NAME`, for `tensorboard --logdir`."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from tensorboard.compat.proto import (  # pyright: ignore[reportMissingTypeStubs]
    event_pb2,
    summary_pb2,
    tensor_pb2,
    types_pb2,
)
from tensorboard.plugins.text import metadata  # pyright: ignore[reportMissingTypeStubs]
from tensorboard.summary.writer.event_file_writer import (  # pyright: ignore[reportMissingTypeStubs]
    EventFileWriter,
)

from nemo_like.track.tracker import TRACKERS, TrackConfig
from nemo_like.types import Json

# protobuf's classes are made at run time.
event: Any = event_pb2
summary: Any = summary_pb2
tensor: Any = tensor_pb2
types: Any = types_pb2
texts: Any = metadata


@TRACKERS.register("tensorboard")
class TensorBoard:
    """A run of TensorBoard."""

    def __init__(self, config: TrackConfig, name: str, about: Json) -> None:
        self._folder = config.folder / "tensorboard" / name
        self._writer: Any = EventFileWriter(f"{self._folder}")
        self._step = 0
        self._text("made by", _table(("setting", "value"), list(about.items())))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """A point of each curve."""
        self._step = step
        self._add([summary.Summary.Value(tag=name, simple_value=value) for name, value in values.items()])

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """A few rollouts, as a table under Text."""
        self._text("rollouts", _table(columns, rows))

    def close(self, values: Mapping[str, float]) -> str:
        """The numbers as scalars of the last step, under final/."""
        self.log(self._step, {f"final/{name}": value for name, value in values.items()})
        self._writer.close()
        return f"{self._folder}"

    def _text(self, tag: str, text: str) -> None:
        about = texts.create_summary_metadata(display_name=tag, description="")
        value = tensor.TensorProto(dtype=types.DT_STRING, string_val=[text.encode()])
        self._add([summary.Summary.Value(tag=tag, tensor=value, metadata=about)])

    def _add(self, values: Sequence[Any]) -> None:
        said = summary.Summary(value=values)
        self._writer.add_event(event.Event(wall_time=time.time(), step=self._step, summary=said))


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table in Markdown."""

    def line(cells: Sequence[Any]) -> str:
        return "| " + " | ".join(f"{c}".replace("|", "\\|").replace("\n", "<br>") for c in cells) + " |"

    return "\n".join((line(columns), "|---" * len(columns) + "|", *map(line, rows)))
