"""The commands for those who write environments, agents and model servers."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from nemo_like.command import command
from nemo_like.errors import MissingExtra, RowError, UsageError
from nemo_like.settings import Settings

if TYPE_CHECKING:
    from nemo_like.probes import Outcome

NO_TESTS = 5
"""What pytest exits with where it finds none."""


class InitConfig(Settings):
    """What is begun."""

    entrypoint: str
    """The folder to write, such as `resources_servers/my_environment`."""


class TestConfig(Settings):
    """What `ng_test` tests."""

    entrypoint: Path
    """The folder of an environment, an agent or a model server."""


class ValidateEnvConfig(Settings):
    """On what `ng_validate_env` tries an environment."""

    n: int = Field(0, ge=0)
    """Rows of its generator; 0 takes its example data."""
    seed: int = 0
    """The same seed makes the same rows."""


def init_resources_server() -> int:
    """Begin an environment: app.py, configs, data, a generator, probes, README, and a test that passes.

    ng_init_resources_server +entrypoint=resources_servers/my_environment
    """
    return _init("ng_init_resources_server", init_resources_server, "resources_servers")


def init_agent() -> int:
    """Begin an agent: app.py, configs, README, and a test that passes.

    ng_init_agent +entrypoint=agents/my_agent
    """
    return _init("ng_init_agent", init_agent, "agents")


def init_model() -> int:
    """Begin a model server: app.py, configs, README, and a test that passes.

    ng_init_model +entrypoint=responses_api_models/my_model
    """
    return _init("ng_init_model", init_model, "responses_api_models")


def run_tests() -> int:
    """Run the tests in the folder of an environment, agent or model server, and check its example data.

    ng_test +entrypoint=resources_servers/my_environment
    """
    from nemo_like.config import find, load

    async def main(arguments: Sequence[str]) -> int:
        config = load(arguments, TestConfig)
        wanted: TestConfig = config.settings(TestConfig)
        folder = find(wanted.entrypoint, config.roots)
        if not (folder / "app.py").is_file():
            raise UsageError(f"{folder} has no app.py; +entrypoint=resources_servers/NAME")
        problems = [*_example_problems(folder)]
        for problem in problems:
            print(problem, file=sys.stderr)
        status = await _pytest(folder)
        if (folder / "probes.py").is_file():
            print(f"next: ng_validate_env {folder.name}")
        return 1 if problems or status not in (0, NO_TESTS) else 0

    return command("ng_test", run_tests, [TestConfig], main)


def validate_env() -> int:
    """Try an environment with answers whose verdict is known: gold, empty, and hacks.

        ng_validate_env arithmetic
        ng_validate_env arithmetic +n=200

    It is really started, with a scripted model. What is tried stands in its probes.py. The exit status is 1
    where the gold is not rewarded, or anything else is.
    """
    from nemo_like.config import load
    from nemo_like.probes import trial
    from nemo_like.supervisor import running

    async def main(arguments: Sequence[str]) -> int:
        names = [argument for argument in arguments if "=" not in argument]
        if len(names) != 1:
            raise UsageError("say which environment: ng_validate_env arithmetic")
        options = [argument for argument in arguments if "=" in argument]
        wanted: ValidateEnvConfig = load(options, ValidateEnvConfig).settings(ValidateEnvConfig)
        own = {*ValidateEnvConfig.model_fields}
        overrides = [a for a in options if a.lstrip("+").partition("=")[0] not in own]
        tried = trial(names[0], overrides, num_generated=wanted.n, seed=wanted.seed)
        async with running(tried.config) as supervisor, supervisor.client() as client:
            outcomes = await tried.run(client)
        return _report(names[0], outcomes, tried.success_threshold)

    return command("ng_validate_env", validate_env, [ValidateEnvConfig], main)


def _init(name: str, function: Callable[[], int], kind: str) -> int:
    from nemo_like.config import load
    from nemo_like.scaffold import scaffold

    async def main(arguments: Sequence[str]) -> int:
        wanted: InitConfig = load(arguments, InitConfig).settings(InitConfig)
        written = scaffold(kind, wanted.entrypoint)
        for file in written:
            print(file)
        folder = next(file.parent for file in written if file.name == "app.py")
        print(f"next: ng_test +entrypoint={folder}")
        return 0

    return command(name, function, [InitConfig], main)


def _example_problems(folder: Path) -> Iterator[str]:
    """What is wrong with an environment's example data."""
    from nemo_like.plan import checked_row

    file = folder / "data/example.jsonl"
    if not file.is_file():
        if folder.parent.name == "resources_servers":
            yield f"there is no {file}"
        return
    lines = [line for line in file.read_bytes().splitlines() if line.strip()]
    for number, line in enumerate(lines, 1):
        try:
            checked_row(line)
        except RowError as error:
            yield f"{file}:{number}: {error}"
    if not lines:
        yield f"{file} holds no task"
    print(f"{len(lines)} tasks in {file}")


async def _pytest(folder: Path) -> int:
    """Run the tests in a folder; pytest's exit status."""
    if find_spec("pytest") is None:
        raise MissingExtra("tests need pytest: pip install pytest")
    arguments = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(folder), str(folder))
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments)
    status = await process.wait()
    if status == NO_TESTS:
        print(f"there are no tests in {folder}")
    return status


def _report(name: str, outcomes: Sequence[Outcome], threshold: float) -> int:
    """Print what each probe came to; the exit status."""
    tried: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    for outcome in outcomes:
        tried[outcome.probe.name] += 1
        wrong[outcome.probe.name] += outcome.problem is not None
    for probe, n in tried.items():
        wanted = "rewarded" if probe == "gold" else "not rewarded"
        print(f"{'FAIL' if wrong[probe] else 'ok':4}  {probe}: {n - wrong[probe]} of {n} {wanted}")
    for outcome in outcomes:
        if outcome.problem:
            print(outcome.problem, file=sys.stderr)
    print(f"{name}: {'not ' if wrong.total() else ''}valid (a reward of {threshold:g} is a success)")
    return 1 if wrong.total() else 0
