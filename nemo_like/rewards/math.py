"""The last boxed or tagged answer equals the expected expression.

Equal strings and plain numbers are settled at once; the rest goes to math-verify, in a process that can be
killed.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Literal

from pydantic import AfterValidator

from nemo_like.errors import MissingExtra
from nemo_like.rewards.last_number import parse_number
from nemo_like.rewards.reward import reward
from nemo_like.types import Json, Response, Task

Convention = Literal["last", "trl", "verl"]
"""`last`: only the last box or `<answer>` tag counts; `trl`, `verl`: the whole answer, as TRL's
`accuracy_reward` or verl's `math_verify` scorer reads it."""

BOX = re.compile(r"\\(?:boxed|fbox)")
BRACES = re.compile(r"(\\(?:boxed|fbox)\s{0,9}\{)|\\.|[{}]", re.DOTALL)
OPEN_TAG, CLOSE_TAG = "<answer>", "</answer>"
READ_CHARACTERS = 20_000
"""What stands further from the end of an answer than this is not looked at."""
MAX_CHARACTERS = 1000
"""A longer answer is right only if the expected one is as long."""
TOLERANCE = Decimal("1e-6")
"""Numbers nearer than this are for math-verify to judge, which rounds."""

SPACING = re.compile(r"\\[,;!:]|\\ |\\(?:left|right|displaystyle)|~|\s+|\$")
TEXT = re.compile(r"\\(?:text|mathrm|textbf|mathbf|mbox)\{([^{}]*)\}")
WORDS = re.compile(r"[^\W\d_]{2,}(?:[ '-]+[^\W\d_]+)*")
OR = re.compile(r"\bor\b", re.IGNORECASE)
# A power of ten is how numbers are written, not work that is left.
POWER_OF_TEN = re.compile(r"(?:\\times|\\cdot|\*|×|·)\s*10\s*\^\s*(?:\{\s*[-+]?\d+\s*\}|\d)")
FRACTION = re.compile(
    r"[-+]?\s*(?:\\[dt]?frac\s*(?:\{\s*-?\d+\s*\}|\d)\s*(?:\{\s*\d+\s*\}|\d)|-?\d+\s*/\s*\d+)"
)
WORK = re.compile(
    r"\\times|\\cdot|\\div|\\sqrt|\\binom|\\sum|\\prod|\\log|\\ln|\\sin|\\cos|[*×·÷^!]|(?<=[\w)}])\s*[+-]"
)


def _expression(value: str | int | float) -> str | int | float:
    if not str(value).strip():
        raise ValueError("should not be empty")
    return value


class MathTask(Task):
    """A task whose answer is a mathematical expression."""

    expected_answer: Annotated[str | int | float, AfterValidator(_expression)]
    """In LaTeX or plain, with or without a box around it."""


def settled(
    task: MathTask, response: Response, *, convention: Convention = "last", worked_out: bool = True
) -> Json | None:
    """The verdict where it takes no mathematics; None where math-verify has to look."""
    if convention != "last":
        return None
    gold, answer = expected(task), last_answer(response.text)
    if answer is None:
        return _verdict(False, None, "no answer")
    if same_text(gold, answer):
        return _verdict(True, answer, "string")
    if len(answer) > max(MAX_CHARACTERS, 4 * len(gold)):
        return _verdict(False, answer[:MAX_CHARACTERS], "too long")
    if (is_chain(answer) and not is_chain(gold)) or (OR.search(answer) and not OR.search(gold)):
        return _verdict(False, answer, "several answers")
    if WORDS.fullmatch(TEXT.sub(r"\1", gold)):
        return _verdict(False, answer, "string")
    wanted, given = parse_number(gold), parse_number(answer)
    if wanted is not None and given is not None:
        if wanted == given:
            return _verdict(True, answer, "number")
        if abs(wanted - given) > TOLERANCE * max(1, abs(wanted)):
            return _verdict(False, answer, "number")
    if worked_out and (wanted is not None or FRACTION.fullmatch(gold)) and is_work(answer):
        return _verdict(False, answer, "not worked out")
    return None


