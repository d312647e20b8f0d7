"""verl's verdicts, asked of verl's own files where it is installed, and what is better than they are."""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nemo_like.errors import UsageError
from nemo_like.rewards import verl_math
from nemo_like.rewards.verl_rules import (
    ROUTES,
    Score,
    Scorer,
    code,
    dapo_form,
    geo3k,
    gsm8k,
    last_boxed,
    last_tagged,
    math_dapo,
    math_reward,
    prime_answer,
    prime_math,
    route,
    search_form,
    search_qa,
)

LONG = 1_000_000
FEW_SECONDS = 20


def verl_folder() -> Path | None:
    try:
        found = [f for f in files("verl") or [] if str(f).endswith("reward_score/gsm8k.py")]
    except PackageNotFoundError:
        return None
    return Path(str(found[0].locate())).parent if found else None


FOLDER = verl_folder()
beside_verl = pytest.mark.skipif(
    FOLDER is None or importlib.util.find_spec("mathruler") is None,
    reason="needs verl's files beside it: pip install --no-deps verl mathruler pylatexenc",
)


def _without_limit(seconds: float) -> Callable[[Any], Any]:
    return lambda function: function


@contextmanager
def in_place_of_verl() -> Iterator[None]:
    """The one function of verl's own that its scorers import: it runs another in a process, with a limit."""
    functional = ModuleType("verl.utils.py_functional")
    functional.__dict__["timeout_limit"] = _without_limit
    stand_ins = {"verl": ModuleType("verl"), "verl.utils": ModuleType("verl.utils")}
    stand_ins["verl.utils.py_functional"] = functional
    before = {name: sys.modules.get(name) for name in stand_ins}
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        for name, module in before.items():
            del sys.modules[name]
            if module is not None:
                sys.modules[name] = module


_loaded: dict[str, Any] = {}


def verl(name: str) -> Any:
    """verl's module of that name, from its file: verl itself needs torch."""
    if name not in _loaded:
        assert FOLDER is not None
        package = FOLDER / name / "__init__.py"
        file = package if package.exists() else FOLDER / f"{name}.py"
        spec = importlib.util.spec_from_file_location(f"_of_verl_{name}", file)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        with in_place_of_verl(), warnings.catch_warnings(action="ignore"):
            spec.loader.exec_module(module)
        _loaded[name] = module
    return _loaded[name]


@contextmanager
def unheard() -> Iterator[None]:
    with (
        open(os.devnull, "w") as nowhere,  # noqa: PTH123
        redirect_stdout(nowhere),
        warnings.catch_warnings(action="ignore"),
    ):
        yield


def verls(name: str, solution: str, ground_truth: Any) -> Any:
    """verl's verdict as its `default_compute_score` passes it on; a crash is 0."""
    with unheard():
        try:
            verdict = verl(name).compute_score(solution, ground_truth)
        except Exception:  # noqa: BLE001  # whatever it is
            return 0.0
    return (
        verdict if isinstance(verdict, dict) else float(verdict[0] if isinstance(verdict, tuple) else verdict)
    )


def pieces(*fragments: str, most: int = 12) -> st.SearchStrategy[str]:
    return st.lists(st.one_of(st.sampled_from(fragments), st.text(max_size=3)), max_size=most).map("".join)


LATEX = (
    *(
        "\\frac",
        "\\dfrac",
        "\\tfrac",
        "{",
        "}",
        "1",
        "2",
        "12",
        "0.5",
        ".5",
        " .",
        "{.",
        "/",
        "-",
        "=",
        "x=",
        "xyz=",
    ),
    *(
        "\\sqrt",
        "\\sqrt{3}",
        "\\frac{1}{2}",
        "\\frac12",
        "\\text{ cm}",
        "\\text{ ",
        "\\%",
        "%",
        "\\\\",
        "\\!",
        "\\$",
    ),
    *(
        "\\left(",
        "\\right)",
        "^\\circ",
        "^{\\circ}",
        " ",
        "\n",
        "$",
        "(",
        ",",
        "1/2",
        "3/12",
        "-1/-2",
        "007/1",
    ),
)
latex = pieces(*LATEX)


