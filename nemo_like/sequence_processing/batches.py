"""Rows into batches: bounded by rows and by tokens, longest first, halved where memory ends."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

logger = logging.getLogger(__name__)
R = TypeVar("R")


@dataclass(slots=True)
class Limits:
    """What a batch may hold; it shrinks where a batch did not fit into memory, and stays so."""

    rows: int
    tokens: int
    """Rows times the longest of them, in tokens; one row may be longer."""


def in_batches(
    sizes: Sequence[int],
    work: Callable[[list[int]], R],
    limits: Limits,
    *,
    tell: Callable[[int], str],
    equal: bool = False,
) -> Iterator[tuple[list[int], R]]:
    """Each batch, as indices into `sizes` (tokens of each row), and what `work` makes of it.

    Rows come longest first, so that padding is least and memory ends early if it does; a batch that does not
    fit is tried again in halves. `equal` keeps rows of different lengths apart. `tell` names a row.

    Raises:
        RuntimeError: a single row does not fit into memory (`torch.OutOfMemoryError` on a GPU); a note on
            the error names it.
    """
    waiting = deque(sorted(range(len(sizes)), key=lambda i: -sizes[i]))
    while waiting:
        batch = _take(waiting, sizes, limits, equal)
        result: list[R] = []
        try:
            result.append(work(batch))
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if len(batch) == 1:
                error.add_note(f"{tell(batch[0])} does not fit into memory, alone in its batch")
                raise
        # Outside of the handler, so that nothing holds on to the frames with what filled the memory.
        if not result:
            waiting.extendleft(reversed(batch))
            limits.rows, limits.tokens = len(batch) // 2, len(batch) * sizes[batch[0]] // 2
            logger.warning(
                "out of memory with %d rows of up to %d tokens; halved", len(batch), sizes[batch[0]]
            )
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            continue
        yield batch, result[0]


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether memory ended: a GPU's by the error's class, the machine's by its words."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _take(waiting: deque[int], sizes: Sequence[int], limits: Limits, equal: bool) -> list[int]:
    batch = [waiting.popleft()]
    longest = sizes[batch[0]]
    while waiting and len(batch) < limits.rows and (len(batch) + 1) * longest <= limits.tokens:
        if equal and sizes[waiting[0]] != longest:
            break
        batch.append(waiting.popleft())
    return batch
