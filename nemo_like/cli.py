"""The commands. Each imports what it needs inside, so that none waits for another's libraries."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from nemo_like.command import command
from nemo_like.errors import UsageError
from nemo_like.settings import Settings

if TYPE_CHECKING:
    from nemo_like.collect import Collected
    from nemo_like.head import ServerInfo

QUICKSTART = "configs/quickstart.yaml"


class StatusConfig(Settings):
    """What `ng_status` shows."""

    json_output: bool = Field(False, alias="json")
    """Whether to print JSON, one object a server."""


class MakeDataConfig(Settings):
    """What `ng_make_data` makes."""

    resources_server: str
    """The environment, by name."""
    output: Path
    """JSONL file to write."""
    n: int = Field(100, ge=1)
    """How many tasks."""
    seed: int = 0
    """The same seed makes the same tasks."""
    generator: str = "make_data"
    """Which of the environment's generators: a file of its folder with a function `tasks`."""
    overwrite: bool = False
    """Whether to replace an existing file."""


def run() -> int:
    """Start the servers of a configuration and keep them running until Ctrl-C.

    Without arguments it starts the quickstart: an embedded model, its environments and agents.

        ng_run ng_run model=embedded env=[arithmetic,word_count] ng_run
        "+config_paths=[responses_api_models/openai_model/configs/openai_model.yaml,…]" +policy_base_url=…
    """
    from nemo_like.config import StackConfig, load
    from nemo_like.head import serve_head
    from nemo_like.settings import redacted
    from nemo_like.supervisor import running

    async def main(arguments: Sequence[str]) -> int:
        config = load(arguments, default_paths=[QUICKSTART])
        if not config.instances:
            raise UsageError("the configuration holds no server; try: ng_run, or ng_run model=… env=[…]")
        start = time.monotonic()
        stack_config: StackConfig = config.settings(StackConfig)
        if stack_config.in_process:
            raise UsageError("in_process=true is for commands with a stack of their own")
        async with AsyncExitStack() as stack:
            supervisor = await stack.enter_async_context(running(config))
            head = serve_head(stack_config.head_server, supervisor.servers, redacted(config.values))
            url = await stack.enter_async_context(head)
            servers = supervisor.servers()
            _print_servers(servers)
            took_s = time.monotonic() - start
            where = f"Head: {url}, logs: {supervisor.log_dir}/"
            print(f"All {len(servers)} servers are ready after {took_s:.1f} s. {where}")
            print("Ctrl-C stops them.", flush=True)
            await asyncio.Event().wait()
        return 0

    return command("ng_run", run, [StackConfig], main)


def collect_rollouts() -> int:
    """Collect a rollout of every task in a JSONL file, in parallel, resuming what is there.

    Against the servers of `ng_run` in this directory:

        ng_collect_rollouts +agent_name=… +input_jsonl_fpath=… +output_jsonl_fpath=…

    or, with `+config_paths=[…]` or names, with servers of its own, stopped at the end:

        ng_collect_rollouts model=embedded env=arithmetic +input_jsonl_fpath=… +output_jsonl_fpath=…

    Ctrl-C ends it cleanly, a second one at once; the same command resumes. SIGUSR1 prints the rollouts that
    have been in flight longest, and where each of them is.
    """
    from nemo_like.collect import CollectConfig, collect
    from nemo_like.config import StackConfig, find, load
    from nemo_like.fingerprint import agents_of
    from nemo_like.progress import ProgressBar, oldest_on_demand
    from nemo_like.prompt_config import read_prompt_config
    from nemo_like.recipe import Recipe
    from nemo_like.settings import redacted
    from nemo_like.skills import read_skills
    from nemo_like.stack import servers_of
    from nemo_like.watch import model_load

    async def main(arguments: Sequence[str]) -> int:
        config = load(arguments, CollectConfig)
        wanted: CollectConfig = config.settings(CollectConfig)
        input_file = find(wanted.input_jsonl_fpath, config.roots)
        prompt, skills = wanted.prompt_config, wanted.skills.path
        recipe = Recipe(
            prompt=read_prompt_config(find(prompt, config.roots)) if prompt else None,
            skills=read_skills(find(skills, config.roots)) if skills else None,
            skills_in_prompt=wanted.skills.in_prompt,
            params=wanted.responses_create_params,
            add_seed=wanted.num_repeats_add_seed,
        )
        async with AsyncExitStack() as stack:
            servers, client = await stack.enter_async_context(servers_of(config))
            bar = stack.enter_context(ProgressBar())
            stack.enter_context(oldest_on_demand(bar, servers, client))
            collected = await collect(
                wanted,
                agents_of(servers),
                client,
                input_file=input_file,
                run=redacted(config.values),
                recipe=recipe,
                load=lambda: model_load(servers, client),
                on_progress=bar.show,
            )
        return _report(collected, wanted.output_jsonl_fpath)

    return command("ng_collect_rollouts", collect_rollouts, [CollectConfig, StackConfig], main)


