"""Questions about a term, and a thesaurus that tells its synonyms."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from nemo_like.types import Json

from .app import MultiStep
from .terms import TERMS, Term, value_of

SYSTEM = """\
You extract the values of synonyms. The user's question is about exactly one term of the thesaurus below, \
without naming it.

1. Decide which term it is.
2. Call get_synonym_value once for each synonym of that term, in the order of the thesaurus.
3. Call extract_synonym_values once, with all the values in that order.

A term is not a synonym of itself: never value it. Do not answer the question.

Thesaurus:
"""


def tasks(rng: Random) -> Iterator[Json]:
    """Six terms with two or three synonyms each, and a question about one of them."""
    while True:
        terms = rng.sample(TERMS, 6)
        thesaurus = {term.name: rng.sample(term.synonyms, rng.randint(2, 3)) for term in terms}
        lines = [f"- {name}: {', '.join(synonyms)}" for name, synonyms in thesaurus.items()]
        tools = [tool for tool in MultiStep.tools() if tool["name"] != "search_document"]
        yield row(rng.choice(terms), thesaurus, SYSTEM + "\n".join(lines), tools, rng)


def row(term: Term, thesaurus: dict[str, list[str]], system: str, tools: list[Json], rng: Random) -> Json:
    """The task that asks for the synonyms of `term`."""
    return {
        "responses_create_params": {
            "input": [
                {"role": "system", "content": system},
                {"role": "user", "content": rng.choice(term.questions)},
            ],
            "tools": tools,
            "parallel_tool_calls": False,
        },
        "expected_synonyms": thesaurus[term.name],
        "expected_synonym_values": [value_of(synonym) for synonym in thesaurus[term.name]],
        "minefield_label": term.name,
        "minefield_label_value": value_of(term.name),
    }
