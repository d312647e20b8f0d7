"""Whether two mathematical expressions are equal, by math-verify.

Only for a process that can be killed: an expression can take forever, in C code that no timeout of Python's
interrupts.
"""

from __future__ import annotations

import logging
from typing import Any, cast

from latex2sympy2_extended import NormalizationConfig  # pyright: ignore[reportMissingTypeStubs]  # it has none
from math_verify import (  # pyright: ignore[reportMissingTypeStubs]  # it has none
    ExprExtractionConfig,
    LatexExtractionConfig,
    parse,
    verify,
)

# It warns, at every call, that without its own timeout it can hang.
logging.getLogger("math_verify").setLevel(logging.ERROR)

LATEX = LatexExtractionConfig(
    try_extract_without_anchor=False,
    boxed_match_priority=0,
    normalization_config=NormalizationConfig(
        basic_latex=True, units=True, malformed_operators=True, nits=False, boxed="none", equations=False
    ),
)
TRL = LatexExtractionConfig(
    try_extract_without_anchor=False,
    boxed_match_priority=0,
    normalization_config=NormalizationConfig(units=True),
)


def warm_up() -> None:
    """What the first expressions cost, once for all processes that are forked from this one."""
    for gold, answer in ((r"\frac{1}{2}", "0.5"), ("x+1", "1+x"), (r"\sqrt{2}", "2^{1/2}")):
        equal(gold, answer)


def equal(gold: str, answer: str) -> bool | None:
    """Whether two expressions (LaTeX, without the box around them) are equal; None where `gold` is none."""
    wanted = _parsed(_boxed(gold), [LATEX])
    if not _is_mathematics(wanted):
        return None
    return _verify(wanted, _parsed(_boxed(answer), [LATEX]))


def equal_by_trl(gold: str, text: str) -> bool | None:
    """What TRL's `accuracy_reward` says of a whole answer; None where it skips the task."""
    wanted = _parsed(gold, [LatexExtractionConfig(), ExprExtractionConfig()])
    return _verify(wanted, _parsed(text, [TRL])) if wanted else None


def equal_by_verl(gold: str, text: str) -> bool:
    """What verl's `math_verify` scorer says of a whole answer: any candidate that equals the boxed gold."""
    wanted = _parsed(_boxed(gold), [LatexExtractionConfig()], "any_match")
    given = _parsed(text, [ExprExtractionConfig(), LatexExtractionConfig()], "any_match")
    return any(_verify([g], [p]) for p in given for g in wanted)


def _boxed(expression: str) -> str:
    return f"\\boxed{{{expression}}}"


def _is_mathematics(parsed: list[Any]) -> bool:
    """What can't be read comes back as the string that it was, alone."""
    return any(not isinstance(value, str) for value in parsed)


def _parsed(text: str, configs: list[Any], mode: Any = "first_match") -> list[Any]:
    # 0, not None: its type says int.
    return cast(list[Any], parse(text, configs, extraction_mode=mode, parsing_timeout=0))


def _verify(gold: list[Any], answer: list[Any]) -> bool:
    return bool(verify(gold, answer, timeout_seconds=None))
