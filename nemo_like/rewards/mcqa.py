"""The letter of the right option, read from an answer in the ways that NeMo Gym's `mcqa` environment has."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable
from itertools import pairwise
from string import ascii_uppercase
from typing import Literal, Self

from pydantic import Field, model_validator

from nemo_like.rewards.reward import reward
from nemo_like.types import Json, Response, Row, Task

GradingMode = Literal[
    "strict_single_letter_boxed", "lenient_boxed", "lenient_answer_colon", "lenient_answer_colon_md"
]
READ_CHARACTERS = 20_000
"""What stands further from the end of an answer than this is not looked at, but by a row's own pattern."""

BOX = "\\boxed{"
LATEX_TEXT = "\\text{"
BRACE = re.compile(r"[{}]")
LONE_LETTER = re.compile(r"[^A-Za-z]*([A-Z])[^A-Za-z]*")
LABEL = re.compile(r"([A-Z])\s*[:).\-]")
ANSWER_COLON = re.compile(r"answer\s*:(?=\s*\S)", re.IGNORECASE)
MARKED_ANSWER_COLON = re.compile(r"answer[*_]{0,2}\s*:[*_\s]{0,2}", re.IGNORECASE)

STANDALONE = re.compile(r"(?<![A-Za-z])[A-Za-z](?![A-Za-z])")
SEPARATOR = re.compile(r"\s*[/|&,;]\s*|\s+(?:or|and)\s+|\s+", re.IGNORECASE)
LEADING = re.compile(r"([A-Za-z])(?![A-Za-z0-9])")
BEFORE_DIGIT, AFTER_DIGIT = r"(?<![\w.\-\N{MINUS SIGN}/])", r"(?!\w|[.,/]\d)"
CAPITAL = re.compile(r"\b[A-Z]\b")
MARKUP = "*_`#~ \t"
MAX_LABEL = 80
MARKS = " \t\n\r*_`#~.,;:!?()[]{}-।。"

# Not NFKC, which is quadratic in combining marks.
FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x3000: " "}
LOCAL_LETTERS = dict(zip("أبجدঅবডঢ", "ABCDABCD", strict=True))


class Template(Row):
    """What a row says of the form of its answer."""

    output_regex: str | list[str] = Field(default_factory=list[str])
    """Patterns, tried in turn before the grading mode: the last match's first group is a letter or an option.
    Case is ignored, and so is a pattern that is none."""
    answer_prefix: str | None = None
    """In `lenient_answer_colon_md`, words that stand for `Answer:` too: `La respuesta es`."""


class McqaTask(Task):
    """A question with lettered options, A to Z."""

    expected_answer: str
    """The right option's letter."""
    options: list[dict[str, str | None]] = Field(default_factory=list[dict[str, str | None]])
    """`[{"A": "text"}, {"B": "text"}, …]`; one whose text is null may not be chosen."""
    grading_mode: GradingMode | None = None
    template_metadata: Template | None = None

    @property
    def texts(self) -> dict[str, str]:
        """The text of each option that may be chosen, by its letter."""
        return {
            letter.upper(): text
            for option in self.options
            for letter, text in option.items()
            if text is not None
        }

    @property
    def patterns(self) -> list[str]:
        """The row's own patterns for its answer."""
        given = self.template_metadata.output_regex if self.template_metadata else []
        return [given] if isinstance(given, str) else given

    @model_validator(mode="after")
    def _can_be_answered(self) -> Self:
        self.expected_answer = self.expected_answer.strip().upper()
        letters = [letter.upper() for option in self.options for letter in option]
        if wrong := next((letter for letter in letters if not re.fullmatch("[A-Z]", letter)), None):
            raise ValueError(f"an option's key should be a letter from A to Z (got {wrong!r})")
        if len(letters) > len(set(letters)):
            raise ValueError(f"the options' letters should differ (got {''.join(letters)})")
        any_letter = self.patterns and not self.options
        if self.expected_answer not in (set(ascii_uppercase) if any_letter else self.texts):
            raise ValueError(f"expected_answer should be an option's letter (got {self.expected_answer!r})")
        return self


def by_mode(
    task: McqaTask, response: Response, *, grading_mode: GradingMode = "strict_single_letter_boxed"
) -> Json | None:
    """The verdict where the row has no pattern of its own; a pattern of somebody's may take for ever."""
    return None if task.patterns else mcqa(task, response, grading_mode=grading_mode)


@reward("mcqa", runs="pool", shortcut=by_mode)
def mcqa(
    task: McqaTask, response: Response, *, grading_mode: GradingMode = "strict_single_letter_boxed"
) -> Json:
    r"""1.0 iff the answer names the letter `expected_answer`; the record has what it named as
    `extracted_answer`.

    A row's `template_metadata.output_regex` is tried first; then its `grading_mode`, or the option of that
    name:

    - `strict_single_letter_boxed`: the last `\boxed{…}` holds one capital letter, or begins with a label:
      `E: text`, `E) text`; a `\text{…}` around either is ignored.
    - `lenient_boxed`: or it holds the text of exactly one option.
    - `lenient_answer_colon`: after the last `Answer:`, a letter or an option's text, up to the line's end.
    - `lenient_answer_colon_md`: after the last `Answer:` that names one letter, among Markdown and words;
      else what ends the last line after `some label:`.
    """
    text = response.text.strip()
    choice = _by_pattern(text, task) if task.patterns else None
    if choice is None:
        choice = READERS[task.grading_mode or grading_mode](text[-READ_CHARACTERS:], task)
    return {"reward": float(choice == task.expected_answer), "extracted_answer": choice}


