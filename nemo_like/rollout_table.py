"""The table of rollouts that an analysis is of: parquet, read in batches and written in large groups of rows.

JSONL becomes parquet first, by the rules of `nemo_like.table`.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, cast

from nemo_like.errors import UsageError, did_you_mean
from nemo_like.table import AS_JSON, ENCODING, open_table, pa, plain_rows, written
from nemo_like.types import Json

Batch = Any
"""A `pyarrow.RecordBatch`."""

BATCH_ROWS = 8192
GROUP_ROWS, GROUP_BYTES = 131_072, 32 * 2**20


class RolloutTable:
    """A parquet file; `path` is the file that a person named, from which it was made or which it is."""

    def __init__(self, path: Path, parquet: Path | None = None) -> None:
        """Raises `UsageError` where the file is not there, is not parquet, or not all of it."""
        self.path, self.parquet = path, parquet or path
        self._table = open_table(self.parquet)
        self.schema: Any = self._table.schema
        self.num_rows = len(self._table)

    @property
    def columns(self) -> list[str]:
        """The names of the columns."""
        return list(self.schema.names)

    def require(self, name: str, why: str) -> None:
        """Raises `UsageError` where the column is missing; it names the file, the column, what there is."""
        if name not in self.columns:
            hint = did_you_mean(name, self.columns)
            there = "" if "there are" in hint else f"; its columns are: {', '.join(self.columns)}"
            raise UsageError(f"{self.path} has no column '{name}', {why}{hint}{there}")

    def batches(self, columns: list[str] | None = None) -> Iterator[Batch]:
        """The rows in order, as record batches. Raises `RowError` where the file is damaged."""
        return self._table.batches(BATCH_ROWS, columns)


class GroupedWriter:
    """A parquet file that appears whole or not at all, its batches gathered into groups that read fast."""

    def __init__(self, path: Path, schema: Any) -> None:
        self._schema = schema
        self._file = written(path, "parquet", schema)
        self._waiting: list[Batch] = []
        self._rows = self._bytes = 0

    def __enter__(self) -> Self:
        self._write = self._file.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if kind is None:
            self._flush()
        self._file.__exit__(kind, error, trace)

    def write(self, batch: Batch) -> None:
        """Append a batch of the schema."""
        self._waiting.append(batch)
        self._rows += batch.num_rows
        self._bytes += batch.nbytes
        if self._rows >= GROUP_ROWS or self._bytes >= GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._write(pa.concat_batches(self._waiting))
        self._waiting.clear()
        self._rows = self._bytes = 0


@contextmanager
def open_rollouts(path: Path, scratch: Path) -> Generator[RolloutTable]:
    """The rollouts in a file, parquet or JSONL by its suffix; JSONL becomes parquet in the folder `scratch`.

    Raises:
        UsageError: the file is missing, of another kind, or damaged.
        RowError: a line of it is not a JSON object.
    """
    table = open_table(path)
    parquet = scratch / f".{path.stem}.parquet"
    if _is_parquet(path):
        yield RolloutTable(path)
        return
    try:
        with GroupedWriter(parquet, table.schema) as writer:
            for batch in table.batches(BATCH_ROWS):
                writer.write(batch)
        yield RolloutTable(path, parquet)
    finally:
        parquet.unlink(missing_ok=True)


def column_names(path: Path) -> list[str]:
    """The columns of a data file; raises as `open_rollouts`."""
    return list(open_table(path).schema.names)


def task_rows(batch: Batch) -> list[Json]:
    """The rows of a batch as JSON, without the fields that are null: of a column of objects, parquet has
    those of all of them in each."""
    exact = {field.name for field in batch.schema if _is_json(field)}
    return [
        {
            name: value if name in exact else _without_nulls(value)
            for name, value in row.items()
            if value is not None
        }
        for row in plain_rows(batch)
    ]


def with_columns(schema: Any, types: Mapping[str, str]) -> Any:
    """The schema with these columns at its end, in place of any of the same name.

    A type is Arrow's name of it ("double", "string"), or "json" for JSON text.
    """
    kept = [field for field in schema if field.name not in types]
    return pa.schema(kept + [_field(name, kind) for name, kind in types.items()])


def batch_with_columns(batch: Batch, schema: Any, values: Mapping[str, Sequence[Any]]) -> Batch:
    """The batch in the schema that `with_columns` made, with these values in the new columns."""
    arrays = [
        pa.array(values[field.name], field.type) if field.name in values else batch.column(field.name)
        for field in schema
    ]
    return pa.record_batch(arrays, schema=schema)


def renamed_schema(schema: Any, names: Mapping[str, str]) -> Any:
    """Of a schema the columns `names`, under new names: {old: new}."""
    return pa.schema([schema.field(old).with_name(new) for old, new in names.items()])


def renamed(batch: Batch, names: Mapping[str, str]) -> Batch:
    """Of a batch the columns `names`, under new names: {old: new}."""
    schema = renamed_schema(batch.schema, names)
    return pa.RecordBatch.from_arrays([batch.column(old) for old in names], schema=schema)


def chosen(batch: Batch, keep: Any) -> Batch:
    """The rows of a batch where the numpy array `keep` is true."""
    return batch.filter(pa.array(keep))


def _is_parquet(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PAR1"


def _is_json(field: Any) -> bool:
    return field.metadata is not None and field.metadata.get(ENCODING) == AS_JSON


def _field(name: str, kind: str) -> Any:
    if kind == "json":
        return pa.field(name, "string", metadata={ENCODING: AS_JSON})
    return pa.field(name, kind)


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        fields = cast(Json, value).items()
        return {name: _without_nulls(item) for name, item in fields if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in cast(list[Any], value)]
    return value
