"""What a JSON schema says of a place in a document: which types may stand there, and what lies below.

It serves those formats whose values are text (XML, CSV), which only a schema tells from numbers. It judges
nothing: whether a document is valid is the validator's to say.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any, cast

from nemo_like.types import Json

TYPES = frozenset({"null", "boolean", "integer", "number", "string", "array", "object"})


class Shape:
    """A place in a document, seen through the schemas that apply there."""

    def __init__(self, schemas: list[Any], root: Any) -> None:
        self._schemas = schemas
        self._root = root
        self._fields: dict[str, Shape] = {}
        self._items: dict[int, Shape] = {}

    @cached_property
    def types(self) -> frozenset[str]:
        """The types that are allowed; none where nothing is said of them."""
        said = [types for schema in self._schemas if (types := _types(schema, self._root)) != TYPES]
        return frozenset[str]().union(*said)

    @cached_property
    def names(self) -> set[str]:
        """The fields that an object may have, as far as they are named."""
        return {name for view in self._views for name in _object(view, "properties")}

    def field(self, name: str) -> Shape:
        """The place of an object's field."""
        if name not in self.names:
            return self._other
        if name not in self._fields:
            found = [_object(view, "properties").get(name, True) for view in self._views]
            self._fields[name] = Shape(found, self._root)
        return self._fields[name]

    def item(self, index: int) -> Shape:
        """The place of a list's item."""
        index = min(index, self._prefix)
        if index not in self._items:
            found = [_item(view, index) for view in self._views]
            self._items[index] = Shape(found, self._root)
        return self._items[index]

    @cached_property
    def _views(self) -> list[Json]:
        seen: set[int] = set()
        return [view for schema in self._schemas for view in _views(schema, self._root, seen)]

    @cached_property
    def _other(self) -> Shape:
        """The place of a field without a name of its own."""
        return Shape([view.get("additionalProperties", True) for view in self._views], self._root)

    @cached_property
    def _prefix(self) -> int:
        return max((len(view.get("prefixItems", ())) for view in self._views), default=0)


def _types(schema: Any, root: Any, above: tuple[int, ...] = ()) -> frozenset[str]:
    # A schema that is composed of itself says nothing more the second time.
    if not isinstance(schema, dict) or id(cast(Json, schema)) in above:
        return TYPES
    schema = cast(Json, schema)
    above = (*above, id(schema))
    types = TYPES
    if "type" in schema:
        said: Any = schema["type"]
        types = _with_integers({said} if isinstance(said, str) else set(cast(list[str], said)))
    elif "properties" in schema:
        types = frozenset({"object"})
    elif "items" in schema or "prefixItems" in schema:
        types = frozenset({"array"})
    for values in ([schema["const"]] if "const" in schema else None, schema.get("enum")):
        if values is not None:
            types &= _with_integers({_type_of(value) for value in cast(list[Any], values)})
    for part in _parts(schema, root, ("allOf",)):
        types &= _types(part, root, above)
    for key in ("anyOf", "oneOf"):
        if branches := list(_parts(schema, root, (key,), refs=False)):
            types &= frozenset[str]().union(*(_types(branch, root, above) for branch in branches))
    return types


def _views(schema: Any, root: Any, seen: set[int]) -> Iterator[Json]:
    """The schema and all that it is composed of, as far as they are objects."""
    if isinstance(schema, dict) and id(cast(Json, schema)) not in seen:
        seen.add(id(cast(Json, schema)))
        yield cast(Json, schema)
        for part in _parts(cast(Json, schema), root, ("allOf", "anyOf", "oneOf")):
            yield from _views(part, root, seen)


def _parts(schema: Json, root: Any, keys: tuple[str, ...], *, refs: bool = True) -> Iterator[Any]:
    if refs and isinstance(schema.get("$ref"), str):
        yield _target(schema["$ref"], root)
    for key in keys:
        yield from schema.get(key, ())


def _target(reference: str, root: Any) -> Any:
    """What a JSON pointer into the schema (`#/$defs/person`) points at; true where it points elsewhere."""
    if not reference.startswith("#"):
        return True
    found = root
    for part in reference[1:].split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if not isinstance(found, dict) or name not in found:
            return True
        found = cast(Json, found)[name]
    return found


def _item(view: Json, index: int) -> Any:
    prefix: list[Any] = view.get("prefixItems", [])
    return prefix[index] if index < len(prefix) else view.get("items", True)


def _object(view: Json, key: str) -> Json:
    return view.get(key) or {}


def _with_integers(types: set[str]) -> frozenset[str]:
    return frozenset(types | {"integer"} if "number" in types else types)


def _type_of(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int() | float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
        case _:
            return "object"
