"""Columns: every number of many rollouts, kept so that moments and percentiles are exact in little memory.

The one trick: a field's numbers are put aside as sorted runs in a temporary file, and a quantile is found by
bisecting all runs at once.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import repeat
from mmap import ACCESS_READ, mmap
from tempfile import SpooledTemporaryFile

from nemo_like.estimates import Moments

LARGEST = 1e120
"""Larger numbers are dropped: their squares would not add up."""
RUN = 16_384
"""Numbers of a field that are sorted and put aside together."""
CLOCKS = ("metadata/started_at", "metadata/finished_at")
"""Unix seconds, of which only the first and the last say something."""


class Columns:
    """Every field's numbers: moments, and sorted runs, which are spilled, but for the last of each field."""

    def __init__(self, spill: SpooledTemporaryFile[bytes]) -> None:
        self.rollouts = 0
        self.moments: defaultdict[str, Moments] = defaultdict(Moments)
        self._buffers: defaultdict[str, array[float]] = defaultdict(lambda: array("d"))
        self._last: dict[str, array[float]] = {}
        self._spans: defaultdict[str, list[slice]] = defaultdict(list)
        self._spilled = 0
        self._spill = spill

    def add(self, numbers: Mapping[str, float | None]) -> None:
        self.rollouts += 1
        buffers = self._buffers
        for path, value in numbers.items():
            if value is not None and -LARGEST <= value <= LARGEST:
                buffers[path].append(value)
        if self.rollouts % RUN == 0:
            for path in [path for path, buffer in buffers.items() if len(buffer) >= RUN]:
                run = self._close(path)
                self._spill.write(run)
                self._spans[path].append(slice(self._spilled, self._spilled + len(run)))
                self._spilled += len(run)

    def finish(self) -> None:
        """To be called before the numbers are asked for, and after the last was added."""
        self._last = {path: self._close(path) for path in list(self._buffers)}
        self._spill.flush()

    def describe(self) -> dict[str, float | None]:
        """`mean/ max/ min/ median/ std/` of every field, the reward first, then the verifier's own."""
        table: dict[str, float | None] = {}
        for path in sorted(self.moments, key=lambda path: (path != "reward", "/" in path, path)):
            if path not in CLOCKS:
                field = self.moments[path]
                table |= {f"mean/{path}": field.mean, f"max/{path}": field.high, f"min/{path}": field.low}
                table |= {f"median/{path}": self.quantile(path, 0.5), f"std/{path}": field.std}
        return table

    def quantile(self, path: str, q: float) -> float | None:
        """The exact quantile, linear between neighbours; None where the field has no numbers."""
        if path not in self.moments:
            return None
        runs: list[Sequence[float]] = [self._last[path]] if path in self._last else []
        if spans := self._spans[path]:
            # Mapped, not read: a bisection touches a few pages of each run. The views keep the mapping alive.
            view = memoryview(mmap(self._spill.fileno(), 0, access=ACCESS_READ)).cast("d")
            runs += [view[span] for span in spans]
        place = q * (self.moments[path].n - 1)
        below = _ranked(runs, math.floor(place))
        return below + (_ranked(runs, math.ceil(place)) - below) * (place % 1)

    def _close(self, path: str) -> array[float]:
        values, field = sorted(self._buffers.pop(path)), self.moments[path]
        field.merge(values)
        field.low, field.high = min(field.low, values[0]), max(field.high, values[-1])
        return array("d", values)


def _ranked(runs: Sequence[Sequence[float]], rank: int) -> float:
    """The number of `rank` (from 0) in the union of sorted runs: quickselect with a window in each run."""
    low, high = [0] * len(runs), [len(run) for run in runs]
    while True:
        widest = max(range(len(runs)), key=lambda i: high[i] - low[i])
        pivot = runs[widest][(low[widest] + high[widest]) // 2]
        less = list(map(bisect_left, runs, repeat(pivot), low, high))
        up_to = list(map(bisect_right, runs, repeat(pivot), low, high))
        if rank < sum(less):
            high = less
        elif rank >= sum(up_to):
            low = up_to
        else:
            return pivot
