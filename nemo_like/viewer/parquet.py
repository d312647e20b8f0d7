"""A parquet file as the JSONL that everything here reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from nemo_like.errors import MissingExtra, UsageError


def as_jsonl(path: Path, folder: Path) -> Path:
    """`path` itself, or, where it is parquet, its rows as JSONL in `folder`.

    Raises:
        UsageError: it is not a parquet file.
        MissingExtra: pyarrow is not installed.
    """
    if path.suffix != ".parquet":
        return path
    try:
        import pyarrow  # pyright: ignore[reportMissingTypeStubs]  # it has none; only a parquet file needs it
        import pyarrow.parquet  # pyright: ignore[reportMissingTypeStubs, reportUnusedImport]  # found in it
    except ModuleNotFoundError as error:
        raise MissingExtra("parquet files need pyarrow: pip install pyarrow") from error
    arrow: Any = pyarrow
    written = folder / f"{path.stem}.jsonl"
    try:
        with arrow.parquet.ParquetFile(path) as source, written.open("wb") as file:
            for batch in source.iter_batches(1000):
                for row in batch.to_pylist():
                    file.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE, default=str))
    except arrow.ArrowInvalid as error:
        raise UsageError(f"{path} can't be read as parquet: {error}") from error
    return written
