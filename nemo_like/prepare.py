"""Data sets of a configuration's agents as one file of tasks a split, with their metrics."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import Any, Literal, cast

import orjson

from nemo_like.columns import Columns
from nemo_like.compose import UNSET
from nemo_like.config import Config, find
from nemo_like.errors import ConfigError, UsageError
from nemo_like.prompt_config import PromptConfig, read_prompt_config
from nemo_like.settings import origin_of
from nemo_like.task_rows import check_name, read_tasks
from nemo_like.types import Json

Mode = Literal["train_preparation", "example_validation"]
SPLITS: dict[Mode, tuple[str, ...]] = {
    "train_preparation": ("train", "validation"),
    "example_validation": ("example",),
}
SPILL_BYTES = 16 * 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class Dataset:
    """One data set of an agent."""

    agent: str
    name: str
    split: str
    file: Path
    prompt_config: PromptConfig | None
    num_repeats: int

    def tasks(self) -> Iterator[Json]:
        """Its tasks, each as often as asked for, for its agent unless a row says otherwise."""
        for task in read_tasks(self.file, self.prompt_config):
            task.setdefault("agent_ref", {"name": self.agent})
            for _ in range(self.num_repeats):
                yield task


def datasets_of(config: Config, mode: Mode) -> list[Dataset]:
    """The data sets of the agents that `mode` is about.

    Raises:
        ConfigError: one is not as it should be; a line for each says where it was written.
    """
    found: list[Dataset] = []
    problems: list[str] = []
    for agent in (instance for instance in config.instances if instance.kind == "agents"):
        declared: Any = agent.settings.get("datasets") or []
        for i, entry in enumerate(cast(list[Json], declared)):
            if entry.get("type") not in SPLITS[mode]:
                continue
            try:
                found.append(_dataset(agent.name, entry, config.roots))
            except UsageError as error:
                origin = origin_of(agent.origins, f"datasets.{i}")
                problems.append(f"{origin}: {agent.name}: data set {entry.get('name', i)}: {error}")
    if problems:
        raise ConfigError("\n".join(problems))
    if not found:
        raise ConfigError(f"no agent of the configuration has a data set of type {' or '.join(SPLITS[mode])}")
    return found


def prepare(datasets: Sequence[Dataset], folder: Path, *, overwrite: bool) -> dict[str, Json]:
    """Write `<split>.jsonl` and `<split>_metrics.json` into `folder`; the metrics by split.

    Raises:
        UsageError: a file is there already, or a row is no task.
    """
    done: dict[str, Json] = {}
    for split in dict.fromkeys(dataset.split for dataset in datasets):
        of_split = [dataset for dataset in datasets if dataset.split == split]
        by_dataset: dict[str, Json] = {}
        with written(folder / f"{split}.jsonl", overwrite=overwrite) as write, DataMetrics() as whole:
            for dataset in of_split:
                with DataMetrics() as metrics:
                    for task in dataset.tasks():
                        write(task)
                        metrics.add(task)
                        whole.add(task)
                    by_dataset[f"{dataset.agent}/{dataset.name}"] = metrics.summary()
            done[split] = whole.summary() | {"datasets": by_dataset}
        file = folder / f"{split}_metrics.json"
        file.write_bytes(orjson.dumps(done[split], option=orjson.OPT_INDENT_2))
    return done


@contextmanager
def written(file: Path, *, overwrite: bool) -> Generator[Callable[[Json], None]]:
    """What takes the tasks of a file that appears whole, at the end, or not at all.

    Raises:
        UsageError: it is there already.
    """
    if file.exists() and not overwrite:
        raise UsageError(f"{file} exists; +overwrite=true replaces it")
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_name(f".{file.name}.tmp")
    try:
        with fresh.open("wb") as lines:

            def write(task: Json) -> None:
                lines.write(orjson.dumps(task) + b"\n")

            yield write
        fresh.replace(file)
    finally:
        fresh.unlink(missing_ok=True)


class DataMetrics:
    """What can be said of many tasks: how many, how long, and of each field its range or its variety."""

    def __init__(self) -> None:
        self._count = 0
        self._spill = SpooledTemporaryFile[bytes](max_size=SPILL_BYTES)
        self._columns = Columns(self._spill)
        self._texts: dict[str, set[bytes]] = {}

    def __enter__(self) -> DataMetrics:
        return self

    def __exit__(self, *_: object) -> None:
        self._spill.close()

    def add(self, task: Json) -> None:
        """Count a task."""
        self._count += 1
        params = cast(Json, task["responses_create_params"])
        asked = params["input"]
        items = cast(list[Json], asked) if isinstance(asked, list) else [{"role": "user", "content": asked}]
        numbers: dict[str, float | None] = {
            "tools": len(params.get("tools") or []),
            "turns": sum(item.get("role") == "user" for item in items),
            "input_characters": len(orjson.dumps(items)),
        }
        for name in ("temperature", "max_output_tokens"):
            if isinstance(params.get(name), int | float):
                numbers[name] = float(params[name])
        for name, value in task.items():
            if isinstance(value, int | float):
                numbers[name] = float(value)
            elif isinstance(value, str):
                seen = self._texts.setdefault(name, set())
                seen.add(blake2b(value.encode("utf-8", "replace"), digest_size=8).digest())
        self._columns.add(numbers)

    def summary(self) -> Json:
        """Number of tasks; `mean/`, `max/`, `min/`, `median/` and `std/` of numbers; `unique/` of texts."""
        self._columns.finish()
        unique = {f"unique/{name}": len(seen) for name, seen in self._texts.items()}
        return {"count": self._count} | self._columns.describe() | unique


def _dataset(agent: str, entry: Json, roots: Sequence[Path]) -> Dataset:
    path, repeats = entry.get("jsonl_fpath"), entry.get("num_repeats") or 1
    if not isinstance(path, str) or path == UNSET:
        raise ConfigError("jsonl_fpath is not set")
    if not isinstance(repeats, int) or repeats < 1:
        raise ConfigError(f"num_repeats should be a whole number from 1 on (got {repeats!r})")
    check_name(Path(path))
    try:
        file = find(path, roots)
    except ConfigError as error:
        sources = [f"{key}: {entry[key]}" for key in entry if key.endswith("identifier") or key == "source"]
        origin = f"; it comes from {', '.join(sources)}, and nothing is downloaded here" if sources else ""
        raise ConfigError(f"{error}{origin}") from error
    prompt_config = entry.get("prompt_config")
    return Dataset(
        agent=agent,
        name=str(entry.get("name", Path(path).stem)),
        split=str(entry["type"]),
        file=file,
        prompt_config=read_prompt_config(find(str(prompt_config), roots)) if prompt_config else None,
        num_repeats=repeats,
    )
