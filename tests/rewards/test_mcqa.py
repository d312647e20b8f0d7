"""Which letter an answer names, in each of the grading modes."""

from __future__ import annotations

from typing import Any, get_args

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from nemo_like.rewards import rewards, runs
from nemo_like.rewards.mcqa import GradingMode, McqaTask, by_mode, mcqa
from nemo_like.types import Json, Response

STRICT, LENIENT, COLON, MARKDOWN = MODES = get_args(GradingMode)
SHAPES = {"A": "Circle", "B": "Square", "C": "Long  Line", "D": "Half circle"}


def task(right: str = "B", texts: dict[str, str] | None = None, **fields: Any) -> McqaTask:
    options = [{letter: text} for letter, text in (SHAPES if texts is None else texts).items()]
    row = {"responses_create_params": {"input": "?"}, "options": options, "expected_answer": right}
    return McqaTask.model_validate(row | fields)


def chosen(text: str, of: McqaTask | None = None, **options: Any) -> str | None:
    of = of or task()
    verdict = mcqa(of, Response(output=[{"role": "assistant", "content": text}]), **options)
    assert verdict["reward"] == float(verdict["extracted_answer"] == of.expected_answer)
    orjson.dumps(verdict)
    return verdict["extracted_answer"]


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        (r"\boxed{B}", "B"),
        (r"So \boxed{ [B] }.", "B"),
        (r"\boxed{\text{B}}", "B"),
        (r"\boxed{\text{ \text{B: Square} }}", "B"),
        (r"\boxed{B: \text{Square}}", "B"),
        (r"\boxed{B) Square}", "B"),
        (r"\boxed{A} or rather \boxed{B}", "B"),
        (r"\boxed{\text{an idea}} and \boxed{B}", "B"),
        (r"\boxed{A}\boxed{B}\boxed{C}\boxed{D}", "D"),
        (r"\boxed{B} or \boxed{}", None),
        (r"\boxed{B} \boxed{C", None),
        (r"\boxed{A, B}", None),
        (r"\boxed{b}", None),
        (r"\boxed{E}", None),
        (r"\boxed{Square}", None),
        (r"\boxed{A polygon}", None),
        ("B", None),
        ("The answer is B.", None),
        ("", None),
    ],
)
def test_strictly_the_last_box_holds_the_letter(text: str, letter: str | None) -> None:
    assert chosen(text) == letter


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        (r"\boxed{B}", "B"),
        (r"\boxed{square}", "B"),
        (r"\boxed{\text{long line}}", "C"),
        (r"\boxed{a Square}", "B"),
        (r"\boxed{Half circle}", "D"),
        (r"\boxed{Circle}", "A"),
        (r"\boxed{Circle, Square}", None),
        (r"\boxed{Squares}", None),
        (r"Square, \boxed{Line}", None),
        (r"\boxed{Square} \boxed{nothing}", None),
        ("Square", None),
    ],
)
def test_leniently_it_may_hold_one_option_s_text(text: str, letter: str | None) -> None:
    assert chosen(text, task(grading_mode=LENIENT)) == letter


def test_a_number_is_not_found_inside_another() -> None:
    numbers = task("B", {"A": "1", "B": "10", "C": "-1", "D": "1.5"}, grading_mode=LENIENT)
    boxes = {"10": "B", "1": "A", "-1": "C", "1.5": "D", "x = 10": "B", "21": None, "1/7": None, "0.1": None}
    assert {text: chosen(rf"\boxed{{{text}}}", numbers) for text in boxes} == boxes


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("Answer: B", "B"),
        ("answer : b\nThat is it.", "B"),
        ("ANSWER:\n\nSquare", "B"),
        (r"Answer: \text{B}", "B"),
        ("Answer: long line", "C"),
        ("Answer: A\nAnswer: B", "B"),
        ("Answer: A Answer: B", "B"),
        ("Answer: B\nAnswer: who knows", None),
        ("**Answer: B**", None),
        ("Answer: B because", None),
        ("Answer: A/B/C/D", None),
        ("Answer: a square", None),
        ("Answer:", None),
        (r"\boxed{B}", None),
    ],
)
def test_after_the_last_answer_colon_stands_a_letter_or_a_text(text: str, letter: str | None) -> None:
    assert chosen(text, task(grading_mode=COLON)) == letter


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("Answer: B", "B"),
        ("**Answer: B**", "B"),
        ("__Answer__: B", "B"),
        ("**Answer:** B", "B"),
        ("Answer: $B$", "B"),
        ("Answer: (B)", "B"),
        ("Answer: B because A is round", "B"),
        ("Answer: B/B", "B"),
        ("The answer: it must be B.", "B"),
        ("Answer: A\nAnswer: B", "B"),
        ("Answer: A, Answer: B", "B"),
        ("Answer: B\nAnswer: unknown", "B"),
        ("Answer\N{FULLWIDTH COLON}\N{FULLWIDTH LATIN CAPITAL LETTER B}", "B"),
        ("Answer: ب", "B"),
        ("Because.\n\n**जवाब: B**", "B"),
        (r"\boxed{\text{Answer: B}}", "B"),
        ("Answer: A/B/C/D", None),
        ("Answer: A or B", None),
        ("Answer: E", None),
        ("A: B", None),
        ("Label: B\nMore.", None),
        ("The answer is (B).", None),
        (r"\boxed{B}", None),
    ],
)
def test_among_markdown_the_last_answer_colon_that_names_one_letter_counts(
    text: str, letter: str | None
) -> None:
    assert chosen(text, task(grading_mode=MARKDOWN)) == letter


