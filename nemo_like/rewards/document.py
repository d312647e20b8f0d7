"""A text as the JSON value that it writes, in JSON, YAML, XML, TOML or CSV; strictly, and whatever it is.

Each parser is one that runs no code and loads nothing. What no JSON document can hold is refused in every
format: a key written twice, NaN, infinity, integers beyond 64 bits, lone surrogates. So is what makes
documents blow up: nesting deeper than `MAX_DEPTH`, aliases that write more than the text does, DTDs.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date, datetime, time
from typing import Any, Literal, cast
from xml.parsers import expat

import yaml

from nemo_like.rewards.shape import Shape
from nemo_like.types import Json

Format = Literal["json", "yaml", "xml", "toml", "csv"]

MAX_DEPTH = 100
MAX_ERROR = 200
"""Characters of an error that are kept."""

FENCE = "```"
LANGUAGES: dict[Format, tuple[str, ...]] = {
    "json": ("json",),
    "yaml": ("yaml", "yml"),
    "xml": ("xml",),
    "toml": ("toml",),
    "csv": ("csv",),
}
# Only its events are asked for, so nothing is ever constructed; it is in C where that is there.
YAML_LOADER: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
# tomllib's time and memory grow with the square of a key's parts.
LONG_TOML_KEY = re.compile(
    rf"""(?<![\w-])(?:(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){{{MAX_DEPTH}}}"""
)
YAML_CONSTANTS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
YAML_INTEGER = re.compile(r"[-+]?[0-9]+")
YAML_BASED_INTEGER = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
YAML_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
YAML_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")


class DocumentError(ValueError):
    """A text is no document of its format; the message says why, in ASCII."""


def read(text: str, form: Format, schema: Any) -> Any:
    """The value that `text` writes, which is a document and nothing else, or one code fence that holds it.

    XML and CSV write only text: what may be a number, a boolean or null is told by the types that `schema`
    allows at its place.

    Raises:
        DocumentError: it is none.
    """
    try:
        text.encode()
        value = PARSERS[form](_unfenced(text, LANGUAGES[form]), Shape([schema], schema))
        # Without aliases no value is smaller than the text that writes it.
        _Check(budget=2 * len(text) + 16).value(value, depth=0)
    except RecursionError as error:
        raise DocumentError("it is nested too deeply") from error
    except UnicodeEncodeError as error:
        raise DocumentError("it holds half a surrogate pair") from error
    except (ValueError, yaml.YAMLError, expat.ExpatError, csv.Error) as error:
        message = " ".join(str(error).split()).encode("ascii", "backslashreplace").decode()
        raise DocumentError(message[:MAX_ERROR]) from error
    return _plain(value)


def _unfenced(text: str, languages: tuple[str, ...]) -> str:
    stripped = text.strip()
    if not stripped:
        raise DocumentError("the answer is empty")
    if not stripped.startswith(FENCE):
        return text
    first, _, rest = stripped.partition("\n")
    inner, closed, _ = rest.rpartition(FENCE)
    language = first.removeprefix(FENCE).strip()
    if not (closed and rest.endswith(FENCE) and (not inner or inner.endswith("\n"))):
        raise DocumentError("the code fence does not end the answer")
    if language and language.lower() not in languages:
        raise DocumentError(f"the code fence says {language[:20]!a}, not {languages[0]}")
    if any(line.lstrip().startswith(FENCE) for line in inner.splitlines()):
        raise DocumentError("there is more than one code fence")
    return inner


# --- JSON, TOML


def _json(text: str, _: Shape) -> Any:
    return json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)


def _once(pairs: list[tuple[str, Any]]) -> Json:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise _twice([name for name, _ in pairs])
    return value


def _no_constant(name: str) -> Any:
    raise DocumentError(f"{name} is not a number")


def _twice(names: list[str]) -> DocumentError:
    [(name, _)] = Counter(names).most_common(1)
    return DocumentError(f"{name[:100]!a} is written twice")


def _toml(text: str, _: Shape) -> Json:
    if LONG_TOML_KEY.search(text):
        raise DocumentError(f"a key has more than {MAX_DEPTH} parts")
    return tomllib.loads(text)


# --- YAML


def _yaml(text: str, _: Shape) -> Any:
    """One document, by the core schema of YAML 1.2: `no` and `12:30` are text, and so are dates.

    Tags are refused. A key is the text it is written as. An alias stands for the value that it names.
    """
    documents: list[Any] = []
    anchors: dict[str, Any] = {}
    # What is open: the collection, its anchor, and the key that waits for its value.
    stack: list[_Open] = [_Open(documents, None)]
    events = cast(Iterator[Any], yaml.parse(text, Loader=YAML_LOADER))  # pyright: ignore[reportUnknownMemberType]
    for event in events:
        if isinstance(event, yaml.DocumentStartEvent) and documents:
            raise DocumentError("there is more than one document")
        if getattr(event, "tag", None) is not None:
            raise DocumentError("tags are not read")
        anchor = cast("str | None", getattr(event, "anchor", None))
        if isinstance(event, yaml.AliasEvent):
            if anchor not in anchors:
                raise DocumentError("an alias names nothing that stands before it")
            if stack[-1].wants_key:
                raise DocumentError("a key is not text")
            stack[-1].add(anchors[anchor])
        elif isinstance(event, yaml.ScalarEvent):
            written = cast(str, event.value)  # pyright: ignore[reportUnknownMemberType]
            if stack[-1].wants_key:
                stack[-1].open_key(written)
                continue
            plain = cast(tuple[bool, bool], event.implicit)[0]  # pyright: ignore[reportUnknownMemberType]
            value = _yaml_scalar(written) if plain else written
            stack[-1].add(value)
            if anchor is not None:
                anchors[anchor] = value
        elif isinstance(event, yaml.CollectionStartEvent):
            if stack[-1].wants_key:
                raise DocumentError("a key is not text")
            if len(stack) > MAX_DEPTH:
                raise DocumentError(f"it is nested deeper than {MAX_DEPTH}")
            stack.append(_Open({} if isinstance(event, yaml.MappingStartEvent) else [], anchor))
        elif isinstance(event, yaml.CollectionEndEvent):
            done = stack.pop()
            stack[-1].add(done.collection)
            if done.anchor is not None:
                anchors[done.anchor] = done.collection
    if not documents:
        raise DocumentError("there is no document")
    return documents[0]


@dataclass(slots=True)
class _Open:
    """A YAML collection that is still being read."""

    collection: Json | list[Any]
    anchor: str | None
    key: str | None = None

    @property
    def wants_key(self) -> bool:
        return self.key is None and isinstance(self.collection, dict)

    def open_key(self, key: str) -> None:
        if key in self.collection:
            raise _twice([key])
        self.key = key

    def add(self, value: Any) -> None:
        if isinstance(self.collection, list):
            self.collection.append(value)
        else:
            self.collection[cast(str, self.key)] = value
            self.key = None


def _yaml_scalar(text: str) -> Any:
    if text in YAML_CONSTANTS:
        return YAML_CONSTANTS[text]
    if YAML_INTEGER.fullmatch(text):
        return int(text)
    if YAML_BASED_INTEGER.fullmatch(text):
        return int(text, 0)
    if YAML_FLOAT.fullmatch(text):
        return float(text)
    if YAML_NOT_FINITE.fullmatch(text):
        raise DocumentError(f"{text} is not a finite number")
    return text


# --- XML, CSV


@dataclass(slots=True)
class _Element:
    name: str
    children: list[_Element] = field(default_factory=list["_Element"])
    pieces: list[str] = field(default_factory=list[str])

    @property
    def text(self) -> str:
        return "".join(self.pieces)


def _xml(text: str, shape: Shape) -> Any:
    """The document element's content; a field is a child element, attributes and DTDs are refused.

    A list is its element, repeated, or one element whose children, all of one name, are the items. The
    document element's name is free, unless it is the only field that the schema names.
    """
    root = _xml_element(text.strip())
    if shape.names == {root.name} and all(child.name != root.name for child in root.children):
        return {root.name: _xml_field([root], shape.field(root.name))}
    return _xml_value(root, shape)


def _xml_element(text: str) -> _Element:
    top = _Element("")
    stack = [top]

    def start(name: str, attributes: dict[str, str]) -> None:
        if attributes:
            raise DocumentError(f"<{name[:100]}> has attributes, which are not read")
        if len(stack) > MAX_DEPTH:
            raise DocumentError(f"it is nested deeper than {MAX_DEPTH}")
        element = _Element(name)
        stack[-1].children.append(element)
        stack.append(element)

    def end(_: str) -> None:
        stack.pop()

    def characters(piece: str) -> None:
        stack[-1].pieces.append(piece)

    def doctype(*_: Any) -> None:
        raise DocumentError("a DOCTYPE is not read")

    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = characters
    parser.StartDoctypeDeclHandler = doctype
    parser.Parse(text, True)
    return top.children[0]


def _xml_value(element: _Element, shape: Shape) -> Any:
    blank = not element.text.strip()
    if "array" in shape.types:
        return _xml_items([element], shape)
    if not element.children:
        if blank and "object" in shape.types and not shape.types & {"string", "null"}:
            return {}
        return _scalar(element.text, shape)
    if not blank:
        raise DocumentError(f"<{element.name[:100]}> holds text between its elements")
    groups: dict[str, list[_Element]] = {}
    for child in element.children:
        groups.setdefault(child.name, []).append(child)
    return {name: _xml_field(group, shape.field(name)) for name, group in groups.items()}


def _xml_field(elements: list[_Element], shape: Shape) -> Any:
    if "array" in shape.types:
        return _xml_items(elements, shape)
    if len(elements) == 1:
        return _xml_value(elements[0], shape)
    if shape.types:
        raise _twice([elements[0].name])
    return [_xml_value(element, shape) for element in elements]


def _xml_items(elements: list[_Element], shape: Shape) -> list[Any] | None:
    [*others, element] = elements
    if not others:
        if not element.children and not element.text.strip():
            return None if "null" in shape.types else []
        names = {child.name for child in element.children}
        if len(names) == 1 and not names & shape.item(0).names:
            if element.text.strip():
                raise DocumentError(f"<{element.name[:100]}> holds text between its elements")
            elements = element.children
    return [_xml_value(element, shape.item(index)) for index, element in enumerate(elements)]


def _csv(text: str, shape: Shape) -> Any:
    """A header and rows of as many cells, as a list of objects; an object, where the schema wants one, is one
    row.

    An empty cell is null where that is allowed, else empty text, else no field. Where a list or an object
    belongs, the cell holds it as JSON.
    """
    rows = [row for row in csv.reader(io.StringIO(text.strip("\r\n"), newline=""), strict=True) if row]
    if not rows:
        raise DocumentError("there is no header")
    header = rows[0]
    if len({*header}) < len(header):
        raise _twice(header)
    single = "object" in shape.types and "array" not in shape.types
    columns = [(name, (shape if single else shape.item(0)).field(name)) for name in header]
    values: list[Json] = []
    for number, row in enumerate(rows[1:], start=1):
        if len(row) != len(header):
            raise DocumentError(f"row {number} has {len(row)} cells, the header {len(header)}")
        cells = zip(columns, row, strict=True)
        values.append({name: _cell(cell, at) for (name, at), cell in cells if not _is_absent(cell, at)})
    if not single:
        return values
    if len(values) != 1:
        raise DocumentError(f"there should be one row, not {len(values)}")
    return values[0]


def _is_absent(cell: str, shape: Shape) -> bool:
    return not cell and bool(shape.types) and not shape.types & {"null", "string"}


def _cell(cell: str, shape: Shape) -> Any:
    nested = shape.types & {"array", "object"} and "string" not in shape.types
    if nested and cell.lstrip().startswith(("[", "{")):
        return _json(cell, shape)
    return _scalar(cell, shape)


def _scalar(text: str, shape: Shape) -> Any:
    """Text as a number, a boolean or null where the schema allows one and it reads as one."""
    types, word = shape.types, text.strip()
    if types & {"integer", "number"} and NUMBER.fullmatch(word):
        return json.loads(word)
    if "boolean" in types and len(word) <= 5 and word.lower() in ("true", "false"):
        return word.lower() == "true"
    if "null" in types and not word:
        return None
    return text


# --- what any document has to keep to


@dataclass(slots=True)
class _Check:
    """Refuses what JSON can't hold, and what is larger than the text that it stands in."""

    budget: int

    def value(self, value: Any, *, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise DocumentError(f"it is nested deeper than {MAX_DEPTH}")
        self._spend(1)
        if isinstance(value, dict):
            for name, inner in cast(Json, value).items():
                self._text(name)
                self.value(inner, depth=depth + 1)
        elif isinstance(value, list):
            for inner in cast(list[Any], value):
                self.value(inner, depth=depth + 1)
        elif isinstance(value, str):
            self._text(value)
        elif isinstance(value, float) and not math.isfinite(value):
            raise DocumentError("a number is not finite")
        elif isinstance(value, int) and not -(2**63) <= value < 2**64:
            raise DocumentError("an integer has more than 64 bits")

    def _text(self, text: str) -> None:
        text.encode()
        self._spend(len(text))

    def _spend(self, cost: int) -> None:
        self.budget -= cost
        if self.budget < 0:
            raise DocumentError("its aliases write more than the document does")


def _plain(value: Any) -> Any:
    """The value without the dates and times that TOML knows: they are text, by ISO 8601, UTC being `Z`."""
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in cast(Json, value).items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in cast(list[Any], value)]
    if isinstance(value, datetime | date | time):
        return re.sub(r"\+00:00$", "Z", value.isoformat())
    return value


PARSERS: dict[Format, Callable[[str, Shape], Any]] = {
    "json": _json,
    "yaml": _yaml,
    "xml": _xml,
    "toml": _toml,
    "csv": _csv,
}
