"""Documents in five formats against a schema: what is read, what is valid, and what does not help."""

from __future__ import annotations

import csv
import io
import json
import math
from typing import Any
from xml.sax.saxutils import escape

import orjson
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from nemo_like.rewards import rewards, runs
from nemo_like.rewards.json_schema import SchemaTask, json_schema
from nemo_like.types import Json, Response

FORMATS = ("json", "yaml", "xml", "toml", "csv")
PERSON: Json = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1},
        "age": {"type": "integer", "minimum": 0},
        "tags": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
ANA: Json = {"name": "Ana", "age": 34}
TEXTS = {
    "json": '{"name": "Ana", "age": 34}',
    "yaml": "name: Ana\nage: 34\n",
    "xml": "<person><name>Ana</name><age>34</age></person>",
    "toml": 'name = "Ana"\nage = 34\n',
    "csv": "name,age\nAna,34\n",
}


def score(text: str, schema: Any = PERSON, form: str = "json", **fields: Any) -> Json:
    row = {"responses_create_params": {"input": "?"}, "schema_str": schema, "schema_type": form} | fields
    response = Response(output=[{"type": "message", "role": "assistant", "content": text}])
    verdict = json_schema(SchemaTask.model_validate(row), response)
    orjson.dumps(verdict)
    return verdict


def value_of(text: str, schema: Any, form: str) -> Any:
    verdict = score(text, schema, form)
    assert verdict["error_type"] != "parse_error", verdict
    return verdict["extracted_answer"]


def test_it_is_known_by_its_name_and_runs_in_the_pool() -> None:
    assert rewards.get("json_schema") is json_schema
    assert runs(json_schema) == "pool"


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    "wrap", ["{}", "\n\n{}\n", "```\n{}\n```", "```{form}\n{}\n```\n", "``` {form}\n{}\n```"]
)
def test_a_document_that_fits_earns_the_reward_bare_or_in_a_fence(form: str, wrap: str) -> None:
    text = wrap.format(TEXTS[form], form=form)
    assert score(text, form=form) == {
        "reward": 1.0,
        "schema_valid": 1.0,
        "error_type": None,
        "errors": [],
        "extracted_answer": ANA,
    }


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    "wrap",
    [
        *("Sure: {}", "Sure:\n```\n{}\n```", "```\n{}\n```\nDone.", "```\n{}", "{}\n```", "```\n{}```"),
        *("```\n{}\n```\n```\n{}\n```", "```\n```\n{}\n```\n```", "```python\n{}\n```", "{}\n---\n{}"),
        *("{}\n\n{}", "<think>{}</think>\n{}", "`{}`", "~~~\n{}\n~~~", "\ud800{}", "{}\x00", "```{}```"),
    ],
)
def test_a_document_and_anything_else_earns_none(form: str, wrap: str) -> None:
    assert score(wrap.format(*[TEXTS[form].strip()] * 2), form=form)["reward"] == 0.0


@pytest.mark.parametrize("form", FORMATS)
def test_no_document_of_one_format_passes_as_another_but_json_as_yaml(form: str) -> None:
    passed = [other for other in FORMATS if score(TEXTS[form], form=other)["reward"]]
    assert passed == ([form, "yaml"] if form == "json" else [form])


def test_the_format_is_json_and_the_row_may_call_it_what_it_likes() -> None:
    for fields in ({}, {"schema_type": "json"}, {"format": "json"}):
        for schema in (PERSON, json.dumps(PERSON)):
            row = {"responses_create_params": {}, "schema": schema} | fields
            assert SchemaTask.model_validate(row).schema_type == "json"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"schema_str": "{"}, "is not JSON"),
        ({"schema_str": "[1]"}, "an object"),
        ({"schema_str": None}, "an object"),
        ({"schema_type": "ini"}, "'json', 'yaml', 'xml', 'toml' or 'csv'"),
        ({"response_mode": "tool_call"}, "'text'"),
        ({"expected_object": "Ana"}, "expected_object"),
    ],
)
def test_a_row_that_can_not_be_scored_is_refused(fields: Json, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        score("{}", **fields)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "objekt"},
        {"pattern": "("},
        {"minLength": -1},
        {"properties": 1},
        {"$ref": "http://localhost/x"},
    ],
)
def test_a_schema_that_is_none_makes_no_score(schema: Json) -> None:
    verdict = score('"a"', schema)
    assert (verdict["reward"], verdict["error_type"]) == (None, "schema_error")


