"""Documents that fit a schema: written in each format, and nearly so."""

from __future__ import annotations

import csv
import io
import json
from typing import Any, cast
from xml.sax.saxutils import escape

import yaml

from nemo_like.types import Json


def gold(row: Json) -> str:
    """The document that a perfect model would write."""
    return written(row["expected_object"], row["schema_type"])


def hacks(row: Json) -> dict[str, Any]:
    """Another format, an empty document, the schema, the task."""
    form = row["schema_type"]
    # Every JSON document is a YAML one.
    other = "toml" if form in ("json", "yaml") else "json"
    return {
        "another format": written(row["expected_object"], other) if form != "csv" else "[]",
        "an empty document": "{}",
        "the task": row["responses_create_params"]["input"][-1]["content"],
    }


def written(value: Any, form: str) -> str:
    """`value` as a document in the format `form`."""
    match form:
        case "json":
            return json.dumps(value)
        case "yaml":
            return yaml.safe_dump(value)
        case "xml":
            return f"<answer>{''.join(_xml(name, inner) for name, inner in value.items())}</answer>"
        case "toml":
            return "\n".join(f"{name} = {_toml(inner)}" for name, inner in value.items())
        case _:
            out = io.StringIO()
            rows = csv.DictWriter(out, [*value[0]])
            rows.writeheader()
            rows.writerows(value)
            return out.getvalue()


def _xml(name: str, value: Any) -> str:
    if isinstance(value, list):
        return "".join(_xml(name, item) for item in cast(list[Any], value))
    if isinstance(value, dict):
        return f"<{name}>{''.join(_xml(key, item) for key, item in cast(Json, value).items())}</{name}>"
    return f"<{name}>{escape(value if isinstance(value, str) else json.dumps(value))}</{name}>"


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} = {_toml(inner)}" for name, inner in cast(Json, value).items()) + "}"
    return (
        "[" + ", ".join(map(_toml, cast(list[Any], value))) + "]"
        if isinstance(value, list)
        else json.dumps(value)
    )
