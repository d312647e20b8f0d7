"""The environment as verifiers had it before 0.4: a data set and a rubric."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import verifiers as vf

from word_count.tasks import WEIGHTS, score, tasks


def environment(num_examples: int, seed: int, worked_examples: bool) -> Any:
    """A `SingleTurnEnv` over `num_examples` tasks.

    Raises:
        ImportError: the verifiers that is installed has none.
    """
    if not hasattr(vf, "SingleTurnEnv"):
        raise ImportError(
            f"verifiers {vf.__version__} has no load_environment: use the taskset (vf-eval word-count), "
            "or pip install 'verifiers<0.4'"
        )
    from datasets import Dataset

    made = tasks(num_examples, seed, worked_examples=worked_examples)
    rows = [{"prompt": task["messages"], "answer": task["answer"], "info": task["info"]} for task in made]
    rubric = vf.Rubric(funcs=[_component(name) for name in WEIGHTS], weights=[*WEIGHTS.values()])
    return vf.SingleTurnEnv(dataset=Dataset.from_list(rows), rubric=rubric)


def _component(name: str) -> Callable[..., float]:
    def component(completion: list[dict[str, Any]], answer: str) -> float:
        return score(answer, str(completion[-1]["content"]))[name]

    component.__name__ = name
    return component
