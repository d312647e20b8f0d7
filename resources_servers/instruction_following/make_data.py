"""Short requests with one to three of IFEval's instructions, and an answer made to follow them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import cycle
from random import Random

from nemo_like.rewards.ifeval_checks import INSTRUCTIONS, bind
from nemo_like.types import Json

# What is asked never follows its own format, so that repeating it gains little; and requests have no commas,
# so that they may be repeated in an answer that has none.
REQUESTS = (
    *("Write a short note about {}.", "Describe {} to a friend.", "Explain why people care about {}."),
    *("Tell a child about {}.", "Give some advice about {}.", "Write a small post for a blog about {}."),
)
TOPICS = (
    *("rain in spring", "old bridges", "baking bread", "night trains", "public libraries", "city gardens"),
    *("learning to swim", "wooden boats", "village markets", "winter mornings", "repairing bicycles"),
    *("street music", "keeping bees", "mountain paths", "handwritten letters", "small museums"),
)
CLAIMS = (
    *("walking is better than driving", "cats are easier to keep than dogs", "tea is better than coffee"),
    *("paper books will disappear", "winter is the best season", "every child should learn to cook"),
)
SENTENCES = (
    *("The morning light falls on the water.", "People meet there and talk about the day."),
    *("Some of them stay until the evening.", "The work looks easy in careful hands."),
    *("Nothing about it is ever quite the same.", "Old friends still remember how it began."),
    *("There is much to learn for everybody.", "It takes time and a little patience."),
    *("The smell of it fills the whole street.", "You can hear the sound from far away."),
    *("Many visitors come back every year.", "The best part is often the simplest one."),
)
KEYWORDS = ("lantern", "harbor", "copper", "meadow", "whistle", "marble", "velvet", "orchard", "pebble")
FORBIDDEN = ("always", "very", "nice", "great", "really", "amazing", "basically", "wonderful", "maybe")
ENDINGS = ("Is there anything else I can help with?", "That is all for today.", "Thank you for reading.")
PLACEHOLDERS = ("[name]", "[date]", "[place]", "[address]")
LANGUAGES = {
    "de": ("German", "Der Regen fällt auf die alte Brücke und die Leute warten unter dem Dach."),
    "es": ("Spanish", "La lluvia cae sobre el viejo puente y la gente espera bajo el techo."),
    "fi": ("Finnish", "Sade lankeaa vanhalle sillalle ja ihmiset odottavat katon alla."),
    "fr": ("French", "La pluie tombe sur le vieux pont et les gens attendent sous le toit."),
    "it": ("Italian", "La pioggia cade sul vecchio ponte e la gente aspetta sotto il tetto."),
    "pl": ("Polish", "Deszcz pada na stary most a ludzie czekają pod dachem."),
    "pt": ("Portuguese", "A chuva cai sobre a velha ponte e as pessoas esperam debaixo do telhado."),
    "ru": ("Russian", "Дождь падает на старый мост и люди ждут под крышей."),
    "sw": ("Swahili", "Mvua inanyesha juu ya daraja la zamani na watu wanasubiri chini ya paa."),
    "uk": ("Ukrainian", "Дощ падає на старий міст та люди чекають під дахом."),
    "vi": ("Vietnamese", "Mưa rơi trên cây cầu cũ và mọi người chờ đợi dưới mái nhà."),
}


@dataclass(kw_only=True)
class Draft:
    """A request and an answer to it in the making, piece by piece."""

    rng: Random
    request: str
    sentences: list[str]
    pool: tuple[str, ...] = SENTENCES
    """Where more sentences come from."""
    asked: list[str] = field(default_factory=list[str])
    """The instructions in words."""
    paragraphs: int = 1
    divider: str = "\n\n"
    openings: dict[int, str] = field(default_factory=dict[int, str])
    """Paragraph → what it begins with."""
    lines: list[str] = field(default_factory=list[str])
    """Lines below the last paragraph."""
    end: list[str] = field(default_factory=list[str])
    """The line that nothing follows."""
    whole: list[Callable[[str], str]] = field(default_factory=list[Callable[[str], str]])
    """What is done with the answer as a whole, in this order."""

    def prompt(self) -> str:
        return " ".join([self.request, *self.asked])

    def answer(self) -> str:
        shares = [self.sentences[n :: self.paragraphs] for n in range(self.paragraphs)]
        parts = [self.openings.get(n, "") + " ".join(share) for n, share in enumerate(shares)]
        text = "\n".join([self.divider.join(parts), *self.lines, *self.end])
        for change in self.whole:
            text = change(text)
        return text

    def add(self, n: int = 1) -> None:
        self.sentences += [self.rng.choice(self.pool) for _ in range(n)]

    def some(self) -> str:
        return self.rng.choice(self.pool)

    def relation(self) -> str:
        return self.rng.choice(("at least", "less than"))


def tasks(rng: Random) -> Iterator[Json]:
    """Rows whose `gold_answer` follows all of their instructions; each of the 25 has its turn."""
    for first in cycle(INSTRUCTIONS):
        while (row := _row(rng, first)) is None:
            pass
        yield row


def _row(rng: Random, first: str) -> Json | None:
    """A row with the instruction `first` and up to two that go with it; None where they got in each other's
    way after all, as few words and many sentences do."""
    names = {first}
    for _ in range(rng.choice((0, 1, 1, 2, 2))):
        free = [name for name in DRAWN if all(_compatible(name, other) for other in names)]
        names |= {*rng.sample(free, min(1, len(free)))}
    request = rng.choice(REQUESTS).format(rng.choice(TOPICS))
    draft = Draft(rng=rng, request=request, sentences=rng.sample(SENTENCES, 3))
    drawn = {name: draw(rng, draft) for name, draw in DRAWN.items() if name in names}
    answer = draft.answer()
    if not all(bind(name, kwargs)(answer) for name, kwargs in drawn.items()):
        return None
    return {
        "responses_create_params": {"input": [{"role": "user", "content": draft.prompt()}]},
        "instruction_id_list": [*drawn],
        "kwargs": [*drawn.values()],
        "prompt": draft.prompt(),
        "gold_answer": answer,
    }


def _compatible(one: str, other: str) -> bool:
    return (
        other not in CONFLICTS.get(one, {one}) and one not in CONFLICTS.get(other, {other}) and one != other
    )


def _language(rng: Random, draft: Draft) -> Json:
    language, (name, sentence) = rng.choice([*LANGUAGES.items()])
    draft.pool = (sentence,)
    draft.sentences = [sentence] * 3
    draft.asked.append(f"Your whole answer should be in {name} and in no other language.")
    return {"language": language}


def _existence(rng: Random, draft: Draft) -> Json:
    keywords = rng.sample(KEYWORDS, 2)
    draft.sentences.append(f"One {keywords[0]} and one {keywords[1]} belong to it.")
    draft.asked.append(f"Use the keywords {keywords[0]} and {keywords[1]}.")
    return {"keywords": keywords}


def _frequency(rng: Random, draft: Draft) -> Json:
    keyword, times, relation = rng.choice(KEYWORDS), rng.randint(2, 4), draft.relation()
    if relation == "at least":
        draft.sentences += [f"Every {keyword} has a story."] * times
    draft.asked.append(f"The word {keyword} should appear {relation} {times} times.")
    return {"keyword": keyword, "frequency": times, "relation": relation}


def _forbidden(rng: Random, draft: Draft) -> Json:
    words = rng.sample(FORBIDDEN, rng.randint(2, 3))
    draft.asked.append(f"Do not use the words {' or '.join(words)}.")
    return {"forbidden_words": words}


def _letter(rng: Random, draft: Draft) -> Json:
    relation = draft.relation()
    times = rng.randint(6, 20) if relation == "at least" else rng.randint(2, 3)
    letter = rng.choice("aeinorst" if relation == "at least" else "jqxz")
    draft.add(3 if relation == "at least" else 0)
    draft.asked.append(f"The letter {letter} should appear {relation} {times} times.")
    return {"letter": letter, "let_frequency": times, "let_relation": relation}


def _sentences(rng: Random, draft: Draft) -> Json:
    relation = draft.relation()
    number = rng.randint(3, 8) if relation == "at least" else rng.randint(5, 8)
    draft.add(max(0, number - 3) if relation == "at least" else 0)
    draft.asked.append(f"Write {relation} {number} sentences.")
    return {"num_sentences": number, "relation": relation}


def _words(rng: Random, draft: Draft) -> Json:
    number, relation = rng.randrange(40, 121, 10), draft.relation()
    while relation == "at least" and len(" ".join(draft.sentences).split()) < number:
        draft.add()
    draft.asked.append(f"Use {relation} {number} words.")
    return {"num_words": number, "relation": relation}


def _paragraphs(rng: Random, draft: Draft) -> Json:
    draft.paragraphs, draft.divider = rng.randint(2, 4), "\n***\n"
    draft.add()
    draft.asked.append(f"Write {draft.paragraphs} paragraphs with a divider of three asterisks between them.")
    return {"num_paragraphs": draft.paragraphs}


def _first_word(rng: Random, draft: Draft) -> Json:
    draft.paragraphs, word = rng.randint(2, 4), rng.choice(KEYWORDS)
    draft.add()
    nth = rng.randint(1, draft.paragraphs)
    draft.openings[nth - 1] = f"{word.capitalize()} is the word to begin with. "
    draft.asked.append(
        f"Write {draft.paragraphs} paragraphs with an empty line between them; paragraph {nth} should begin "
        f"with the word {word}."
    )
    return {"num_paragraphs": draft.paragraphs, "nth_paragraph": nth, "first_word": word}


def _placeholders(rng: Random, draft: Draft) -> Json:
    number = rng.randint(2, 4)
    draft.sentences[-1] += f" {' '.join(rng.sample(PLACEHOLDERS, number))}"
    draft.asked.append(f"Leave at least {number} placeholders in square brackets such as [address].")
    return {"num_placeholders": number}


def _highlights(rng: Random, draft: Draft) -> Json:
    number = rng.randint(2, 3)
    for n in range(number):
        before, _, last = draft.sentences[n].removesuffix(".").rpartition(" ")
        draft.sentences[n] = f"{before} *{last}*."
    draft.asked.append(f"Highlight at least {number} parts with markdown like *this part*.")
    return {"num_highlights": number}


def _sections(rng: Random, draft: Draft) -> Json:
    draft.paragraphs, word = rng.randint(2, 4), rng.choice(("Section", "SECTION"))
    draft.add()
    draft.openings = {n: f"{word} {n + 1}\n" for n in range(draft.paragraphs)}
    draft.asked.append(f"Write {draft.paragraphs} sections that begin with {word} 1 and so on.")
    return {"section_spliter": word, "num_sections": draft.paragraphs}


def _capital_words(rng: Random, draft: Draft) -> Json:
    number, relation = rng.randint(2, 6), draft.relation()
    if relation == "at least":
        draft.sentences.append(" ".join(draft.some().split()[:number]).upper().rstrip(".") + ".")
    draft.asked.append(f"Words in capital letters should appear {relation} {number} times.")
    return {"capital_frequency": number, "capital_relation": relation}


def _bullets(rng: Random, draft: Draft) -> Json:
    number = rng.randint(2, 5)
    draft.lines += [f"* {draft.some()}" for _ in range(number)]
    draft.asked.append(f"Add exactly {number} bullet points in markdown like * this one.")
    return {"num_bullets": number}


def _postscript(rng: Random, draft: Draft) -> Json:
    marker = rng.choice(("P.S.", "P.P.S"))
    draft.lines.append(f"{marker} {draft.some()}")
    draft.asked.append(f"Add a postscript at the end that begins with {marker}")
    return {"postscript_marker": marker}


def _end(rng: Random, draft: Draft) -> Json:
    phrase = rng.choice(ENDINGS)
    draft.end = [phrase]
    draft.asked.append(f'End with the words "{phrase}" and let nothing follow them.')
    return {"end_phrase": phrase}


def _title(rng: Random, draft: Draft) -> Json:
    title = " ".join(draft.some().split()[:3])
    draft.whole.append(lambda text: f"<<{title}>>\n{text}")
    draft.asked.append("Give it a title in double angular brackets: << >>.")
    return {}


def _two(rng: Random, draft: Draft) -> Json:
    other = draft.some()
    draft.whole.append(lambda text: f"{text}\n******\n{other} {other}")
    draft.asked.append("Give two different answers and put six asterisks between them.")
    return {}


def _repeat(rng: Random, draft: Draft) -> Json:
    draft.whole.append(lambda text: f"{draft.request}\n{text}")
    draft.asked.append("First repeat the sentence before this one word for word and then answer.")
    return {"prompt_to_repeat": draft.request}


def _option(rng: Random, draft: Draft) -> Json:
    draft.request = f"Is it true that {rng.choice(CLAIMS)}?"
    option = rng.choice(("yes", "no", "maybe"))
    draft.whole.append(lambda text: f"My answer is {option}.")
    draft.asked.append(
        'Answer with "My answer is" and one of the words yes and no and maybe and a full stop.'
    )
    return {}


def _simply(asked: str, change: Callable[[str], str]) -> Callable[[Random, Draft], Json]:
    """An instruction without kwargs that the answer follows once it is changed as a whole."""

    def draw(rng: Random, draft: Draft) -> Json:
        draft.asked.append(asked)
        draft.whole.append(change)
        return {}

    return draw


# In this order they shape an answer: words, lines, the whole.
DRAWN: dict[str, Callable[[Random, Draft], Json]] = {
    "language:response_language": _language,
    "keywords:existence": _existence,
    "keywords:frequency": _frequency,
    "keywords:forbidden_words": _forbidden,
    "keywords:letter_frequency": _letter,
    "length_constraints:number_sentences": _sentences,
    "length_constraints:number_words": _words,
    "length_constraints:number_paragraphs": _paragraphs,
    "length_constraints:nth_paragraph_first_word": _first_word,
    "detectable_content:number_placeholders": _placeholders,
    "detectable_format:number_highlighted_sections": _highlights,
    "detectable_format:multiple_sections": _sections,
    "change_case:capital_word_frequency": _capital_words,
    "detectable_format:number_bullet_lists": _bullets,
    "detectable_content:postscript": _postscript,
    "startend:end_checker": _end,
    "detectable_format:title": _title,
    "combination:two_responses": _two,
    "combination:repeat_prompt": _repeat,
    "detectable_format:constrained_response": _option,
    "change_case:english_capital": _simply("Answer in English and in capital letters only.", str.upper),
    "change_case:english_lowercase": _simply("Answer in English and without capital letters.", str.lower),
    "punctuation:no_comma": _simply("Do not use any commas.", str),
    "startend:quotation": _simply("Put the whole answer in double quotation marks.", '"{}"'.format),
    "detectable_format:json_format": _simply(
        "Give the whole answer as JSON.", lambda text: json.dumps({"answer": text})
    ),
}
STRUCTURES = {
    "length_constraints:number_paragraphs",
    "length_constraints:nth_paragraph_first_word",
    "detectable_format:multiple_sections",
}
CASES = {
    "change_case:english_capital",
    "change_case:english_lowercase",
    "change_case:capital_word_frequency",
}
# What does not go together: IFEval's list, and what follows from other spelling or structure.
CONFLICTS: dict[str, set[str]] = {
    "detectable_format:constrained_response": {*DRAWN},
    "detectable_format:json_format": {*DRAWN} - {"keywords:forbidden_words", "keywords:existence"},
    "combination:two_responses": {*DRAWN}
    - {"keywords:forbidden_words", "keywords:existence", "language:response_language"}
    - {"detectable_format:title", "punctuation:no_comma"},
    "combination:repeat_prompt": {*DRAWN}
    - {"keywords:existence", "detectable_format:title", "punctuation:no_comma"},
    "language:response_language": {
        *(
            "keywords:existence",
            "keywords:frequency",
            "keywords:forbidden_words",
            "keywords:letter_frequency",
        ),
        *("startend:end_checker", "length_constraints:nth_paragraph_first_word"),
        *(
            "detectable_format:multiple_sections",
            "change_case:english_capital",
            "change_case:english_lowercase",
        ),
    },
    "length_constraints:number_paragraphs": {"length_constraints:number_sentences", *STRUCTURES},
    "length_constraints:nth_paragraph_first_word": {"detectable_format:title", *STRUCTURES},
    "detectable_format:multiple_sections": {
        *("detectable_format:number_highlighted_sections", "change_case:english_lowercase"),
        *("change_case:english_capital", *STRUCTURES),
    },
    "startend:quotation": {"detectable_format:title"},
    **dict.fromkeys(CASES, CASES),
}
