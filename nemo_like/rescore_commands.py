"""The command that verifies stored rollouts again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from nemo_like.command import command
from nemo_like.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from nemo_like.client import Client
    from nemo_like.config import Config, Instance
    from nemo_like.head import ServerInfo
    from nemo_like.rescore import RescoreConfig, Rescored
    from nemo_like.rewards.scoring import Ask
    from nemo_like.types import Json
    from nemo_like.verifiers import Verifier, Verifiers

VERDICT_S, FUNCTION_S, JUDGE_S = 600.0, 10.0, 300.0


def rescore() -> int:
    """Verify stored rollouts again, by an environment or a reward function, without generating them again.

    By the verifier of the environment that they are from, which is started and stopped:

        ng_rescore env=arithmetic +rollouts=results/sums.jsonl +output_jsonl_fpath=results/again.jsonl

    by a reward function, or by the servers that run in this directory:

        ng_rescore +reward_fn=math +rollouts=rollouts.parquet +output_jsonl_fpath=results/math.jsonl
        ng_rescore +rollouts=results/sums.jsonl +output_jsonl_fpath=results/again.jsonl

    The rollouts stay as they are. The same command resumes.
    """
    from nemo_like.config import StackConfig, load
    from nemo_like.progress import ProgressBar
    from nemo_like.rescore import RescoreConfig
    from nemo_like.rescore import rescore as rescored
    from nemo_like.settings import redacted
    from nemo_like.stack import servers_of

    async def main(arguments: Sequence[str]) -> int:
        config = load(arguments, RescoreConfig, complete=False)
        wanted: RescoreConfig = config.settings(RescoreConfig)
        async with AsyncExitStack() as stack:
            if wanted.reward_fn is not None and wanted.resources_server is not None:
                raise UsageError("resources_server and reward_fn are two verifiers; name one of them")
            if wanted.reward_fn is None or _asks_a_judge(wanted.reward_fn):
                needed = replace(config, instances=tuple(_needed(wanted, config)))
                servers, client = await stack.enter_async_context(servers_of(needed))
                verifiers = await _verifiers(wanted, [*config.instances, *servers], servers, client)
                made_with = _judges(servers)
            else:
                verifiers, made_with = _by_function(wanted, None), {}
            bar = stack.enter_context(ProgressBar("Rescoring"))
            done = await rescored(
                wanted,
                verifiers,
                made_with=made_with,
                run=redacted(config.values),
                on_progress=bar.show,
            )
        return _report(done, wanted)

    return command("ng_rescore", rescore, [RescoreConfig, StackConfig], main)


def _asks_a_judge(reward_fn: str) -> bool:
    from nemo_like.rewards.forms import find
    from nemo_like.rewards.reward import runs

    return runs(find(reward_fn)) == "judge"


def _needed(wanted: RescoreConfig, config: Config) -> Sequence[Instance]:
    """The servers to start: environments, and the models that they or the reward ask; no agent."""
    by_name = {instance.name: instance for instance in config.instances}
    models = [i for i in config.instances if i.kind == "responses_api_models"]
    if wanted.reward_fn is not None:
        judge = wanted.judge_model_server
        return [model for model in models if judge in (None, model.name)]
    environments = [i for i in config.instances if i.kind == "resources_servers"]
    if environments and (name := wanted.resources_server) is not None:
        if name not in by_name:
            raise UsageError(_no_environment(name, [i.name for i in environments]))
        environments = [by_name[name]]
    judges = {name for i in environments if (name := _name(i.settings, "judge_model_server")) in by_name}
    return [*environments, *(model for model in models if model.name in judges)]


async def _verifiers(
    wanted: RescoreConfig,
    known: Sequence[Instance | ServerInfo],
    servers: Sequence[ServerInfo],
    client: Client,
) -> Verifiers:
    """Who verifies what; `known` are the servers of the configuration, the agents among them."""
    from nemo_like.verifiers import Verifiers, environment

    if wanted.reward_fn is not None:
        return _by_function(wanted, _judge(wanted, servers, client))
    timeout_s = wanted.verdict_timeout_s or VERDICT_S
    environments: dict[str, Verifier | str] = {
        server.name: await environment(
            server.name, server.settings, client, timeout_s, wanted.success_threshold
        )
        for server in servers
        if server.kind == "resources_servers"
    }
    if not environments:
        raise UsageError("there is no environment; name one: env=…, or a reward: +reward_fn=…")
    if (name := wanted.resources_server) is not None:
        if name not in environments:
            raise UsageError(_no_environment(name, [*environments]))
        return Verifiers(by_agent={}, otherwise=environments[name])
    of_agents = {i.name: _name(i.settings, "resources_server") for i in known if i.kind == "agents"}
    by_agent = {agent: environments[name] for agent, name in of_agents.items() if name in environments}
    only = next(iter(environments.values())) if len(environments) == 1 else None
    return Verifiers(by_agent=by_agent, otherwise=only)


def _no_environment(name: str, there: list[str]) -> str:
    return f"there is no environment '{name}'{did_you_mean(name, there)}"


def _by_function(wanted: RescoreConfig, ask: Ask | None) -> Verifiers:
    from nemo_like.rewards.forms import find
    from nemo_like.rewards.scoring import Scorer
    from nemo_like.verifiers import Function, Verifiers, function_id

    asked = wanted.reward_fn or ""
    function = find(asked)
    verifier = Function(
        id=function_id(function, asked, wanted.reward_options),
        function=function,
        options=wanted.reward_options,
        scorer=Scorer(timeout_s=wanted.verdict_timeout_s or FUNCTION_S, ask=ask),
        success_threshold=1.0 if wanted.success_threshold is None else wanted.success_threshold,
    )
    return Verifiers(by_agent={}, otherwise=verifier)


def _judge(wanted: RescoreConfig, servers: Sequence[ServerInfo], client: Client) -> Ask:
    """What asks the judge of a reward function."""
    from nemo_like.types import merged

    models = [server.name for server in servers if server.kind == "responses_api_models"]
    name = wanted.judge_model_server or (models[0] if len(models) == 1 else None)
    if name is None or name not in models:
        there = f"there are: {', '.join(models)}" if models else "there is none; name one: model=…"
        raise UsageError(f"{wanted.reward_fn} asks a model; say which: +judge_model_server=… ({there})")
    timeout_s = wanted.verdict_timeout_s or JUDGE_S

    async def ask(params: Json) -> Json:
        params = merged(params, wanted.judge_responses_create_params)
        return await client.post(name, "/v1/responses", params, timeout_s=timeout_s)

    return ask


def _judges(servers: Sequence[ServerInfo]) -> Json:
    """The settings that decide what the models among the servers are, each of which may be a judge."""
    from nemo_like.fingerprint import is_identity

    return {
        f"judge.{server.name}.{key}": value
        for server in servers
        if server.kind == "responses_api_models"
        for key, value in server.settings.items()
        if is_identity(key)
    }


def _name(settings: Mapping[str, Any], key: str) -> str | None:
    """The server that a setting refers to."""
    reference = settings.get(key)
    return cast(Mapping[str, str], reference).get("name") if isinstance(reference, Mapping) else None


def _report(done: Rescored, wanted: RescoreConfig) -> int:
    """Print what a rescoring ended with; its exit status."""
    from nemo_like.metrics import format_summary
    from nemo_like.rescore import changes_file
    from nemo_like.store import Files

    output, counts, changes = wanted.output_jsonl_fpath, done.counts, done.changes
    for summary in done.summaries:
        if len(done.summaries) > 1:
            print(f"\n{summary['agent_ref']['name']}")
        print(format_summary(summary))
        if (spread := summary["agent_metrics"].get("mean/reward_std")) is not None:
            print(f"{wanted.num_repeats} verdicts on a rollout: standard deviation {spread:.3f} on average")
    for failed in done.failed:
        print(
            f"{failed.kind} in {failed.where}, {failed.attempts} attempts; the last: {failed.message[:300]}"
        )
    print(
        "\nverdicts: "
        + ", ".join(f"{n:,} {name}" for name, n in changes.counts.items() if n or name != "new")
    )
    for change in changes.examples:
        print(f"  {change}")
    if changes.up + changes.down + changes.new > len(changes.examples):
        print(f"  … all of them are in {changes_file(output)}")
    print(f"{counts.done} of {counts.total} rollouts are in {output}")
    if done.left_out:
        print(f"not rescored: {done.left_out}")
    if counts.foreign:
        print(f"{counts.foreign} more there are not among the rollouts; they are in no metric")
    if counts.owed:
        print(f"{counts.owed} are still owed: the same command tries them again")
    if counts.exhausted:
        kept = Files(output).failures
        print(f"{counts.exhausted} failed too often ({kept}); a higher +max_attempts tries them again")
    print(f"metrics: {Files(output).metrics}\nchanged verdicts: {changes_file(output)}")
    return 0 if counts.done or not counts.total else 1
