"""Checks a configuration as a start would, without starting anything: every problem is one line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from nemo_like.client import Client
from nemo_like.compose import UNSET
from nemo_like.config import Config, Instance, find
from nemo_like.errors import ConfigError, Error
from nemo_like.prompt_config import read_prompt_config
from nemo_like.serve import ServerSpec, load_server
from nemo_like.settings import Settings, origin_of
from nemo_like.types import Json


def problems_of(config: Config, *commands: type[Settings]) -> Iterator[str]:
    """What is wrong with the settings of the commands and with each server: its code, its settings, its
    address, its data."""
    for cls in commands:
        yield from _problems_of_command(config, cls)
    for instance in config.instances:
        yield from _problems_of_server(instance)
        yield from _problems_of_data(instance, config.roots)
    yield from _shared_ports(config.instances)


def _problems_of_command(config: Config, cls: type[Settings]) -> Iterator[str]:
    """What the top level sets wrongly; what a command needs besides may still come."""
    try:
        config.settings(cls)
    except ConfigError as error:
        yield from (line for line in str(error).splitlines() if not line.endswith(" is required"))


def _problems_of_server(instance: Instance) -> Iterator[str]:
    settings = {key: value for key, value in instance.settings.items() if value != UNSET}
    unset = instance.settings.keys() - settings.keys()
    file = instance.folder / str(settings.get("entrypoint", "app.py"))
    spec = ServerSpec(
        name=instance.name, file=str(file), settings=settings, listener=-1, origins=instance.origins
    )
    try:
        load_server(spec, Client({}))
    except Error as error:
        for line in str(error).splitlines():
            # What has no value has been told already.
            if not any(line.endswith(f"{instance.name}: {key} is required") for key in unset):
                yield (
                    line if f"{instance.name}: " in line else f"{_place(instance, '')}{instance.name}: {line}"
                )


def _problems_of_data(instance: Instance, roots: Sequence[Path]) -> Iterator[str]:
    """Example data has to be there; data for training may be made or fetched later."""
    datasets: Any = instance.settings.get("datasets") or []
    for i, dataset in enumerate(cast(list[Json], datasets) if isinstance(datasets, list) else []):
        place = f"{_place(instance, f'datasets.{i}')}{instance.name}: datasets.{i}"
        try:
            if dataset.get("type") == "example":
                find(str(dataset.get("jsonl_fpath")), roots)
            if prompt_config := dataset.get("prompt_config"):
                read_prompt_config(find(str(prompt_config), roots))
        except ConfigError as error:
            yield f"{place}: {error}"


def _shared_ports(instances: Sequence[Instance]) -> Iterator[str]:
    taken: dict[tuple[str, int], str] = {}
    for instance in instances:
        port = instance.settings.get("port")
        if not isinstance(port, int) or not port:
            continue
        address = (str(instance.settings.get("host", "127.0.0.1")), port)
        if other := taken.get(address):
            yield f"{_place(instance, 'port')}{instance.name}: port: {other} listens on {port} already"
        taken[address] = instance.name


def _place(instance: Instance, key: str) -> str:
    return f"{origin}: " if (origin := origin_of(instance.origins, key)) else ""