@pytest.mark.parametrize(
    ("text", "error_type", "said"),
    [
        ("", "empty_response", "empty"),
        (" \n", "empty_response", "empty"),
        ("{", "parse_error", "Expecting"),
        ('{"name": "Ana", "age": 34, "age": 35}', "parse_error", "'age' is written twice"),
        ('{"name": "Ana", "age": NaN}', "parse_error", "NaN is not a number"),
        ('{"name": "Ana", "age": 1e999}', "parse_error", "not finite"),
        ('{"name": "Ana", "age": 18446744073709551616}', "parse_error", "more than 64 bits"),
        ('{"name": "\\ud800", "age": 34}', "parse_error", "surrogate"),
        ('{"\\ud800": 1, "\\ud800": 2}', "parse_error", "written twice"),
        ('{"name": "Ana"}', "validation_error", "$: 'age' is a required property"),
        ('{"name": "Ana", "age": "34"}', "validation_error", "$.age: '34' is not of type 'integer'"),
        ('{"name": "Ana", "age": true}', "validation_error", "$.age: True is not of type 'integer'"),
        ('{"name": "Ana", "age": 34, "city": 1}', "validation_error", "'city' was unexpected"),
        ('{"name": "", "age": -1, "tags": [1, 2, 3, 4, 5, 6]}', "validation_error", "minimum of 0"),
        (json.dumps([ANA]), "validation_error", "is not of type 'object'"),
    ],
)
def test_what_failed_is_in_the_record(text: str, error_type: str, said: str) -> None:
    verdict = score(text)
    assert (verdict["reward"], verdict["schema_valid"], verdict["error_type"]) == (0.0, 0.0, error_type)
    assert any(said in error for error in verdict["errors"])
    assert len(verdict["errors"]) <= 5 and all(len(error) <= 200 for error in verdict["errors"])


def test_the_expected_value_is_needed_too_where_the_row_has_one() -> None:
    for text, reward in [
        (TEXTS["json"], 1.0),
        ('{"age": 34.0, "name": "Ana"}', 1.0),
        ('{"age": 34, "name": "ana"}', 0.0),
        ('{"age": 34, "name": "Ana", "tags": []}', 0.0),
    ]:
        verdict = score(text, expected_object=ANA)
        assert (verdict["reward"], verdict["schema_valid"]) == (reward, 1.0)
        assert verdict["error_type"] == (None if reward else "wrong_value")
    assert score('{"age": 34, "name": "ana"}', expected_object=ANA)["errors"] == [
        "$.name: it is not the expected value"
    ]
    assert score("[1]", True, expected_object=[True])["reward"] == 0.0


def test_yaml_is_read_by_its_core_schema() -> None:
    for text, value in [
        ("no", "no"),
        ("12:30", "12:30"),
        ("2024-01-31", "2024-01-31"),
        ("0x1F", 31),
        ("0o17", 15),
        ("017", 17),
        ("1_000", "1_000"),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("~", None),
        ("True", True),
        ("'1'", "1"),
        ("1: a\ntrue: b", {"1": "a", "true": "b"}),
        ("a: &x [1]\nb: *x", {"a": [1], "b": [1]}),
        ("a: &x 1\nb: *x", {"a": 1, "b": 1}),
        ("# a comment\n- |\n  two\n  lines\n", ["two\nlines\n"]),
    ]:
        assert value_of(text, True, "yaml") == value


