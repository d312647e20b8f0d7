"""The command that makes files of tasks out of data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from nemo_like.command import command
from nemo_like.errors import ConfigError, UsageError
from nemo_like.settings import Settings

if TYPE_CHECKING:
    from nemo_like.config import Config


class PrepareConfig(Settings):
    """What `ng_prepare_data` prepares: the data sets of a configuration, or one file."""

    mode: Literal["train_preparation", "example_validation"] | None = None
    """Which data sets of the agents: those of type train and validation, or those of type example."""
    output_dirpath: Path | None = None
    """Folder for `<type>.jsonl` and `<type>_metrics.json`."""
    input_fpath: Path | None = None
    """A JSONL or Parquet file to convert, instead of the data sets of a configuration."""
    output_jsonl_fpath: Path | None = None
    """The tasks that come of it."""
    prompt_config: Path | None = None
    """YAML with `user`, and `system` if wanted: templates over the fields of a row, `{field}`."""
    agent_name: str | None = None
    """The agent to write into `agent_ref` of rows that name none."""
    overwrite: bool = False
    """Whether to replace existing files."""


def prepare_data() -> int:
    """Make files of tasks out of the data sets of a configuration, or out of one file of any layout.

        ng_prepare_data "+config_paths=[…]" +mode=train_preparation +output_dirpath=data/prepared
        ng_prepare_data +input_fpath=train.parquet +output_jsonl_fpath=tasks.jsonl +prompt_config=prompt.yaml

    Files of verl and SkyRL, and plain columns of prompts and answers, become tasks. Nothing is downloaded.
    """
    import orjson

    from nemo_like.config import StackConfig, examine
    from nemo_like.prepare import datasets_of, prepare

    async def main(arguments: Sequence[str]) -> int:
        config, problems = examine(arguments, PrepareConfig)
        if wrong := [problem for problem in problems if not _concerns_a_model(problem)]:
            raise ConfigError("\n".join(wrong))
        wanted: PrepareConfig = config.settings(PrepareConfig)
        if wanted.input_fpath is not None:
            return _convert(wanted, wanted.input_fpath, config)
        if wanted.mode is None or wanted.output_dirpath is None:
            raise UsageError("it needs +mode=… and +output_dirpath=…, or +input_fpath=…")
        done = prepare(datasets_of(config, wanted.mode), wanted.output_dirpath, overwrite=wanted.overwrite)
        for split, metrics in done.items():
            numbers = {key: value for key, value in metrics.items() if key != "datasets"}
            print(f"{metrics['count']} tasks in {wanted.output_dirpath / split}.jsonl")
            print(orjson.dumps(numbers, option=orjson.OPT_INDENT_2).decode())
        return 0

    return command("ng_prepare_data", prepare_data, [PrepareConfig, StackConfig], main)


def _concerns_a_model(problem: str) -> bool:
    """Data needs no model: whether one is named, and by what values, doesn't matter here."""
    return "of kind responses_api_models" in problem or "is not set" in problem


def _convert(wanted: PrepareConfig, source: Path, config: Config) -> int:
    from nemo_like.config import find
    from nemo_like.prepare import written
    from nemo_like.prompt_config import read_prompt_config
    from nemo_like.task_rows import check_name, read_tasks

    if wanted.output_jsonl_fpath is None:
        raise UsageError("say where the tasks go: +output_jsonl_fpath=…")
    check_name(source)
    file = find(source, config.roots)
    prompt_config = wanted.prompt_config and read_prompt_config(find(wanted.prompt_config, config.roots))
    count = 0
    with written(wanted.output_jsonl_fpath, overwrite=wanted.overwrite) as write:
        for task in read_tasks(file, prompt_config):
            if wanted.agent_name:
                task.setdefault("agent_ref", {"name": wanted.agent_name})
            write(task)
            count += 1
    print(f"{count} tasks in {wanted.output_jsonl_fpath}")
    return 0
