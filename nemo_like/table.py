"""Tables: a data file as it comes, and its rows with something new beside them, as Parquet or JSONL.

Parquet's columns are never unpacked: what is written again has the type it had. JSONL's columns become
Parquet's where that loses nothing; one that Parquet has no type for (values of several types, objects of
different keys, empty objects) is kept as JSON text and its field says so, `nemo_like.encoding: json`.
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import IO, Any, Literal, Protocol, cast

import orjson
import pyarrow  # pyright: ignore[reportMissingTypeStubs] it has none
import pyarrow.parquet  # pyright: ignore[reportMissingTypeStubs]

from nemo_like.errors import RowError, UsageError
from nemo_like.prompts import sound
from nemo_like.types import Json

# Arrow's Python side is untyped.
pa: Any = pyarrow
pq: Any = pyarrow.parquet

Format = Literal["parquet", "jsonl"]
ENCODING, AS_JSON = b"nemo_like.encoding", b"json"
SUFFIXES: dict[str, Format] = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
}
ROWS_AT_ONCE = 2048
LONG_INTEGER = re.compile(rb"\d{19}")
"""What may be a number that orjson would round."""


class Table(Protocol):
    """The rows of a data file."""

    path: Path
    schema: Any
    """Arrow's; what `batches` yields."""

    def __len__(self) -> int: ...

    def batches(self, rows: int, columns: list[str] | None = None) -> Iterator[Any]:
        """Record batches of at most so many rows, in order.

        Raises:
            RowError: the file is damaged in the middle; the message says where.
        """
        ...


def open_table(path: Path) -> Table:
    """The rows of a Parquet or JSONL file, told by its name; `.json` may be one array as well.

    Raises:
        UsageError: there is no such file, it has another suffix, or it can't be read.
    """
    kind = SUFFIXES.get(path.suffix.lower())
    if not path.is_file():
        raise UsageError(f"there is no file {path}")
    if kind is None:
        raise UsageError(f"{path} should be named .parquet or .jsonl (got {path.suffix or 'no suffix'})")
    table: Table = _Parquet(path) if kind == "parquet" else _Jsonl(path)
    twice = [name for name in table.schema.names if table.schema.names.count(name) > 1]
    if twice:
        raise UsageError(f"{path} has two columns named '{twice[0]}'")
    return table


def read_rows(path: Path) -> Iterator[Json]:
    """The rows of a data file as Python's own values, what was kept as JSON text decoded."""
    table = open_table(path)
    for batch in table.batches(ROWS_AT_ONCE):
        yield from plain_rows(batch)


def cells(table: Table, column: str) -> Iterator[Any]:
    """The values of a column, one after the other.

    Raises:
        RowError: one can't be read.
    """
    for batch in table.batches(ROWS_AT_ONCE, [column]):
        yield from _values(batch.column(0), batch.schema.field(0), f"{table.path}: column '{column}'")


def plain_rows(batch: Any) -> list[Json]:
    """The rows of a record batch as Python's own values, what was kept as JSON text decoded."""
    columns = [
        _values(batch.column(i), field, f"column '{field.name}'") for i, field in enumerate(batch.schema)
    ]
    names = batch.schema.names
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


@contextmanager
def written(path: Path, kind: Format, schema: Any) -> Generator[Callable[[Any], None]]:
    """What takes the record batches of a file that appears whole, at the end, or not at all.

    Raises:
        UsageError: it can't be written.
    """
    fresh = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with fresh.open("wb") as file:
            if kind == "parquet":
                with pq.ParquetWriter(file, schema, compression="zstd") as writer:
                    yield writer.write_batch
            else:
                yield lambda batch: _write_lines(file, batch)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except OSError as error:
        raise UsageError(f"{path} can't be written: {error}") from error
    finally:
        fresh.unlink(missing_ok=True)


def as_json(value: Any) -> bytes:
    """JSON of anything that a data file may hold; bytes that are no text become Base64, NaN null."""
    try:
        return orjson.dumps(value, default=_rewritten)
    except TypeError:
        # An integer of more than 64 bits, a key that is no text, or a lone surrogate.
        return json.dumps(value, default=_rewritten, ensure_ascii=False).encode("utf-8", "replace")


class _Parquet:
    def __init__(self, path: Path) -> None:
        self.path = path
        with self._open() as file:
            # What pandas and others keep there is about the file that it was.
            self.schema = file.schema_arrow.remove_metadata()
            self._rows: int = file.metadata.num_rows

    def __len__(self) -> int:
        return self._rows

    def batches(self, rows: int, columns: list[str] | None = None) -> Iterator[Any]:
        with self._open() as file:
            try:
                for batch in file.iter_batches(batch_size=rows, columns=columns):
                    yield batch.replace_schema_metadata(None)
            except (OSError, pa.ArrowException) as error:
                raise RowError(f"{self.path} can't be read to its end: {error}") from error

    def _open(self) -> Any:
        try:
            return pq.ParquetFile(self.path)
        except (OSError, pa.ArrowException) as error:
            raise UsageError(f"{self.path} is not a readable Parquet file: {error}") from error


