"""IFEval's instructions: the same verdicts as the published checks, and none for an empty answer."""

from __future__ import annotations

import re
import string
from typing import Any

import langdetect
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from if_verifiable.common import evaluate_instructions, get_loose_transformations
from if_verifiable.ifeval.instructions_registry import INSTRUCTION_DICT
from nltk.tokenize import NLTKWordTokenizer
from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer
from pydantic import ValidationError

from nemo_like.rewards import rewards, runs
from nemo_like.rewards.ifeval_checks import (
    ABBREVIATIONS,
    INSTRUCTIONS,
    LANGUAGES,
    STARTERS,
    bind,
    count_capital_words,
    count_sentences,
    detect_language,
)
from nemo_like.rewards.instruction_following import InstructionTask, instruction_following, loose_variants
from nemo_like.types import Json, Response

LONG = 200_000
NEED_DATA = {"length_constraints:number_sentences", "change_case:capital_word_frequency"}
DETECT = {"language:response_language", "change_case:english_capital", "change_case:english_lowercase"}
RELATIONS = st.sampled_from(["less than", "at least"])
WORDS = [
    *("the", "river", "The", "River", "RIVER", "stone", "answer", "I", "NASA", "don't", "DON'T", "über"),
    *(
        "yes",
        "My answer is yes.",
        "My answer is no",
        "Is there anything else?",
        "Section",
        "SECTION",
        "3",
        "Σ",
    ),
]
FRAGMENTS = [
    *WORDS,
    *(" ", " ", " ", "\n", "\n\n", "\n\n", "***", "******", "*", "**", "* ", "- ", "-", "[", "]", "[name]"),
    *("<<", ">>", "<<Title>>", "<", ">", '"', "'", ",", ".", "!", "?", "P.S.", "p. s.", "P.P.S", "p.p. s"),
    *("```", "```json\n", "{", "}", '{"a": 1}', "null", "NaN", "1", "\x00", "\ud800", "\x85", "\u2028", "\r"),
    *("*bold*", "**bold**", "Section 1\n", "SECTION 2", "Section3", "\N{FULLWIDTH DIGIT FIVE}", "_", "\t"),
]
texts = st.lists(st.sampled_from(FRAGMENTS), max_size=14).map("".join)
anything = st.one_of(texts, st.text(st.characters(exclude_categories=()), max_size=60))
counts = st.integers(0, 6)
words = st.sampled_from(["river", "The", "stone", "answer", "I", "über", "on"])
KWARGS: dict[str, st.SearchStrategy[Json]] = {
    "keywords:existence": st.fixed_dictionaries({"keywords": st.lists(words, min_size=1, max_size=2)}),
    "keywords:frequency": st.fixed_dictionaries(
        {"keyword": words, "frequency": counts, "relation": RELATIONS}
    ),
    "keywords:forbidden_words": st.fixed_dictionaries({"forbidden_words": st.lists(words, min_size=1)}),
    "keywords:letter_frequency": st.fixed_dictionaries(
        {
            "letter": st.sampled_from(string.ascii_letters),
            "let_frequency": counts,
            "let_relation": RELATIONS,
        }
    ),
    "length_constraints:number_paragraphs": st.fixed_dictionaries({"num_paragraphs": counts}),
    "length_constraints:number_words": st.fixed_dictionaries({"num_words": counts, "relation": RELATIONS}),
    "length_constraints:nth_paragraph_first_word": st.integers(1, 4).flatmap(
        lambda n: st.fixed_dictionaries(
            {"num_paragraphs": st.just(n), "nth_paragraph": st.integers(1, n), "first_word": words}
        )
    ),
    "detectable_content:number_placeholders": st.fixed_dictionaries({"num_placeholders": counts}),
    "detectable_content:postscript": st.fixed_dictionaries(
        {"postscript_marker": st.sampled_from(["P.S.", "P.P.S", " P.S. ", "Nota"])}
    ),
    "detectable_format:number_bullet_lists": st.fixed_dictionaries({"num_bullets": counts}),
    "detectable_format:number_highlighted_sections": st.fixed_dictionaries({"num_highlights": counts}),
    "detectable_format:multiple_sections": st.fixed_dictionaries(
        {"section_spliter": st.sampled_from(["Section", "SECTION", "stone"]), "num_sections": counts}
    ),
    "combination:repeat_prompt": st.fixed_dictionaries(
        {"prompt_to_repeat": st.sampled_from(["The river", "My answer is no.", " I ", "*"])}
    ),
    "startend:end_checker": st.fixed_dictionaries(
        {"end_phrase": st.sampled_from(["Is there anything else?", "stone", ' The "river" ', "yes."])}
    ),
}
UNARGUED = (INSTRUCTIONS.keys() - KWARGS.keys() - NEED_DATA) - {"language:response_language"}
PROSE = [
    "The river runs past the old mill, and nobody knows where it ends.",
    "the river runs past the old mill and nobody knows where it ends.",
    "THE RIVER RUNS PAST THE OLD MILL AND NOBODY KNOWS WHERE IT ENDS.",
    "Der Fluss fließt an der alten Mühle vorbei und niemand weiß, wo er endet.",
    "DER FLUSS FLIESST AN DER ALTEN MUEHLE VORBEI UND NIEMAND WEISS ES.",
    "Le fleuve passe devant le vieux moulin et personne ne sait où il finit.",
    "El río pasa por el viejo molino y nadie sabe dónde termina.",
    "Река течёт мимо старой мельницы, и никто не знает, где она кончается.",
    "강은 오래된 방앗간 옆을 흐르고 어디에서 끝나는지 아무도 모른다.",
    "川は古い水車小屋のそばを流れ、どこで終わるのか誰も知らない。",
    "a",
    "HELLO",
    "My answer is yes.",
    "ok. 12",
]


