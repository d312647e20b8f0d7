"""The commands that show and check a configuration, starting nothing."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

from pydantic import Field

from nemo_like.command import command
from nemo_like.errors import UsageError
from nemo_like.settings import Settings
from nemo_like.types import Json

if TYPE_CHECKING:
    from nemo_like.config import Config

QUICKSTART = "configs/quickstart.yaml"


class DumpConfig(Settings):
    """How `ng_dump_config` shows a configuration."""

    json_output: bool = Field(False, alias="json")
    """Whether to print JSON: `values`, and `origins` by the dotted path of each."""


def dump_config() -> int:
    """Show a configuration as a command would get it: composed, resolved, without secrets.

        ng_dump_config model=openai env=arithmetic
        ng_dump_config model=openai env=arithmetic +json=true

    Behind each value stands where it was written: file and line, env.yaml, or the command line. Without
    arguments it shows the quickstart.
    """
    import orjson

    from nemo_like.config import StackConfig, load
    from nemo_like.settings import redacted

    async def main(arguments: Sequence[str]) -> int:
        config = load(arguments, DumpConfig, default_paths=[QUICKSTART])
        wanted: DumpConfig = config.settings(DumpConfig)
        values: Json = redacted({k: v for k, v in config.values.items() if k != "json"})
        if wanted.json_output:
            origins = {path: _origin(config, path) for path in _leaves(values, "")}
            shown = orjson.dumps({"values": values, "origins": origins}, option=orjson.OPT_INDENT_2)
            print(shown.decode())
            return 0
        lines = [*_lines(values, "", config)]
        width = min(60, max((len(line) for line, origin in lines if origin), default=0))
        for line, origin in lines:
            print(f"{line:{width}}  # {origin}" if origin else line)
        return 0

    return command("ng_dump_config", dump_config, [DumpConfig, StackConfig], main)


def validate() -> int:
    """Check a configuration without starting anything: every problem with file, line, key, reason and value.

    ng_validate model=openai env=arithmetic
    """
    from nemo_like.collect import CollectConfig
    from nemo_like.config import StackConfig, examine
    from nemo_like.config_check import problems_of

    async def main(arguments: Sequence[str]) -> int:
        config, problems = examine(arguments, CollectConfig, default_paths=[QUICKSTART])
        problems += problems_of(config, StackConfig, CollectConfig)
        if problems:
            raise UsageError("\n".join(dict.fromkeys(problems)))
        names = ", ".join(instance.name for instance in config.instances)
        print(f"valid: {len(config.instances)} servers ({names or 'none'})", file=sys.stdout)
        return 0

    return command("ng_validate", validate, [StackConfig], main)


def _lines(values: Json, path: str, config: Config) -> Iterator[tuple[str, str]]:
    """The YAML of a mapping, line by line, with where each value was written."""
    indent = "  " * (path.count(".") + 1 if path else 0)
    for key, value in values.items():
        here = f"{path}.{key}" if path else key
        if isinstance(value, dict) and value:
            yield f"{indent}{_yaml(key)}:", ""
            yield from _lines(cast(Json, value), here, config)
        else:
            yield f"{indent}{_yaml(key)}: {_yaml(value)}", _origin(config, here)


def _leaves(values: Any, path: str) -> Iterator[str]:
    if isinstance(values, dict) and values:
        for key, value in cast(Json, values).items():
            yield from _leaves(value, f"{path}.{key}" if path else key)
    else:
        yield path


def _origin(config: Config, path: str) -> str:
    """Where a value was written, and where what it refers to was."""
    from nemo_like.compose import REFERENCE
    from nemo_like.settings import origin_of

    origin = origin_of(config.composition.origins, path)
    raw = config.composition.raw(path)
    names = REFERENCE.findall(raw) if isinstance(raw, str) else []
    referred = [f"{name} of {origin_of(config.composition.origins, name)}" for name in names if name != "oc"]
    return ", ".join([origin, *referred])


def _yaml(value: Any) -> str:
    import yaml

    written = yaml.safe_dump(value, default_flow_style=True, width=sys.maxsize, allow_unicode=True)
    return written.removesuffix("\n").removesuffix("\n...")