XML: Json = {
    "type": "object",
    "properties": {
        "n": {"type": ["number", "null"]},
        "on": {"type": "boolean"},
        "text": {"type": "string"},
        "either": {"anyOf": [{"type": "string", "const": "x"}, {"type": "integer"}]},
        "list": {"type": "array", "items": {"$ref": "#/$defs/point"}},
        "words": {"items": {"enum": ["a", "b"]}},
        "inner": {"$ref": "#"},
    },
    "additionalProperties": {"type": "integer"},
    "$defs": {"point": {"properties": {"x": {"type": "integer"}, "y": {"type": "integer"}}}},
}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("<n> 1.5 </n>", {"n": 1.5}),
        ("<n/>", {"n": None}),
        ("<n>1e2</n><on>TRUE</on>", {"n": 100.0, "on": True}),
        ("<n>0x1</n><on>1</on>", {"n": "0x1", "on": "1"}),
        ("<text> 5 </text>", {"text": " 5 "}),
        ("<text/>", {"text": ""}),
        ("<text>&lt;<![CDATA[<b>&]]><!-- no -->!</text>", {"text": "<<b>&!"}),
        ("<either>5</either>", {"either": 5}),
        ("<either>x</either>", {"either": "x"}),
        ("<words>a</words><words>b</words>", {"words": ["a", "b"]}),
        ("<words><w>a</w><w>b</w></words>", {"words": ["a", "b"]}),
        ("<words>a</words>", {"words": ["a"]}),
        ("<words/>", {"words": []}),
        ("<list><x>1</x></list>", {"list": [{"x": 1}]}),
        ("<list><p><x>1</x></p></list>", {"list": [{"x": 1}]}),
        ("<list><x>1</x><y>2</y></list><list><x>3</x></list>", {"list": [{"x": 1, "y": 2}, {"x": 3}]}),
        ("<inner><n>1</n><inner><on>false</on></inner></inner>", {"inner": {"n": 1, "inner": {"on": False}}}),
        ("<inner/>", {"inner": {}}),
        ("<other>7</other>", {"other": 7}),
    ],
)
def test_xml_is_converted_by_the_types_of_the_schema(text: str, value: Any) -> None:
    for prolog in ("", '<?xml version="1.0" encoding="latin-1"?>\n<!-- here -->\n'):
        assert value_of(f"{prolog}<answer>{text}</answer>", XML, "xml") == value


def test_the_document_element_may_be_the_only_field_that_the_schema_names() -> None:
    schema = {"properties": {"person": PERSON}, "required": ["person"]}
    for text in ("<person>{}</person>", "<answer><person>{}</person></answer>"):
        inner = "<name>Ana</name><age>34</age>"
        assert value_of(text.format(inner), schema, "xml") == {"person": ANA}
    people = {"type": "array", "items": PERSON}
    assert value_of(f"<people>{TEXTS['xml'] * 2}</people>", people, "xml") == [ANA, ANA]
    assert value_of("<people/>", people, "xml") == []


@pytest.mark.parametrize(
    "text",
    [
        "<!DOCTYPE a [<!ENTITY x 'y'>]><a>&x;</a>",
        "<!DOCTYPE a SYSTEM 'file:///etc/passwd'><a/>",
        *("<a>&x;</a>", "<a b='1'/>", "<a>x<n>1</n></a>", "<a><n>1</n><n>2</n></a>", "<a/><a/>", "<a>"),
        *("<a><list>x<p/></list></a>", "<a:b/>x", "<a>\x00</a>", "<a>&#0;</a>"),
    ],
)
def test_xml_that_is_more_than_elements_and_text_is_no_document(text: str) -> None:
    assert score(text, XML, "xml")["error_type"] == "parse_error"


def test_csv_is_converted_by_the_types_of_its_columns() -> None:
    row: Json = {
        "properties": {
            "n": {"type": ["integer", "null"]},
            "on": {"type": "boolean"},
            "text": {"type": "string"},
            "list": {"type": "array"},
        }
    }
    rows = {"type": "array", "items": row}
    for text, value in [
        ("n,text\n1,1\n", [{"n": 1, "text": "1"}]),
        ("n,on,text,list\n,,,\n", [{"n": None, "text": ""}]),
        ('n,list\r\n5,"[1, ""a""]"\r\n', [{"n": 5, "list": [1, "a"]}]),
        (
            'text,on\n"a, ""b""\nc",True\n\n"",False\n',
            [{"text": 'a, "b"\nc', "on": True}, {"text": "", "on": False}],
        ),
        ("n,x\n1.0,5", [{"n": 1, "x": "5"}]),
        ("n,text", []),
    ]:
        assert value_of(text, rows, "csv") == value
    single = row | {"type": "object"}
    assert value_of("n\n1", single, "csv") == {"n": 1}
    for text in ("n,n\n1,2", "n,on\n1", "n\n1,2", 'text\n"a', 'text\n"a"b', "list\n[1"):
        assert score(text, rows, "csv")["error_type"] == "parse_error"
    for text in ("n", "n\n1\n2"):
        assert score(text, single, "csv")["error_type"] == "parse_error"