def answer(text: str) -> Response:
    return Response(output=[{"type": "message", "role": "assistant", "content": text}])


def task(*instructions: tuple[str, Json | None], **fields: Any) -> InstructionTask:
    names, kwargs = zip(*instructions, strict=True)
    row = {"responses_create_params": {"input": "?"}, "instruction_id_list": names, "kwargs": kwargs}
    return InstructionTask.model_validate(row | fields)


def score(text: str, *instructions: tuple[str, Json | None], **fields: Any) -> Json:
    verdict = rewards.get("instruction_following")(task(*instructions, **fields), answer(text))
    assert isinstance(verdict, dict)
    return verdict


def agrees(text: str, *instructions: tuple[str, Json]) -> None:
    """Our verdicts are the published ones, strict and loose, one by one and together."""
    text = text.strip()  # the package strips an answer before it takes lines away, IFEval itself does not
    names, kwargs = zip(*instructions, strict=True)
    langdetect.DetectorFactory.seed = 0
    results, scores = evaluate_instructions(text, list(names), list(kwargs), "", INSTRUCTION_DICT)
    ours = score(text, *instructions)
    strict, loose = (ours[f"follow_instruction_list_{mode}"] for mode in ("strict", "loose"))
    if results:  # of an empty answer there is none
        assert strict == [result.strict_pass for result in results]
        assert loose == [result.loose_pass for result in results]
    assert ours["prompt_strict"] == scores.binary_strict
    assert ours["prompt_loose"] == scores.binary_loose
    assert ours["instruction_strict"] == scores.partial_strict
    assert ours["instruction_loose"] == scores.partial_loose


def test_every_published_instruction_is_known_with_its_kwargs_and_runs_where_it_can_be_killed() -> None:
    assert INSTRUCTIONS.keys() == INSTRUCTION_DICT.keys()
    assert len(INSTRUCTIONS) == 25
    for name, published in INSTRUCTION_DICT.items():
        checker = published(name)
        given = {"prompt_to_repeat": "?"} if name == "combination:repeat_prompt" else {}
        checker.build_description(**given)
        assert {*INSTRUCTIONS[name].arguments.model_fields} == {*checker.get_instruction_args_keys()}
    assert runs(instruction_following) == "pool"