class _Jsonl:
    def __init__(self, path: Path) -> None:
        self.path = path
        self._is_array = path.suffix.lower() == ".json" and _first_byte(path) == b"["
        types: dict[str, Any] = {}
        self._rows = 0
        for chunk in self._chunks(ROWS_AT_ONCE):
            self._rows += len(chunk)
            for name in dict.fromkeys(name for row in chunk for name in row):
                kind = _type_of([row.get(name) for row in chunk])
                types[name] = _merged(types[name], kind) if name in types else kind
        self.schema = pa.schema([_field(name, kind) for name, kind in types.items()])

    def __len__(self) -> int:
        return self._rows

    def batches(self, rows: int, columns: list[str] | None = None) -> Iterator[Any]:
        fields = [self.schema.field(name) for name in (self.schema.names if columns is None else columns)]
        schema = pa.schema(fields)
        for chunk in self._chunks(rows):
            arrays = [_array([row.get(field.name) for row in chunk], field) for field in fields]
            yield pa.record_batch(arrays, schema=schema)

    def _chunks(self, size: int) -> Iterator[list[Json]]:
        rows = self._parsed()
        while chunk := list(islice(rows, size)):
            yield chunk

    def _parsed(self) -> Iterator[Json]:
        if self._is_array:
            values = _parse(self.path.read_bytes(), str(self.path))
            for number, value in enumerate(cast(list[Any], values), 1):
                yield _row(value, f"{self.path}, entry {number}")
            return
        with self.path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    where = f"{self.path}, line {number}"
                    yield _row(_parse(line, where), where)


def _first_byte(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(4096).lstrip()[:1]


def _parse(data: bytes, where: str) -> Any:
    if LONG_INTEGER.search(data) is None:
        try:
            return orjson.loads(data)
        except orjson.JSONDecodeError:
            pass  # what it refuses, such as NaN and lone surrogates, the slower parser may take
    try:
        return _sound(json.loads(data.decode("utf-8", "replace")))
    except (json.JSONDecodeError, RecursionError) as error:
        raise RowError(f"{where} is not JSON: {error}") from error


def _row(value: Any, where: str) -> Json:
    if isinstance(value, dict):
        return cast(Json, value)
    raise RowError(f"{where} should be a JSON object (got {json.dumps(value):.60})")


def _sound(value: Any) -> Any:
    if isinstance(value, str):
        return sound(value)
    if isinstance(value, list):
        return [_sound(part) for part in cast(list[Any], value)]
    if isinstance(value, dict):
        return {sound(key): _sound(part) for key, part in cast(Json, value).items()}
    return value


def _type_of(values: list[Any]) -> Any:
    """Arrow's type of JSON values; None where there is none that gives them back as they are."""
    try:
        array = pa.array(values)
        same = orjson.dumps(array.to_pylist(), option=orjson.OPT_SORT_KEYS)
        if same != orjson.dumps(values, option=orjson.OPT_SORT_KEYS):
            return None
    except (pa.ArrowException, OverflowError, TypeError):
        return None
    return None if _has_empty_struct(array.type) else array.type


def _merged(a: Any, b: Any) -> Any:
    """The type of both; None where values of one would change in it."""
    if a is None or b is None or a == b:
        return None if a is None or b is None else a
    if pa.types.is_null(a) or pa.types.is_null(b):
        return b if pa.types.is_null(a) else a
    if pa.types.is_list(a) and pa.types.is_list(b):
        inner = _merged(a.value_type, b.value_type)
        return None if inner is None else pa.list_(inner)
    if pa.types.is_struct(a) and pa.types.is_struct(b) and {f.name for f in a} == {f.name for f in b}:
        parts = {field.name: _merged(field.type, b.field(field.name).type) for field in a}
        return None if None in parts.values() else pa.struct(list(parts.items()))
    return None


def _has_empty_struct(kind: Any) -> bool:
    if pa.types.is_list(kind):
        return _has_empty_struct(kind.value_type)
    return pa.types.is_struct(kind) and (
        kind.num_fields == 0 or any(_has_empty_struct(field.type) for field in kind)
    )


def _field(name: str, kind: Any) -> Any:
    if kind is None:
        return pa.field(name, pa.string(), metadata={ENCODING: AS_JSON})
    return pa.field(name, kind)


def _is_json(field: Any) -> bool:
    return field.metadata is not None and field.metadata.get(ENCODING) == AS_JSON


def _array(values: list[Any], field: Any) -> Any:
    if _is_json(field):
        values = [None if value is None else as_json(value).decode() for value in values]
    return pa.array(values, type=field.type)


def _values(column: Any, field: Any, where: str) -> list[Any]:
    try:
        values: list[Any] = column.to_pylist()
    except UnicodeDecodeError as error:
        raise RowError(f"{where} holds text that is not UTF-8: {error}") from error
    if not _is_json(field):
        return values
    return [None if value is None else _parse(value.encode(), where) for value in values]


def _write_lines(file: IO[bytes], batch: Any) -> None:
    file.write(b"".join(as_json(row) + b"\n" for row in plain_rows(batch)))


def _rewritten(value: Any) -> Any:
    """What JSON has no word for, in its words."""
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return base64.b64encode(value).decode()
    if isinstance(value, timedelta):
        return value.total_seconds()
    return str(value)