@beside_verl
@given(
    pieces("#### ", "####", "#### 72", "72", "-", "1,000", ".", ",", "$", " ", "\n", "x" * 290, "٣"),
    st.sampled_from(["72", "1000", "-72", "72.", "", "."]),
)
@settings(deadline=None)
def test_gsm8k_is_verls(solution: str, gold: str) -> None:
    assert gsm8k(solution, gold, {}) == verls("gsm8k", solution, gold)


@pytest.mark.parametrize(
    ("ground_truth", "solution"),
    [
        (72, "#### 72"),
        (["72"], "#### 72"),
        (("71", 72), "#### 72"),
        ("1,000", "#### 1,000"),
        (7.5, "#### 7.5"),
    ],
)
def test_a_gsm8k_answer_that_verl_can_not_match_is_read_as_it_is_meant(
    ground_truth: Any, solution: str
) -> None:
    assert gsm8k(solution, ground_truth, {}) == 1.0
    assert gsm8k("#### 3", ground_truth, {}) == 0.0


@beside_verl
@given(
    pieces("\\boxed", "\\boxed{", "\\boxed ", "\\fbox{", "\\boxed{0.5}", "\\boxed{\\frac12}", *LATEX), latex
)
@example("\\boxed{\\frac12}", "0.5")
@example("\\boxed 5$ is it", "5")
@example("\\boxed{1}\\boxed{\\text{ a}\\text{ b}}", "\\text{ a}\\text{ b}")
@settings(max_examples=300, deadline=None)
def test_math_reward_is_verls(solution: str, gold: str) -> None:
    assert math_reward(solution, gold, {}) == verls("math_reward", solution, gold)


@beside_verl
@given(latex)
@settings(max_examples=300, deadline=None)
def test_the_form_of_an_answer_is_hendryckss(answer: str) -> None:
    with unheard():
        try:
            expected = verl("math_reward").strip_string(answer)
        except (AssertionError, IndexError):
            expected = None
    try:
        form = verl_math.form(answer)
    except ValueError:
        form = None
    assert form == expected


DAPO = (
    *(
        "Answer: ",
        "answer :",
        "ANSWER",
        ":",
        "42",
        "\n",
        "a ",
        "an ",
        ".$",
        "$",
        "\\$",
        "\\ ",
        "mbox",
        "\\text{and}",
    ),
    *(
        "\\text{m}",
        "\\text{s}",
        "\\text{",
        "}",
        "units",
        "square",
        "km",
        "\\boxed{",
        "\\boxed{42}",
        "\\frac",
        "12",
    ),
    *(
        "frac12",
        "sqrt2",
        "sqrt",
        "1,000",
        "=",
        "\\textbf{a}",
        "\\overline{b}",
        '"',
        "{,}",
        "\\dots",
        "x" * 90,
        "²",
    ),
)


@beside_verl
@given(pieces(*DAPO), pieces(*DAPO, most=4) | st.sampled_from(["42", "1000", "\\frac{1}{2}"]))
@example("Answer: 4 points 2", "42")
@example("so \\boxed{42}", "42")
@settings(max_examples=300, deadline=None)
def test_math_dapo_is_verls(solution: str, gold: str) -> None:
    assert math_dapo(solution, gold, {}) == verls("math_dapo", solution, gold)
    assert dapo_form(solution) == verl("math_dapo").normalize_final_answer(solution)


def test_math_dapo_takes_a_number_for_its_text() -> None:
    assert math_dapo("Answer: 42", 42, {}) == {"score": 1.0, "acc": True, "pred": "42"}
    assert math_dapo("The answer is 42.", 42, {}) == {"score": -1.0, "acc": False, "pred": "[INVALID]"}


TAGS = (
    "<answer>",
    "</answer>",
    "Paris",
    "the ",
    "a",
    "<answer>Paris</answer>",
    " ",
    "\n",
    "—",
    "'",
    "<",
    "answer>",
)


