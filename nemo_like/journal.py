"""The journal: every finished sample of a generation, a line each, so that nothing is ever asked twice.

A sample has a slot, `data_idx` × `num_samples` + `sample_idx`; the journal remembers where the slot's last
line lies and what was asked. A sample counts only while its prompt is the one that is asked now.
"""

from __future__ import annotations

import fcntl
import os
from array import array
from dataclasses import dataclass, fields
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Self, cast

import orjson

from nemo_like.errors import StoreError
from nemo_like.types import Json

NOWHERE = -1


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One response to one prompt, or why there is none."""

    data_idx: int
    """Row of the data, from 0."""
    sample_idx: int
    """Which of the prompt's samples, from 0."""
    key: int
    """What was asked: the prompt's key."""
    response: str | None = None
    """The text; None where the model gave none, such as an answer that was cut off while it was thinking."""
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    reasoning: str | None = None
    """What a server gives apart from the text."""
    error: str | None = None
    """Why there is no sample."""
    seed: int | None = None
    prompt_token_ids: list[int] | None = None
    response_token_ids: list[int] | None = None
    """All that was generated, reasoning and end of sequence included."""
    response_logprobs: list[float] | None = None
    """Of the same tokens, natural logarithms."""


NAMES = frozenset(field.name for field in fields(Sample))
REQUIRED = frozenset({"data_idx", "sample_idx", "key"})


class Journal:
    """The samples of `num_prompts` × `num_samples` slots, open for writing by this process alone.

    `made_with` is what decides what the samples are; a journal made with anything else is refused.
    """

    def __init__(
        self, path: Path, made_with: Json, *, num_prompts: int, num_samples: int, overwrite: bool = False
    ) -> None:
        self.path, self.made_with = path, made_with
        self._num_prompts, self._num_samples = num_prompts, num_samples
        self._overwrite = overwrite

    def __enter__(self) -> Self:
        slots = self._num_prompts * self._num_samples
        self._offsets = array("q", [NOWHERE]) * slots
        self._keys = array("Q", [0]) * slots
        self._failed: set[int] = set()
        self._map: mmap | None = None
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            self._begin()
        except BaseException:
            os.close(self._file)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.sync()
        finally:
            if self._map is not None:
                # It has the file open too, and with it the lock.
                self._map.close()
            os.close(self._file)

    def done(self, data_idx: int, sample_idx: int, key: int) -> bool:
        """Whether there is a response to this very prompt."""
        slot = data_idx * self._num_samples + sample_idx
        return self._offsets[slot] >= 0 and self._keys[slot] == key and slot not in self._failed

    def append(self, sample: Sample) -> None:
        """Keep a sample; it outlives this process from now on, and the machine from the next `sync`.

        Raises:
            StoreError: it can't be written; nothing of it was.
        """
        self._place(sample.data_idx, sample.sample_idx, sample.key, sample.error, self._write(_line(sample)))

    def read(self, data_idx: int) -> list[Sample | None]:
        """The samples of a prompt, errors included; None where there is none."""
        start = data_idx * self._num_samples
        lines = [self._line_at(self._offsets[slot]) for slot in range(start, start + self._num_samples)]
        return [None if line is None else _sample(line) for line in lines]

    def sync(self) -> None:
        """Have on disk what was appended; raises as `append`."""
        try:
            os.fdatasync(self._file)
        except OSError as error:
            raise self._unwritable(error) from error

    def _begin(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreError(f"{self.path} is being written by another process") from None
        if self._overwrite:
            os.ftruncate(self._file, 0)
        self._end = self._load()
        os.ftruncate(self._file, self._end)
        if self._end == 0:
            self._write(orjson.dumps({"made_with": self.made_with}) + b"\n")

    def _load(self) -> int:
        """Find every sample; where the last whole line ends."""
        end = 0
        with os.fdopen(os.dup(self._file), "rb") as file:
            file.seek(0)
            for number, line in enumerate(file, 1):
                value = _parsed(line)
                if value is None:
                    if file.read(1):
                        raise StoreError(f"{self.path} is not a journal: line {number} is not a JSON object")
                    break
                if number == 1:
                    self._check(value)
                elif value.keys() >= REQUIRED:
                    place = (value["data_idx"], value["sample_idx"], value["key"], value.get("error"))
                    self._place(*place, offset=end)
                end += len(line)
        return end

    def _check(self, header: Json) -> None:
        if not isinstance(header.get("made_with"), dict):
            raise StoreError(f"{self.path} is not a journal; choose another --output_path")
        before = cast(Json, header["made_with"])
        if before != self.made_with:
            keys = [key for key in {**before, **self.made_with} if before.get(key) != self.made_with.get(key)]
            said = ", ".join(f"{key}={before.get(key)}, now {self.made_with.get(key)}" for key in keys)
            advice = "choose another --output_path, go back to what it was, or begin anew with --overwrite"
            raise StoreError(f"{self.path} was made with {said}; {advice}")

    def _place(self, data_idx: int, sample_idx: int, key: int, error: str | None, offset: int) -> None:
        if data_idx >= self._num_prompts or sample_idx >= self._num_samples:
            return
        slot = data_idx * self._num_samples + sample_idx
        self._offsets[slot], self._keys[slot] = offset, key
        (self._failed.discard if error is None else self._failed.add)(slot)

    def _write(self, line: bytes) -> int:
        """Append a line, all or nothing of it; its offset."""
        start, rest = self._end, memoryview(line)
        try:
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except OSError as error:
            os.ftruncate(self._file, start)
            raise self._unwritable(error) from error
        self._end += len(line)
        return start

    def _unwritable(self, error: OSError) -> StoreError:
        kept = "what was finished is kept, the same command resumes"
        return StoreError(f"{self.path} can't be written: {error}; {kept}")

    def _line_at(self, offset: int) -> bytes | None:
        if offset < 0:
            return None
        if self._map is None or len(self._map) < self._end:
            if self._map is not None:
                self._map.close()
            self._map = mmap(self._file, self._end, access=ACCESS_READ)
        return self._map[offset : self._map.find(b"\n", offset)]


def _line(sample: Sample) -> bytes:
    values = ((name, getattr(sample, name)) for name in Sample.__slots__)
    return orjson.dumps({name: value for name, value in values if value is not None}) + b"\n"


def _sample(line: bytes) -> Sample:
    return Sample(**{name: value for name, value in orjson.loads(line).items() if name in NAMES})


def _parsed(line: bytes) -> Json | None:
    """The object on a whole line; None for a torn one."""
    if not line.endswith(b"\n"):
        return None
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    return cast(Json, value) if isinstance(value, dict) else None


def journal_of(output: Path) -> Path:
    """Where the journal of an output is."""
    return output.with_name(f"{output.stem}_journal.jsonl")


def made_with(output: Path) -> Json:
    """What decided what the samples in `output` are; empty where no journal stands beside it."""
    journal = journal_of(output)
    if not journal.is_file():
        return {}
    with journal.open("rb") as lines:
        made = (_parsed(lines.readline()) or {}).get("made_with")
    # A file of another kind may have that name.
    return cast(Json, made) if isinstance(made, dict) else {}
