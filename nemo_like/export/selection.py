"""Which rollouts an export keeps, and a count of why each of the others went."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Literal

import orjson

from nemo_like.export.rollout import Rollout, Unfit
from nemo_like.export.settings import ExportConfig
from nemo_like.query import Query
from nemo_like.types import Json

Split = Literal["train", "validation"]
SETTINGS = (
    *("query", "min_reward", "max_reward", "drop_unsuccessful", "drop_truncated", "drop_duplicates"),
    *("max_tokens", "max_characters", "best", "per_task", "drop_equal_groups", "balance"),
    *("validation_share", "seed"),
)
"""The settings that select."""
MAKERS = 1000
"""Models, agents and ways of sampling that are told apart; the rest is counted together."""
OTHERS = "others"


@dataclass(slots=True)
class Tally:
    """What became of the rollouts; tallies of pieces add up."""

    rollouts: int = 0
    dropped: Counter[str] = field(default_factory=Counter[str])
    """Rollouts, by the reason why they are in no row."""
    tasks: int = 0
    tasks_dropped: Counter[str] = field(default_factory=Counter[str])
    """Tasks that became no row though they had rollouts, of formats that make rows of tasks."""
    rows: Counter[str] = field(default_factory=Counter[str])
    """Rows by split."""
    divided: int = 0
    """Rollouts that became several rows."""
    successes: int = 0
    """Blocks of rows that are of a rollout with success."""
    rewards: tuple[int, float] = (0, 0.0)
    """How many blocks of rows are of a rollout with a reward, and the sum of those."""
    made_by: dict[str, Counter[str]] = field(
        default_factory=lambda: {"model": Counter(), "agent": Counter(), "sampling": Counter()}
    )
    """What made the kept rollouts."""
    known: set[str] = field(default_factory=set[str])
    """Fields of the query that some rollout has."""

    @property
    def kept(self) -> int:
        """Rollouts that are in the rows."""
        return self.rollouts - self.dropped.total()

    def keep(self, made_by: Mapping[str, str]) -> None:
        """Count what made a rollout that is in the rows."""
        for name, value in made_by.items():
            _add(self.made_by[name], value, 1)

    def merge(self, other: Tally) -> None:
        """Count what another piece counted."""
        self.rollouts += other.rollouts
        self.tasks += other.tasks
        self.divided += other.divided
        self.successes += other.successes
        self.rewards = (self.rewards[0] + other.rewards[0], self.rewards[1] + other.rewards[1])
        for mine, theirs in (
            (self.dropped, other.dropped),
            (self.tasks_dropped, other.tasks_dropped),
            (self.rows, other.rows),
        ):
            mine.update(theirs)
        for name, counts in other.made_by.items():
            for value, n in counts.items():
                _add(self.made_by[name], value, n)
        self.known |= other.known


class Selection:
    """What the settings keep: of single rollouts, and of those of a task."""

    def __init__(self, config: ExportConfig, *, needs_reward: bool) -> None:
        """Raises `UsageError` where the query can't be read."""
        self.config = config
        self._query = Query.parse(config.query)
        self._fields = sorted(self._query.fields)
        self._checks = list(_checks(config, needs_reward))

    @property
    def of_tasks(self) -> bool:
        """Whether it looks at the rollouts of a task together."""
        return bool(self.config.best or self.config.per_task or self.config.drop_equal_groups)

    def check(self, rollout: Rollout, tally: Tally) -> None:
        """Raises `Unfit`, with the reason, for a rollout that is not kept whatever the others are."""
        for unfit, reason in self._checks:
            if unfit(rollout):
                raise Unfit(reason)
        if not rollout.completion:
            raise Unfit("no answer")
        if self._fields:
            values = {name: rollout.value(name) for name in self._fields}
            tally.known.update(name for name, value in values.items() if value is not None)
            if not self._query.matches(values):
                raise Unfit("not of the query")

    def of_group(self, group: list[Rollout], tally: Tally) -> list[Rollout]:
        """Those of a task that are kept, in their order; the others are counted."""
        config = self.config
        if config.drop_duplicates:
            group = list(_counted(group, _firsts(group), "duplicate", tally))
        if config.drop_equal_groups and len({rollout.reward for rollout in group}) == 1:
            tally.dropped["all rewards of the task equal"] += len(group)
            return []
        if config.best:
            group = list(_counted(group, best_first(group)[: config.best], "not among the best", tally))
        if config.per_task:
            drawn = sorted(group, key=lambda r: draw(config.seed, r.task_key, str(r.rollout_index)))
            group = list(_counted(group, drawn[: config.per_task], "not drawn", tally))
        return group

    def split_of(self, rollout: Rollout) -> Split:
        """The side of a rollout: that of its prompt."""
        share = self.config.validation_share
        if not share:
            return "train"
        at = draw(self.config.seed, "split", rollout.prompt_json.decode()) / 2**63
        return "validation" if at < share else "train"


def _checks(config: ExportConfig, needs_reward: bool) -> Iterator[tuple[Callable[[Rollout], bool], str]]:
    """What makes a rollout unfit, and how that is called; only what is asked for."""
    least, most = config.min_reward, config.max_reward
    if needs_reward or least is not None or most is not None:
        yield lambda r: r.reward is None, "no reward"
    if least is not None:
        yield lambda r: (r.reward or 0.0) < least, "reward too low"
    if most is not None:
        yield lambda r: (r.reward or 0.0) > most, "reward too high"
    if config.drop_unsuccessful:
        yield lambda r: not r.success, "no success"
    if config.drop_truncated:
        yield lambda r: r.truncated, "truncated"
    if (characters := config.max_characters) is not None:
        yield lambda r: r.characters > characters, "too long"
    if (tokens := config.max_tokens) is not None:
        yield lambda r: r.tokens is None, "tokens not counted"
        yield lambda r: (r.tokens or 0) > tokens, "too long"


def best_first(group: list[Rollout]) -> list[Rollout]:
    """By reward, the highest first; of equal ones whole, shorter and earlier ones."""
    return sorted(
        group,
        key=lambda r: (
            -(r.reward if r.reward is not None else float("-inf")),
            r.truncated,
            len(r.answer_json),
            r.rollout_index,
        ),
    )


def draw(seed: int, *parts: str) -> int:
    """63 bits that look like chance, and are always the same for the same parts."""
    text = "\0".join((str(seed), *parts)).encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(text, digest_size=8).digest()) >> 1


def _add(counts: Counter[str], value: str, n: int) -> None:
    if value in counts or len(counts) < MAKERS:
        counts[value] += n
    else:
        counts[OTHERS] += n


def _firsts(group: list[Rollout]) -> list[Rollout]:
    firsts = {rollout.answer_json: rollout for rollout in reversed(group)}
    return list(firsts.values())


def _counted(group: list[Rollout], keep: Iterable[Rollout], reason: str, tally: Tally) -> Iterator[Rollout]:
    kept = {id(rollout) for rollout in keep}
    if len(group) > len(kept):
        tally.dropped[reason] += len(group) - len(kept)
    return (rollout for rollout in group if id(rollout) in kept)


def count_failures(lines: Iterable[bytes]) -> Counter[str]:
    """Failed attempts by kind, of the lines of a failures file."""
    kinds: Counter[str] = Counter()
    for line in lines:
        try:
            failure: Json = orjson.loads(line).get("failure") or {}
        except (orjson.JSONDecodeError, AttributeError):
            continue
        kinds[str(failure.get("kind", ""))] += 1
    return kinds