@beside_verl
@given(
    pieces(*TAGS, most=40),
    st.one_of(
        st.sampled_from(["Paris", "the Paris", ""]), st.lists(st.sampled_from(["paris", "Rome"]), max_size=3)
    ),
)
@example("<answer>Paris</answer>" * 10, "paris")
@example("<answer>Paris</answer>" * 11, "paris")
@settings(max_examples=300, deadline=None)
def test_search_is_verls(solution: str, target: Any) -> None:
    ground_truth = {"target": target}
    assert search_qa(solution, ground_truth, {}) == verls("search_r1_like_qa_em", solution, ground_truth)


@beside_verl
@given(
    pieces(
        "The ",
        "a",
        "an",
        "—",
        "the",
        "U.S.",
        "\N{RIGHT SINGLE QUOTATION MARK}",
        "É",
        "_",
        " ",
        "\N{IDEOGRAPHIC SPACE}",
        "İ",
    )
)
@settings(deadline=None)
def test_the_words_of_an_answer_are_verls(text: str) -> None:
    assert search_form(text) == verl("search_r1_like_qa_em").normalize_answer(text)


@given(pieces(*TAGS, most=40))
def test_tags_pair_as_the_quadratic_pattern_pairs_them(text: str) -> None:
    found = re.findall("<answer>(.*?)</answer>", text, re.DOTALL)
    assert last_tagged(text) == (found[-1].strip() if found else None)


ANNOUNCED = (
    *(
        "Answer:",
        "the answer is ",
        "answers are",
        " is the answer",
        "are answers",
        "\\boxed{",
        "\\boxed{42}",
        "{",
        "}",
    ),
    *("\\fbox{7}", "42", ". ", "be ", "is ", "=", ": ", "get\n", "is\n", "\n", " ", "x", "\\boxed"),
)


@beside_verl
@given(pieces(*ANNOUNCED, most=15))
@settings(max_examples=300, deadline=None)
def test_what_prime_takes_for_the_answer_is_what_verl_takes(solution: str) -> None:
    assert prime_answer(solution) == verl("prime_math").match_answer(solution)[1]


