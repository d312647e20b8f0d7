"""Counting the words of a short text, for verifiers and prime-rl.

`taskset` is the environment as verifiers has it today (`vf-eval word-count`, prime-rl's `taskset.id`);
`load_environment` is it as verifiers had it before 0.4. Both score with nemo-like's `word_count`.
"""

from __future__ import annotations

from typing import Any

__all__ = ["WordCountTaskset", "load_environment"]


def __getattr__(name: str) -> Any:
    """The taskset, where there is a verifiers that has tasksets."""
    if name != "WordCountTaskset":
        raise AttributeError(name)
    from word_count.taskset import WordCountTaskset

    return WordCountTaskset


def load_environment(num_examples: int = 100, seed: int = 0, worked_examples: bool = True) -> Any:
    """The environment as `verifiers.load_environment("word-count")` wants it.

    Raises:
        ImportError: the verifiers that is installed has no such environments any more.
    """
    from word_count.legacy import environment

    return environment(num_examples, seed, worked_examples)
