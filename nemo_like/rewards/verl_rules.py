r"""The scoring rules that verl 0.9.1 publishes, by `data_source`.

    scorer, runs = route("openai/gsm8k")
    Score.of(scorer("… #### 72", "72", {}))["score"]      # 1.0

Each is a pure function `(solution, ground_truth, extra_info) -> float | dict` with the verdict that verl has,
except where that is a crash or an accident:

- A ground truth that no answer can match because of its type is read as it is meant: a number as its text, a
  list as alternatives (gsm8k, search), a gsm8k one without its commas, tests given as lists. One that can't
  be read at all is a ValueError, not 0.
- No answer makes a scorer raise. search finds its tags in linear time (verl: quadratic), geo3k its format.
- An answer of more than 10,000 characters between its brackets or tags is wrong.
- geo3k: an answer without a box is wrong (verl grades the word "None").
- prime_math and geo3k: no answer is given to `eval` or `parse_expr`. Expressions go to math-verify, which
  honours the parentheses that verl drops from `\frac{x+1}{2}` and `2^{1/2}`; nor are braces dropped from
  between digits, so 1/23 is not 12/3. LaTeX that is broken off is compared as text.
- code: programs have a process each and never see the expected answer, so objects that equal everything do
  not pass; what Python allows works (`sys.stdin.buffer`, `open(0)`, `EOFError`, `__main__` anywhere), what it
  does not fails (a `return` outside of any function); nested tuples are lists. An empty program passes
  nothing.
"""

from __future__ import annotations

import json
import math
import re
import string
from collections.abc import Callable, ItemsView, Iterator, KeysView, ValuesView
from typing import Any, Literal, Self, cast

from nemo_like.errors import UsageError, did_you_mean
from nemo_like.rewards import verl_math
from nemo_like.rewards.program import Limits, passes, read_tests
from nemo_like.types import Json

Scorer = Callable[[str, Any, Json], float | Json]
Runs = Literal["inline", "pool"]

LAST_CHARACTERS = 300
"""gsm8k and math_dapo read so much of the end of a solution, and math_dapo's box so much:"""
LAST_CHARACTERS_OF_BOX = 100
TESTS = 10
TAGS = 10
"""More `<answer>` tags than this, of either kind, and a right answer earns a quarter."""
FORMAT_SHARE = 0.1

BRACE = re.compile("[{}]")
GSM8K_ANSWER = re.compile(r"#### (-?[0-9.,]+)")

DAPO_ANSWER = re.compile(r"answer\s*:\s*([^\n]+)", re.IGNORECASE)
INVALID = "[INVALID]"
DAPO_REPLACED = (
    *(("an ", ""), ("a ", ""), (".$", "$"), ("\\$", ""), ("\\ ", ""), (" ", ""), ("mbox", "text")),
    *((",\\text{and}", ","), ("\\text{and}", ","), ("\\text{m}", "\\text{}")),
)
DAPO_REMOVED = (
    *[
        "square",
        "ways",
        "integers",
        "dollars",
        "mph",
        "inches",
        "hours",
        "km",
        "units",
        "\\ldots",
        "sue",
        "points",
        "feet",
        "minutes",
    ],
    *[
        "digits",
        "cents",
        "degrees",
        "cm",
        "gm",
        "pounds",
        "meters",
        "meals",
        "edges",
        "students",
        "childrentickets",
        "multiples",
    ],
    *("\\text{s}", "\\text{.}", "\\text{\ns}", "\\text{}^2", "\\text{}^3", "\\text{\n}", "\\text{}"),
    *("\\mathrm{th}", "^\\circ", "^{\\circ}", "\\;", ",\\!", "{,}", '"', "\\dots"),
)
DAPO_UNWRAPPED = tuple(re.compile(rf"\\{command}\{{(.*?)\}}") for command in ("text", "textbf", "overline"))

ARTICLES = re.compile(r"\b(?:a|an|the)\b")
WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)
OPEN_TAG, CLOSE_TAG = "<answer>", "</answer>"

