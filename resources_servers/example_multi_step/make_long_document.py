"""The same questions, with the thesaurus scattered through a long document that has to be searched."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from nemo_like.types import Json

from .app import MultiStep
from .make_data import row
from .terms import TERMS

PARAGRAPHS, SENTENCES = 22, 6
ORDINALS = ("first", "second", "third")
SYSTEM = """\
You extract the values of synonyms. The user's question is about exactly one of these terms, without naming \
it: {names}.

1. Decide which term it is.
2. Find its three synonyms with search_document. The document is the log of an expedition; in between, it \
notes which is the first, the second and the third synonym of each term.
3. Call get_synonym_value once for each synonym of that term, from the first to the third.
4. Call extract_synonym_values once, with all the values in that order.

A term is not a synonym of itself: never value it. Do not answer the question."""
NEEDLE = 'A note in the margin says: the {ordinal} synonym of "{name}" is "{synonym}".'
FILLERS = (
    "On day {day} the {who} checked the {thing} {times} times before breakfast.",
    "The {thing} was left {where}, and nobody but the {who} knew why.",
    "We walked {times} miles along the {where_noun} and met no one.",
    "The {who} wrote {times} letters {where} while the others mended the {thing}.",
    "By evening the {thing} was in order again, and the {who} told a story about the {where_noun}.",
    "There were {times} birds above the {where_noun} when we struck the camp.",
    "Nobody spoke of the {thing} that the {who} had lost on day {day}.",
)
WHO = ("cook", "surveyor", "pilot", "doctor", "carpenter", "geologist", "photographer")
THING = ("compass", "tent", "radio", "sledge", "barometer", "stove", "theodolite")
WHERE = ("by the river", "under the ridge", "beside the lake", "at the old mine", "behind the church")
WHERE_NOUN = ("river", "ridge", "lake", "valley", "coast", "moraine")


def tasks(rng: Random) -> Iterator[Json]:
    """Documents of 1,000 to 2,000 words with twelve notes in them, three of which are asked for."""
    while True:
        terms = rng.sample(TERMS, 4)
        thesaurus = {term.name: rng.sample(term.synonyms, len(ORDINALS)) for term in terms}
        needles = [
            NEEDLE.format(ordinal=ordinal, name=name, synonym=synonym)
            for name, synonyms in thesaurus.items()
            for ordinal, synonym in zip(ORDINALS, synonyms, strict=True)
        ]
        system = SYSTEM.format(names=", ".join(thesaurus))
        task = row(rng.choice(terms), thesaurus, system, MultiStep.tools(), rng)
        yield task | {"document": _document(needles, rng)}


def _document(needles: list[str], rng: Random) -> str:
    paragraphs = [[_filler(rng) for _ in range(SENTENCES)] for _ in range(PARAGRAPHS)]
    for paragraph, needle in zip(rng.sample(paragraphs, len(needles)), needles, strict=True):
        paragraph.insert(rng.randint(0, SENTENCES), needle)
    return "\n\n".join(" ".join(paragraph) for paragraph in paragraphs)


def _filler(rng: Random) -> str:
    return rng.choice(FILLERS).format(
        day=rng.randint(2, 90),
        times=rng.randint(2, 30),
        who=rng.choice(WHO),
        thing=rng.choice(THING),
        where=rng.choice(WHERE),
        where_noun=rng.choice(WHERE_NOUN),
    )