def test_toml_dates_are_text() -> None:
    text = "day = 2024-01-31\nat = 2024-01-31T10:00:00Z\nthere = 2024-01-31T10:00:00+02:00\ntime = 07:30:00"
    assert value_of(text, True, "toml") == {
        "day": "2024-01-31",
        "at": "2024-01-31T10:00:00Z",
        "there": "2024-01-31T10:00:00+02:00",
        "time": "07:30:00",
    }


@pytest.mark.parametrize(
    ("form", "text", "said"),
    [
        ("json", "[" * 1_000_000, "nested"),
        ("json", '{"a":' * 100_000, "nested"),
        ("json", "[" * 102 + "]" * 102, "nested deeper than 100"),
        ("json", "9" * 1_000_000, "limit"),
        ("json", '{"":1,' + ",".join(f'"{n}":1' for n in range(50_000)) + ',"":1}', "written twice"),
        ("yaml", "- " * 500_000, "nested"),
        ("yaml", "{a: " * 200_000, "nested"),
        ("yaml", "a: &a [" + "x," * 1000 + "]\nb: [" + "*a," * 50_000 + "]", "aliases write more"),
        ("yaml", "a: &a " + "x" * 10_000 + "\nb: [" + "*a," * 1000 + "]", "aliases write more"),
        ("yaml", "- &a0 [x, x]\n" + "".join(f"- &a{n + 1} [*a{n}, *a{n}]\n" for n in range(40)), "aliases"),
        ("yaml", "&a [*a]", "alias names nothing"),
        ("yaml", "!!python/object/apply:os.system ['false']", "tags"),
        ("yaml", "!!set {a}", "tags"),
        ("yaml", "a: 1\n---\na: 2", "more than one document"),
        ("yaml", "a: 1\na: 2", "written twice"),
        ("yaml", "? [a]\n: 1", "a key is not text"),
        ("yaml", "- .nan", "not a finite number"),
        ("yaml", "# nothing", "no document"),
        ("toml", "a." * 300_000 + "a = 1", "more than 100 parts"),
        ("toml", "'a' . \"b\" . " * 50_000 + "a = 1", "more than 100 parts"),
        ("toml", "a = " + "[" * 1_000_000, "nested"),
        ("toml", "a = nan", "not finite"),
        ("toml", "a = 1\na = 2", "Cannot overwrite"),
        ("xml", "<a>" * 300_000, "nested"),
        ("xml", "<a " + " ".join(f'b{n}="1"' for n in range(50_000)) + "/>", "attributes"),
        ("xml", "<" * 1_000_000, "not well-formed"),
        ("csv", '"' * 1_000_000, "limit"),
        ("csv", ",".join(map(str, range(100_000))) + ",0", "written twice"),
    ],
)
@pytest.mark.timeout(30)
def test_what_would_blow_up_is_refused(form: str, text: str, said: str) -> None:
    [error] = score(text, True, form)["errors"]
    assert said in error


@pytest.mark.parametrize("form", FORMATS)
def test_a_megabyte_is_read(form: str) -> None:
    text = "x" * 1_000_000
    for answer in (text, TEXTS[form] + "\n" * 1_000_000, TEXTS[form].replace("Ana", "Ana" * 40_000)):
        assert score(answer, form=form)["reward"] == float(answer != text)


def test_a_schema_that_never_ends_is_not_followed_for_ever() -> None:
    assert score("1", {"$ref": "#"})["reward"] == 0.0
    assert score("<a>1</a>", {"anyOf": [{"$ref": "#"}, {"$ref": "#"}]}, "xml")["reward"] == 0.0
    nested = {"items": {"$ref": "#"}, "type": "array"}
    assert score("[" * 90 + "]" * 90, nested)["reward"] == 1.0