PRIME_BEFORE = ("answer:", "answer is", "answers are")
PRIME_BEHIND = ("is answer", "is the answer", "are answers", "are the answers")
PRIME_LAST = ("be ", "is ", "are ", "=", ": ", "get ", "be\n", "is\n", "are\n", ":\n", "get\n")


class Score(float):
    """A score that is a number and, for those who index it, an object: `score["score"]`, and what else the
    scorer said."""

    fields: Json

    def __new__(cls, score: float, fields: Json | None = None) -> Self:
        self = super().__new__(cls, score)
        self.fields = {"score": float(score)} | (fields or {})
        return self

    @classmethod
    def of(cls, verdict: float | Json) -> Self:
        """What a scorer answered: a number, or an object with a `score`."""
        return cls(verdict["score"], verdict) if isinstance(verdict, dict) else cls(verdict)

    def __reduce__(self) -> tuple[type[Self], tuple[float, Json]]:
        return type(self), (float(self), self.fields)

    def __getitem__(self, name: str) -> Any:
        return self.fields[name]

    def __contains__(self, name: str) -> bool:
        return name in self.fields

    def __iter__(self) -> Iterator[str]:
        return iter(self.fields)

    def __len__(self) -> int:
        return len(self.fields)

    def get(self, name: str, default: Any = None) -> Any:
        """As of a dict."""
        return self.fields.get(name, default)

    def keys(self) -> KeysView[str]:
        """As of a dict."""
        return self.fields.keys()

    def values(self) -> ValuesView[Any]:
        """As of a dict."""
        return self.fields.values()

    def items(self) -> ItemsView[str, Any]:
        """As of a dict."""
        return self.fields.items()


def route(data_source: str) -> tuple[Scorer, Runs]:
    """The scorer of a data set, and where it may run.

    Raises:
        UsageError: none is known for it.
    """
    if found := ROUTES.get(data_source):
        return found
    for name, found in ROUTES.items():
        if name.endswith("*") and data_source.startswith(name[:-1]):
            return found
    raise UsageError(
        f"no scoring rule for data_source '{data_source}'{did_you_mean(data_source, list(ROUTES))}"
    )


def gsm8k(solution: str, ground_truth: Any, extra_info: Json) -> float:
    """1.0 iff the number behind the last `#### ` of the last 300 characters is, as text, the expected one."""
    answers = GSM8K_ANSWER.findall(solution[-LAST_CHARACTERS:])
    if not answers:
        return 0.0
    answer = answers[-1].replace(",", "")
    return float(any(answer == wanted.replace(",", "") for wanted in _alternatives(ground_truth)))


def math_reward(solution: str, ground_truth: Any, extra_info: Json) -> float:
    r"""1.0 iff the last `\boxed` has the Hendrycks form of the expected answer."""
    answer = last_boxed(solution)
    return float(answer is not None and verl_math.same_form(answer, _text(ground_truth)))


def math_dapo(solution: str, ground_truth: Any, extra_info: Json) -> Json:
    r"""±1 by the line behind the last `Answer:` of the last 300 characters, normalised; without one, by the
    last `\boxed{…}` of the last 100 as it stands. `pred` is what was read."""
    solution = solution[-LAST_CHARACTERS:]
    lines = DAPO_ANSWER.findall(solution)
    pred, gold = dapo_form(lines[-1] if lines else INVALID), _text(ground_truth)
    correct = pred == dapo_form(gold)
    # Also where somebody answers with these very words.
    if pred == INVALID:
        end = solution[-LAST_CHARACTERS_OF_BOX:]
        box = _braced(end, end.rfind("\\boxed{"), len("\\boxed"))
        if box is not None:
            pred, correct = box, box == gold
    return {"score": 1.0 if correct else -1.0, "acc": correct, "pred": pred}


