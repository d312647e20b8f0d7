r"""When two mathematical answers are equal, by the rules that verl's scorers publish.

`same_form` is the rule of Hendrycks et al. (2021): both are brought to one form, and the forms are compared
as text. `same_value` is the rule of the PRM800K grader (Lightman et al. 2023): forms first, then element by
element as expressions. `near` is PRIME's: numbers within 1e-4, and the hundredfold either way.

Nothing of an answer is ever evaluated as Python; what has to be computed goes to math-verify (`symbolic`),
so `same_value` and what stands on it run only where they can be killed.
"""

from __future__ import annotations

import ast
import math
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

MAX_CHARACTERS = 10_000
"""A longer answer is equal only to itself."""
MAX_EVALUATED = 1000

FORM_DROPPED = ("\\left", "\\right", "^{\\circ}", "^\\circ", "\\$")
CANONICAL_RATIO = re.compile(r"(0|-?[1-9][0-9]*)/(0|-?[1-9][0-9]*)")
ENCLOSING_TEXT = re.compile(r"\\text\{(.+?)\}")

UNITS = [
    "degree",
    "cm",
    "centimeter",
    "meter",
    "mile",
    "second",
    "minute",
    "hour",
    "day",
    "week",
    "month",
    "year",
    "foot",
    "feet",
    "inch",
    "yard",
    "liter",
]
AMOUNTS = {"million": "*10^6", "billion": "*10^9", "trillion": "*10^12"}
BRACKETS = "()[]"
RATIO = re.compile(r"-?[0-9]+.?/0*[1-9][0-9]*.?")
RATIONAL = re.compile(r"(-?)(?:([0-9]+)\+)?(?:([0-9]+)/([0-9]+)|([0-9]*\.?[0-9]+|[0-9]+\.))")
# Towers of powers, and powers that a lenient reading could mistake.
HARD = re.compile(r"\^\{|\^\(|\^[0-9]+\^|\^[0-9][0-9]+")