@pytest.mark.parametrize("name", sorted(KWARGS.keys() | UNARGUED))
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_verdict_is_the_published_one(name: str, data: st.DataObject) -> None:
    # The package's tokenizer is of another mind than `re` about what a letter is in rare scripts.
    text = data.draw(texts if name == "length_constraints:number_words" else anything)
    if name in DETECT:  # where no language can be told we differ, see below
        # In every line, as the loose variants leave lines out.
        prose = data.draw(st.sampled_from(PROSE))
        text = "\n".join(f"{prose} {line}" for line in text.split("\n"))
    agrees(text, (name, data.draw(KWARGS.get(name, st.just({})))))


@pytest.mark.parametrize("text", PROSE)
def test_languages_are_told_as_published(text: str) -> None:
    for language in ("en", "de", "fr", "es", "ru", "ko", "ja", "vi"):
        agrees(text, ("language:response_language", {"language": language}))
    agrees(text, ("change_case:english_capital", {}), ("change_case:english_lowercase", {}))
    assert len({detect_language(text) for _ in range(5)}) == 1


@given(st.text(st.characters(exclude_categories=()), max_size=40).filter(lambda s: s.strip()))
def test_the_loose_variants_are_the_published_eight(text: str) -> None:
    published = [variant for variant in get_loose_transformations(text) if variant.strip()]
    assert {*loose_variants(text)} == {*published}
    assert loose_variants(text)[0] == text


def test_the_languages_are_those_that_the_detector_knows() -> None:
    langdetect.detect("the")
    assert sorted(langdetect.detector_factory._factory.get_lang_list()) == sorted(LANGUAGES)


SENTENCE_WORDS = st.sampled_from(
    [
        *("rain", "falls", "The", "It", "Paris", "and", "Mr.", "Dr.", "etc.", "e.g.", "U.S.", "J.", "Smith"),
        *(
            "in 3.14",
            "rain 1.",
            "v1.2",
            "ends.",
            "Ends!",
            "rain (ends.)",
            'he "ends."',
            "x.y",
            "We",
            "he",
            "But",
        ),
        *("rain [ends?]", "he **ends.**", "vs.", "file.txt", "Inc."),
    ]
)


def punkt() -> PunktSentenceTokenizer:
    """The published check's algorithm (Kiss and Strunk 2006), told of our words instead of a corpus."""
    parameters = PunktParameters()
    parameters.abbrev_types = {*ABBREVIATIONS, "e.g", "u.s"}
    for starter in STARTERS:
        parameters.add_ortho_context(starter, 1 << 5)  # seen with a small letter inside a sentence
    parameters.sent_starters = {*STARTERS}
    return PunktSentenceTokenizer(parameters)


PUNKT = punkt()


@settings(max_examples=300)
@given(st.lists(SENTENCE_WORDS, min_size=1, max_size=12).map(" ".join))
def test_sentences_are_counted_as_punkt_does(text: str) -> None:
    spoken = [s for s in PUNKT.tokenize(text) if re.search(r"[^\W_]", s)]
    assert count_sentences(text) == len(spoken)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("One. Two! Three? Four", 4),
        ("Dr. Smith met Mrs. Jones at 5 p.m. on Fifth Ave. near the park.", 1),
        ("She lives in the U.S. The winters are cold.", 2),
        ("Pi is 3.14. See example.com.", 2),
        ('He said "Go." Then he left.', 2),
        ("He said \u201cGo.\u201d Then he left.", 2),
        ("Well... maybe. Well... Maybe.", 3),
        ("A heading\n\nA line\n- a point", 1),
        ("! ! ! ? ? . . .", 0),
        ("Yes!!! No?!?", 2),
        ("今日は雨です。明日は晴れますか\uff1fはい\uff01", 3),
        ("यह पहला है। यह दूसरा है।", 2),
        ("هل تعرف؟ نعم.", 2),
        ("", 0),
    ],
)
def test_sentences_are_counted_as_people_do(text: str, count: int) -> None:
    assert count_sentences(text) == count


