"""Terms, their synonyms, and questions that are about a term without naming it."""

from __future__ import annotations

from typing import NamedTuple


class Term(NamedTuple):
    """A word, words near it, and questions about it."""

    name: str
    synonyms: tuple[str, ...]
    questions: tuple[str, ...]


TERMS = (
    Term(
        "Hot",
        ("Blazing", "Warm", "Scorching", "Torrid"),
        ("What makes a desert reach fifty degrees at noon?", "Why does sand burn bare feet in July?"),
    ),
    Term(
        "Cold",
        ("Icy", "Chilly", "Frosty", "Freezing"),
        ("What brings the sea near the poles below zero?", "Why do pipes burst on a January night?"),
    ),
    Term(
        "Fast",
        ("Quick", "Rapid", "Swift", "Speedy"),
        ("How does a falcon cover a mile in twenty seconds?", "Why do sprinters need so few strides?"),
    ),
    Term(
        "Slow",
        ("Sluggish", "Unhurried", "Plodding", "Leisurely"),
        ("Why does honey take so long to leave the spoon?", "Why does a tortoise win no race?"),
    ),
    Term(
        "Big",
        ("Huge", "Vast", "Giant", "Massive"),
        ("How can a whale weigh as much as thirty elephants?", "Why does a stadium hold so many people?"),
    ),
    Term(
        "Small",
        ("Tiny", "Little", "Minute", "Compact"),
        ("How can an ant fit through the eye of a needle?", "Why do we need a lens to see pollen?"),
    ),
    Term(
        "Loud",
        ("Noisy", "Deafening", "Thunderous", "Booming"),
        ("Why do people near a runway wear ear protection?", "What lets a church bell carry for miles?"),
    ),
    Term(
        "Quiet",
        ("Silent", "Hushed", "Muted", "Noiseless"),
        ("Why can you hear a pin drop in a reading room?", "How does an owl fly without a sound?"),
    ),
    Term(
        "Old",
        ("Ancient", "Aged", "Antique", "Elderly"),
        ("How can a pine be alive after five thousand years?", "Why do castles have worn steps?"),
    ),
    Term(
        "Wet",
        ("Damp", "Soaked", "Moist", "Drenched"),
        ("Why do clothes take days to dry in a rain forest?", "What happens to a sponge left in a bucket?"),
    ),
    Term(
        "Bright",
        ("Radiant", "Shining", "Dazzling", "Luminous"),
        (
            "Why does it hurt the eyes to look at the sun?",
            "How does a lighthouse reach ships beyond the horizon?",
        ),
    ),
    Term(
        "Hard",
        ("Solid", "Rigid", "Firm", "Tough"),
        ("Why can only a diamond scratch a diamond?", "What keeps a granite block from bending?"),
    ),
)


def value_of(word: str) -> int:
    """The value of a word: the sum of the code points of its characters."""
    return sum(map(ord, word))