@reward("math", runs="pool", shortcut=settled, imports="nemo_like.rewards.symbolic")
def math(
    task: MathTask, response: Response, *, convention: Convention = "last", worked_out: bool = True
) -> Json:
    r"""1.0 iff the last `\boxed{…}` or `<answer>…</answer>` equals `expected_answer`.

    An answer without either is wrong; so is what claims several things (`1=2=5`, `4 or 5`), and, where a
    plain number is expected and `worked_out`, an expression that still has to be computed (`6\times7`).
    `extracted_answer` is what was read, `match` how it was judged. The reward is None where the expected
    answer is neither text nor mathematics.
    """
    # Only a process of the pool ever needs sympy, which takes half a second and 60 MB.
    try:
        from nemo_like.rewards import symbolic
    except ModuleNotFoundError as error:
        raise MissingExtra(f"math needs {error.name}: pip install 'nemo-like[rewards]'") from error
    verdict = settled(task, response, convention=convention, worked_out=worked_out)
    if verdict is not None:
        return verdict
    if convention == "verl":
        return _verdict(symbolic.equal_by_verl(expected(task), response.text), None, "math_verify")
    if convention == "trl":
        return _verdict(symbolic.equal_by_trl(str(task.expected_answer), response.text), None, "math_verify")
    answer = last_answer(response.text) or ""
    return _verdict(symbolic.equal(_bare(expected(task)), _bare(answer)), answer, "math_verify")


def expected(task: MathTask) -> str:
    """The expected expression, without the box that it may stand in."""
    gold = str(task.expected_answer).strip()
    return last_box(gold) or gold


def last_answer(text: str) -> str | None:
    """What stands in the last complete box or tag of `text`; None where there is none."""
    text = text[-READ_CHARACTERS:]
    end = text.rfind(CLOSE_TAG)
    start = text.rfind(OPEN_TAG, 0, end) if end >= 0 else -1
    at, box = _last_box(text)
    if start < 0 or at > end:
        return box
    inside = text[start + len(OPEN_TAG) : end].strip()
    return last_box(inside) or inside


def last_box(text: str) -> str | None:
    r"""The contents of the last `\boxed{…}` to open, of those that close; None where there is none."""
    return _last_box(text)[1]


def same_text(gold: str, answer: str) -> bool:
    """Whether the two are the same but for white space, `$`, text commands, case of words, a full stop."""
    return _plain(gold) == _plain(answer)


def is_chain(expression: str) -> bool:
    """Whether more than one thing is claimed to be equal, so that one of them may happen to be right."""
    return expression.count("=") > 1


def is_work(expression: str) -> bool:
    """Whether something is left to be computed in it, powers of ten, a sign and a fraction aside."""
    return WORK.search(POWER_OF_TEN.sub("", expression.lstrip(" +-\N{MINUS SIGN}"))) is not None


def _last_box(text: str) -> tuple[int, str | None]:
    """(Where it begins, its contents); in one pass, whatever is left open."""
    begin = BOX.search(text)
    if begin is None:
        return -1, None
    found: tuple[int, int] | None = None
    open_boxes: list[int | None] = []
    for token in BRACES.finditer(text, begin.start()):
        if token[1]:
            open_boxes.append(token.end())
        elif token[0] == "{":
            open_boxes.append(None)
        elif token[0] == "}" and open_boxes:
            start = open_boxes.pop()
            if start is not None and (found is None or start > found[0]):
                found = start, token.start()
    return (-1, None) if found is None else (found[0], text[found[0] : found[1]].strip())


def _plain(expression: str) -> str:
    text = SPACING.sub("", TEXT.sub(r"\1", expression)).rstrip(".")
    # Case is part of a variable's name, not of a word's.
    return text.casefold() if WORDS.fullmatch(text) else text


def _bare(expression: str) -> str:
    """Without what surrounds a value by custom: `$`, a per cent sign, a currency's."""
    return re.sub(r"\\?[%$]|[€£]", "", expression).strip().rstrip(".")


def _verdict(correct: bool | None, answer: str | None, match: str) -> Json:
    number = None if correct is None else float(correct)
    return {"reward": number, "extracted_answer": answer, "match": match}
