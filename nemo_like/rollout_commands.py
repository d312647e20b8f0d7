"""The commands over rollouts files: sort, merge, aggregate, profile; and tasks from a prompt config."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from nemo_like.command import command
from nemo_like.errors import StoreError, UsageError
from nemo_like.settings import Settings

if TYPE_CHECKING:
    from nemo_like.config import Config
    from nemo_like.merge import Merged
    from nemo_like.shards import Shards
    from nemo_like.types import Json


class SortConfig(Settings):
    """What `ng_sort` sorts."""

    jsonl_fpath: Path
    """Rollouts, or the failures beside them."""
    output_jsonl_fpath: Path | None = None
    """File to write; null sorts in place."""
    overwrite: bool = False
    """Whether to replace an existing output."""


class MergeConfig(Settings):
    """What `ng_merge` merges."""

    input_glob: str | list[str]
    """The rollouts files: a glob, or a list of them, [a,b]; the failures beside them come along."""
    output_jsonl_fpath: Path
    """File to write, with failures, fingerprint and metrics beside it."""
    on_duplicate: Literal["stop", "first"] = "stop"
    """What to do where two files hold different rollouts as the same repeat of a task: refuse, or keep the
    first. Equal ones are one."""
    overwrite: bool = False
    """Whether to replace an existing output."""


class AggregateConfig(Settings):
    """What `ng_aggregate_rollouts` aggregates."""

    input_glob: str | list[str]
    """The rollouts files: a glob, or a list of them, [a,b]; the failures beside them count as such."""
    output_jsonl_fpath: Path | None = None
    """Output after which the metrics file is named; null is the only input, where there is but one."""
    merge_shards: bool = False
    """Whether to merge the rollouts into `output_jsonl_fpath` too."""
    overwrite: bool = False
    """Whether to replace merged rollouts that are there."""


class ProfileConfig(Settings):
    """What `ng_reward_profile` profiles."""

    rollouts_jsonl_fpath: Path
    """The rollouts; `…_reward_profiling.jsonl` and `…_agent_metrics.json` are written beside them."""
    input_jsonl_fpath: Path | None = None
    """The tasks; null is what the run took (`…_run.json` says so)."""
    materialized_inputs_jsonl_fpath: Path | None = None
    """NeMo Gym's name for the same."""
    num_repeats: int | None = Field(None, ge=1)
    """Rollouts that each task was to have; null is what the run was asked for."""
    allow_partial_rollouts: bool = True
    """Whether tasks may lack rollouts; false makes that an error."""


class MaterializeConfig(Settings):
    """What `ng_materialize_prompts` writes."""

    input_jsonl_fpath: Path
    """Rows with the fields that the templates name."""
    prompt_config: Path
    """YAML with `user` and, if wanted, `system`."""
    output_jsonl_fpath: Path
    """Tasks to write."""
    overwrite: bool = False
    """Whether to replace an existing output."""


def sort() -> int:
    """Put a rollouts file into the order of its plan: by task, a task's repeats one after the other.

        ng_sort +jsonl_fpath=results/rollouts.jsonl
        ng_sort +jsonl_fpath=results/rollouts.jsonl +output_jsonl_fpath=sorted.jsonl

    It takes no more memory for a million rows than for ten, loses none, and a kill leaves the file as it was.
    """
    from nemo_like import merge
    from nemo_like.config import StackConfig, load

    async def main(arguments: Sequence[str]) -> int:
        wanted: SortConfig = load(arguments, SortConfig).settings(SortConfig)
        _there(wanted.jsonl_fpath)
        count = merge.sort(wanted.jsonl_fpath, wanted.output_jsonl_fpath, overwrite=wanted.overwrite)
        print(f"{count:,} rows in order in {wanted.output_jsonl_fpath or wanted.jsonl_fpath}")
        return 0

    return command("ng_sort", sort, [SortConfig, StackConfig], main)


def merge() -> int:
    """Merge the rollouts of several runs into one file, each exactly once.

        ng_merge "+input_glob=results/shard_*.jsonl" +output_jsonl_fpath=results/all.jsonl

    Refused is what would not be one run: another model or temperature, two different rollouts as the same
    repeat of a task, a file that is still being written. A last line that was cut off is left out.
    """
    from nemo_like.config import StackConfig, load
    from nemo_like.merge import merge as merge_files
    from nemo_like.shards import rollouts_files

    async def main(arguments: Sequence[str]) -> int:
        wanted: MergeConfig = load(arguments, MergeConfig).settings(MergeConfig)
        output = wanted.output_jsonl_fpath
        files = [file for file in rollouts_files(wanted.input_glob) if not _is_same(file, output)]
        keep_first = wanted.on_duplicate == "first"
        merged = merge_files(files, output, keep_first=keep_first, overwrite=wanted.overwrite)
        _print_merged(merged, output, len(files))
        await _aggregate([output], output, None)
        return 0

    return command("ng_merge", merge, [MergeConfig, StackConfig], main)