TEXT_COMMAND = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mathit|mbox|operatorname)\{([^{}]*)\}")
SIMPLE_FRACTION = re.compile(r"\\[dt]?frac\{([^{}]*)\}\{([^{}]*)\}")
SIMPLE_ROOT = re.compile(r"\\sqrt\{([^{}]*)\}")
SHORT_POWER = re.compile(r"\^\{([^{}]*)\}")
SPACING = re.compile(r"\\(?:[,;:! ]|quad|qquad|left(?![a-z])|right(?![a-z])|displaystyle|text(?=\s|$))|~")
ROOT_OF_PI = re.compile(r"\\sqrt\s*\\pi(?![a-zA-Z])")
SIGNS = {"pi": "pi", "infty": "inf", "cup": "U", "cdot": "*", "times": "*", "div": "/"}
SIGN = re.compile(rf"\\({'|'.join(SIGNS)})(?![a-zA-Z])\s*")
# Lists, ratios and relations are compared as text.
NOT_A_VALUE = re.compile("[,;:=<>|&±]")
BARE_PI = re.compile(r"(?<![a-zA-Z\\])pi(?![a-zA-Z])")
MANY = "10^{12}"
"""math-verify takes numbers as equal that are so to six places; this many times as large they must be too."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Grader:
    """Where the two scorers that grade like PRM800K differ."""

    percent_in_form: bool
    """Whether a bare per cent sign is no part of the Hendrycks form."""
    keeps_spaces: bool
    units: tuple[str, ...]


PRIME = Grader(percent_in_form=False, keeps_spaces=True, units=tuple(UNITS))
MATHRULER = Grader(percent_in_form=True, keeps_spaces=False, units=tuple(UNITS[:-1]))


def same_form(answer: str, gold: str) -> bool:
    """Whether two answers have the same Hendrycks form; as they stand where one has none."""
    try:
        return form(answer) == form(gold)
    except ValueError:
        return answer == gold


def form(answer: str, *, percent: bool = False) -> str:
    r"""The Hendrycks form: `\frac` and `\sqrt` with braces, no units, no spaces, 0.5 and a/b as `\frac`.

    `percent`: without bare per cent signs too.

    Raises:
        ValueError: the LaTeX is broken off, or names two units.
    """
    text = answer.replace("\n", "").replace("\\!", "").replace("\\\\", "\\")
    text = text.replace("tfrac", "frac").replace("dfrac", "frac")
    for dropped in FORM_DROPPED:
        text = text.replace(dropped, "")
    text, *units = text.split("\\text{ ")
    if len(units) > 1:
        raise ValueError("two units")
    text = text.replace("\\\\%", "").replace("\\%", "")
    if percent:
        text = text.replace("%", "")
    text = text.replace(" .", " 0.").replace("{.", "{0.")
    if not text:
        return text
    text = f"0{text}" if text.startswith(".") else text
    if text.count("=") == 1 and text.index("=") <= 2:
        text = text.partition("=")[2]
    text = _braced_fractions(_braced_roots(text).replace(" ", ""))
    if text == "0.5":
        return "\\frac{1}{2}"
    ratio = CANONICAL_RATIO.fullmatch(text)
    return f"\\frac{{{ratio[1]}}}{{{ratio[2]}}}" if ratio else text


def same_value(answer: str, gold: str, grader: Grader) -> bool:
    """Whether two answers have the same form, the same text, or elements that are equal expressions.

    An integer has to be worked out, and a fraction reduced.
    """
    if answer == gold:
        return True
    if len(answer) > MAX_CHARACTERS:
        return False
    if _form_or_raw(answer, grader) == _form_or_raw(gold, grader):
        return True
    given, wanted = _plain(answer, grader), _plain(gold, grader)
    given_text, wanted_text = _text(given, grader), _text(wanted, grader)
    if given_text == wanted_text:
        return True
    if not given_text:
        return False
    givens, wanteds = _elements(given), _elements(wanted)
    if len(givens) != len(wanteds):
        return False
    ends = given_text[0] + given_text[-1], wanted_text[0] + wanted_text[-1]
    if len(wanteds) > 1 and ends[0] != ends[1]:
        return False
    return bool(wanteds) and all(_equal_elements(g, w, grader) for g, w in zip(givens, wanteds, strict=True))


def near(answer: str, gold: str, pi: float = math.pi) -> bool:
    """PRIME's second look: the same text but for case, or numbers within 1e-4 of each other or of a hundredth
    or a hundredfold; for lists element by element. `pi` is what π counts as."""
    try:
        given, wanted = _number_or_text(answer[:MAX_CHARACTERS], pi), _number_or_text(gold, pi)
    except (ValueError, OverflowError):
        return False
    if isinstance(given, str) and isinstance(wanted, str):
        given = given[:MAX_EVALUATED]
        if given.strip().lower() == wanted.strip().lower() or given.replace(" ", "") == wanted.replace(
            " ", ""
        ):
            return True
    numbers = _float(given), _float(wanted)
    if numbers[0] is not None and numbers[1] is not None:
        number, expected = numbers[0], numbers[1]
        return any(math.isclose(number, e, rel_tol=1e-4) for e in (expected / 100, expected, expected * 100))
    given, wanted = str(given).strip(), str(wanted).strip()
    if not given or not wanted:
        return False
    return _near_texts(given, wanted)


def _near_texts(given: str, wanted: str) -> bool:
    ends, wanted_ends = given[0] + given[-1], wanted[0] + wanted[-1]
    other_kind = {"[]": "(", "()": "["}.get(ends, wanted[0])
    strip = "()" if wanted[0] == other_kind else "()[]"
    if _braceless(given).strip(strip) == _braceless(wanted).strip(strip):
        return True
    bracketed = ends[0] in "([" and ends[1] in ")]" and ends == wanted_ends
    if bracketed and _near_items(given[1:-1], wanted[1:-1]):
        return True
    return "," in given and "," in wanted and _near_items(given, wanted)


def _near_items(given: str, wanted: str) -> bool:
    givens, wanteds = ([item.strip() for item in side.split(",")] for side in (given, wanted))
    # Brackets in brackets in brackets hold no list.
    if len(givens) != len(wanteds) or (len(givens) == 1 and given.startswith(("(", "["))):
        return False
    return all(near(g, w) for g, w in zip(givens, wanteds, strict=True))


def _braceless(text: str) -> str:
    """Without braces; those between digits leave a mark, which tells 1/23 from 12/3."""
    text = re.sub("(?<=[0-9])[{}]+(?=[0-9])", "\0", text)
    return text.replace("{", "").replace("}", "")


def _equal_elements(given: str, wanted: str, grader: Grader) -> bool:
    given_text, wanted_text = _text(given, grader), _text(wanted, grader)
    if RATIO.fullmatch(given_text) and RATIO.fullmatch(wanted_text):
        return given_text == wanted_text
    if _is_integer(given_text) != _is_integer(wanted_text):
        return False
    both = f"({wanted_text})-({given_text})"
    letters = set(filter(str.isalpha, both.replace("sqrt", "").replace("frac", "")))
    if len(letters) > 2 or HARD.search(both) or NOT_A_VALUE.search(wanted_text + given_text):
        return False
    if (a := _rational(given_text)) is not None and (b := _rational(wanted_text)) is not None:
        return a == b or ("." in both and float(a) == float(b))
    # Only a process of the pool ever needs sympy, which takes half a second and 60 MB.
    from nemo_like.rewards import symbolic

    wanted, given = (BARE_PI.sub(r"\\pi ", side) for side in (wanted, given))
    if symbolic.equal(wanted, given) is not True:
        return False
    return "." not in both or symbolic.equal(f"{MANY}({wanted})", f"{MANY}({given})") is True


def _form_or_raw(answer: str, grader: Grader) -> str:
    answer = answer.strip()
    if text := ENCLOSING_TEXT.fullmatch(answer):
        answer = text[1].strip()
    try:
        return form(answer, percent=grader.percent_in_form)
    except ValueError:
        return answer


def _plain(answer: str, grader: Grader) -> str:
    """The answer, still LaTeX, without what PRM800K strips: text, per cent, currency, units."""
    if text := ENCLOSING_TEXT.fullmatch(answer):
        answer = text[1]
    answer = answer.replace("\\%", "").replace("\\$", "").replace("$", "").replace("%", "")
    answer = answer.replace(" or ", " , ").replace(" and ", " , ")
    for word, power in AMOUNTS.items():
        answer = answer.replace(word, power)
    for unit in grader.units:
        answer = re.sub(rf"{unit}(?:es)?s? *(?:\^[0-9]+)?", "", answer)
    answer = re.sub(r"\^ *\\circ", "", answer)
    answer = ROOT_OF_PI.sub(r"\\sqrt{\\pi}", answer)
    if answer.startswith("{") and answer.endswith("}"):
        answer = answer[1:-1]
    return SPACING.sub(lambda spacing: " " if spacing[0] == "~" else "", re.sub(r",\\! *", "", answer))


def _text(latex: str, grader: Grader) -> str:
    """An answer that went through `_plain` as lower-case text: a/b, sqrt(a), mixed numbers as a+b/c."""
    if _is_integer_float(latex):
        return str(round(float(latex)))
    text = _without_commands(latex) if "\\" in latex else latex
    text = re.sub("- *", "-", text)
    text = re.sub("([0-9]) +([0-9])", r"\1+\2", text)
    if not grader.keeps_spaces:
        text = text.replace(" ", "").replace("{", "").replace("}", "")
    text = text.lower()
    return str(int(float(text.replace(",", "")))) if _is_integer(text) else text


def _without_commands(latex: str) -> str:
    text = latex.replace("\\tfrac", "\\frac").replace("\\dfrac", "\\frac")
    text = TEXT_COMMAND.sub(r"\1", _closed(text, _braced_fractions, _braced_roots))
    text = SIGN.sub(lambda sign: SIGNS[sign[1]], text).replace("\\pm", "±")
    # Apart from the whole number before it, which makes a mixed number.
    text = text.replace("\\frac", " \\frac")
    before = ""
    while before != text:
        before = text
        text = SIMPLE_ROOT.sub(r"sqrt(\1)", SIMPLE_FRACTION.sub(_slashed, SHORT_POWER.sub(r"^\1", text)))
    return text.replace("\\", "").strip()


def _closed(text: str, *steps: Callable[[str], str]) -> str:
    for step in steps:
        try:
            text = step(text)
        except ValueError:
            return text
    return text


def _slashed(fraction: re.Match[str]) -> str:
    return "/".join(part if re.fullmatch(r"-?\w*", part) else f"({part})" for part in fraction.groups())


def _elements(plain: str) -> list[str]:
    """The elements of a tuple or an interval, commas within numbers aside; else the answer alone."""
    plain = _joined_thousands(plain.strip())
    if not plain:
        return []
    inside = plain[1:-1]
    if (
        inside
        and plain[0] in BRACKETS
        and plain[-1] in BRACKETS
        and not any(bracket in inside for bracket in BRACKETS)
    ):
        return [element.strip() for element in inside.split(",")]
    return [plain]


def _joined_thousands(text: str) -> str:
    while text != (text := re.sub(r"(\d),(\d\d\d)($|\D)", r"\1\2\3", text)):
        pass
    return text


def _braced_fractions(text: str) -> str:
    r"""`\frac12` as `\frac{1}{2}`, unless one of them lacks its second half, which leaves all as they are."""
    before, *parts = text.split("\\frac")
    result = [before]
    for part in parts:
        if not part:
            raise ValueError("a fraction of nothing")
        if part[0] == "{":
            result.append(part)
        elif len(part) == 1:
            return text
        elif part[1] == "{":
            result.append(f"{{{part[0]}}}{part[1:]}")
        else:
            result.append(f"{{{part[0]}}}{{{part[1]}}}{part[2:]}")
    return "\\frac".join(result)


def _braced_roots(text: str) -> str:
    before, *parts = text.split("\\sqrt")
    if not all(parts):
        raise ValueError("a root of nothing")
    return "\\sqrt".join([before, *(p if p[0] == "{" else f"{{{p[0]}}}{p[1:]}" for p in parts)])


def _is_integer_float(text: str) -> bool:
    try:
        value = float(text)
        return abs(value - round(value)) <= 1e-7
    except (ValueError, OverflowError):
        return False


def _is_integer(text: str) -> bool:
    return _is_integer_float(_joined_thousands(text))


def _rational(text: str) -> Fraction | None:
    found = RATIONAL.fullmatch(text)
    if not found or (found[4] and not int(found[4])) or len(text) > MAX_EVALUATED:
        return None
    sign, whole, above, below, decimal = found.groups()
    value = Fraction(int(above), int(below)) if above else Fraction(decimal)
    value += int(whole or 0)
    return -value if sign else value


def _float(value: float | str) -> float | None:
    text = str(value)
    try:
        return float(text.replace("{,}", "") if "{,}" in text else text.replace(",", ""))
    except ValueError:
        return None


def _number_or_text(answer: str, pi: float) -> float | str:
    """The answer without `$` before or `%` behind a number, without its base, and computed if π is in it.

    Raises:
        ValueError, OverflowError: what stands before the base is no number.
    """
    if re.match(r"\$\d", answer):
        return answer[1:]
    if percent := re.fullmatch(r"(\d+(?:\.\d+)?)\\?%", answer):
        return percent[1]
    if "_" in answer:
        return int(float(answer.partition("_")[0]))
    if "\\pi" not in answer:
        return answer
    text = re.sub(r"(?<=\d)\\pi", f"*{pi}", answer).replace("\\pi", f"1*{pi}")
    value = _computed(text) if len(text) <= MAX_EVALUATED else None
    return text if value is None else value


def _computed(text: str) -> float | None:
    """The value of sums and products of numbers; None for anything else."""
    try:
        with warnings.catch_warnings(action="ignore"):
            return _value(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, ArithmeticError, RecursionError, MemoryError):
        return None


def _value(node: ast.AST) -> float:
    match node:
        case ast.Constant(value=int() | float() as value):
            return float(value)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _value(left) + _value(right)
        case ast.BinOp(left=left, op=ast.Sub(), right=right):
            return _value(left) - _value(right)
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            return _value(left) * _value(right)
        case ast.BinOp(left=left, op=ast.Div(), right=right):
            return _value(left) / _value(right)
        case _:
            raise ValueError("no arithmetic")
