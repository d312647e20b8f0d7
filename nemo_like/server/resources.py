"""An environment: tools, sessions and a verifier."""

import asyncio
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, Field, ValidationError
from typing_extensions import TypeVar

from nemo_like.answered import VERIFIER
from nemo_like.client import Client, rollout_id
from nemo_like.errors import PartError, blame
from nemo_like.identity import code_of, verifier_id
from nemo_like.rewards import Reward
from nemo_like.rewards.forms import as_verdict
from nemo_like.rewards.scoring import RewardsConfig, Rubric, Scorer
from nemo_like.server.server import Endpoint, Server, ServerConfig, ServerRef
from nemo_like.sessions import Sessions
from nemo_like.settings import explain, is_secret
from nemo_like.tools import Tool, tools_of
from nemo_like.types import Json, Response, Task, merged


class ResourcesConfig(ServerConfig, RewardsConfig):
    """Settings of every resources server."""

    success_threshold: float = 1.0
    """A rollout is a success when its reward is at least this."""
    session_ttl_s: float = 3600.0
    """Seconds after its last use at which the state of a session that was never verified is freed."""
    tool_timeout_s: float = 60.0
    """Seconds that one tool call may take; a slower one is shown to the model as an error."""
    judge_model_server: ServerRef | None = None
    """The model that judges, where a reward asks one."""
    judge_responses_create_params: Json = Field(default_factory=dict)
    """What every request to it carries: temperature, max_output_tokens, …"""
    judge_timeout_s: float = 300.0
    """Seconds that it may take to answer."""


ResourcesConfigT = TypeVar("ResourcesConfigT", bound=ResourcesConfig, default=ResourcesConfig)


class ResourcesServer(Server[ResourcesConfigT]):
    """An environment: tools, sessions and a verifier.

    Write `verify(self, task, response)`; tools are methods under `@tool`; `seed(self, task)` answers the
    state of a new session, which `verify` and the tools get as `state` if they ask for it.
    """

    kind = "resources_servers"
    error_kind = "verifier_error"
    needs_session: ClassVar[bool | str | None] = None
    """Whether a verdict needs the session that the rollout left behind, so that a stored rollout can't be
    verified again: True, or why. None: it does where `verify` takes `state`. False although it takes it: the
    state that `seed` makes is enough."""

    def __init__(self, config: ResourcesConfigT, *, name: str, client: Client) -> None:
        super().__init__(config, name=name, client=client)
        self._sessions = Sessions(config.session_ttl_s)
        self._verify_task = _annotation(type(self).verify, "task", Task)
        self._verify_takes_state = "state" in inspect.signature(type(self).verify).parameters
        self._seed_task = _annotation(type(self).seed, "task", Task)
        self._has_state = type(self).seed is not ResourcesServer.seed
        self._scorer = Scorer(timeout_s=config.verify_timeout_s, ask=self.ask_judge)
        self._rubric = Rubric(config.rewards) if config.rewards else None
        self._verifier = verifier_id(name, _files_of(type(self), config), _deciding(config))

    async def score(self, function: Reward, task: Task, response: Response, **options: Any) -> Json:
        """What `function` says of the response: `{"reward": …, …}`, the reward None where it can't be scored.

        It runs where it may: on the loop, in a process that can be killed, or asking the judge.

        Raises:
            PartError: the reward, its process or the judge failed.
        """
        return await self._scorer(function, task, response, **options)

    async def ask_judge(self, params: Json) -> Json:
        """The judge's response to a Responses-API request.

        Raises:
            PartError: it failed, or the configuration names none (`bad_request`).
        """
        judge = self.config.judge_model_server
        if judge is None:
            raise PartError("bad_request", "a reward asks a judge; set judge_model_server")
        params = merged(params, self.config.judge_responses_create_params)
        timeout_s = self.config.judge_timeout_s
        return await self.client.post(judge.name, "/v1/responses", params, timeout_s=timeout_s)

    def seed(self, task: Any) -> Any:
        """The state of a new session (any object), or nothing."""

    def aggregate_metrics(self, totals: Json, rollouts: list[Json], *, last: bool) -> Any:
        """Metrics over all rollouts, for environments that override it.

        It is called with a page of rollouts after the other (`task_key`, `rollout_index`, `success` and every
        number by its path; a task's are on one page) and with what it answered for the page before, at first
        `{}`. What it answers for the `last` are the metrics.
        """
        raise NotImplementedError(f"{type(self).__name__} has no aggregate_metrics")

    def verify(self, task: Any, response: Response, *state: Any, **_: Any) -> Any:
        """The verdict: a reward, or an object with `reward` and whatever else belongs into the record."""
        raise NotImplementedError(f"{type(self).__name__} has no verify(self, task, response)")

    @classmethod
    def tools(cls) -> list[Json]:
        """The tools' definitions as `responses_create_params.tools` takes them."""
        return [tool.definition for tool in tools_of(cls)]

    def endpoints(self) -> dict[str, Endpoint]:
        """Seeding, the verifier, what it is, and one endpoint a tool."""
        tools = {f"/{tool.name}": self._tool_endpoint(tool) for tool in tools_of(type(self))}
        own: dict[str, Endpoint] = {
            "/seed_session": self.seed_session,
            "/verify": self.verify_rollout,
            "/reverify_mode": self.reverify_mode,
        }
        if type(self).aggregate_metrics is not ResourcesServer.aggregate_metrics:
            own["/aggregate_metrics"] = self._aggregate_page
        return own | tools

    async def _aggregate_page(self, body: Json) -> Any:
        totals: Json = body.get("totals") or {}
        rollouts: list[Json] = body.get("rollouts") or []
        return await _call(self.aggregate_metrics, totals, rollouts, last=body.get("last") is True)

    async def seed_session(self, row: Json) -> Json:
        """Open the session of a rollout with the task's row."""
        if self._has_state:
            state = await _call(self.seed, _validated(self._seed_task, row))
            self._sessions.open(rollout_id.get(), state)
        return {}

    async def verify_rollout(self, row: Json) -> Json:
        """The row with its verdict; ends the session."""
        try:
            task = _validated(self._verify_task, row)
            if "response" not in row:
                raise PartError("bad_request", "there is no 'response' to verify")
            response = _validated(Response, row["response"])
            arguments: list[Any] = [task, response]
            if self._verify_takes_state:
                arguments.append(self._sessions.get(rollout_id.get()).state)
            verdict = as_verdict(await _call(self.verify, *arguments))
            if self._rubric is not None:
                verdict = await self._rubric.complete(verdict, row, response, self._scorer)
        finally:
            self._sessions.close(rollout_id.get())
        return row | finite(verdict) | {VERIFIER: self._verifier}

    async def reverify_mode(self, _: Json) -> Json:
        """Whether stored rollouts can be verified again, and by what: `mode` is `stateless`, `seeded` (in a
        session that is seeded anew) or `unsupported`, for the `reason`."""
        reason = self.needs_session
        if reason is None and self._verify_takes_state:
            reason = "its verify takes the state of the session, which ended with the rollout"
        if reason:
            said = reason if isinstance(reason, str) else "it needs the session, which ended with the rollout"
            return {"mode": "unsupported", "reason": said, "verifier": self._verifier}
        mode = "seeded" if self._verify_takes_state else "stateless"
        return {"mode": mode, "reason": "", "verifier": self._verifier}

    def _tool_endpoint(self, tool: Tool) -> Endpoint:
        method = getattr(self, tool.name)

        async def call(body: Json) -> Any:
            try:
                model = tool.arguments.model_validate(body)
            except ValidationError as error:
                known = list(tool.arguments.model_fields)
                message = explain(error, where=tool.name, known=known, noun="parameter")
                raise PartError("bad_arguments", message) from error
            arguments = {name: getattr(model, name) for name in tool.arguments.model_fields}
            with blame(f"{self.name}/{tool.name}", "tool_error"):
                async with asyncio.timeout(self.config.tool_timeout_s):
                    if not tool.takes_state:
                        return await _call(method, **arguments)
                    session = self._sessions.get(rollout_id.get())
                    async with session.lock:
                        return await _call(method, state=session.state, **arguments)

        return call