# Gold answers, each with ways to write it, near misses, and wrong ones.
ANSWERS = {
    "42": "42.0 42.00 6*7 6\\times7 41 4200 0.42 42.001 \\text{42} 42cm forty-two $42$ 042 42\\% {42}"
    " \N{FULLWIDTH DIGIT FOUR}2",
    "0.5": "1/2 .5 0.50 \\frac12 2/4 50\\% \\frac{2}{4} 1/2cm",
    "\\frac{1}{2}": "1/2 0.5 \\dfrac{1}{2} \\tfrac12 \\frac{2}{4} 0.50 50\\% \\frac{1}{2}\\text{cm}",
    "\\pi": "pi 3.14159 3.14 3.1416 1\\pi \\frac{2\\pi}{2} 180",
    "2\\pi": "6.28 6.2832 2*\\pi 2pi \\pi*2 \\pi\\cdot2 4\\pi/2 -(-2\\pi) 2**2\\pi",
    "\\frac{\\pi}{3}": "\\pi/3 1.0472 pi/3 \\frac{1}{3}\\pi",
    "\\sqrt{2}": "\\sqrt2 sqrt(2) 1.414 1.414213562 \\sqrt{4}/\\sqrt{2} \\sqrt{3}",
    "\\sqrt{\\pi}": "\\sqrt\\pi sqrt(pi) 1.7725 \\sqrt{2}",
    "2\\sqrt{3}": "\\sqrt{12} 2\\cdot\\sqrt{3} 2*sqrt(3) 3.4641 2\\sqrt3",
    "\\frac{\\sqrt{2}}{2}": "\\frac{1}{\\sqrt{2}} sqrt(2)/2 0.7071 \\frac{\\sqrt2}{2} \\sqrt{2}/2",
    "(1,2)": "(1,2) \\left(1,2\\right) (2,1) [1,2] 1,2 (1,2.0) (1.0,2) (1,2,3) \\{1,2\\} (1,2] (2/2,2)",
    "[0,1)": "[0,1) (0,1) \\left[0,1\\right) [0,1] [0,1.0)",
    "(-\\infty,3]": "\\left(-\\infty,3\\right] (-inf,3] (-\\infty,3)",
    "x+1": "1+x x+2 (x+1) x+\\frac{2}{2} y+1",
    "x^2+1": "1+x^2 x^{2}+1 x*x+1",
    "10\\%": "10 0.1 10% 1000",
    "\\$5": "5 $5 \\$5.00 5dollars",
    "1,234": "1234 1,234.0 1,2,34 1234.0",
    "12cm": "12 12\\text{cm} 12centimeters 12inches 13cm",
    "\\text{Monday}": "Monday monday \\mathrm{Monday} Tuesday",
    "B": "b \\text{B} (B) \\text{(B)} A",
    "7\\frac{3}{4}": "7.75 31/4 \\frac{31}{4} 7\\dfrac34 7.76",
    "1000000": "1,000,000 1million 10^6 10^{6}",
    "90^\\circ": "90 90^{\\circ} 90degrees \\frac{\\pi}{2}",
    "(3,\\frac{1}{2})": "(3,1/2) (3,0.5) (3.0,\\frac12) (3,\\frac{2}{4})",
    "\\{1,2\\}": "\\{2,1\\} {1,2} 1,2",
    "1,2,3": "(1,2,3) 3,2,1 1,2",
    "2^{10}": "1024 2^10",
    "0.333": "1/3 0.3333 33.3\\% 0.333000",
    "-\\frac{2}{3}": "-2/3 \\frac{-2}{3} -0.6667 -0.666666666666666 \\frac{2}{-3} 2/3",
    "1:2": "1/2 0.5",
    "10_2": "2 10 10_{2}",
    "a+b": "b+a ab",
    "100": "1 10000 1e2 100.0 100.005 100.02 10^2 nan inf",
}
PAIRS = [
    pair
    for gold, others in ANSWERS.items()
    for o in (gold, *others.split())
    for pair in ((gold, o), (o, gold))
]


@beside_verl
@pytest.mark.parametrize("scorer", ["prime_math", "geo3k"])
def test_expressions_are_equal_where_verl_says_so(scorer: str) -> None:
    ours = {"prime_math": prime_math, "geo3k": geo3k}[scorer]
    solutions = [
        "<think>so</think>\\boxed{%s}",
        "The answer is %s",
        "Hence $x = %s$",
        "Answer: \\boxed{%s}. Done",
    ]
    strays: dict[tuple[str, str], tuple[float, float]] = {}
    for at, (gold, answer) in enumerate(PAIRS):
        solution = solutions[at % 7 % 4 if scorer == "prime_math" else 0] % answer
        expected, got = verls(scorer, solution, gold), ours(solution, gold, {})
        if expected != got:
            strays[gold, solution] = (expected, got)
    assert strays == {}


@beside_verl
@given(st.sampled_from(PAIRS), st.sampled_from(PAIRS))
@settings(max_examples=100, deadline=None)
def test_unrelated_expressions_differ_where_verl_says_so(
    one: tuple[str, str], other: tuple[str, str]
) -> None:
    solution = f"\\boxed{{{other[1]}}}"
    assert prime_math(solution, one[0], {}) == verls("prime_math", solution, one[0])
    assert geo3k(solution, one[0], {}) == verls("geo3k", solution, one[0])


@pytest.mark.parametrize(
    ("gold", "answer", "equal"),
    [
        ("\\frac{x+1}{2}", "(x+1)/2", True),
        ("\\frac{x+1}{2}", "x+1/2", False),
        ("\\frac{x+1}{2}", "\\frac{x}{2}+\\frac{1}{2}", True),
        ("\\frac{1}{23}", "\\frac{12}{3}", False),
        ("2(3+4)", "23+4", False),
    ],
)
def test_parentheses_mean_something(gold: str, answer: str, equal: bool) -> None:
    assert prime_math(f"\\boxed{{{answer}}}", gold, {}) == equal
    assert (geo3k(f"\\boxed{{{answer}}}", gold, {}) > 0.5) == equal


