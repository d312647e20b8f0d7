"""Requests to an assistant, with the tool calls that each takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import cycle
from random import Random

from nemo_like.types import Json

from .app import RATES, ToolCallMultireward

CITIES = ["Cairo", "Dublin", "Kyoto", "Lima", "Lisbon", "Nairobi", "Oslo", "Quito", "Seoul", "Vienna"]
CHORES = ["water the plants", "call the bank", "feed the cat", "buy stamps", "take out the bins"]
TALK = (
    "What is the opposite of '{}'? One word is enough.",
    "Spell the word '{}' backwards.",
    "Give me a rhyme on '{}'.",
)
WORDS = ["hot", "light", "long", "dry", "new", "high", "fast", "deep"]
SYSTEM = (
    "You are a helpful assistant with a few tools. Call each tool that the request needs, once for every "
    "thing that is asked for, and none that it doesn't need. Then answer in a sentence."
)


def weather(rng: Random) -> tuple[str, Json]:
    """A question about the weather, and the call that answers it."""
    city, unit = rng.choice(CITIES), rng.choice(["celsius", "fahrenheit"])
    asks = ("How warm is it in {} (in {})?", "Tell me the weather in {}, in degrees {}.")
    return rng.choice(asks).format(city, unit), _call("get_weather", city=city, unit=unit)


def money(rng: Random) -> tuple[str, Json]:
    """A question about an amount of money, and the call that answers it."""
    source, target = rng.sample([*RATES], 2)
    amount = rng.choice([rng.randint(2, 900), rng.randint(20, 900) / 4])
    asks = ("How much are {} {} in {}?", "Convert {} {} to {}.")
    text = rng.choice(asks).format(amount, source, target)
    return text, _call("convert_currency", amount=amount, source=source, target=target)


def reminder(rng: Random) -> tuple[str, Json]:
    """Something to be reminded of, and the call that does it."""
    time, chore = f"{rng.randint(7, 22):02}:{rng.choice([0, 15, 30, 45]):02}", rng.choice(CHORES)
    asks = ("Remind me at {} to '{}'.", "Set a reminder for {} that says '{}'.")
    return rng.choice(asks).format(time, chore), _call("set_reminder", time=time, text=chore)


REQUESTS: tuple[Callable[[Random], tuple[str, Json]], ...] = (weather, money, reminder)


def tasks(rng: Random) -> Iterator[Json]:
    """Requests that take 1, 2, 1, 3 and 0 calls, and so on; no call is wanted twice in one."""
    for difficulty in cycle((1, 2, 1, 3, 0)):
        said: list[str] = []
        calls: list[Json] = []
        while len(calls) < difficulty:
            text, call = rng.choice(REQUESTS)(rng)
            if call not in calls:
                said.append(text)
                calls.append(call)
        if not said:
            said.append(rng.choice(TALK).format(rng.choice(WORDS)))
        yield {
            "responses_create_params": {
                "input": [
                    {"role": "system", "content": SYSTEM},
                    {"role": "user", "content": " ".join(said)},
                ],
                "tools": ToolCallMultireward.tools(),
            },
            "expected_tool_calls": calls,
            "difficulty": difficulty,
        }


def _call(name: str, **arguments: str | float) -> Json:
    return {"name": name, "arguments": arguments}