def aggregate_rollouts() -> int:
    """Compute the metrics of rollouts files as of one run, without any server.

        ng_aggregate_rollouts "+input_glob=results/*.jsonl" +output_jsonl_fpath=results/all.jsonl

    writes `results/all_aggregate_metrics.json`. With the configuration of the run (`+config_paths=[…]`, or
    model and env), its environments are started, and asked for the metrics that only they can compute.
    """
    from nemo_like.config import StackConfig, load
    from nemo_like.merge import merge as merge_files
    from nemo_like.shards import rollouts_files

    async def main(arguments: Sequence[str]) -> int:
        config = load(arguments, AggregateConfig)
        wanted: AggregateConfig = config.settings(AggregateConfig)
        output = wanted.output_jsonl_fpath
        files = [
            file for file in rollouts_files(wanted.input_glob) if output is None or not _is_same(file, output)
        ]
        if wanted.merge_shards and output is not None:
            merged = merge_files(files, output, overwrite=wanted.overwrite)
            _print_merged(merged, output, len(files))
            files = [output]
        await _aggregate(files, output or (files[0] if len(files) == 1 else None), config)
        return 0

    return command("ng_aggregate_rollouts", aggregate_rollouts, [AggregateConfig, StackConfig], main)


def reward_profile() -> int:
    """Profile rewards by task: how hard each is, how much its repeats differ, what is missing.

    ng_reward_profile +rollouts_jsonl_fpath=results/rollouts.jsonl
    jq 'select(."mean/reward" < 0.2) | .sample' results/rollouts_reward_profiling.jsonl
    """
    import orjson

    from nemo_like import reward_profile as profile
    from nemo_like.config import StackConfig, find, load
    from nemo_like.merge import write_lines
    from nemo_like.plan import Plan
    from nemo_like.store import Files

    async def main(arguments: Sequence[str]) -> int:
        config = load(arguments, ProfileConfig)
        wanted: ProfileConfig = config.settings(ProfileConfig)
        rollouts = _there(wanted.rollouts_jsonl_fpath)
        run = _run_of(rollouts)
        named = wanted.input_jsonl_fpath or wanted.materialized_inputs_jsonl_fpath
        tasks = named or run.get("input_jsonl_fpath")
        if tasks is None:
            raise UsageError(f"{Files(rollouts).run} does not say which tasks; add +input_jsonl_fpath=…")
        only_agent = _index(rollouts)
        lacking, missing, count = 0, 0, 0

        def lines() -> Any:
            nonlocal lacking, missing, count
            for row in profile.reward_profile(plan):
                count += 1
                lacking += row["missing_num_rollouts"] > 0
                missing += row["missing_num_rollouts"]
                yield orjson.dumps(row)
            if missing and not wanted.allow_partial_rollouts:
                raise StoreError(
                    f"{lacking} tasks lack {missing} rollouts; +allow_partial_rollouts=true lets them"
                )

        def agent_of(row: Json) -> str:
            reference: Json = row.get("agent_ref") or {}
            return str(reference.get("name") or run.get("agent_name") or only_agent)

        with Plan(
            find(tasks, config.roots),
            agent_of=agent_of,
            complete=_anything,
            limit=run.get("limit"),
            num_repeats=wanted.num_repeats or run.get("num_repeats") or 1,
            skip_bad_rows=run.get("on_bad_row") == "skip",
        ) as plan:
            plan.attach(Files(rollouts).index)
            to = rollouts.with_name(f"{rollouts.stem}_reward_profiling.jsonl")
            write_lines(to, lines())
        print(f"{count:,} tasks in {to}" + (f"; {lacking:,} lack {missing:,} rollouts" if missing else ""))
        await _aggregate([rollouts], rollouts, None, suffix="_agent_metrics.json")
        return 0

    return command("ng_reward_profile", reward_profile, [ProfileConfig, StackConfig], main)