def prime_math(solution: str, ground_truth: Any, extra_info: Json) -> float:
    r"""1.0 iff what follows the words that announce an answer, or stands in the last box, is equal to the
    expected answer: as PRM800K grades it, or nearly (see `verl_math.near`)."""
    answer, gold = prime_answer(solution), _text(ground_truth)
    if verl_math.same_value(answer, gold, verl_math.PRIME):
        return 1.0
    has_pi = "\\pi" in answer or "\\pi" in gold
    return float(any(verl_math.near(answer, gold, pi) for pi in ((math.pi, 3.14) if has_pi else (math.pi,))))


def geo3k(solution: str, ground_truth: Any, extra_info: Json) -> float:
    r"""0.9 if the last `\boxed{…}` is equal to the expected answer, 0.1 for `<think>…</think>…\boxed{…}`."""
    box = _braced(solution, solution.rfind("\\boxed{"), len("\\boxed"))
    right = box is not None and verl_math.same_value(box.strip(), _text(ground_truth), verl_math.MATHRULER)
    in_order = solution.startswith("<think>")
    at = len("<think>")
    for mark in ("</think>", "\\boxed{", "}"):
        found = solution.find(mark, at) if in_order else -1
        in_order, at = found >= 0, found + len(mark)
    return (1.0 - FORMAT_SHARE) * right + FORMAT_SHARE * in_order


def search_qa(solution: str, ground_truth: Any, extra_info: Json) -> float:
    """1.0 iff the last `<answer>…</answer>` is one of the `target`s, case, articles and punctuation aside;
    0.25 among more than ten tags."""
    answer = last_tagged(solution)
    if answer is None or len(answer) > verl_math.MAX_CHARACTERS:
        return 0.0
    targets: Any = cast(Json, ground_truth)["target"] if isinstance(ground_truth, dict) else ground_truth
    words = search_form(answer)
    if not any(words == search_form(target) for target in _alternatives(targets)):
        return 0.0
    return 0.25 if max(solution.count(OPEN_TAG), solution.count(CLOSE_TAG)) > TAGS else 1.0


def code(solution: str, ground_truth: Any, extra_info: Json, *, limits: Limits = Limits()) -> float:
    """The fraction of the first ten tests that the last Python block (or the whole solution) passes.

    `ground_truth` is what `program.read_tests` reads.
    """
    program = solution.rpartition("```python")[2].partition("```")[0]
    tests = read_tests(ground_truth)[:TESTS]
    if not program.strip():
        return 0.0
    return sum(passes(program, test, limits) for test in tests) / len(tests)


def last_boxed(solution: str) -> str | None:
    r"""What stands in the last `\boxed{…}`, or from the last `\boxed ` to a `$`; None where it is broken."""
    if "\\boxed " in solution:
        answer = solution.rpartition("\\boxed ")[2].partition("$")[0]
        return answer if len(answer) <= verl_math.MAX_CHARACTERS else None
    return _braced(solution, solution.rfind("\\boxed"), len("\\boxed"))


def dapo_form(answer: str) -> str:
    """The form in which math_dapo compares: without units, text commands and `$`, numbers without commas."""
    form = answer.rpartition("=")[2]
    for before, after in DAPO_REPLACED:
        form = form.replace(before, after)
    for removed in DAPO_REMOVED:
        form = form.replace(removed, "")
    form = "\n".join(map(_first_formula, form.split("\n")))
    for command in DAPO_UNWRAPPED:
        form = command.sub(r"\1", form)
    form = re.sub(r"\\boxed\{(.*)\}", r"\1", form)
    form = re.sub("frac([^{])(.)", r"frac{\1}{\2}", form)
    form = re.sub("sqrt([^{])", r"sqrt{\1}", form).replace("$", "")
    digits = form.replace(",", "")
    return digits if digits.isdigit() else form.strip()


