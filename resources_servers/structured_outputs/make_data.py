"""Short documents about things of one kind, with a schema for their facts and the object that holds them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from random import Random
from typing import Any, cast

from nemo_like.types import Json

FORMATS = ("json", "yaml", "xml", "toml", "csv")
NAMES = ["Ana", "Bruno", "Clara", "David", "Elena", "Felix", "Grace", "Hugo", "Irene", "Jonas"]
SURNAMES = ["Almeida", "Becker", "Costa", "Evans", "Garcia", "Ito", "Keller", "Novak", "Okafor", "Silva"]
CITIES = ["Dublin", "Kyoto", "Lima", "Lisbon", "Madrid", "Nairobi", "Oslo", "Porto", "Prague", "Vienna"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Fact:
    """A fact of a thing: its schema, how a value is drawn, and the sentence that tells it."""

    schema: Json
    draw: Callable[[Random], Any]
    says: str
    says_not: str = ""
    """The sentence where the fact is false."""

    def sentence(self, value: Any) -> str:
        """The sentence for one value."""
        if value is False:
            return self.says_not
        if isinstance(value, list):
            return self.says.format(", ".join(cast(list[str], value)))
        return self.says.format(value)


def text(values: list[str], says: str) -> Fact:
    """A fact that is one of a few words, which the schema doesn't tell."""
    return Fact(schema={"type": "string", "minLength": 1}, draw=lambda rng: rng.choice(values), says=says)


def choice(values: list[str], says: str) -> Fact:
    """A fact that is one of a few words, which the schema lists."""
    return Fact(schema={"type": "string", "enum": values}, draw=lambda rng: rng.choice(values), says=says)


def code(prefix: str, says: str) -> Fact:
    """A fact that looks like AB-0123."""
    return Fact(
        schema={"type": "string", "pattern": f"^{prefix}-[0-9]{{4}}$"},
        draw=lambda rng: f"{prefix}-{rng.randrange(10_000):04}",
        says=says,
    )


def day(says: str) -> Fact:
    """A fact that is a day."""
    return Fact(
        schema={"type": "string", "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}$"},
        draw=lambda rng: f"20{rng.randint(10, 29)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}",
        says=says,
    )


def integer(low: int, high: int, says: str) -> Fact:
    """A fact that is a whole number."""
    return Fact(
        schema={"type": "integer", "minimum": low, "maximum": high},
        draw=lambda rng: rng.randint(low, high),
        says=says,
    )


def number(low: int, high: int, says: str) -> Fact:
    """A fact with one digit after the point, which is not 0."""
    return Fact(
        schema={"type": "number", "minimum": low, "exclusiveMaximum": high},
        draw=lambda rng: rng.randrange(low, high) + rng.randint(1, 9) / 10,
        says=says,
    )


def yes_or_no(says: str, says_not: str) -> Fact:
    """A fact that is true or false."""
    return Fact(schema={"type": "boolean"}, draw=lambda rng: rng.random() < 0.5, says=says, says_not=says_not)


def several(values: list[str], says: str) -> Fact:
    """A fact that is a list of one to three words."""
    return Fact(
        schema={"type": "array", "items": {"type": "string"}, "minItems": 1},
        draw=lambda rng: rng.sample(values, rng.randint(1, 3)),
        says=says,
    )


def person(rng: Random) -> str:
    """A full name."""
    return f"{rng.choice(NAMES)} {rng.choice(SURNAMES)}"


def people(says: str) -> Fact:
    """A fact that is a person's full name."""
    return Fact(schema={"type": "string", "minLength": 1}, draw=person, says=says)


