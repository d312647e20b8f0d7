"""What rows are kept in: JSONL, parquet, or a data set of Hugging Face; and the columns, as each knows them.

Rows are gathered as JSONL first. Which columns and fields of messages there are is known only then, and the
others are left out, as readers take a null for a value.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, cast

import orjson

from nemo_like.errors import UsageError
from nemo_like.export.format import AS_IT_IS, MESSAGES, OBJECT, Format, Spec, as_text
from nemo_like.export.settings import Container
from nemo_like.types import Json

ROWS_AT_ONCE = 2048
ALWAYS = frozenset({"role", "content"})
DTYPES = {"string": "string", "double": "float64", "int64": "int64", "bool": "bool"}


def columns_of(format: Format, keys: set[str]) -> dict[str, Spec]:
    """The columns that rows with these keys have, in order."""
    declared = {name: _used(spec, keys) for name, spec in format.columns.items() if name in keys}
    if not format.extra_numbers:
        return declared
    return declared | dict.fromkeys(sorted(keys - format.columns.keys() - _fields()), "double")


def settle(columns: Mapping[str, Spec], files: list[Path], format: Format) -> dict[str, Spec]:
    """The columns with a type for each value that is kept as it is: Arrow's, or text, which the files then
    hold. Of an object each field has its own.

    Raises:
        UsageError: no type holds the values of one that has to stay as it is.
    """
    loose = [name for name, spec in columns.items() if spec is AS_IT_IS or spec == OBJECT]
    if not loose:
        return dict(columns)
    from nemo_like.table import ENCODING, open_table

    types: dict[str, set[Any]] = {}
    for file in files:
        for field in open_table(_only(file, loose, columns)).schema:
            is_text = field.metadata and ENCODING in field.metadata
            types.setdefault(field.name, set()).add(None if is_text else field.type)
    settled = {name: kinds.pop() if len(kinds) == 1 else None for name, kinds in types.items()}
    as_texts = {name for name, kind in settled.items() if kind is None}
    if as_texts and format.exact:
        raise UsageError(
            f"{format.name} needs '{min(as_texts)}' as they are, and those of these rollouts differ too much "
            "for one column; export them apart, with a query such as agent == 'one_agent'"
        )
    for file in files if as_texts else ():
        _rewrite(file, as_texts)
    kinds = {path: kind or "string" for path, kind in settled.items()}
    return dict(columns) | {name: _settled(name, kinds) for name in loose}


def write_parquet(lines: Path, path: Path, columns: Mapping[str, Spec]) -> None:
    """Rows as a parquet file that appears whole or not at all."""
    from nemo_like.rollout_table import GroupedWriter

    schema = schema_of(columns)
    with GroupedWriter(path, schema) as writer:
        for batch in batches(lines, schema):
            writer.write(batch)


def batches(lines: Path, schema: Any) -> Iterator[Any]:
    """Rows as Arrow's record batches."""
    from nemo_like.table import pa

    with lines.open("rb") as file:
        while rows := [orjson.loads(line) for line in islice(file, ROWS_AT_ONCE)]:
            yield pa.RecordBatch.from_pylist(rows, schema=schema)


def schema_of(columns: Mapping[str, Spec]) -> Any:
    """The columns as Arrow's schema."""
    from nemo_like.table import pa

    def kind(spec: Spec) -> Any:
        if isinstance(spec, str):
            return pa.type_for_alias(spec)
        if isinstance(spec, list):
            return pa.list_(kind(cast(list[Spec], spec)[0]))
        if isinstance(spec, dict):
            return pa.struct([(name, kind(part)) for name, part in cast(Json, spec).items()])
        return spec

    return pa.schema([(name, kind(spec)) for name, spec in columns.items()])


def features_of(columns: Mapping[str, Spec]) -> list[Json] | None:
    """The columns as `dataset_info.features` of a data set's card; None where it has no words for one."""
    try:
        return [{"name": name, **_feature(spec)} for name, spec in columns.items()]
    except KeyError:
        return None


def container_of(format: Format, asked: Container | None, output: Path) -> Container:
    """What an export is kept in.

    Raises:
        UsageError: the format or the name of the output does not go with it.
    """
    suffixes: dict[str, Container] = {".jsonl": "jsonl", ".parquet": "parquet"}
    named = suffixes.get(output.suffix)
    container = asked or named or format.container
    if named is not None and container != named:
        raise UsageError(f"container={container} does not go with the name {output}")
    if container not in format.only:
        raise UsageError(
            f"{format.name} is read as {' or '.join(format.only)} only (got container={container})"
        )
    return container


def _feature(spec: Spec) -> Json:
    if isinstance(spec, str):
        return {"dtype": DTYPES[spec]}
    if isinstance(spec, list):
        part = cast(list[Spec], spec)[0]
        inner = _feature(part)
        return {"list": inner.get("dtype") or inner.get("struct")}
    if isinstance(spec, dict):
        return {"struct": [{"name": name, **_feature(part)} for name, part in cast(Json, spec).items()]}
    raise KeyError(spec)


def _used(spec: Spec, keys: set[str]) -> Spec:
    """Messages with those of their fields that are used; anything else as it is."""
    if isinstance(spec, list):
        return [_used(part, keys) for part in cast(list[Spec], spec)]
    if isinstance(spec, dict) and "role" in spec and "reasoning_content" in spec:
        return {name: part for name, part in cast(Json, spec).items() if name in keys | ALWAYS}
    if isinstance(spec, dict):
        return {name: _used(part, keys) for name, part in cast(Json, spec).items()}
    return spec


def _fields() -> set[str]:
    """The fields of messages, which are among the keys too."""
    return {name for message in cast(list[Json], MESSAGES) for name in message}


def _only(file: Path, names: list[str], columns: Mapping[str, Spec]) -> Path:
    """A file of only these columns; a field of an object is one of its own, `column/field`."""
    few = file.with_name(file.name + ".few.jsonl")
    with file.open("rb") as lines, few.open("wb") as parts:
        for line in lines:
            row: Json = orjson.loads(line)
            of: Json = {}
            for name in names:
                if columns[name] == OBJECT:
                    fields: Json = row.get(name) or {}
                    of |= {f"{name}/{field}": value for field, value in fields.items()}
                elif name in row:
                    of[name] = row[name]
            parts.write(orjson.dumps(of, option=orjson.OPT_APPEND_NEWLINE))
    return few


def _settled(name: str, kinds: Mapping[str, Spec]) -> Spec:
    """The type of a column, of these of columns and fields."""
    fields = {path.partition("/")[2]: kind for path, kind in kinds.items() if path.startswith(f"{name}/")}
    return kinds.get(name) or fields


def _rewrite(file: Path, paths: set[str]) -> None:
    """Have these columns, or fields, of a file as JSON text."""
    fresh = file.with_name(file.name + ".text")
    with file.open("rb") as lines, fresh.open("wb") as texts:
        for line in lines:
            row: Json = orjson.loads(line)
            for path in paths:
                name, inside, field = path.partition("/")
                holder, key = (row.get(name) or {}, field) if inside else (row, name)
                if holder.get(key) is not None:
                    holder[key] = as_text(holder[key])
            texts.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
    fresh.replace(file)