def test_a_row_s_prefix_stands_for_answer_colon_and_allows_a_box() -> None:
    spanish = task(grading_mode=MARKDOWN, template_metadata={"answer_prefix": "La respuesta es"})
    assert chosen("la respuesta es (B).", spanish) == "B"
    assert chosen("La respuesta es A/B", spanish) is None
    assert chosen(r"\boxed{B}", spanish) == "B"


@pytest.mark.parametrize(
    ("pattern", "text", "letter"),
    [
        (r"Choice:\s*([A-Za-z])", "choice: A, no, CHOICE: b", "B"),
        (r"Choice: (.*)", "Choice: long line", "C"),
        (r"[A-D](?=\.$)", "A B.", "B"),
        ([r"Reply: (\w)", r"Antwort: (\w)"], "Antwort: B", "B"),
        (r"الإجابة:\s*([أ-د])", "الإجابة: ب", "B"),
        (r"(?:one (\w)|other (\w))", "one A, other B", "B"),
        (r"NEVER ([A-D])", r"\boxed{B}", "B"),
        (r"([", r"\boxed{B}", "B"),
        (r"Choice: (\w)", "Choice: Z", "Z"),
    ],
)
def test_a_row_s_own_pattern_goes_before_the_mode(
    pattern: str | list[str], text: str, letter: str | None
) -> None:
    assert chosen(text, task(template_metadata={"output_regex": pattern})) == letter


def test_a_pattern_needs_no_options() -> None:
    bare = task(texts={}, template_metadata={"output_regex": r"Selected: (\w)"})
    assert chosen("Selected: B", bare) == "B"


def test_only_a_row_with_a_pattern_of_its_own_needs_the_pool() -> None:
    response = Response(output=[{"role": "assistant", "content": r"\boxed{B}"}])
    assert (rewards.get("mcqa"), runs(mcqa)) == (mcqa, "pool")
    assert by_mode(task(), response) == mcqa(task(), response)
    assert by_mode(task(template_metadata={"output_regex": "(a+)+$"}), response) is None