def _strict_boxed(text: str, task: McqaTask) -> str | None:
    inside = _last_box(text)
    if inside is None:
        return None
    inside = _without_text_command(inside)
    found = LONE_LETTER.fullmatch(inside) or LABEL.match(inside)
    return found[1] if found and found[1] in task.texts else None


def _lenient_boxed(text: str, task: McqaTask) -> str | None:
    inside = _last_box(text)
    if inside is None:
        return None
    inside = _normal(_without_text_command(inside))
    texts = {letter: _normal(option) for letter, option in task.texts.items()}
    return (
        _strict_boxed(text, task)
        or _only(letter for letter, option in texts.items() if option == inside)
        or _only(letter for letter, option in texts.items() if _stands_in(option, inside))
    )


def _answer_colon(text: str, task: McqaTask) -> str | None:
    last = deque(ANSWER_COLON.finditer(text), maxlen=1)
    if not last:
        return None
    named = _without_text_command(text[last[0].end() :].lstrip().partition("\n")[0])
    if named.upper() in task.texts:
        return named.upper()
    return _only(letter for letter, option in task.texts.items() if _normal(option) == _normal(named))


def _answer_colon_md(text: str, task: McqaTask) -> str | None:
    text = text.translate(FULL_WIDTH)
    prefix = task.template_metadata.answer_prefix if task.template_metadata else None
    spans = [match.span() for match in MARKED_ANSWER_COLON.finditer(text)]
    if prefix:
        words = re.escape(prefix.translate(FULL_WIDTH))
        spans += [match.span() for match in re.finditer(words, text, re.IGNORECASE)]
    end = len(text)
    for before, start in sorted(spans, reverse=True):
        choice = _one_letter(text[start:end].partition("\n")[0], task)
        if choice is not None:
            return choice
        end = before
    choice = _labelled_last_line(text, task)
    return _strict_boxed(text, task) if choice is None and prefix else choice


READERS: dict[GradingMode, Callable[[str, McqaTask], str | None]] = {
    "strict_single_letter_boxed": _strict_boxed,
    "lenient_boxed": _lenient_boxed,
    "lenient_answer_colon": _answer_colon,
    "lenient_answer_colon_md": _answer_colon_md,
}


def _by_pattern(text: str, task: McqaTask) -> str | None:
    """What the first of the row's patterns that finds anything says."""
    for pattern in task.patterns:
        try:
            last = deque(re.finditer(pattern, text, re.IGNORECASE), maxlen=1)
        except (re.error, OverflowError, RecursionError):
            continue
        if not last:
            continue
        groups = last[0].groups()
        named = next((group for group in groups if group), "") if groups else last[0].group()
        named = _localized(named.translate(FULL_WIDTH).strip()).upper()
        if re.fullmatch("[A-Z]", named):
            return named
        choice = _only(letter for letter, option in task.texts.items() if _normal(option) == _normal(named))
        if choice is not None:
            return choice
    return None


def _one_letter(payload: str, task: McqaTask) -> str | None:
    """The letter that `payload` is, begins with, or has as its last capital; None where it lists several."""
    payload = _localized(payload.strip("*_` \t\n\r.,;:"))
    letters = [match for match in STANDALONE.finditer(payload) if match.group().upper() in task.texts]
    for one, other in pairwise(letters):
        is_list = SEPARATOR.fullmatch(payload, one.end(), other.start())
        if is_list and one.group().upper() != other.group().upper():
            return None
    leading = LEADING.match(payload)
    named = leading[1] if leading else next(iter(CAPITAL.findall(payload)[-1:]), "")
    return named.upper() if named.upper() in task.texts else None


def _labelled_last_line(text: str, task: McqaTask) -> str | None:
    """The letter of a last line like "উত্তর: C": a label of two characters or more, and one letter."""
    label, colon, named = text.rstrip().rpartition("\n")[2].rstrip(MARKS).rpartition(":")
    label, named = label.strip(MARKUP), named.strip(MARKS).upper()
    is_label = colon and 2 <= len(label) <= MAX_LABEL and ":" not in label
    return named if is_label and named in task.texts else None


def _last_box(text: str) -> str | None:
    r"""What the last `\boxed{` holds, up to its own closing brace; None where it has none."""
    start = text.rfind(BOX)
    if start < 0:
        return None
    depth = 0
    for brace in BRACE.finditer(text, start):
        depth += 1 if brace.group() == "{" else -1
        if depth == 0:
            return text[start + len(BOX) : brace.start()].strip()
    return None


def _without_text_command(text: str) -> str:
    text = text.strip()
    while text.startswith(LATEX_TEXT) and text.endswith("}"):
        text = text[len(LATEX_TEXT) : -1].strip()
    return text


def _stands_in(option: str, text: str) -> bool:
    """Whether `option` is among the words of `text`: "1" is neither in "21" nor in "1.5"."""
    if not option or option not in text:
        return False
    before = BEFORE_DIGIT if option[0].isdecimal() else r"(?<!\w)"
    after = AFTER_DIGIT if option[-1].isdecimal() else r"(?!\w)"
    return re.search(before + re.escape(option) + after, text) is not None


def _only(found: Iterable[str]) -> str | None:
    letters = [*found]
    return letters[0] if len(letters) == 1 else None


def _normal(text: str) -> str:
    return " ".join(text.lower().split())


def _localized(text: str) -> str:
    return LOCAL_LETTERS.get(text, text)
