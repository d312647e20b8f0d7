"""Word problems of two to five steps: a stock that grows and shrinks as a story tells.

Each step is drawn from a table, so that the stories differ in length, order and arithmetic; the answer is a
whole number, and never one that the question mentions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

from nemo_like.types import Json

INSTRUCTION = "Solve the problem step by step. Put the final answer, a number, inside \\boxed{}."
NAMES = [
    *("Amara", "Ben", "Chiara", "Dilip", "Elif", "Farid", "Grace", "Hugo", "Ines", "Jonas", "Kofi", "Lena"),
    *("Mateo", "Nadia", "Omar", "Priya", "Quinn", "Rosa", "Sven", "Tara", "Umi", "Viktor", "Wanda", "Yuki"),
]
THINGS = [
    *("apples", "beads", "books", "buttons", "candles", "cards", "coins", "cookies", "eggs", "marbles"),
    *("oranges", "pencils", "plants", "postcards", "seashells", "stamps", "stickers", "tickets", "tulips"),
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """A sentence, what it does to the number, and how that is written."""

    sentence: str
    result: int
    working: str


def tasks(rng: Random) -> Iterator[Json]:
    """Problems of 2, 3, 4 and 5 steps in turn."""
    while True:
        for steps in (2, 3, 4, 5):
            question, solution, answer = problem(rng, steps)
            content = f"{INSTRUCTION}\n\n{question}"
            yield {
                "responses_create_params": {"input": [{"role": "user", "content": content}]},
                "question": question,
                "expected_answer": str(answer),
                "solution": solution,
                "steps": steps,
            }


def problem(rng: Random, num_steps: int) -> tuple[str, str, int]:
    """(The question, its worked solution, the answer)."""
    while True:
        name, friend = rng.sample(NAMES, 2)
        thing, number = rng.choice(THINGS), rng.randint(4, 40)
        sentences, workings = [f"{name} has {number} {thing}."], list[str]()
        for make in rng.sample(STEPS, num_steps):
            step = make(rng, number, name, friend, thing)
            if step is None:
                break
            number = step.result
            sentences.append(step.sentence)
            workings.append(step.working)
        else:
            question = f"{' '.join(sentences)} How many {thing} does {name} have now?"
            if str(number) not in re.findall(r"\d+", question):
                return question, "\n".join([*workings, f"#### {number}"]), number


def _buys_packs(rng: Random, n: int, name: str, _: str, thing: str) -> Step:
    packs, each = rng.randint(2, 6), rng.randint(3, 12)
    return Step(
        sentence=f"{name} buys {packs} packs of {each} {thing}.",
        result=n + packs * each,
        working=f"{n} + {packs} * {each} = {n + packs * each}",
    )


def _gives_away(rng: Random, n: int, name: str, friend: str, thing: str) -> Step | None:
    if n < 5:
        return None
    given = rng.randint(2, n - 2)
    return Step(
        sentence=f"{name} gives {given} of the {thing} to {friend}.",
        result=n - given,
        working=f"{n} - {given} = {n - given}",
    )


def _doubles(rng: Random, n: int, name: str, friend: str, thing: str) -> Step:
    factor, word = rng.choice([(2, "twice"), (3, "three times"), (4, "four times")])
    sentence = f"Then {friend} gives {name} {word} as many {thing} as {name} has at that moment."
    return Step(
        sentence=sentence, result=n * (factor + 1), working=f"{n} + {factor} * {n} = {n * (factor + 1)}"
    )


def _splits(rng: Random, n: int, name: str, friend: str, thing: str) -> Step | None:
    shares = [d for d in (2, 3, 4, 5) if n % d == 0 and n > d]
    if not shares:
        return None
    share = rng.choice(shares)
    others = f"{share - 1} friends" if share > 2 else friend
    sentence = f"{name} shares them equally with {others}, keeping one share."
    return Step(sentence=sentence, result=n // share, working=f"{n} / {share} = {n // share}")


def _loses_percent(rng: Random, n: int, name: str, _: str, thing: str) -> Step | None:
    percents = [p for p in (10, 20, 25, 40, 50, 75) if n * p % 100 == 0 and n * p]
    if not percents:
        return None
    percent = rng.choice(percents)
    lost = n * percent // 100
    return Step(
        sentence=f"On the way home {percent}% of {name}'s {thing} are lost.",
        result=n - lost,
        working=f"{n} - {n} * {percent} / 100 = {n - lost}",
    )


def _finds_daily(rng: Random, n: int, name: str, _: str, thing: str) -> Step:
    days, each = rng.randint(3, 9), rng.randint(2, 8)
    return Step(
        sentence=f"For {days} days {name} finds {each} more {thing} every day.",
        result=n + days * each,
        working=f"{n} + {days} * {each} = {n + days * each}",
    )


STEPS: list[Callable[[Random, int, str, str, str], Step | None]] = [
    *(_buys_packs, _gives_away, _doubles, _splits, _loses_percent, _finds_daily),
]
