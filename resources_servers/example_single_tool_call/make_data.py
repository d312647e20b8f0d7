"""Questions about the weather in a city."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from nemo_like.types import Json

from .app import Weather

CITIES = ["Cairo", "Dublin", "Kyoto", "Lima", "Lisbon", "Nairobi", "Oslo", "Quito", "Seoul", "Vienna"]
QUESTIONS = (
    "What is the weather like in {city}?",
    "Do I need a coat in {city} today?",
    "I fly to {city} tonight. How is the weather there?",
)
SYSTEM = "You are a helpful assistant. Look the weather up with the tool before you answer."


def tasks(rng: Random) -> Iterator[Json]:
    """One question a row, about one city."""
    while True:
        question = rng.choice(QUESTIONS).format(city=rng.choice(CITIES))
        yield {
            "responses_create_params": {
                "input": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}],
                "tools": Weather.tools(),
            }
        }
