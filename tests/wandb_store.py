"""What Weights & Biases kept without a network: protobufs in a log of LevelDB's, behind seven bytes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

BLOCK, HEADER = 32_768, 7
WHOLE, LAST = 1, 4


def logged(path: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Each row that was logged into a `.wandb` file, and the summary; of runs in this process too."""
    import wandb
    from wandb.proto import wandb_internal_pb2

    # Its service writes the file, and is done with that when it ends.
    wandb.teardown()
    rows: list[dict[str, Any]] = []
    summary: dict[str, Any] = {}
    for data in records(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.history.item:
            rows.append(values(record.history.item))
        summary |= values(record.summary.update)
    return rows, summary


def values(items: Any) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): orjson.loads(item.value_json) for item in items}


def records(log: bytes) -> Iterator[bytes]:
    """The records of a log, each of which may lie in several blocks."""
    assert log.startswith(b":W&B")
    at, record = HEADER, b""
    while at + HEADER <= len(log):
        if BLOCK - at % BLOCK < HEADER:
            at += BLOCK - at % BLOCK
            continue
        size, kind = int.from_bytes(log[at + 4 : at + 6], "little"), log[at + 6]
        record += log[at + HEADER : at + HEADER + size]
        at += HEADER + size
        if kind in (WHOLE, LAST):
            yield record
            record = b""