def make_data() -> int:
    """Make tasks for an environment.

    ng_make_data +resources_server=arithmetic +n=1000 +seed=0 +output=data/arithmetic.jsonl
    """
    import random
    from itertools import islice

    import orjson

    from nemo_like.config import StackConfig, find, load
    from nemo_like.plan import checked_row
    from nemo_like.registry import load_file

    async def main(arguments: Sequence[str]) -> int:
        config = load(arguments, MakeDataConfig)
        wanted: MakeDataConfig = config.settings(MakeDataConfig)
        generator = find(f"resources_servers/{wanted.resources_server}/{wanted.generator}.py", config.roots)
        if wanted.output.exists() and not wanted.overwrite:
            raise UsageError(f"{wanted.output} exists; +overwrite=true replaces it")
        rows = islice(load_file(generator).tasks(random.Random(wanted.seed)), wanted.n)
        wanted.output.parent.mkdir(parents=True, exist_ok=True)
        with wanted.output.open("wb") as file:
            for row in rows:
                line = orjson.dumps(row)
                checked_row(line)
                file.write(line + b"\n")
        print(f"{wanted.n} tasks in {wanted.output}")
        return 0

    return command("ng_make_data", make_data, [MakeDataConfig, StackConfig], main)


def status() -> int:
    """Show the servers that run in this directory, and whether they answer."""
    from dataclasses import asdict

    import orjson

    from nemo_like.client import Client
    from nemo_like.config import StackConfig, load
    from nemo_like.errors import PartError
    from nemo_like.head import PROBE_S, find_servers

    async def main(arguments: Sequence[str]) -> int:
        config = load(arguments, StatusConfig)
        wanted: StatusConfig = config.settings(StatusConfig)
        async with Client({}) as client:
            servers = await find_servers(config.settings(StackConfig).head_server, client)

            async def state(server: ServerInfo) -> str:
                try:
                    return str((await client.get(f"{server.url}/health", timeout_s=PROBE_S))["state"])
                except (PartError, TimeoutError, KeyError):
                    return "does not answer"

            states = await asyncio.gather(*map(state, servers))
        if wanted.json_output:
            for server, its_state in zip(servers, states, strict=True):
                print(orjson.dumps(asdict(server) | {"state": its_state}).decode())
        else:
            _print_servers(servers, states)
            healthy = states.count("ready")
            print(f"{len(servers)} servers found ({healthy} healthy, {len(servers) - healthy} unhealthy)")
        return 0 if set(states) == {"ready"} else 1

    return command("ng_status", status, [StatusConfig, StackConfig], main)


def viewer() -> int:
    """Show rollouts in a browser: a run in a minute, any rollout in ten seconds.

        ng_viewer +jsonl_fpath=results/rollouts.jsonl
        ng_viewer "+jsonl_fpath=[results/a.jsonl,results/b.jsonl]"

    A file that grows is followed. Two files are compared, task by task. Rollouts and failures of this project
    and of NeMo Gym, dumps of verl and TRL, and generated rollouts are recognised, as JSONL or parquet.
    """
    from nemo_like.config import load
    from nemo_like.viewer.app import ViewerConfig, serve

    async def main(arguments: Sequence[str]) -> int:
        wanted: ViewerConfig = load(arguments, ViewerConfig).settings(ViewerConfig)
        await serve(wanted, lambda address: print(f"{address}\nCtrl-C ends it", flush=True))
        return 0

    return command("ng_viewer", viewer, [ViewerConfig], main)


def version() -> int:
    """Show the versions of this package, of Python and of what it stands on."""
    import platform
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as version_of

    from nemo_like import __version__

    async def main(_: Sequence[str]) -> int:
        print(f"nemo-like {__version__}, Python {platform.python_version()}, {platform.platform()}")
        for package in ("pydantic", "fastapi", "uvicorn", "aiohttp", "hydra-core", "omegaconf", "xllamacpp"):
            try:
                print(f"  {package} {version_of(package)}")
            except PackageNotFoundError:
                print(f"  {package} is not installed")
        return 0

    return command("ng_version", version, [], main)


def _print_servers(servers: Sequence[ServerInfo], states: Sequence[str] = ()) -> None:
    rows = [("name", "kind", "url", "pid", *(["state"] if states else []))]
    for i, server in enumerate(servers):
        pids = " ".join(str(pid) for pid in server.pids)
        rows.append((server.name, server.kind, server.url, pids, *([states[i]] if states else [])))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _report(collected: Collected, output: Path) -> int:
    """Print what a collection ended with; its exit status."""
    from nemo_like.metrics import format_summary
    from nemo_like.store import Files

    for summary in collected.summaries:
        if len(collected.summaries) > 1:
            print(f"\n{summary['agent_ref']['name']}")
        print(format_summary(summary))
    for failed in collected.failed:
        print(
            f"{failed.kind} in {failed.where}, {failed.attempts} attempts; the last: {failed.message[:300]}"
        )
    counts, files = collected.counts, Files(output)
    print(f"\n{counts.done} of {counts.total} rollouts are in {output}")
    if counts.skipped:
        print(f"{counts.skipped} rows of the input are no tasks and were skipped: {files.skipped} says why")
    if (window := collected.window) is not None:
        cuts = f", cut {window.cuts} times" if window.cuts else ""
        refusals = f", {window.throttled} answers of 429 or 503" if window.throttled else ""
        print(f"in flight: settled at {window.size}, {window.highest} at most{cuts}{refusals}")
    if counts.foreign:
        print(f"{counts.foreign} more there are of tasks not in this input; they are in no metric")
    if counts.owed:
        print(f"{counts.owed} are still owed: the same command tries them again")
    if counts.exhausted:
        print(
            f"{counts.exhausted} failed too often ({files.failures}); a higher +max_attempts tries them again"
        )
    print(f"metrics: {files.metrics}\nlook at one: head -n 1 {output} | python3 -m json.tool")
    return 0 if counts.done or not counts.total else 1
