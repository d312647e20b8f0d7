"""Log-probabilities of stored rollouts under a policy and a reference model: of token ids, never of text.

Rollouts are read, sorted by length and scored some hundred at a time, so a file of any size will do.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, cast

import numpy as np
import orjson
from pydantic import Field

from nemo_like.errors import RowError, UsageError
from nemo_like.logprob_report import Divergence, Mismatch, Moments
from nemo_like.sequence_processing import GenerationConfig, SequenceProcessor
from nemo_like.settings import Settings
from nemo_like.store import write_whole
from nemo_like.token_turns import Chain, Turn, chained, turns_of
from nemo_like.types import Json

KEPT = (
    *("_ng_task_key", "_ng_task_index", "_ng_rollout_index", "data_idx", "sample_idx"),
    *("agent_ref", "reward", "success"),
)
"""Fields of a rollout that say which it is."""
ROWS_AT_ONCE = 256
"""Rollouts that are read, sorted by length and scored together."""


class ScoreLogprobsConfig(Settings):
    """What `ng_score_logprobs` does."""

    input_jsonl_fpath: Path
    """Rollouts whose output items hold token ids (`prompt_token_ids`, `generation_token_ids`)."""
    output_jsonl_fpath: Path
    """JSONL to write, a line a rollout; the summary stands beside it as `<stem>_summary.json`."""
    policy: str
    """The model: a folder of transformers, or `embedded`."""
    reference: str | None = None
    """Another such model, to take the policy's divergence from."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """What the models compute in: float32, bfloat16 or float16. Log-probabilities are taken in float32."""
    temperature: float = Field(1.0, gt=0)
    """What logits are divided by; the sampling's, where the engine's log-probabilities are of that."""
    tf_batch_size: int = Field(16, ge=1)
    """Sequences scored at once; halved where memory ends."""
    overwrite: bool = False
    """Whether to replace an existing output."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rollout:
    """A row that can be scored."""

    line: int
    row: Json
    turns: list[Turn]
    chains: list[Chain]


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """What a model makes of a rollout: an array a turn."""

    logprobs: list[np.ndarray[Any, Any]]
    entropies: list[np.ndarray[Any, Any]]


class Summary:
    """What the rows amount to, kept while they are written."""

    def __init__(self, config: ScoreLogprobsConfig) -> None:
        self._config = config
        self.skipped = Counter[str](no_token_ids=0, too_long=0)
        self._counts = Counter[str]()
        self._logprobs, self._entropies = Moments(), Moments()
        self._mismatch, self._divergence, self._sums = Mismatch(), Divergence(), Moments()

    def add(self, rollout: Rollout, policy: Scores, reference: Scores | None) -> None:
        """Take in a rollout."""
        self._counts.update(rollouts=1, turns=len(rollout.turns))
        total = 0.0
        for i, turn in enumerate(rollout.turns):
            logprobs = policy.logprobs[i]
            self._logprobs.add(logprobs)
            self._entropies.add(policy.entropies[i])
            if turn.logprobs is None:
                self._counts["turns_without_logprobs"] += 1
            else:
                self._mismatch.add(np.asarray(turn.logprobs, np.float64), logprobs)
            if reference is not None:
                total += float(self._divergence.add(logprobs, reference.logprobs[i])[0].sum())
        self._sums.add(np.asarray([total]))

    def report(self) -> Json:
        """The figures by name."""
        config, mean = self._config, self._logprobs.mean_or_none()
        found: Json = {
            "input": str(config.input_jsonl_fpath),
            **{name: self._counts[name] for name in ("rollouts", "turns", "turns_without_logprobs")},
            "tokens": self._logprobs.n,
            "skipped": dict(self.skipped),
            "policy": {
                "model": config.policy,
                "dtype": config.dtype,
                "temperature": config.temperature,
                "mean_logprob": mean,
                "mean_entropy": self._entropies.mean_or_none(),
                "perplexity": None if mean is None else math.exp(-mean),
            },
            "engine_mismatch": self._mismatch.report(),
        }
        if config.reference is not None:
            found["reference"] = {
                "model": config.reference,
                "kl_k1": self._divergence.k1.mean_or_none(),
                "kl_k3": self._divergence.k3.mean_or_none(),
                "kl_k1_per_rollout": self._sums.mean_or_none(),
                "kl_k1_per_rollout_se": self._sums.se,
            }
        return found


def score_logprobs(
    config: ScoreLogprobsConfig,
    load: Callable[[str, str], tuple[Any, Any]],
    on_progress: Callable[[int], None] = lambda _: None,
) -> Json:
    """Score the rollouts of a file; the summary. The output appears whole, once all of it is done.

    `load` gives the (model, tokenizer) of a name and a dtype. `on_progress` is told the lines read.

    Raises:
        UsageError: there is no such input, the output exists, or a model is not there; `RowError` names the
            line whose token ids are misshapen or not the model's.
    """
    source, output = config.input_jsonl_fpath, config.output_jsonl_fpath
    beside = output.with_name(f"{output.stem}_summary.json")
    if not source.is_file():
        raise UsageError(f"there is no {source}")
    if output.absolute() == source.absolute():
        raise UsageError(f"{output} is the input; choose another output_jsonl_fpath")
    if output.exists() and not config.overwrite:
        raise UsageError(f"{output} exists; choose another output_jsonl_fpath, or pass overwrite=true")
    output.parent.mkdir(parents=True, exist_ok=True)
    part, summary = output.with_name(output.name + ".part"), Summary(config)
    with ExitStack() as stack:
        rollouts = _rollouts(stack.enter_context(source.open("rb")), source, summary.skipped, on_progress)
        first = next(rollouts, None)
        if first is None:
            raise UsageError(f"{source} has no rollout with token ids; {HOW_TO_GET_THEM}")
        models = [Scorer(name, *load(name, config.dtype), config) for name in _names(config)]
        lines = stack.enter_context(part.open("wb"))
        stack.callback(part.unlink, missing_ok=True)
        for some in _parts(first, rollouts):
            fitting = [rollout for rollout in some if _fits(rollout, models, source)]
            summary.skipped["too_long"] += len(some) - len(fitting)
            scored = [model.score(fitting, source) for model in models]
            for rollout, *scores in zip(fitting, *scored, strict=True):
                policy, reference = scores[0], scores[1] if len(scores) > 1 else None
                summary.add(rollout, policy, reference)
                lines.write(orjson.dumps(_row(rollout, policy, reference)) + b"\n")
        lines.flush()
        part.replace(output)
    write_whole(beside, orjson.dumps(summary.report(), option=orjson.OPT_INDENT_2))
    return summary.report()


HOW_TO_GET_THEM = (
    "a model server gives them with return_token_id_information=true, ng_generate_rollouts with "
    "--return_token_ids"
)


class Scorer:
    """A model that scores chains of turns."""

    def __init__(self, name: str, model: Any, tokenizer: Any, config: ScoreLogprobsConfig) -> None:
        self.name = name
        self.processor = SequenceProcessor(
            model,
            tokenizer,
            GenerationConfig(
                tf_batch_size=config.tf_batch_size,
                logprob_temperature=config.temperature,
                max_new_tokens=0,
                stop_strings=(),
            ),
        )

    def score(self, rollouts: Sequence[Rollout], source: Path) -> list[Scores]:
        """The scores of each, in order."""
        chains = [chain for rollout in rollouts for chain in rollout.chains]
        packed = self.processor.pack([c.prompt for c in chains], [[c.rest] for c in chains])
        try:
            results = self.processor.teacher_force_logprobs(packed)
        except ValueError as error:
            at = f"{source}, lines {rollouts[0].line} to {rollouts[-1].line}"
            raise UsageError(f"{at}, under {self.name}: {error}") from error
        parts = iter(zip(results.logprobs, results.entropies, strict=True))
        return [self._of_turns(rollout, parts) for rollout in rollouts]

    @staticmethod
    def _of_turns(rollout: Rollout, parts: Iterator[tuple[list[Any], list[Any]]]) -> Scores:
        scores = Scores(logprobs=[], entropies=[])
        for chain, (logprobs, entropies) in zip(rollout.chains, parts, strict=False):
            for answer in chain.answers:
                scores.logprobs.append(logprobs[0].double().cpu().numpy()[answer])
                scores.entropies.append(entropies[0].astype(np.float64)[answer])
        return scores


def _rollouts(
    lines: IO[bytes], source: Path, skipped: Counter[str], on_progress: Callable[[int], None]
) -> Iterator[Rollout]:
    """The rollouts that have token ids; the others are counted."""
    for number, line in enumerate(lines, 1):
        at = f"{source}, line {number}"
        try:
            row: Any = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise RowError(f"{at}: no JSON: {error}") from error
        if not isinstance(row, dict):
            raise RowError(f"{at}: should be an object (got {line[:60]!r})")
        turns = turns_of(cast(Json, row), at)
        on_progress(number)
        if not turns:
            skipped["no_token_ids"] += 1
            continue
        kept: Json = {key: row[key] for key in KEPT if key in row}
        yield Rollout(line=number, row=kept, turns=turns, chains=chained(turns))


def _parts(first: Rollout, others: Iterator[Rollout]) -> Iterator[list[Rollout]]:
    some = [first]
    for rollout in others:
        if len(some) == ROWS_AT_ONCE:
            yield some
            some = []
        some.append(rollout)
    yield some


def _names(config: ScoreLogprobsConfig) -> list[str]:
    return [config.policy, *([config.reference] if config.reference is not None else [])]


def _fits(rollout: Rollout, models: Sequence[Scorer], source: Path) -> bool:
    """Whether every model has room for it. Raises `RowError` for token ids that a model does not have."""
    for model in models:
        highest = max(max(chain.ids) for chain in rollout.chains)
        if highest >= model.processor.vocabulary:
            raise RowError(
                f"{source}, line {rollout.line}: token id {highest} is beyond the "
                f"{model.processor.vocabulary} of {model.name}; was the rollout made with another model?"
            )
        context = model.processor.context
        if context is not None and any(len(chain.ids) > context for chain in rollout.chains):
            return False
    return True


def _row(rollout: Rollout, policy: Scores, reference: Scores | None) -> Json:
    """A line of the output: a list a turn of each."""
    row: Json = {"line": rollout.line, **rollout.row}
    row["engine_logprobs"] = [turn.logprobs for turn in rollout.turns]
    row["policy_logprobs"] = [part.tolist() for part in policy.logprobs]
    row["policy_entropies"] = [part.tolist() for part in policy.entropies]
    if reference is not None:
        row["reference_logprobs"] = [part.tolist() for part in reference.logprobs]
    return row