@settings(max_examples=300)
@given(
    st.lists(
        st.sampled_from(
            [
                *(
                    "NASA",
                    "ESA",
                    "I",
                    "A",
                    "U.S.",
                    "COVID-19",
                    "it",
                    "It",
                    "3D",
                    "USA's ",
                    "DON'T ",
                    "WE'LL ",
                    "I'M ",
                ),
                *(
                    "(",
                    ")",
                    ",",
                    ",",
                    ":",
                    ";",
                    "...",
                    ".",
                    "!",
                    "?",
                    "&",
                    "/",
                    "--",
                    "-",
                    "\N{EM DASH}",
                    '"',
                ),
                *(
                    " ",
                    " ",
                    " ",
                    "\n",
                    "*",
                    "**",
                    "[",
                    "]",
                    "#",
                    "$",
                    "%",
                    "@",
                    "\N{RIGHT DOUBLE QUOTATION MARK}",
                ),
            ]
        ),
        max_size=12,
    ).map("".join)
)
def test_capital_words_are_counted_as_the_treebank_does(text: str) -> None:
    tokens = [word for sentence in PUNKT.tokenize(text) for word in NLTKWordTokenizer().tokenize(sentence)]
    published = sum(token.isupper() for token in tokens)
    assert count_capital_words(text) == published


def test_a_clitic_is_a_word_of_its_own_at_the_end_of_a_sentence_too() -> None:
    assert count_capital_words("I DON'T. It is the USA's. (NASA-ESA, U.S.) It's") == 6


def test_the_two_checks_that_count_obey_their_relation() -> None:
    for relation, expected in (("at least", [True, False]), ("less than", [False, True])):
        given = ("length_constraints:number_sentences", {"num_sentences": 2, "relation": relation})
        capital = (
            "change_case:capital_word_frequency",
            {"capital_frequency": 2, "capital_relation": relation},
        )
        assert [score(text, given)["reward"] == 1.0 for text in ("One. Two.", "One.")] == expected
        assert [score(text, capital)["reward"] == 1.0 for text in ("NASA ESA", "NASA esa")] == expected


EASY = [
    ("keywords:forbidden_words", {"forbidden_words": ["never"]}),
    ("punctuation:no_comma", None),
    ("length_constraints:number_words", {"num_words": 9, "relation": "less than"}),
    ("length_constraints:number_sentences", {"num_sentences": 9, "relation": "less than"}),
    ("keywords:frequency", {"keyword": "x", "frequency": 1, "relation": "less than"}),
    ("keywords:letter_frequency", {"letter": "x", "let_frequency": 1, "let_relation": "less than"}),
    ("change_case:capital_word_frequency", {"capital_frequency": 1, "capital_relation": "less than"}),
    ("detectable_format:number_bullet_lists", {"num_bullets": 0}),
]


@pytest.mark.parametrize("text", ["", " ", "\n\n\n", "\t\r\n", "\u2003\x85"])
def test_a_blank_answer_follows_nothing(text: str) -> None:
    verdict = score(text, *EASY, grading_mode="fraction", strictness="loose")
    assert (verdict["reward"], verdict["prompt_strict"], verdict["instruction_loose"]) == (0.0, 0.0, 0.0)
    assert verdict["follow_instruction_list"] == [False] * len(EASY)
    assert score("word", *EASY, grading_mode="fraction")["reward"] == 1.0


@pytest.mark.parametrize("text", ["12345", "!!! ???", "\x00", "\ud800", "🙂"])
def test_what_is_in_no_language_follows_none(text: str) -> None:
    assert score(text, ("language:response_language", {"language": "en"}), strictness="loose")["reward"] == 0


def test_the_row_or_the_option_says_what_counts() -> None:
    instructions = [("punctuation:no_comma", {}), ("startend:end_checker", {"end_phrase": "Bye"})]
    text = "Well.\n*Bye*"
    assert {k: v for k, v in score(text, *instructions).items() if "list" not in k} == {
        "reward": 0.0,
        "prompt_strict": 0.0,
        "prompt_loose": 1.0,
        "instruction_strict": 0.5,
        "instruction_loose": 1.0,
    }
    assert score(text, *instructions)["follow_instruction_list"] == [True, False]
    assert score(text, *instructions, strictness="loose")["follow_instruction_list"] == [True, True]
    assert score(text, *instructions, strictness="loose")["reward"] == 1.0
    assert score(text, *instructions, grading_mode="fraction")["reward"] == 0.5
    options: Json = {"grading_mode": "fraction", "strictness": "loose"}
    assert instruction_following(task(*instructions), answer(text), **options)["reward"] == 1.0
    strict = task(*instructions, grading_mode="binary", strictness="strict")
    assert instruction_following(strict, answer(text), **options)["reward"] == 0.0