def test_the_row_s_mode_goes_before_the_option() -> None:
    assert chosen("Answer: B", grading_mode=COLON) == "B"
    assert chosen("Answer: B", task(grading_mode=STRICT), grading_mode=COLON) is None


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"expected_answer": "E"}, r"an option's letter \(got 'E'\)"),
        ({"expected_answer": ""}, "an option's letter"),
        ({"options": []}, "an option's letter"),
        ({"options": [{"A": "x"}, {"B": None}]}, "an option's letter"),
        ({"options": [{"A": "x"}, {"a": "y"}]}, r"letters should differ \(got AA\)"),
        ({"options": [{"1": "x"}]}, r"from A to Z \(got '1'\)"),
        ({"grading_mode": "loose"}, "strict_single_letter_boxed"),
        ({"options": [], "expected_answer": "AB", "template_metadata": {"output_regex": "x"}}, "letter"),
    ],
)
def test_a_row_that_has_no_right_letter_is_refused(fields: Json, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        task(**fields)


# The published rules once more, slowly: a character at a time, without one regular expression.
def box_by_hand(text: str) -> str | None:
    found = None
    for start in range(len(text)):
        if text[start : start + 7] == "\\boxed{":
            depth, inside = 1, ""
            found = None
            for character in text[start + 7 :]:
                depth += {"{": 1, "}": -1}.get(character, 0)
                if depth == 0:
                    found = inside
                    break
                inside += character
    return found


def unwrapped_by_hand(text: str) -> str:
    text = text.strip()
    while text[:6] == "\\text{" and text[-1:] == "}":
        text = text[6:-1].strip()
    return text


def strict_by_hand(text: str, texts: dict[str, str]) -> str | None:
    inside = box_by_hand(text)
    if inside is None:
        return None
    inside = unwrapped_by_hand(inside)
    letters = [c for c in inside if c.isascii() and c.isalpha()]
    if len(letters) == 1 and letters[0].isupper():
        return letters[0] if letters[0] in texts else None
    label, rest = inside[:1], inside[1:].lstrip()
    return label if label in texts and rest[:1] in tuple(":).-") else None


def words_by_hand(text: str) -> list[str]:
    return "".join(c if c.isalnum() else " " for c in text.lower()).split()


def lenient_by_hand(text: str, texts: dict[str, str]) -> str | None:
    inside = box_by_hand(text)
    letter = strict_by_hand(text, texts)
    if inside is None or letter:
        return letter
    words = words_by_hand(unwrapped_by_hand(inside))
    spans = [words[i:j] for i in range(len(words)) for j in range(i + 1, len(words) + 1)]
    same = [letter for letter, option in texts.items() if option.lower() == " ".join(words)]
    among = [letter for letter, option in texts.items() if option.split() in spans]
    return same[0] if len(same) == 1 else among[0] if len(among) == 1 else None


def colon_by_hand(text: str, texts: dict[str, str]) -> str | None:
    payload = None
    for end in range(len(text)):
        if text[end] == ":" and text[:end].rstrip().lower().endswith("answer") and text[end + 1 :].strip():
            payload = unwrapped_by_hand(text[end + 1 :].lstrip().split("\n")[0])
    if payload is None or payload.upper() in texts:
        return payload.upper() if payload else None
    same = [letter for letter, option in texts.items() if option.lower().split() == payload.lower().split()]
    return same[0] if len(same) == 1 else None


PLAIN = {"A": "red", "B": "dark red", "C": "old tin", "Y": "a", "Z": "in"}
pieces = [
    *("\\boxed{", "\\text{", "}", "{", "A", "B", "Z", "Y", "Q", "b", ":", ")", ".", " ", "\n", "red", "dark"),
    *(
        "old tin",
        "in",
        "a",
        "Answer:",
        "answer",
        "[",
        "]",
        "5",
        "é",
        "\\",
        "C: ",
        "\\boxed{A}",
        "\\boxed{\\text{",
    ),
]
texts_of_pieces = st.lists(st.sampled_from(pieces), max_size=12).map("".join)
boxes_of_pieces = st.builds("{}\\boxed{{{}}}{}".format, texts_of_pieces, texts_of_pieces, texts_of_pieces)
BY_HAND = {STRICT: strict_by_hand, LENIENT: lenient_by_hand, COLON: colon_by_hand}


@pytest.mark.parametrize("mode", BY_HAND)
@given(text=texts_of_pieces | boxes_of_pieces | texts_of_pieces.map("Answer: {}".format))
def test_the_letter_is_what_the_published_rule_says(mode: GradingMode, text: str) -> None:
    text = text.strip()
    assert chosen(text, task("A", PLAIN, grading_mode=mode)) == BY_HAND[mode](text, PLAIN)


@pytest.mark.parametrize("mode", MODES)
@given(letter=st.sampled_from("ABCDEFGHIJKLMNOPQRSTUVWXYZ"), before=st.text(max_size=50))
def test_every_letter_up_to_z_is_found_in_its_own_form(mode: GradingMode, letter: str, before: str) -> None:
    all_letters = {letter: f"option {letter}" for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"}
    form = f"\\boxed{{{letter}}}" if mode in (STRICT, LENIENT) else f"Answer: {letter}"
    assert chosen(f"{before}\n{form}", task(letter, all_letters, grading_mode=mode)) == letter


@pytest.mark.parametrize("mode", MODES)
@given(text=st.text(st.characters(exclude_categories=())) | texts_of_pieces)
def test_no_answer_makes_it_raise(mode: GradingMode, text: str) -> None:
    assert chosen(text, task(grading_mode=mode)) in (None, "A", "B", "C", "D")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "unit",
    [
        *(
            "\\boxed{",
            "\\boxed{A",
            "\\text{",
            "{",
            "}",
            "Answer:",
            "Answer: x ",
            "answer ",
            "a:",
            "A b ",
            "A/",
        ),
        *(" ", "\n", "*", "_", ":", "\x00", "\ud800", "\u0301\u0323", "\N{FULLWIDTH DIGIT FIVE}", "\u202e"),
    ],
)
@pytest.mark.timeout(30)
def test_a_megabyte_of_anything_is_read_in_passing(mode: GradingMode, unit: str) -> None:
    text = unit * (1_000_000 // len(unit))
    chosen(text, task(grading_mode=mode))
    chosen(f"Answer: \\boxed{{{text}}}", task(grading_mode=mode))


def test_only_the_last_assistant_message_is_read() -> None:
    box: Json = {"role": "assistant", "content": r"\boxed{B}"}
    for output, reward in [
        ([], 0.0),
        ([box, {"role": "assistant", "content": "Well."}], 0.0),
        ([{"role": "user", "content": r"\boxed{B}"}], 0.0),
        ([{"type": "reasoning", "summary": [{"type": "summary_text", "text": r"\boxed{B}"}]}], 0.0),
        ([{"role": "assistant", "content": "Well."}, box], 1.0),
    ]:
        assert mcqa(task(), Response(output=output))["reward"] == reward
