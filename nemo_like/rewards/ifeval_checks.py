"""The 25 instructions of IFEval (Zhou et al. 2023, arXiv:2311.07911), each a check of an answer's text.

    follows = bind("length_constraints:number_words", {"num_words": 50, "relation": "at least"})
    follows("Too short.")       # False

A check is known by its published id, and its keyword parameters are the kwargs that a row must give for it.
Verdicts are those of the published code, with five exceptions: keywords are literal text and no regular
expressions; an answer whose language can't be told follows none; a letter may be any character; kwargs that
are missing are an error, where the published code draws them at random; sentences are found by the rules in
`count_sentences`. Each check takes time linear in the answer.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, partial
from itertools import pairwise
from typing import Annotated, Any, Literal

import langdetect  # pyright: ignore[reportMissingTypeStubs]  # it has no types
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    create_model,
)

from nemo_like.errors import did_you_mean
from nemo_like.settings import explain
from nemo_like.types import Json

Check = Callable[[str], bool]
"""Whether an answer's text follows one instruction."""

LANGUAGES = (
    *("af", "ar", "bg", "bn", "ca", "cs", "cy", "da", "de", "el", "en", "es", "et", "fa", "fi", "fr", "gu"),
    *("he", "hi", "hr", "hu", "id", "it", "ja", "kn", "ko", "lt", "lv", "mk", "ml", "mr", "ne", "nl", "no"),
    *("pa", "pl", "pt", "ro", "ru", "sk", "sl", "so", "sq", "sv", "sw", "ta", "te", "th", "tl", "tr", "uk"),
    *("ur", "vi", "zh-cn", "zh-tw"),
)
"""The languages that can be told apart."""


def _whole(value: Any) -> Any:
    # A table with gaps in it makes 3.0 of 3, which is still a count; true and "3" are not.
    if isinstance(value, bool | str):
        raise ValueError("should be a whole number")
    return value


def _one_of_them(value: int, info: ValidationInfo) -> int:
    if value > info.data.get("num_paragraphs", value):
        raise ValueError("should be at most num_paragraphs")
    return value


def _language(value: str) -> str:
    if value not in LANGUAGES:
        raise ValueError(f"there is no language '{value}'{did_you_mean(value, [*LANGUAGES])}")
    return value


