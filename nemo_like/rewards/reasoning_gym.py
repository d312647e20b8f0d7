"""The scorers of the reasoning-gym package, but for those that can't be trusted.

`EXCLUDED` is measured (version 0.1.25): a data set stays only if its own answer scores 1 after the row was
JSON; if no empty answer, "I don't know", echoed question, first digit, NaN for every number, or right answer
with something after it does; and if its scorer does not run the answer as Python.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from typing import Annotated, cast

from pydantic import AfterValidator, AliasChoices, Field
from reasoning_gym import factory  # pyright: ignore[reportMissingTypeStubs]  # it has none

from nemo_like.errors import did_you_mean
from nemo_like.rewards.math import last_box
from nemo_like.rewards.reward import reward
from nemo_like.types import Json, Response, Task

NO_ANSWER = "its entries hold no right answer to check its scorer by"
TUPLES = "its scorer compares with tuples, which JSON does not have"
AFTER = "its scorer gives 1.0 to a right answer with something else after it"
PYTHON = "its scorer runs the answer as Python code"
EXCLUDED = {
    **dict.fromkeys(("boxnet", "graph_color", "propositional_logic", "rubiks_cube", "rush_hour"), NO_ANSWER),
    **dict.fromkeys(("arc_agi", "rearc"), TUPLES),
    **dict.fromkeys(("advanced_geometry", "fraction_simplification", "gsm_symbolic", "kakurasu"), AFTER),
    **dict.fromkeys(("knights_knaves", "letter_jumble", "polynomial_equations"), AFTER),
    **dict.fromkeys(("quantum_lock", "sokoban", "spell_backward", "survo", "time_intervals"), AFTER),
    "word_sorting": AFTER,
    **dict.fromkeys(("binary_matrix", "n_queens", "spiral_matrix", "string_insertion"), PYTHON),
    **dict.fromkeys(("countdown", "intermediate_integration", "polynomial_multiplication"), PYTHON),
    **dict.fromkeys(("puzzle24", "simple_integration"), PYTHON),
    "coin_flip": "its scorer gives 1.0 to the first digits of the right answer",
    "complex_arithmetic": "its scorer gives 1.0 to 'nan'",
    "composite": "it has no scorer of its own; name the data set that the entry is from",
    "decimal_arithmetic": "it asks for 12 digits, and its scorer gives 1.0 to 4",
    "game_of_life_halting": "its scorer gives 1.0 to any text",
    "number_sorting": "its scorer gives 1.0 to a list of 'nan', and to numbers that are 1 off",
}
"""Data set → why its verdicts can't be used."""
ALLOWED = sorted(
    cast(dict[str, object], factory.DATASETS).keys() - EXCLUDED.keys()  # pyright: ignore[reportUnknownMemberType]
)
"""The data sets that can be scored."""

FLOOR = 0.05
"""What some scorers give to anything at all, so no more than this is nothing."""
OPEN_TAG, CLOSE_TAG = "<answer>", "</answer>"


def _of_a_data_set(value: Json) -> Json:
    name = str(value.get("source_dataset"))
    if name in EXCLUDED:
        raise ValueError(f"source_dataset '{name}' can't be scored: {EXCLUDED[name]}")
    if name not in ALLOWED:
        raise ValueError(f"reasoning-gym has no data set '{name}'{did_you_mean(name, ALLOWED)}")
    return value


def _not_blank(value: str) -> str:
    if not value.strip():
        raise ValueError("should not be blank, an empty answer is never right")
    return value


class ReasoningGymTask(Task):
    """An entry of one of reasoning-gym's data sets."""

    question: str
    answer: Annotated[str, AfterValidator(_not_blank)]
    # A file of tasks can't have `metadata`, which is the rollout's; others that call /verify can.
    reasoning_gym_metadata: Annotated[Json, AfterValidator(_of_a_data_set)] = Field(
        validation_alias=AliasChoices("reasoning_gym_metadata", "metadata")
    )
    """The entry's `metadata`, with its `source_dataset`."""


@reward("reasoning_gym", runs="pool", imports=__name__)
def reasoning_gym(task: ReasoningGymTask, response: Response, *, partial_credit: bool = True) -> Json:
    r"""What the scorer of the entry's data set gives to the answer, 0 to 1; 0 or 1 without `partial_credit`.

    The answer is the last `<answer>…</answer>`, else the last `\boxed{…}`, else all of the text
    (`extracted_answer`). An empty one earns nothing, nor does what makes the scorer raise. The reward is None
    where the scorer refuses the entry's own answer too. `score` is the scorer's number, `task_name` the
    data set.
    """
    name = str(task.reasoning_gym_metadata["source_dataset"])
    answer = extract(response.text)
    score = _score(name, answer, task) if answer else 0.0
    full = score >= 1.0
    verdict: Json = {
        "reward": score if full or (partial_credit and score > FLOOR) else 0.0,
        "score": score,
        "task_name": name,
        # Half a surrogate pair is no JSON.
        "extracted_answer": answer.encode(errors="replace").decode(),
    }
    if not full and _score(name, task.answer, task) < 1.0:
        verdict["reward"] = None
    return verdict


def extract(text: str) -> str:
    """The answer in `text`, without outer white space."""
    end = text.rfind(CLOSE_TAG)
    start = text.rfind(OPEN_TAG, 0, end) if end >= 0 else -1
    if start >= 0:
        return text[start + len(OPEN_TAG) : end].strip()
    boxed = last_box(text)
    return (text if boxed is None else boxed).strip()


def _score(name: str, answer: str, task: ReasoningGymTask) -> float:
    entry = {"question": task.question, "answer": task.answer, "metadata": task.reasoning_gym_metadata}
    try:
        # Some scorers take the entry apart.
        return float(_scorer(name)(answer=answer, entry=copy.deepcopy(entry)))
    except Exception:  # noqa: BLE001  # they raise whatever an answer they can't read makes Python raise
        return 0.0


@cache
def _scorer(name: str) -> Callable[..., float]:
    return cast(Callable[..., float], factory.get_score_answer_fn(name))