def finite(verdict: Json) -> Json:
    """The verdict, if its reward is one that can be averaged.

    Raises:
        PartError: it is None, which says that the task can't be scored, or not finite.
    """
    reward = verdict["reward"]
    if reward is None:
        raise PartError("verifier_error", f"the task can't be scored: {verdict}")
    if not float("-inf") < reward < float("inf"):
        raise PartError("verifier_error", f"the verifier answered no finite reward but {reward!r}")
    return verdict


def _files_of(server: type[ResourcesServer[Any]], config: ResourcesConfig) -> list[Path]:
    """The code of an environment: its folder's, and the rewards that its rubric names by path."""
    paths = [component.reward or name for name, component in config.rewards.items()]
    own = [Path(path.rpartition(":")[0]) for path in paths if ".py:" in path]
    file = getattr(sys.modules.get(server.__module__), "__file__", None)
    return [path for path in own if path.is_file()] + (code_of(Path(file).parent) if file else [])


def _deciding(config: ResourcesConfig) -> Json:
    """The settings that decide what a verdict is."""
    return {
        name: value
        for name, value in config.model_dump().items()
        if name not in ServerConfig.model_fields
        and not is_secret(name)
        and not name.endswith(("url", "timeout_s", "ttl_s"))
    }


def _validated(model: type[BaseModel], row: Any) -> Any:
    try:
        return model.model_validate(row)
    except ValidationError as error:
        message = explain(error, where="the row", known=[*model.model_fields])
        raise PartError("bad_request", message) from error


async def _call(method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """An `async def` here on the loop, a plain `def` in a thread."""
    if inspect.iscoroutinefunction(method):
        return await method(*args, **kwargs)
    return await asyncio.to_thread(method, *args, **kwargs)


def _annotation(method: Callable[..., Any], parameter: str, default: type[Task]) -> type[Task]:
    annotation = inspect.signature(method, eval_str=True).parameters[parameter].annotation
    return annotation if isinstance(annotation, type) and issubclass(annotation, Task) else default