@beside_verl
@given(pieces("<think>", "</think>", "\\boxed{", "}", "7", "{", "\n", most=9))
@settings(deadline=None)
def test_the_format_of_geo3k_is_verls(solution: str) -> None:
    with unheard():
        expected = verl("geo3k").format_reward(solution)
    assert geo3k(solution, "there is no such answer", {}) == pytest.approx(0.1 * expected)


def test_no_box_is_no_answer_to_geo3k() -> None:
    assert geo3k("I do not know.", "None", {}) == 0.0


@pytest.mark.parametrize("name", ["prime_math", "geo3k"])
def test_no_answer_is_executed(name: str, tmp_path: Path) -> None:
    scorer = {"prime_math": prime_math, "geo3k": geo3k}[name]
    for payload in (
        "open('%s','w')",
        "\\pi if open('%s','w') else 0",
        "[open('%s','w')]",
        "f(open('%s','w'))",
    ):
        for gold in ("5", "\\pi", "\\begin{pmatrix}1\\end{pmatrix}"):
            scorer(f"\\boxed{{{payload % (tmp_path / 'ran')}}}", gold, {})
    assert not any(tmp_path.iterdir())


def test_code_earns_the_share_of_the_first_ten_tests() -> None:
    tests: dict[str, Any] = {
        "inputs": [f"{n}\n" for n in range(12)],
        "outputs": [f"{2 * n}\n" for n in range(12)],
    }
    tests["outputs"][11] = "never looked at"
    fence = "Here:\n```python\nprint(0)\n```\nNo:\n```python\n%s\n```\nDone."
    assert code(fence % "print(2 * int(input()))", tests, {}) == 1.0
    assert code(fence % "n = int(input())\nprint(2 * n if n % 2 else n)", json.dumps(tests), {}) == 0.6
    assert code("print(2 * int(input()))", tests, {}) == 1.0
    for hopeless in ("", "```python\n```", "I do not know.", "\x00", "\ud800", "print(" * 1000):
        assert code(hopeless, {"inputs": [""], "outputs": [""]}, {}) == 0.0


@pytest.mark.parametrize(
    "wrong", [None, "[", "{}", {"inputs": [], "outputs": []}, {"inputs": ["1"], "outputs": []}]
)
def test_tests_that_can_not_be_read_are_an_error_and_not_a_zero(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"the tests should be \{inputs, outputs, fn_name\?\}"):
        code("print(1)", wrong, {})


@pytest.mark.parametrize("scorer", [gsm8k, math_reward, math_dapo, prime_math, geo3k, search_qa])
@pytest.mark.parametrize("wrong", [None, True, {"answer": "5"}, b"5"])
def test_a_ground_truth_that_can_not_be_read_is_an_error_and_not_a_zero(scorer: Scorer, wrong: Any) -> None:
    with pytest.raises((ValueError, KeyError)):
        scorer("Answer: 5 #### 5 <answer>5</answer> \\boxed{5}", wrong, {})


def test_every_data_source_of_verl_has_its_rule() -> None:
    for data_source, scorer, runs in [
        ("openai/gsm8k", gsm8k, "inline"),
        ("HuggingFaceH4/MATH-500", math_reward, "inline"),
        ("math", math_dapo, "inline"),
        ("aime2024", math_dapo, "inline"),
        ("numina_olympiads", prime_math, "pool"),
        ("taco", code, "pool"),
        ("hiyouga/geometry3k", geo3k, "pool"),
        ("searchR1_nq", search_qa, "inline"),
    ]:
        assert route(data_source) == (scorer, runs)
    assert len(ROUTES) == 26
    with pytest.raises(UsageError, match=r"data_source 'openai/gsm'; did you mean 'openai/gsm8k'"):
        route("openai/gsm")
    with pytest.raises(UsageError, match="no scoring rule for data_source 'zzz'; there are: "):
        route("zzz")


