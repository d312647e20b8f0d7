"""Sentences about people, with the object that holds their facts and one worked example."""

from __future__ import annotations

import json
from collections.abc import Iterator
from random import Random

from nemo_like.types import Json

FIRST_NAMES = ["Ana", "Bruno", "Clara", "David", "Elena", "Felix", "Grace", "Hugo", "Irene", "Jonas"]
LAST_NAMES = ["Almeida", "Becker", "Costa", "Evans", "Garcia", "Ito", "Keller", "Novak", "Okafor", "Silva"]
CITIES = ["Dublin", "Kyoto", "Lima", "Lisbon", "Madrid", "Nairobi", "Oslo", "Porto", "Prague", "Vienna"]
JOBS = ["baker", "farmer", "nurse", "pilot", "teacher"]
SENTENCES = (
    "{name} is {age} years old.",
    "{name}, aged {age}, works as a {job}.",
    "{name} is {age} years old and works as a {job}.",
)
SENTENCES_WITH_CITY = (
    "{name} is {age} years old and lives in {city}.",
    "{name}, aged {age}, moved to {city}.",
    "{name}, aged {age}, lives in {city}.",
)
TYPES = {"name": "string", "age": "integer", "city": "string"}


def tasks(rng: Random) -> Iterator[Json]:
    """Two sentences in three tell a name and an age, the third a city too."""
    while True:
        facts: Json = {
            "name": f"{rng.choice(FIRST_NAMES)} {rng.choice(LAST_NAMES)}",
            "age": rng.randint(18, 90),
        }
        sentences, worked = SENTENCES, ("Emma Brown, aged 25, likes tea.", {"name": "Emma Brown", "age": 25})
        if rng.random() < 1 / 3:
            facts["city"] = rng.choice(CITIES)
            sentences = SENTENCES_WITH_CITY
            worked = ("Last year Emma Brown moved to Rome, aged 25.", worked[1] | {"city": "Rome"})
        sentence = rng.choice(sentences).format(**facts, job=rng.choice(JOBS))
        yield {
            "responses_create_params": {
                "input": [
                    _question(*worked),
                    {"role": "assistant", "content": json.dumps(worked[1])},
                    _question(sentence, facts),
                ],
                "text": {"format": _format(facts)},
            },
            "expected_object": facts,
        }


def _question(sentence: str, facts: Json) -> Json:
    *names, last = facts
    content = f"Extract the {', '.join(names)} and {last} as JSON: {sentence}"
    return {"role": "user", "content": content}


def _format(facts: Json) -> Json:
    """The `text.format` that makes an engine which can guide its output write this schema."""
    schema = {
        "type": "object",
        "properties": {name: {"type": TYPES[name]} for name in facts},
        "required": list(facts),
        "additionalProperties": False,
    }
    return {"type": "json_schema", "name": "person", "schema": schema, "strict": True}