def search_form(text: str) -> str:
    """The words in lower case, without punctuation and articles."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(WITHOUT_PUNCTUATION)).split())


def last_tagged(solution: str) -> str | None:
    """What stands in the last `<answer>…</answer>`, from the first open tag behind the pair before; None
    where there is none."""
    inner = solution.rfind(OPEN_TAG, 0, max(0, solution.rfind(CLOSE_TAG)))
    if inner < 0:
        return None
    before = solution.rfind(CLOSE_TAG, 0, inner)
    start = solution.find(OPEN_TAG, max(0, before)) + len(OPEN_TAG)
    return solution[start : solution.find(CLOSE_TAG, inner)].strip()


def prime_answer(solution: str) -> str:
    """What PRIME takes for the answer: behind or before the words that announce one, in the last box, without
    what follows the last full stop, behind the last verb or equals sign."""
    for mark in PRIME_BEFORE:
        solution = _behind(solution, mark)
    for mark in PRIME_BEHIND:
        at = solution.lower().rfind(mark)
        solution = solution if at < 0 else solution[:at].strip()
    for command in ("\\boxed", "\\fbox"):
        if (at := solution.rfind(command)) >= 0:
            skip = re.compile("[^{}]*").match(solution, at)
            solution = (_braced(solution, at, len(skip[0]) if skip else 0) or "").strip() or solution
            break
    if ". " in solution:
        solution = solution.rpartition(". ")[0].strip()
    for mark in PRIME_LAST:
        solution = _behind(solution, mark)
    return solution


def _behind(text: str, mark: str) -> str:
    at = text.lower().rfind(mark)
    return text if at < 0 else text[at + len(mark) :].strip()


def _braced(text: str, at: int, skip: int) -> str | None:
    """What stands between the brace at `at + skip` and the one that closes it."""
    start = at + skip
    if at < 0 or text[start : start + 1] != "{":
        return None
    depth = 0
    for brace in BRACE.finditer(text, start, start + verl_math.MAX_CHARACTERS):
        depth += 1 if brace[0] == "{" else -1
        if not depth:
            return text[start + 1 : brace.start()]
    return None


def _first_formula(line: str) -> str:
    parts = line.split("$", 2)
    return f"${parts[1]}$" if len(parts) == 3 else line


def _alternatives(ground_truth: Any) -> list[str]:
    """The answers that are right. What comes from a table may be an array of them."""
    if isinstance(ground_truth, str | bytes | dict) or not hasattr(ground_truth, "__iter__"):
        return [_text(ground_truth)]
    return [_text(item) for item in ground_truth]


def _text(ground_truth: Any) -> str:
    """The expected answer as text.

    Raises:
        ValueError: it is neither text nor a number.
    """
    if isinstance(ground_truth, str):
        return ground_truth
    if isinstance(ground_truth, bool) or not isinstance(ground_truth, int | float):
        raise ValueError(f"a ground truth should be text or a number (got {ground_truth!r:.80})")
    return json.dumps(ground_truth)


_INLINE: tuple[tuple[Scorer, tuple[str, ...]], ...] = (
    (gsm8k, ("openai/gsm8k",)),
    (math_reward, ("lighteval/MATH", "DigitalLearningGmbH/MATH-lighteval", "HuggingFaceH4/MATH-500")),
    (math_dapo, ("math_dapo", "math", "math_dapo_reasoning", "aime*")),
    (
        search_qa,
        tuple(
            f"searchR1_{name}"
            for name in ["nq", "triviaqa", "popqa", "hotpotqa", "2wikimultihopqa", "musique", "bamboogle"]
        ),
    ),
)
_POOL: tuple[tuple[Scorer, tuple[str, ...]], ...] = (
    (
        prime_math,
        tuple(
            f"numina_{name}"
            for name in ["aops_forum", "synthetic_math", "amc_aime", "synthetic_amc", "cn_k12", "olympiads"]
        ),
    ),
    (code, ("codecontests", "apps", "codeforces", "taco")),
    (geo3k, ("hiyouga/geometry3k",)),
)
ROUTES: dict[str, tuple[Scorer, Runs]] = {
    **{name: (scorer, "inline") for scorer, names in _INLINE for name in names},
    **{name: (scorer, "pool") for scorer, names in _POOL for name in names},
}
"""`data_source` → (scorer, where it may run); one that ends with `*` stands for all that begin so."""