DOMAINS: dict[str, dict[str, Fact]] = {
    "order": {
        "order_id": code("OR", "The order is {}."),
        "customer": people("It was placed by {}."),
        "ordered_on": day("It came in on {}."),
        "quantity": integer(1, 40, "{} pieces were ordered."),
        "total_price": number(5, 900, "In all that makes {} euros."),
        "paid": yes_or_no("It has been paid.", "It has not been paid yet."),
        "items": several(["lamp", "desk", "chair", "shelf", "rug", "mirror"], "It consists of: {}."),
    },
    "event": {
        "title": text(["Harvest Fair", "Robot Cup", "Night Run", "Book Swap"], "The event is called {}."),
        "city": choice(CITIES, "It takes place in {}."),
        "held_on": day("Its date is {}."),
        "seats": integer(20, 800, "There are {} seats."),
        "ticket_price": number(3, 90, "A ticket is {} euros."),
        "outdoors": yes_or_no("It is held outdoors.", "It is held indoors."),
        "speakers": several(NAMES, "Those who speak are {}."),
    },
    "recipe": {
        "dish": text(["Leek Tart", "Bean Stew", "Plum Cake", "Rice Soup"], "This is a recipe for {}."),
        "course": choice(["starter", "main", "dessert"], "As a course it is a {}."),
        "servings": integer(1, 12, "It serves {}."),
        "minutes": integer(10, 180, "It takes {} minutes."),
        "salt_grams": number(1, 9, "It needs {} grams of salt."),
        "vegan": yes_or_no("It is vegan.", "It is not vegan."),
        "ingredients": several(["onions", "leeks", "beans", "rice", "plums", "thyme"], "Buy {}."),
    },
    "device": {
        "serial": code("DV", "The device has the serial number {}."),
        "state": choice(["new", "used", "broken"], "Its state is: {}."),
        "weight_kg": number(1, 60, "It weighs {} kilograms."),
        "ports": integer(0, 16, "It has {} ports."),
        "wireless": yes_or_no("It is wireless.", "It is not wireless."),
        "bought_on": day("It was bought on {}."),
        "colours": several(["black", "white", "red", "green", "silver"], "It comes in {}."),
    },
    "visit": {
        "patient": people("The patient is {}."),
        "visit_code": code("VI", "The visit is filed as {}."),
        "age": integer(18, 95, "The patient is {} years old."),
        "temperature": number(36, 41, "The temperature was {} degrees."),
        "kind": choice(["first", "check", "urgent"], "It was a visit of the kind '{}'."),
        "follow_up": yes_or_no("A follow-up is needed.", "No follow-up is needed."),
        "symptoms": several(["cough", "fever", "headache", "rash", "fatigue"], "The symptoms were {}."),
    },
}
HOW: dict[str, str] = {
    "json": "JSON",
    "yaml": "YAML",
    "xml": "XML. Each field is an element inside <answer>, without attributes; "
    "a list is its element, repeated for every item",
    "toml": "TOML",
    "csv": "CSV with a header, one row for each entry in the order of the text, separated by commas",
}
ASKS = (
    "{document}\n\nGive the facts of this text as {how}. They have to fit this JSON schema:\n{schema}\n"
    "Answer with nothing else.",
    "Read the text and fill in the schema. Your answer is {how}, and only that.\n\nSchema: {schema}\n\n"
    "Text: {document}",
    "Schema:\n{schema}\n\nText:\n{document}\n\nThe answer has to validate against the schema and is written "
    "as {how}. No explanation.",
)


def tasks(rng: Random) -> Iterator[Json]:
    """The five formats in turn; each with three to six facts of one kind of thing.

    CSV asks for a list of two to four things. The others ask for one thing, and every second time it holds
    something further: a list of things of another kind.
    """
    for index in count():
        form = FORMATS[index % len(FORMATS)]
        domain = rng.choice([*DOMAINS])
        facts = _some(rng, domain, flat=form == "csv")
        if form == "csv":
            values = [_drawn(rng, facts) for _ in range(rng.randint(2, 4))]
            expected: Any = values
            schema: Json = {"type": "array", "items": _schema(facts), "minItems": 1}
            document = "\n".join(f"{n}. {_told(facts, value)}" for n, value in enumerate(values, start=1))
        else:
            expected, schema = _drawn(rng, facts), _schema(facts)
            document = _told(facts, expected)
            if rng.random() < 0.5:
                other = rng.choice([name for name in DOMAINS if name != domain])
                inner = _some(rng, other, flat=True)
                values = [_drawn(rng, inner) for _ in range(rng.randint(2, 3))]
                field = f"{other}s"
                expected[field] = values
                schema["properties"][field] = {"type": "array", "items": _schema(inner), "minItems": 1}
                schema["required"].append(field)
                listed = "\n".join(f"- {_told(inner, value)}" for value in values)
                document = f"{document}\nThe {field} that belong to it:\n{listed}"
        schema_str = json.dumps(schema)
        prompt = rng.choice(ASKS).format(document=document, how=HOW[form], schema=schema_str)
        yield {
            "responses_create_params": {"input": [{"role": "user", "content": prompt}]},
            "schema_str": schema_str,
            "schema_type": form,
            "expected_object": expected,
            "domain": domain,
        }


def _some(rng: Random, domain: str, *, flat: bool) -> dict[str, Fact]:
    """The fact that names the thing, and two to five others."""
    facts = {k: v for k, v in DOMAINS[domain].items() if not (flat and v.schema["type"] == "array")}
    first, *others = facts
    chosen = {first, *rng.sample(others, rng.randint(2, min(5, len(others))))}
    return {name: fact for name, fact in facts.items() if name in chosen}


def _drawn(rng: Random, facts: dict[str, Fact]) -> Json:
    return {name: fact.draw(rng) for name, fact in facts.items()}


def _told(facts: dict[str, Fact], values: Json) -> str:
    return " ".join(fact.sentence(values[name]) for name, fact in facts.items())


def _schema(facts: dict[str, Fact]) -> Json:
    return {
        "type": "object",
        "properties": {name: fact.schema for name, fact in facts.items()},
        "required": [*facts],
        "additionalProperties": False,
    }