Count = Annotated[int, BeforeValidator(_whole), Field(ge=0)]
Nth = Annotated[int, BeforeValidator(_whole), Field(ge=1), AfterValidator(_one_of_them)]
Text = Annotated[str, Field(pattern=r"\S")]
Texts = Annotated[list[Text], Field(min_length=1)]
Character = Annotated[str, Field(pattern=r"^\S$")]
Language = Annotated[str, AfterValidator(_language)]
Relation = Literal["less than", "at least"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Instruction:
    """A published instruction: what checks it, and the kwargs that it needs."""

    check: Callable[..., bool]
    arguments: type[BaseModel]


INSTRUCTIONS: dict[str, Instruction] = {}


def bind(name: str, kwargs: Json | None) -> Check:
    """The check of the instruction `name`, its `kwargs` filled in; those that are null count as absent.

    Raises:
        ValueError: there is no such instruction; or kwargs are missing, unknown or wrong, each of them named.
    """
    if name not in INSTRUCTIONS:
        raise ValueError(f"there is no instruction '{name}'{did_you_mean(name, [*INSTRUCTIONS])}")
    instruction = INSTRUCTIONS[name]
    given = {key: value for key, value in (kwargs or {}).items() if value is not None}
    try:
        arguments = instruction.arguments.model_validate(given)
    except ValidationError as error:
        known = [*instruction.arguments.model_fields]
        raise ValueError(explain(error, where=name, known=known, noun="parameter")) from error
    return partial(instruction.check, **arguments.model_dump())


def instruction(name: str) -> Callable[[Callable[..., bool]], Callable[..., bool]]:
    """Decorator that makes a check known as `name`; its keyword parameters declare the kwargs."""

    def add(check: Callable[..., bool]) -> Callable[..., bool]:
        parameters = inspect.signature(check, eval_str=True).parameters.values()
        fields: dict[str, Any] = {p.name: (p.annotation, ...) for p in parameters if p.kind is p.KEYWORD_ONLY}
        arguments = create_model(name, __config__=ConfigDict(extra="forbid"), **fields)
        INSTRUCTIONS[name] = Instruction(check=check, arguments=arguments)
        return check

    return add


@instruction("keywords:existence")
def has_keywords(text: str, *, keywords: Texts) -> bool:
    """Every keyword stands in the answer, in any case, be it inside a word."""
    return all(_occurrences(keyword, text) for keyword in keywords)


@instruction("keywords:frequency")
def has_keyword_often(text: str, *, keyword: Text, frequency: Count, relation: Relation) -> bool:
    """The keyword stands there so many times, in any case, be it inside a word."""
    return _compare(_occurrences(keyword.strip(), text), relation, frequency)


@instruction("keywords:forbidden_words")
def lacks_words(text: str, *, forbidden_words: Texts) -> bool:
    """None of the words stands there as a word of its own, in any case."""
    words = (re.escape(word.strip()) for word in forbidden_words)
    return not any(re.search(rf"(?<!\w){word}(?!\w)", text, re.IGNORECASE) for word in words)


@instruction("keywords:letter_frequency")
def has_letter_often(text: str, *, letter: Character, let_frequency: Count, let_relation: Relation) -> bool:
    """The letter stands there so many times, in either case."""
    return _compare(text.lower().count(letter.lower()), let_relation, let_frequency)


@instruction("language:response_language")
def is_in_language(text: str, *, language: Language) -> bool:
    """The answer as a whole is in the language."""
    return detect_language(text) == language


@instruction("length_constraints:number_sentences")
def has_sentences(text: str, *, num_sentences: Count, relation: Relation) -> bool:
    """It has so many sentences."""
    return _compare(count_sentences(text), relation, num_sentences)


@instruction("length_constraints:number_paragraphs")
def has_paragraphs(text: str, *, num_paragraphs: Count) -> bool:
    """It has exactly so many paragraphs with `***` between them, none of them blank."""
    return _count_parts(re.split(r"\s?\*\*\*\s?", text)) == num_paragraphs


@instruction("length_constraints:number_words")
def has_words(text: str, *, num_words: Count, relation: Relation) -> bool:
    """It has so many words, which are runs of letters, digits and underscores."""
    return _compare(_count(re.finditer(r"\w+", text)), relation, num_words)


@instruction("length_constraints:nth_paragraph_first_word")
def has_first_word(text: str, *, num_paragraphs: Count, nth_paragraph: Nth, first_word: Text) -> bool:
    """It has exactly so many paragraphs with an empty line between them; the nth begins with the word."""
    paragraphs = text.split("\n\n")
    count = sum(bool(paragraph.strip()) for paragraph in paragraphs)
    if (
        nth_paragraph > count
        or count != num_paragraphs
        or not (words := paragraphs[nth_paragraph - 1].split())
    ):
        return False
    word = words[0].lstrip("'").lstrip('"')
    return re.split(r"[.,?!'\"]", word, maxsplit=1)[0].lower() == first_word.lower()


@instruction("detectable_content:number_placeholders")
def has_placeholders(text: str, *, num_placeholders: Count) -> bool:
    """At least so many times something stands in square brackets, within a line."""
    pieces = (piece for line in text.split("\n") for piece in line.split("]")[:-1])
    return sum("[" in piece for piece in pieces) >= num_placeholders


@instruction("detectable_content:postscript")
def has_postscript(text: str, *, postscript_marker: Text) -> bool:
    """The marker of the postscript stands there, in any case."""
    published = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}
    marker = postscript_marker.strip()
    return re.search(published.get(marker, re.escape(marker.lower())), text.lower()) is not None


@instruction("detectable_format:number_bullet_lists")
def has_bullets(text: str, *, num_bullets: Count) -> bool:
    """Exactly so many lines begin with `*`, not followed by another, or with `-`."""
    lines = r"^[^\S\n]*\*[^*].*", r"^[^\S\n]*-"
    return sum(_count(re.finditer(line, text, re.MULTILINE)) for line in lines) == num_bullets


