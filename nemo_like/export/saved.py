"""A data set as Hugging Face's `save_to_disk` writes it, for `datasets.load_from_disk`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets as hugging_face  # pyright: ignore[reportMissingTypeStubs]  # it has none

from nemo_like.export.containers import batches, schema_of
from nemo_like.export.format import Spec
from nemo_like.table import pa

datasets: Any = hugging_face


def save_to_disk(splits: Mapping[str, Path], folder: Path, columns: Mapping[str, Spec]) -> None:
    """Write the rows in these JSONL files as a data set, or as one of several splits, into `folder`.

    The rows go through a file of Arrow's, which is mapped, so memory does not grow with them.
    """
    schema = schema_of(columns)
    tables: dict[str, Any] = {}
    for split, lines in splits.items():
        arrow = lines.with_suffix(".arrow")
        with pa.OSFile(f"{arrow}", "wb") as file, pa.ipc.new_stream(file, schema) as stream:
            for batch in batches(lines, schema):
                stream.write_batch(batch)
        tables[split] = datasets.Dataset.from_file(f"{arrow}")
    whole = tables["train"] if len(tables) == 1 else datasets.DatasetDict(tables)
    shown = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        whole.save_to_disk(f"{folder}")
    finally:
        if shown:
            datasets.enable_progress_bars()
