"""The commands that say what there is: content, and commands."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib.metadata import distribution
from importlib.util import find_spec
from pathlib import Path

from pydantic import Field

from nemo_like.command import command
from nemo_like.errors import UsageError, did_you_mean
from nemo_like.settings import Settings

KINDS = ("environments", "agents", "models", "rewards")


class ListConfig(Settings):
    """What `ng_list` shows."""

    filter: str = ""
    """Only what has this word in its name, its line or its domain."""
    json_output: bool = Field(False, alias="json")
    """Whether to print JSON, one object a line."""


def list_content() -> int:
    """Show which environments, agents, models and rewards there are, with one line each.

        ng_list
        ng_list environments +filter=math
        ng_list rewards +json=true

    Folders of the working directory are among them, and come before what was installed.
    """
    import orjson

    from nemo_like.config import load
    from nemo_like.content import entries

    async def main(arguments: Sequence[str]) -> int:
        kinds = [argument for argument in arguments if "=" not in argument]
        if unknown := [kind for kind in kinds if kind not in KINDS]:
            raise UsageError(f"there are no {unknown[0]} to list{did_you_mean(unknown[0], [*KINDS])}")
        config = load([argument for argument in arguments if "=" in argument], ListConfig)
        wanted: ListConfig = config.settings(ListConfig)
        word = wanted.filter.casefold()
        shown = [
            entry
            for entry in entries(config.roots)
            if (not kinds or entry.kind in kinds)
            and word in f"{entry.name} {entry.about} {entry.domain}".casefold()
        ]
        if wanted.json_output:
            for entry in shown:
                print(orjson.dumps(asdict(entry)).decode())
            return 0
        width = max((len(entry.name) for entry in shown), default=0)
        for kind in KINDS:
            of_kind = [entry for entry in shown if entry.kind == kind]
            if of_kind:
                print(f"{kind}:")
            for entry in of_kind:
                domain = f" ({entry.domain})" if entry.domain else ""
                print(f"  {entry.name:{width}}  {entry.about}{domain}")
        return 0

    return command("ng_list", list_content, [ListConfig], main)


def help_on_commands() -> int:
    """Show all commands, with one line each."""

    async def main(_: Sequence[str]) -> int:
        commands = [*_commands()]
        width = max(len(name) for name, _ in commands)
        for name, line in commands:
            print(f"{name:{width}}  {line}")
        print("\nEach tells its parameters with --help.")
        return 0

    return command("ng_help", help_on_commands, [], main)


def _commands() -> Iterator[tuple[str, str]]:
    """Every command of the package and the first line of its docstring; no module is imported for it."""
    from nemo_like.content import first_line

    scripts = distribution("nemo-like").entry_points.select(group="console_scripts")
    for script in sorted(scripts, key=lambda script: script.name):
        module, _, function = script.value.partition(":")
        spec = find_spec(module)
        tree = ast.parse(Path(spec.origin).read_text("utf-8")) if spec and spec.origin else ast.Module([], [])
        functions = [
            node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == function
        ]
        said = ast.get_docstring(functions[0]) if functions else None
        yield script.name, first_line(said)
