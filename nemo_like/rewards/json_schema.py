"""An answer that is one document of a given format and fits a JSON schema."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import islice
from typing import Any, Literal, cast

import orjson
from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, ValidationError
from pydantic import AliasChoices, Field, field_validator
from referencing import Registry
from referencing.exceptions import Unresolvable

from nemo_like.rewards.document import DocumentError, Format, read
from nemo_like.rewards.json_value import same
from nemo_like.rewards.reward import reward
from nemo_like.types import Json, Response, Task

MAX_ERRORS = 5
MAX_ERROR = 200
"""Characters of an error that are kept: it quotes the answer."""


class SchemaTask(Task):
    """A task whose answer is a document that fits a schema."""

    schema_str: str = Field(validation_alias=AliasChoices("schema_str", "schema"))
    """The JSON schema (Draft 2020-12), as JSON text or as it is."""
    schema_type: Format = Field("json", validation_alias=AliasChoices("schema_type", "format"))
    """The format of the document."""
    response_mode: Literal["text"] = "text"
    """Where the document stands; one in the arguments of a tool call is not read."""
    expected_object: Json | list[Any] | None = None
    """The value that the document should have; null where only its form is judged."""

    @field_validator("schema_str", mode="before")
    @classmethod
    def _as_text(cls, schema: Any) -> Any:
        parsed = schema
        if isinstance(schema, str):
            try:
                parsed = orjson.loads(schema)
            except orjson.JSONDecodeError as error:
                raise ValueError(f"should be a JSON schema, but is not JSON: {error}") from error
        if not isinstance(parsed, dict | bool):
            raise ValueError("should be a JSON schema, an object")
        return schema if isinstance(schema, str) else orjson.dumps(parsed).decode()


@reward("json_schema", runs="pool", imports="nemo_like.rewards.json_schema")
def json_schema(task: SchemaTask, response: Response) -> Json:
    """1.0 iff the answer is one document of the task's format that is valid by its schema, and has the
    expected value where the task says one.

    The answer is the document, bare or in one code fence, and nothing else (`document.py`). `format` in a
    schema is an annotation and checks nothing; `$ref` reaches no further than the schema itself. The reward
    is None where the schema is none. `error_type` is `empty_response`, `parse_error`, `validation_error` or
    `wrong_value`; `errors` holds the first few.
    """
    try:
        validator = _validator(task.schema_str)
    except SchemaError as error:
        return _verdict(None, "schema_error", [_shown(error)])
    if not response.text.strip():
        return _verdict(0.0, "empty_response", ["the answer is empty"])
    try:
        value = read(response.text, task.schema_type, cast(Any, validator.schema))
    except DocumentError as error:
        return _verdict(0.0, "parse_error", [str(error)])
    try:
        errors = cast(Iterator[ValidationError], cast(Any, validator).iter_errors(value))
        found = [*islice(errors, MAX_ERRORS)]
    except Unresolvable as error:
        return _verdict(None, "schema_error", [f"it refers to nothing it holds: {error}"[:MAX_ERROR]])
    except RecursionError:
        return _verdict(0.0, "validation_error", ["it is nested too deeply for the schema"], value)
    if found:
        return _verdict(0.0, "validation_error", [*map(_shown, found)], value)
    if task.expected_object is not None and not same(task.expected_object, value):
        return _verdict(0.0, "wrong_value", _differences(task.expected_object, value), value, valid=True)
    return _verdict(1.0, None, [], value, valid=True)


def _verdict(
    reward: float | None, error_type: str | None, errors: list[str], value: Any = None, *, valid: bool = False
) -> Json:
    return {
        "reward": reward,
        "schema_valid": float(valid),
        "error_type": error_type,
        "errors": errors,
        "extracted_answer": value,
    }


@lru_cache(maxsize=64)
def _validator(schema: str) -> Draft202012Validator:
    """A validator that fetches nothing.

    Raises:
        SchemaError: it is no schema.
    """
    parsed = orjson.loads(schema)
    Draft202012Validator.check_schema(parsed)
    return Draft202012Validator(parsed, registry=Registry())


def _shown(error: ValidationError | SchemaError) -> str:
    return f"{error.json_path}: {error.message}"[:MAX_ERROR]


def _differences(expected: Json | list[Any], value: Any) -> list[str]:
    """The first fields of an object that differ, or that all does."""
    if not (isinstance(expected, dict) and isinstance(value, dict)):
        return ["$: it is not the expected value"]
    given = cast(Json, value)
    names = [
        name
        for name in expected | given
        if name not in expected or name not in given or not same(expected[name], given[name])
    ]
    return [f"$.{name}: it is not the expected value"[:MAX_ERROR] for name in names[:MAX_ERRORS]]
