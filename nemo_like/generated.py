"""What a generation hands over: a row a sample, in order, beside the columns of the data.

prompt, response, sample_idx, data_idx, temperature, top_p, max_tokens, original_*,
finish_reason, prompt_tokens, completion_tokens, reasoning, error
and on demand: prompt_token_ids, response_token_ids, response_logprobs, sampling_params
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from nemo_like import __version__
from nemo_like.errors import RowError
from nemo_like.generate_options import GenerateConfig
from nemo_like.journal import Journal, Sample
from nemo_like.prompts import read_prompt
from nemo_like.table import Table, as_json, cells, pa, written
from nemo_like.types import Json

ROWS_AT_ONCE = 4096
PREFIX = "original_"
BEFORE: dict[str, Any] = {
    "prompt": pa.string(),
    "response": pa.string(),
    "sample_idx": pa.int64(),
    "data_idx": pa.int64(),
    "temperature": pa.float64(),
    "top_p": pa.float64(),
    "max_tokens": pa.int64(),
}
AFTER: dict[str, Any] = {
    "finish_reason": pa.string(),
    "prompt_tokens": pa.int64(),
    "completion_tokens": pa.int64(),
    "reasoning": pa.string(),
    "error": pa.string(),
}
ON_DEMAND: dict[str, Any] = {
    "prompt_token_ids": pa.list_(pa.int64()),
    "response_token_ids": pa.list_(pa.int64()),
    "response_logprobs": pa.list_(pa.float64()),
}
SAMPLING_PARAMS = "sampling_params"
Effective = Callable[[int | None], Json]
"""The parameters that a sample of a seed was asked for with."""


@dataclass(slots=True)
class Tally:
    """What was written."""

    output: str
    prompts: int
    rows: int = 0
    failed: int = 0
    finish_reasons: Counter[str] = field(default_factory=Counter[str])
    tokens: Counter[str] = field(default_factory=Counter[str])

    def add(self, sample: Sample) -> None:
        """Count a row."""
        self.rows += 1
        self.failed += sample.error is not None
        if sample.finish_reason is not None:
            self.finish_reasons[sample.finish_reason] += 1
        self.tokens["prompt"] += sample.prompt_tokens or 0
        self.tokens["completion"] += sample.completion_tokens or 0

    def lines(self) -> Iterator[str]:
        """What a person is told."""
        yield f"{self.rows - self.failed:,} rollouts of {self.prompts:,} prompts are in {self.output}"
        if self.finish_reasons:
            shares = (f"{name} {n / self.rows:.1%}" for name, n in self.finish_reasons.most_common())
            yield f"finish reasons: {', '.join(shares)}"
        if self.tokens.total():
            yield f"tokens: prompt {self.tokens['prompt']:,}, completion {self.tokens['completion']:,}"
        if self.failed:
            yield f"{self.failed:,} rows have no response but an error"


def write_generated(
    config: GenerateConfig, table: Table, column: str, journal: Journal, effective: Effective
) -> Tally:
    """Write the output, whole, from the journal and the data, whose prompts are in `column`."""
    tally = Tally(output=str(config.output), prompts=len(table))
    schema = _schema(config, table, journal.made_with)
    with written(config.output, config.format, schema) as write:
        for batch in _batches(config, table, column, journal, effective, tally, schema):
            write(batch)
    return tally


def _schema(config: GenerateConfig, table: Table, made_with: Json) -> Any:
    own = [table.schema.field(i).with_name(PREFIX + name) for i, name in enumerate(table.schema.names)]
    after = AFTER | (ON_DEMAND | {SAMPLING_PARAMS: pa.string()} if config.return_token_ids else {})
    about = {"nemo_like.generate": as_json(made_with | {"nemo_like": __version__})}
    return pa.schema([*BEFORE.items(), *own, *after.items()], metadata=about)


def _batches(
    config: GenerateConfig,
    table: Table,
    column: str,
    journal: Journal,
    effective: Effective,
    tally: Tally,
    schema: Any,
) -> Iterator[Any]:
    repeats, data_idx = config.num_samples, 0
    prompts = cells(table, column)
    for batch in table.batches(max(1, ROWS_AT_ONCE // repeats)):
        rows = range(batch.num_rows)
        texts = [_text(next(prompts)) for _ in rows]
        samples = [_known(journal, data_idx + row, repeats) for row in rows]
        flat = [sample for group in samples for sample in group]
        for sample in flat:
            tally.add(sample)
        own = batch.take(pa.array([row for row in rows for _ in range(repeats)], type=pa.int64()))
        columns = {
            "prompt": [text for text in texts for _ in range(repeats)],
            "temperature": [config.temperature] * len(flat),
            "top_p": [config.top_p] * len(flat),
            "max_tokens": [config.max_tokens] * len(flat),
        } | _columns(flat, effective if config.return_token_ids else None)
        arrays = [pa.array(columns[name], type=kind) for name, kind in BEFORE.items()]
        arrays += own.columns
        arrays += [pa.array(columns[field.name], type=field.type) for field in list(schema)[len(arrays) :]]
        yield pa.record_batch(arrays, schema=schema)
        data_idx += batch.num_rows


def _columns(samples: Sequence[Sample], effective: Effective | None) -> dict[str, list[Any]]:
    names = ["response", "sample_idx", "data_idx", *AFTER]
    columns = {name: [getattr(sample, name) for sample in samples] for name in [*names, *ON_DEMAND]}
    if effective is not None:
        columns[SAMPLING_PARAMS] = [as_json(effective(sample.seed)).decode() for sample in samples]
    return columns


def _known(journal: Journal, data_idx: int, repeats: int) -> list[Sample]:
    """A prompt's samples; one that nobody tried is an error too, not a hole."""
    missing = [Sample(data_idx=data_idx, sample_idx=i, key=0, error="not asked") for i in range(repeats)]
    return [sample or none for sample, none in zip(journal.read(data_idx), missing, strict=True)]


def _text(cell: Any) -> str | None:
    try:
        return read_prompt(cell).text
    except RowError:
        return None