# --- Against the validator itself, over random schemas and values that fit them.

names = st.sampled_from(["a", "b", "c1", "d_e"])
# What each of the five formats can write, and none reads as another type.
words = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Zs")), max_size=8)
numbers = st.floats(-1e6, 1e6).map(lambda x: x + 0.0)


@st.composite
def shaped(draw: st.DrawFn, depth: int = 2) -> tuple[Json, st.SearchStrategy[Any]]:
    """A schema, and the values that fit it."""
    kinds = ["string", "enum", "integer", "number", "boolean"] + ["object", "array"] * (depth > 0)
    match draw(st.sampled_from(kinds)):
        case "string":
            return {"type": "string"}, words
        case "enum":
            values = draw(st.lists(words, min_size=1, max_size=3, unique=True))
            return {"enum": values}, st.sampled_from(values)
        case "integer":
            low = draw(st.integers(-50, 50))
            return {"type": "integer", "minimum": low}, st.integers(low, 2**40)
        case "number":
            return {"type": "number"}, numbers
        case "boolean":
            return {"type": "boolean"}, st.booleans()
        case "array":
            item, values = draw(shaped(depth=0))
            # An empty item and no item are one text in XML.
            inner = values.filter(lambda value: not isinstance(value, str) or bool(value.strip()))
            return {"type": "array", "items": item}, st.lists(inner, max_size=3)
        case _:
            fields = draw(st.dictionaries(names, shaped(depth=depth - 1), min_size=1, max_size=3))
            required = [name for name in fields if draw(st.booleans())]
            schema: Json = {
                "type": "object",
                "properties": {name: schema for name, (schema, _) in fields.items()},
                "required": required,
                "additionalProperties": draw(st.booleans()),
            }
            of = {name: values for name, (_, values) in fields.items()}
            optional = {name: values for name, values in of.items() if name not in required}
            return schema, st.fixed_dictionaries({name: of[name] for name in required}, optional=optional)


@st.composite
def objects(draw: st.DrawFn) -> tuple[Json, Json]:
    """The schema of an object, and an object that fits it or nearly does."""
    schema, values = draw(shaped().filter(lambda pair: pair[0].get("type") == "object"))
    value: Json = draw(values)
    for _ in range(draw(st.integers(0, 2))):
        name = draw(names)
        match draw(st.sampled_from(["drop", "swap", "add"])):
            case "drop":
                value.pop(name, None)
            case "swap" if name in value:
                value[name] = draw(st.sampled_from(["x", -1000, 0.5, True, ["x"], {"a": "x"}]))
            case _:
                value["f"] = draw(words)
    return schema, value


def quoted(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def to_toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{quoted(name)} = {to_toml(inner)}" for name, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(to_toml, value)) + "]"
    return quoted(value)


def to_yaml(value: Any, *, flow: bool) -> str:
    class Dumper(yaml.SafeDumper):
        pass

    def text(dumper: Any, text: str) -> Any:
        return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"')

    Dumper.add_representer(str, text)
    return yaml.dump(value, Dumper=Dumper, default_flow_style=flow, allow_unicode=True, width=math.inf)


def to_xml(name: str, value: Any, *, wrapped: bool = False) -> str:
    if isinstance(value, list):
        items = [to_xml("item" if wrapped else name, item) for item in value]
        return f"<{name}>{''.join(items)}</{name}>" if wrapped or not value else "".join(items)
    if isinstance(value, dict):
        inner = "\n".join(to_xml(key, item, wrapped=wrapped) for key, item in value.items())
    else:
        inner = escape(value) if isinstance(value, str) else quoted(value)
    return f"<{name}>{inner}</{name}>"


def judged(value: Any, schema: Any) -> float:
    return float(Draft202012Validator(schema).is_valid(value))