LETTER: Json = {"let_frequency": 2, "let_relation": "at least"}


@pytest.mark.parametrize(
    ("text", "name", "kwargs", "follows"),
    [
        ("I like C++ a lot", "keywords:existence", {"keywords": ["c++"]}, True),
        ("I like C a lot", "keywords:existence", {"keywords": ["C?"]}, False),
        ("a.b axb", "keywords:frequency", {"keyword": "a.b", "frequency": 2, "relation": "at least"}, False),
        ("I like C++.", "keywords:forbidden_words", {"forbidden_words": ["C++"]}, False),
        ("I like C+++", "keywords:forbidden_words", {"forbidden_words": ["(a+)+$"]}, True),
        ("# #", "keywords:letter_frequency", LETTER | {"letter": "#"}, True),
        ("(1) 2", "detectable_format:multiple_sections", {"section_spliter": "(", "num_sections": 1}, True),
    ],
)
def test_keywords_are_literal_and_a_letter_is_any_character(
    text: str, name: str, kwargs: Json, follows: bool
) -> None:
    assert bind(name, kwargs)(text) is follows


def test_null_filled_kwargs_are_those_that_are_given() -> None:
    columns: Json = {"num_words": None, "relation": None, "keywords": None, "letter": None}
    filled = columns | {"num_words": 2.0, "relation": "at least"}
    assert score("two words", ("length_constraints:number_words", filled))["reward"] == 1.0
    assert score("two words", ("punctuation:no_comma", columns))["reward"] == 1.0
    assert score("two words", ("punctuation:no_comma", None))["reward"] == 1.0


NUMBER = "length_constraints:number_words"
FIVE: Json = {"num_words": 5, "relation": "at least"}