def materialize_prompts() -> int:
    """Make tasks of rows, by the templates of a prompt config.

    ng_materialize_prompts +input_jsonl_fpath=rows.jsonl +prompt_config=p.yaml +output_jsonl_fpath=tasks.jsonl
    """
    import orjson

    from nemo_like.config import StackConfig, find, load
    from nemo_like.errors import RowError
    from nemo_like.merge import write_lines
    from nemo_like.plan import check_task, read_row
    from nemo_like.prompt_config import read_prompt_config

    async def main(arguments: Sequence[str]) -> int:
        config = load(arguments, MaterializeConfig)
        wanted: MaterializeConfig = config.settings(MaterializeConfig)
        rows, output = find(wanted.input_jsonl_fpath, config.roots), wanted.output_jsonl_fpath
        prompt = read_prompt_config(find(wanted.prompt_config, config.roots))
        if output.exists() and not wanted.overwrite:
            raise UsageError(f"{output} exists; +overwrite=true replaces it")
        output.parent.mkdir(parents=True, exist_ok=True)

        def lines() -> Any:
            with rows.open("rb") as file:
                for number, line in enumerate(file, 1):
                    if line.strip():
                        try:
                            task = prompt.complete(read_row(line.removeprefix(b"\xef\xbb\xbf")))
                            check_task(task)
                        except UsageError as error:
                            raise RowError(f"{rows}:{number}: {error}") from error
                        yield orjson.dumps(task)

        print(f"{write_lines(output, lines()):,} tasks in {output}")
        return 0

    return command("ng_materialize_prompts", materialize_prompts, [MaterializeConfig, StackConfig], main)


async def _aggregate(
    files: Sequence[Path], output: Path | None, config: Config | None, suffix: str = "_aggregate_metrics.json"
) -> None:
    """Print the metrics of the files, and write them beside `output`."""
    import orjson

    from nemo_like.merge import aggregate
    from nemo_like.metrics import format_summary
    from nemo_like.shards import Shards
    from nemo_like.store import write_whole

    with Shards(files, with_numbers=True) as shards:
        summaries = aggregate(shards)
        if config is not None:
            await _ask_environments(config, shards, summaries)
        for path, size in shards.torn:
            print(f"{path}: a last line of {size} bytes was cut off and is not counted")
        rollouts = sum(summary["num_rollouts"] for summary in summaries)
        if again := shards.num_rows() - rollouts:
            print(f"{again:,} rollouts are there more than once; of each the first counts")
    to = output.with_name(output.stem + suffix) if output is not None else None
    if to is not None:
        write_whole(to, orjson.dumps(summaries, option=orjson.OPT_INDENT_2))
    for summary in summaries:
        print(f"\n{summary['agent_ref']['name']}\n{format_summary(summary)}")
    if to is not None:
        print(f"\nmetrics: {to}")


async def _ask_environments(config: Config, shards: Shards, summaries: list[Json]) -> None:
    """Add what the environments of a configuration say of the rollouts of their agents."""
    from nemo_like.environment_metrics import environment_metrics
    from nemo_like.fingerprint import agents_of
    from nemo_like.stack import servers_of

    if not config.instances:
        return
    async with servers_of(config) as (servers, client):
        agents = agents_of(servers)
        for summary in summaries:
            name = summary["agent_ref"]["name"]
            if name in agents and (environment := agents[name].resources_server):
                found = await environment_metrics(client, environment, shards.scored(name))
                summary["environment_metrics"] = found


def _print_merged(merged: Merged, output: Path, files: int) -> None:
    beside = f"{merged.failures:,} failed attempts beside"
    print(f"{merged.rollouts:,} rollouts of {files} files in {output}, {beside}")
    if merged.left_out:
        print(f"{merged.left_out:,} were there already and were left out")
    for path, size in merged.torn:
        print(f"{path}: a last line of {size} bytes was cut off and left out; its run resumes it")
    for path in merged.without_run:
        print(f"{path}: there is no _run.json beside it, so nobody knows what made it")


def _index(rollouts: Path) -> str:
    """Have the index of a rollouts file caught up with it; the agent that made them, if it was only one."""
    from nemo_like.index import Index
    from nemo_like.store import Files

    with Index(Files(rollouts).index) as index:
        index.catch_up(rollouts, "rollouts")
        agents = index.agents()
    return agents[0] if len(agents) == 1 else ""


def _run_of(rollouts: Path) -> Json:
    """The configuration of the run that made a rollouts file; nothing where it does not say."""
    import orjson

    from nemo_like.store import Files

    beside = Files(rollouts).run
    return orjson.loads(beside.read_bytes()).get("config") or {} if beside.exists() else {}


def _anything(_: Json) -> Json:
    """The rows of a profile need not be tasks: a run may have had templates for them."""
    return {"responses_create_params": {"input": ""}}


def _there(path: Path) -> Path:
    if not path.is_file():
        raise UsageError(f"there is no file {path}")
    return path


def _is_same(file: Path, output: Path) -> bool:
    return output.exists() and output.samefile(file)