def test_a_score_is_a_number_and_an_object() -> None:
    score = Score.of({"score": -1.0, "acc": False, "pred": "7"})
    assert score == -1.0 and isinstance(score, float)
    assert score["score"] == -1.0 and score["pred"] == "7" and score.get("none", 3) == 3 and "acc" in score
    assert dict(score) == dict(score.items()) == {"score": -1.0, "acc": False, "pred": "7"}
    assert list(score) == list(score.keys()) and len(score) == len(score.values()) == 3
    again = pickle.loads(pickle.dumps(score))
    assert again == score and again.fields == score.fields
    assert Score.of(0.5)["score"] == 0.5 and json.dumps(Score.of(1.0)) == "1.0"


GOLDS: dict[Callable[..., Any], Any] = {
    gsm8k: "5",
    math_reward: "5",
    math_dapo: "5",
    search_qa: {"target": "5"},
    prime_math: "5",
    geo3k: "5",
}
NASTY = (
    *(
        "#### ",
        "Answer:",
        "\\boxed{",
        "\\boxed ",
        "}",
        "{",
        "<answer>",
        "</answer>",
        "\x00",
        "\ud800",
        "٣",
        "\N{FULLWIDTH DIGIT NINE}",
        "\\pi",
    ),
    *(
        "\\frac",
        "\\sqrt",
        "\\text{ ",
        "$",
        "%",
        "=",
        ",",
        "^",
        "(",
        "[",
        ")",
        "]",
        "_",
        "e9",
        "inf",
        "nan",
        "/",
        "*",
        ".",
    ),
)


@pytest.mark.parametrize("scorer", GOLDS)
@given(solution=pieces(*NASTY, "1", "5", most=20), inside=st.booleans())
@settings(deadline=None)
def test_no_answer_makes_a_scorer_raise(scorer: Scorer, solution: str, inside: bool) -> None:
    scorer(f"\\boxed{{{solution}}}" if inside else solution, GOLDS[scorer], {})


@pytest.mark.parametrize("scorer", GOLDS)
@pytest.mark.parametrize(
    "unit", [*NASTY, "1,", "#### 1 ", "\\boxed{1}", "<answer>1</answer>", "</answer>1", "is "]
)
@pytest.mark.timeout(FEW_SECONDS)
def test_a_megabyte_of_anything_is_read_in_passing(scorer: Scorer, unit: str) -> None:
    text = unit * (LONG // len(unit))
    verdict = scorer(text, GOLDS[scorer], {})
    assert (verdict["score"] if isinstance(verdict, dict) else verdict) <= 0.1
    scorer(f"\\boxed{{<answer>{text}</answer>}}", GOLDS[scorer], {})


@pytest.mark.parametrize(
    ("scorer", "spray"),
    [
        (gsm8k, "#### 5 #### 6"),
        (math_reward, "\\boxed{5} \\boxed{6}"),
        (math_dapo, "Answer: 5\nAnswer: 6"),
        (search_qa, "<answer>5</answer><answer>6</answer>"),
        (prime_math, "The answer is 5. The answer is 6"),
        (geo3k, "\\boxed{5} \\boxed{6}"),
    ],
)
def test_of_several_answers_the_last_counts(scorer: Scorer, spray: str) -> None:
    earned = scorer(spray, GOLDS[scorer], {})
    assert (earned["score"] if isinstance(earned, dict) else earned) <= 0.0
    earned = scorer(spray, {"target": "6"} if scorer is search_qa else "6", {})
    assert (earned["score"] if isinstance(earned, dict) else earned) >= 0.9


def test_the_last_box_is_found() -> None:
    assert last_boxed("\\boxed{1} \\boxed{2{3}} }") == "2{3}"
    assert last_boxed("\\boxed{1") is None
    assert last_boxed("\\boxed{" + "1" * 20_000 + "}") is None