@pytest.mark.parametrize(
    ("name", "kwargs", "said"),
    [
        ("punctuation:no_coma", {}, "'punctuation:no_coma'; did you mean 'punctuation:no_comma'"),
        ("last_word:last_word_answer", {"last_word": "x"}, "no instruction 'last_word:last_word_answer'"),
        (NUMBER, {"relation": "at least"}, "number_words: num_words is required"),
        (NUMBER, FIVE | {"relation": None}, "relation is required"),
        (NUMBER, FIVE | {"num_words": "5"}, "should be a whole number"),
        (NUMBER, FIVE | {"num_words": True}, "should be a whole number"),
        (NUMBER, FIVE | {"num_words": 5.5}, "valid integer"),
        (NUMBER, FIVE | {"num_words": -1}, "greater than or equal"),
        (NUMBER, FIVE | {"relation": "at most"}, "'less than' or 'at least'"),
        ("punctuation:no_comma", {"keyword": "x"}, "there is no parameter 'keyword'"),
        ("keywords:existence", {"keywords": []}, "at least 1 item"),
        ("keywords:existence", {"keywords": "river"}, "valid list"),
        ("keywords:existence", {"keywords": [" "]}, "match pattern"),
        ("keywords:letter_frequency", LETTER | {"letter": "ab"}, "letter: .*match pattern"),
        ("language:response_language", {"language": "English"}, "there is no language 'English'"),
        (
            "length_constraints:nth_paragraph_first_word",
            {"num_paragraphs": 2, "nth_paragraph": 3, "first_word": "a"},
            "should be at most num_paragraphs",
        ),
        ("combination:repeat_prompt", {}, "prompt_to_repeat is required"),
    ],
)
def test_a_row_that_can_not_be_checked_is_refused(name: str, kwargs: Json, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        task((name, kwargs))


def test_a_row_has_as_many_kwargs_as_instructions_and_at_least_one() -> None:
    row: Json = {"responses_create_params": {}, "instruction_id_list": ["punctuation:no_comma"]}
    with pytest.raises(ValidationError, match="one object for each of the 1 instructions"):
        InstructionTask.model_validate(row | {"kwargs": [{}, {}]})
    with pytest.raises(ValidationError, match="kwargs"):
        InstructionTask.model_validate(row)
    with pytest.raises(ValidationError, match="at least 1 item"):
        InstructionTask.model_validate(row | {"instruction_id_list": [], "kwargs": []})
    with pytest.raises(ValidationError, match="'binary' or 'fraction'"):
        InstructionTask.model_validate(row | {"kwargs": [{}], "grading_mode": "some"})


ALL: list[tuple[str, Json]] = [
    ("keywords:existence", {"keywords": ["river"]}),
    ("keywords:frequency", {"keyword": "river", "frequency": 2, "relation": "at least"}),
    ("keywords:forbidden_words", {"forbidden_words": ["river"]}),
    ("keywords:letter_frequency", {"letter": "r", "let_frequency": 2, "let_relation": "at least"}),
    ("language:response_language", {"language": "en"}),
    ("length_constraints:number_sentences", {"num_sentences": 3, "relation": "at least"}),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 3}),
    ("length_constraints:number_words", {"num_words": 3, "relation": "at least"}),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 3, "nth_paragraph": 2, "first_word": "a"},
    ),
    ("detectable_content:number_placeholders", {"num_placeholders": 3}),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}),
    ("detectable_format:number_bullet_lists", {"num_bullets": 3}),
    ("detectable_format:constrained_response", {}),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 3}),
    ("detectable_format:multiple_sections", {"section_spliter": "Section", "num_sections": 3}),
    ("detectable_format:json_format", {}),
    ("detectable_format:title", {}),
    ("combination:two_responses", {}),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Write."}),
    ("startend:end_checker", {"end_phrase": "Bye."}),
    ("startend:quotation", {}),
    ("change_case:capital_word_frequency", {"capital_frequency": 3, "capital_relation": "at least"}),
    ("change_case:english_capital", {}),
    ("change_case:english_lowercase", {}),
    ("punctuation:no_comma", {}),
]


@settings(max_examples=60, deadline=None)
@given(anything)
def test_no_answer_makes_a_check_raise_and_none_is_followed_strictly_but_not_loosely(text: str) -> None:
    verdict = score(text, *ALL, grading_mode="fraction")
    assert 0.0 <= verdict["instruction_strict"] <= verdict["instruction_loose"] <= 1.0
    assert verdict["prompt_strict"] == 0.0  # they contradict each other
    orjson.dumps(verdict)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "unit",
    [
        *(
            "a",
            "a ",
            "A",
            ".",
            ". ",
            "a.",
            "*",
            "* ",
            "-",
            "\n",
            "\n\n",
            "\n-",
            " \n",
            "[",
            "[]",
            "<",
            "<<",
            ">>",
        ),
        *(
            "***",
            "******",
            '"',
            "{",
            "[[",
            '{"a":',
            "p.",
            "Section 1",
            "Section",
            "1",
            "@",
            "http://",
            "\x00",
        ),
        *("\ud800", "\u3002", "'", "n't", "--", "\r", "Aa", "P. "),
    ],
)
def test_a_long_answer_of_anything_is_checked_in_passing(unit: str) -> None:
    text = unit * (LONG // len(unit))
    for name, kwargs in ALL:
        if name not in DETECT:  # which read the first 10,000 characters
            assert bind(name, kwargs)(text) in (True, False)


def test_only_the_answer_is_read() -> None:
    follows = "My answer is yes."
    output: list[Json] = [
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": follows}]},
        {"type": "message", "role": "assistant", "content": follows},
        {"type": "message", "role": "user", "content": follows},
        {"type": "message", "role": "assistant", "content": "I do not know."},
    ]
    yes_or_no = task(("detectable_format:constrained_response", {}))
    assert instruction_following(yes_or_no, Response(output=output))["reward"] == 0.0
    assert instruction_following(yes_or_no, Response(output=output[:-1]))["reward"] == 1.0
    assert instruction_following(yes_or_no, Response(output=[]))["reward"] == 0.0