@given(objects(), st.booleans())
@settings(max_examples=200)
def test_json_yaml_and_toml_are_valid_exactly_where_the_validator_says_so(
    pair: tuple[Json, Json], indented: bool
) -> None:
    schema, value = pair
    texts = {
        "json": json.dumps(value, indent=2 if indented else None),
        "yaml": to_yaml(value, flow=indented),
        "toml": "\n".join(f"{quoted(name)} = {to_toml(inner)}" for name, inner in value.items()) or "# none",
    }
    for form, text in texts.items():
        verdict = score(text, schema, form, expected_object=value)
        assert verdict["reward"] == judged(value, schema), (form, text, verdict)
        assert verdict["extracted_answer"] == value


@given(objects(), st.booleans())
@settings(max_examples=150)
def test_xml_that_fits_the_schema_is_read_as_the_value_it_was_written_from(
    pair: tuple[Json, Json], wrapped: bool
) -> None:
    schema, value = pair
    if judged(value, schema):
        verdict = score(to_xml("answer", value, wrapped=wrapped), schema, "xml", expected_object=value)
        assert verdict["reward"] == 1.0, (value, verdict)


@given(objects(), st.data())
@settings(max_examples=100)
def test_a_required_element_that_is_missing_or_a_text_in_place_of_a_number_is_found(
    pair: tuple[Json, Json], data: st.DataObject
) -> None:
    schema, value = pair
    numbers = [
        k for k, v in schema["properties"].items() if v.get("type") in ("integer", "number", "boolean")
    ]
    for name in schema["required"]:
        short = {key: inner for key, inner in value.items() if key != name}
        assert score(to_xml("answer", short), schema, "xml")["reward"] == 0.0
    for name in numbers:
        assert score(to_xml("answer", value | {name: "x"}), schema, "xml")["reward"] == 0.0


@given(st.data())
@settings(max_examples=150)
def test_csv_is_read_as_the_rows_it_was_written_from(data: st.DataObject) -> None:
    columns = data.draw(st.dictionaries(names, shaped(depth=0), min_size=1, max_size=4))
    item = {
        "type": "object",
        "properties": {name: schema for name, (schema, _) in columns.items()},
        "required": [*columns],
        "additionalProperties": False,
    }
    row = st.fixed_dictionaries({name: values for name, (_, values) in columns.items()})
    rows = data.draw(st.lists(row, max_size=3))
    out = io.StringIO()
    writer = csv.writer(out, quoting=csv.QUOTE_ALL, lineterminator=data.draw(st.sampled_from(["\n", "\r\n"])))
    writer.writerows(
        [
            [*columns],
            *([r[name] if isinstance(r[name], str) else quoted(r[name]) for name in columns] for r in rows),
        ]
    )
    schema = {"type": "array", "items": item}
    assert score(out.getvalue(), schema, "csv", expected_object=rows)["reward"] == 1.0
    if rows:
        narrow = schema | {"maxItems": len(rows) - 1}
        assert score(out.getvalue(), narrow, "csv")["error_type"] == "validation_error"


FRAGMENTS = [
    *(
        "{",
        "}",
        "[",
        "]",
        '"',
        ":",
        ",",
        "a",
        "1",
        "-",
        "\n",
        " ",
        "=",
        "'",
        '"""',
        "'''",
        "<a>",
        "</a>",
        "<",
    ),
    *("&", "*", "!", "|", ">", "?", "- ", "a: ", "&a ", "*a", "<<", "%", "#", "```", "```json\n", "\x00"),
    *("\ud800", "\\ud800", "NaN", "1e999", "9" * 5000, "<![CDATA[", "]]>", "<!--", "<?x", "<!DOCTYPE a>"),
    *("\ufeff", "\x85", "\u2028", "\r", "\t", "2024-01-31", "2024-99-99", "[[a]]\n", "a.b.", "&#0;", "\\"),
]


@given(
    st.text(st.characters(exclude_categories=())) | st.lists(st.sampled_from(FRAGMENTS)).map("".join),
    st.sampled_from(FORMATS),
    st.sampled_from([True, PERSON, XML, {"type": "array", "items": XML}]),
)
@settings(max_examples=500)
def test_no_answer_makes_it_raise(text: str, form: str, schema: Any) -> None:
    assert score(text, schema, form)["reward"] in (0.0, 1.0)