@instruction("detectable_format:constrained_response")
def is_an_option(text: str) -> bool:
    """It contains one of three sentences."""
    return any(f"My answer is {option}." in text for option in ("yes", "no", "maybe"))


@instruction("detectable_format:number_highlighted_sections")
def has_highlights(text: str, *, num_highlights: Count) -> bool:
    """At least so many times something stands in `*` within a line; in `**` it counts once too."""
    marked = (*re.findall(r"\*([^\n*]*)\*", text), *re.findall(r"\*\*([^\n*]*)\*\*", text))
    return sum(bool(part.strip()) for part in marked) >= num_highlights


@instruction("detectable_format:multiple_sections")
def has_sections(text: str, *, section_spliter: Text, num_sections: Count) -> bool:
    """At least so many times the word that begins a section stands before a number."""
    heading = rf"\s?{re.escape(section_spliter.strip())}\s?\d+\s?"
    return _count(re.finditer(heading, text)) >= num_sections


@instruction("detectable_format:json_format")
def is_json(text: str) -> bool:
    """It is JSON, in a code fence or not."""
    text = text.strip()
    for mark in ("```json", "```Json", "```JSON", "```"):
        text = text.removeprefix(mark)
    try:
        json.loads(text.removesuffix("```").strip())
    except (ValueError, RecursionError):
        return False
    return True


@instruction("detectable_format:title")
def has_title(text: str) -> bool:
    """Something stands in `<<` and `>>` within a line."""
    for line in text.split("\n"):
        start, end = line.find("<<"), line.rfind(">>")
        if 0 <= start <= end - 3 and line[start : end + 2].lstrip("<").rstrip(">").strip():
            return True
    return False


@instruction("combination:two_responses")
def is_two_answers(text: str) -> bool:
    """It is two answers, not the same, with `******` between them."""
    parts = text.split("******")
    return _count_parts(parts) == 2 and len({part.strip() for part in parts if part.strip()}) == 2


@instruction("combination:repeat_prompt")
def repeats_prompt(text: str, *, prompt_to_repeat: Text) -> bool:
    """It begins with the prompt, in any case."""
    return text.strip().lower().startswith(prompt_to_repeat.strip().lower())


@instruction("startend:end_checker")
def ends_with(text: str, *, end_phrase: Text) -> bool:
    """It ends with the phrase, in any case; double quotes round the answer don't matter."""
    return text.strip().strip('"').lower().endswith(end_phrase.strip().lower())


@instruction("startend:quotation")
def is_quoted(text: str) -> bool:
    """It stands in double quotes."""
    text = text.strip()
    return len(text) > 1 and text[0] == text[-1] == '"'


@instruction("change_case:capital_word_frequency")
def has_capital_words(text: str, *, capital_frequency: Count, capital_relation: Relation) -> bool:
    """It has so many words in capital letters."""
    return _compare(count_capital_words(text), capital_relation, capital_frequency)


@instruction("change_case:english_capital")
def is_english_in_capitals(text: str) -> bool:
    """It is in English and has no small letter."""
    return text.isupper() and detect_language(text) == "en"


@instruction("change_case:english_lowercase")
def is_english_in_small_letters(text: str) -> bool:
    """It is in English and has no capital letter."""
    return text.islower() and detect_language(text) == "en"


@instruction("punctuation:no_comma")
def has_no_comma(text: str) -> bool:
    """It has no comma."""
    return "," not in text


@cache
def _languages() -> Any:
    factory: Any = langdetect.DetectorFactory()
    factory.load_profile(langdetect.PROFILES_DIRECTORY)
    factory.set_seed(0)  # it samples the text, and a verdict should not depend on chance
    return factory


def detect_language(text: str) -> str | None:
    """The language of the first 10,000 characters, as one of `LANGUAGES`; None where it can't be told."""
    detector = _languages().create()
    detector.append(text)
    try:
        return detector.detect()
    except langdetect.LangDetectException:
        return None


