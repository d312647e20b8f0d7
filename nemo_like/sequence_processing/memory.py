"""How much a batch may hold, from the memory that is free and what a token takes of it: an estimate.

Where it is too high, batches are halved as always; what comes out does not depend on them.
"""

# torch's own types are partial.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from nemo_like.sequence_processing.batches import Limits

SHARE = 0.5
"""Of the free memory; the rest is for what the estimate leaves out, and for whoever else wants some."""
CGROUP = Path("/sys/fs/cgroup")
Use = Literal["generation", "scores", "gradients"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """What decides how much memory a token takes in a transformer."""

    layers: int
    hidden: int
    inner: int
    """Width of the feed-forward layers."""
    keys_and_values: int
    """Numbers of a layer's cache for one token."""
    vocabulary: int
    itemsize: int
    """Bytes of a number."""

    @classmethod
    def of(cls, config: Any, vocabulary: int, itemsize: int) -> Shape | None:
        """The shape that a model's configuration tells; None where it doesn't."""
        layers, hidden, heads = (
            getattr(config, name, None)
            for name in ("num_hidden_layers", "hidden_size", "num_attention_heads")
        )
        if not (layers and hidden and heads):
            return None
        width = getattr(config, "head_dim", None) or hidden // heads
        return cls(
            layers=layers,
            hidden=hidden,
            inner=getattr(config, "intermediate_size", None) or 4 * hidden,
            keys_and_values=2 * width * (getattr(config, "num_key_value_heads", None) or heads),
            vocabulary=vocabulary,
            itemsize=itemsize,
        )

    def bytes_a_token(self, use: Use) -> int:
        """What a token takes beyond the model itself."""
        layer = 12 * self.hidden + 4 * self.inner
        numbers = {
            "scores": layer,
            "gradients": layer * (self.layers + 1),
            # Twice, as a layer's cache is copied to grow.
            "generation": layer + 2 * self.layers * self.keys_and_values,
        }[use]
        return numbers * self.itemsize

    def bytes_a_row(self) -> int:
        """What a row takes besides, while a token is drawn: its logits, and what they become in float32."""
        return self.vocabulary * (self.itemsize + 8)


def limits_that_fit(shape: Shape, use: Use, free: int) -> Limits:
    """The batch that `free` bytes have room for; one row of one token at least."""
    room = int(free * SHARE)
    rows = room // 4 // shape.bytes_a_row() if use == "generation" else room
    return Limits(rows=max(1, rows), tokens=max(1, room // shape.bytes_a_token(use)))


def free_bytes(device: torch.device) -> int | None:
    """Memory that `device` has left for this process; None where it can't be told."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0] + unused)
    if device.type != "cpu":
        return None
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None
    return min(free, _left_to_the_container() or free)


def _left_to_the_container() -> int | None:
    try:
        return int((CGROUP / "memory.max").read_text()) - int((CGROUP / "memory.current").read_text())
    except (OSError, ValueError):  # there is none, or its limit is "max"
        return None