# Straight and curly quotes, brackets, marks of emphasis.
CLOSING = "\"')]}*_\u2019\u201d\u00bb"
OPENING = "\"'([{*_\u2018\u201c\u00ab"
ABBREVIATIONS = frozenset(
    (
        *("mr", "mrs", "ms", "dr", "prof", "st", "sr", "jr", "rev", "gen", "col", "lt", "capt", "sgt", "gov"),
        *("sen", "rep", "hon", "messrs", "inc", "ltd", "co", "corp", "bros", "dept", "vs"),
        *("etc", "al", "cf", "fig", "eq", "vol", "pp", "approx", "ca", "ave", "blvd", "rd", "mt", "ft"),
        *("jan", "feb", "mar", "apr", "aug", "sept", "oct", "nov", "dec", "tue", "wed", "thu", "fri"),
    )
)
LETTERS = re.compile(r"(?:[a-z]\.)*[a-z]|ph\.d")
STARTERS = frozenset(
    (
        *("the", "this", "that", "these", "those", "it", "its", "he", "she", "they", "we", "you", "i", "his"),
        *("her", "their", "our", "your", "my", "there", "here", "what", "when", "where", "why", "who", "how"),
        *("if", "in", "on", "at", "for", "from", "with", "by", "as", "but", "and", "or", "so", "however"),
        *("then", "after", "before", "while", "although", "because", "since"),
    )
)
"""Words with a capital letter that tell that a sentence begins, even after an abbreviation."""
# Chinese, Hindi, Arabic and Urdu stops and marks: they need no white space after them.
OTHER_STOPS = str.maketrans(dict.fromkeys("\u3002\uff01\uff1f\u0964\u061f\u06d4", "! "))


def count_sentences(text: str) -> int:
    """How many sentences the text has; lines don't matter, and what has neither letter nor digit is none.

    One ends at white space after `!`, `?` or a full stop, with closing quotes and brackets between, and the
    last at the text's end. After an abbreviation or an initial it ends only where a word like "The" follows,
    after an ellipsis only where any capital letter does, after a number not where a small one does.
    """
    words = text.translate(OTHER_STOPS).split()
    count, begun = 0, False
    for word, following in pairwise([*words, ""]):
        begun = begun or any(map(str.isalnum, word))
        if begun and _ends_sentence(word, following.lstrip(OPENING)):
            count, begun = count + 1, False
    return count + begun


def _ends_sentence(word: str, following: str) -> bool:
    word = word.rstrip(CLOSING)
    if not word.endswith("."):
        return word.endswith(("!", "?"))
    if word.endswith(".."):
        return following[:1].isupper()
    stem = word[:-1].lstrip(OPENING).lower()
    if stem in ABBREVIATIONS or LETTERS.fullmatch(stem):
        return following[:1].isupper() and re.split(r"\W", following, maxsplit=1)[0].lower() in STARTERS
    return not (stem[-1:].isdigit() and following[:1].islower())


# U+2012 to U+2015 are dashes, the others quotes.
BETWEEN_WORDS = re.compile(
    r"[\s()\[\]{}<>\"`\u00ab\u00bb\u2018\u2019\u201c\u201d\u201e;@#$%&?!*\u2012-\u2015]|[:,](?![0-9])|\.{2,}|--|''"
)
CLITIC = re.compile(r"(?<=[^'])(?:'[sSmMdD]|'ll|'LL|'re|'RE|'ve|'VE|n't|N'T)$")


def count_capital_words(text: str) -> int:
    """How many words are in capital letters: `NASA-ESA` and `U.S.` are one each, `I'M` is two."""
    words = [word.rstrip(".") for word in BETWEEN_WORDS.split(text)]
    return sum(part.isupper() for word in words for part in (CLITIC.sub("", word), *CLITIC.findall(word)))


def _compare(count: int, relation: Relation, threshold: int) -> bool:
    return count < threshold if relation == "less than" else count >= threshold


def _occurrences(literal: str, text: str) -> int:
    return _count(re.finditer(re.escape(literal), text, re.IGNORECASE))


def _count(found: Iterable[Any]) -> int:
    return sum(1 for _ in found)


def _count_parts(parts: list[str]) -> int | None:
    """How many of the parts are not blank; None where a blank one stands between others."""
    blank = [not part.strip() for part in parts]
    return None if any(blank[1:-1]) else blank.count(False)
