"""Servers: what people subclass to write a model server, an environment or an agent.

A server is an ASGI app made of a few endpoints. Each endpoint takes a JSON object and answers one; whatever
goes wrong inside is named once, here, and leaves as `{"error": …}` with its own HTTP status.
"""

import asyncio
import inspect
import logging
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, cast, get_args

import orjson
from fastapi import FastAPI
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from pydantic import BaseModel, Field, ValidationError
from starlette.requests import Request
from starlette.responses import Response as HTTPResponse
from typing_extensions import TypeVar

from nemo_like import chat, messages
from nemo_like.answered import VERIFIER
from nemo_like.asgi import ASGIApp, Receive, Scope, Send, header_of, read_body, send_json, send_pieces
from nemo_like.chunks import chunks_of
from nemo_like.client import ROLLOUT_HEADER, Client, rollout_id
from nemo_like.errors import Kind, PartError, blame, did_you_mean
from nemo_like.identity import code_of, verifier_id
from nemo_like.logs import serving
from nemo_like.message_events import MessageWriter
from nemo_like.rate import QUEUED_FIELD, queue_told
from nemo_like.response_events import events_of, numbered, whole
from nemo_like.rewards import Reward
from nemo_like.rewards.forms import as_verdict
from nemo_like.rewards.scoring import RewardsConfig, Rubric, Scorer
from nemo_like.sessions import Sessions
from nemo_like.settings import Settings, explain, is_secret
from nemo_like.sse import DONE, decoded, encoded
from nemo_like.streams import MEDIA_TYPE, Stream, fail_chat, fail_messages, fail_responses
from nemo_like.tools import Tool, tools_of
from nemo_like.tools import tool as tool
from nemo_like.types import Json, Response, Task, merged, parse_arguments

log = logging.getLogger(__name__)

Endpoint = Callable[[Json], Awaitable[Any]]
ServerKind = Literal["responses_api_models", "resources_servers", "agents"]


class ServerConfig(Settings):
    """What every server instance can be told."""

    entrypoint: str = "app.py"
    """The file in the server's folder that holds its class; `app.py:Name` where it holds several."""
    host: str = "127.0.0.1"
    """Address that its public listener binds to."""
    port: int = 0
    """Port of its public listener; 0 lets the kernel pick one."""
    process: Literal["shared", "own"] = "shared"
    """`shared`: lives in the run's worker processes with the other servers; `own`: has its own."""
    num_workers: int | None = None
    """Worker processes, where it has its own (default 1)."""
    description: str = ""
    """One line for lists."""
    domain: str | None = None
    """What the environment is about: math, coding, agent, …"""
    verified: bool = False
    """Whether a training run has confirmed the environment."""
    verified_url: str | None = None
    """Where that run is described."""
    value: str | None = None
    """What training on it improves."""
    license: str | None = None
    """Licence of its data."""


class ModelConfig(ServerConfig):
    """Settings of every model server."""


class ServerRef(Settings):
    """Another instance of the run, by kind and name."""

    type: str
    name: str


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


class AgentConfig(ServerConfig):
    """Settings of every agent."""

    resources_server: ServerRef
    """The environment: its tools and its verifier."""
    model_server: ServerRef
    """The policy model."""
    rollout_timeout_s: float = 1800.0
    """Seconds that one rollout may take, from seeding to the verdict."""
    model_timeout_s: float = 1200.0
    """Seconds that one model call may take, the retries of its provider included."""
    datasets: list[Json] = Field(default_factory=list[Json])
    """Data that goes with this agent: name, type, jsonl_fpath, …"""


ConfigT = TypeVar("ConfigT", bound=ServerConfig, default=ServerConfig)
ModelConfigT = TypeVar("ModelConfigT", bound=ModelConfig, default=ModelConfig)
ResourcesConfigT = TypeVar("ResourcesConfigT", bound=ResourcesConfig, default=ResourcesConfig)
AgentConfigT = TypeVar("AgentConfigT", bound=AgentConfig, default=AgentConfig)


class Server(Generic[ConfigT]):
    """An instance of a run: its settings, its name, and the client by which it reaches the others."""

    kind: ClassVar[ServerKind]
    error_kind: ClassVar[Kind]

    def __init__(self, config: ConfigT, *, name: str, client: Client) -> None:
        self.config = config
        self.name = name
        self.client = client
        self.state: Literal["starting", "ready", "stopping"] = "starting"
        self.tell: Callable[[str], None] = log.warning
        """Shows a line to who waits for the start: how far a long `lifespan` is."""
        self._in_flight: dict[object, tuple[str, str, float]] = {}
        self._metrics = CollectorRegistry()
        self._seconds = Histogram(
            "nemo_like_request_seconds", "Time to answer", ["server", "path"], registry=self._metrics
        )
        self._errors = Counter(
            "nemo_like_errors", "Answers that were errors", ["server", "path", "kind"], registry=self._metrics
        )
        tasks = Gauge("nemo_like_tasks", "asyncio tasks of the worker", registry=self._metrics)
        tasks.set_function(lambda: len(asyncio.all_tasks()))

    @classmethod
    def config_class(cls) -> type[ServerConfig]:
        """The settings class that this server was declared with: `class Mine(ModelServer[MySettings])`."""
        for base in (base for c in cls.__mro__ for base in c.__dict__.get("__orig_bases__", ())):
            for argument in get_args(base):
                if isinstance(argument, type) and issubclass(argument, ServerConfig):
                    return argument
                if isinstance(argument, TypeVar) and isinstance(argument.__default__, type):
                    return argument.__default__
        return ServerConfig

    @asynccontextmanager
    async def lifespan(self) -> AsyncGenerator[None]:
        """Where resources open and close; entered once a worker, before the first request."""
        yield

    def setup(self, app: FastAPI) -> None:
        """Where a server adds routes of its own."""

    def endpoints(self) -> dict[str, Endpoint]:
        """Path → what answers a POST to it."""
        return {}

    def error_body(self, path: str, error: PartError) -> bytes:
        """How an error of the endpoint at `path` is told."""
        return error.to_wire()

    def app(self) -> ASGIApp:
        """The ASGI app of this instance: its endpoints at once, everything else through FastAPI."""
        answers = {path: self._answers(path, endpoint) for path, endpoint in self.endpoints().items()}
        others = FastAPI(title=self.name, description=inspect.getdoc(type(self)) or "")
        others.add_route("/health", self._health, methods=["GET"])
        others.add_route("/metrics", self._prometheus, methods=["GET"])
        others.add_route("/in_flight", self._list_in_flight, methods=["GET"])
        self.setup(others)

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            is_post = scope["type"] == "http" and scope["method"] == "POST"
            answer = answers.get(scope["path"], others) if is_post else others
            await answer(scope, receive, send)

        return app

    def _answers(self, path: str, endpoint: Endpoint) -> ASGIApp:
        """The one boundary: JSON in, JSON, a stream or a named error out, timed."""
        seconds = self._seconds.labels(self.name, path)

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            start, call = time.perf_counter(), object()
            rollout_id.set(rollout := header_of(scope, ROLLOUT_HEADER))
            at_work = serving.set(self.name)
            self._in_flight[call] = (rollout, path, start)
            try:
                with blame(self.name, self.error_kind):
                    answered = await endpoint(as_body(await read_body(receive)))
                    if isinstance(answered, Stream):
                        await send_pieces(send, 200, MEDIA_TYPE, self._told(path, answered))
                        status, body = 200, None
                    else:
                        status, body = 200, orjson.dumps(answered)
            except PartError as error:
                self._errors.labels(self.name, path, error.kind).inc()
                status, body = error.status, self.error_body(path, error)
            finally:
                del self._in_flight[call]
                # A server of the same process that called this one goes on in the same context.
                serving.reset(at_work)
            seconds.observe(time.perf_counter() - start)
            if body is not None:
                await send_json(send, status, body)

        return answer

    async def _told(self, path: str, stream: Stream) -> AsyncGenerator[bytes]:
        """The pieces of a stream, and at its end what went wrong."""
        try:
            with blame(self.name, self.error_kind):
                async with aclosing(stream.pieces()) as pieces:
                    async for piece in pieces:
                        yield piece
        except PartError as error:
            log.warning("%s: a stream broke off: %s", path, error)
            self._errors.labels(self.name, path, error.kind).inc()
            yield stream.failed(error)

    def health(self) -> Json:
        """What `GET /health` answers."""
        return {"instance": self.name, "kind": self.kind, "state": self.state}

    async def _health(self, _: Request) -> HTTPResponse:
        return HTTPResponse(orjson.dumps(self.health()), media_type="application/json")

    async def _list_in_flight(self, _: Request) -> HTTPResponse:
        now = time.perf_counter()
        calls = [
            {"rollout": rollout, "path": path, "age_s": now - start}
            for rollout, path, start in self._in_flight.values()
        ]
        return HTTPResponse(orjson.dumps(calls), media_type="application/json")

    async def _prometheus(self, _: Request) -> HTTPResponse:
        return HTTPResponse(generate_latest(self._metrics), media_type=CONTENT_TYPE_LATEST)


class ModelServer(Server[ModelConfigT]):
    """A policy model. Write `responses` or `chat_completions`, whichever the engine speaks; the other
    follows, and so do Anthropic's Messages and all their streams.

    A stream of an engine that has none is its finished answer in events. One that has writes
    `stream_responses` or `stream_chat_completions`: bytes of that API's events, as they come.
    """

    kind = "responses_api_models"
    error_kind = "model_error"

    async def responses(self, params: Json) -> Json:
        """A Responses-API request → its response object."""
        return chat.to_response(await self.chat_completions(chat.to_chat(params)), params)

    async def chat_completions(self, body: Json) -> Json:
        """A Chat Completions request → its completion object."""
        return chat.to_completion(await self.responses(chat.to_params(body)))

    async def messages(self, body: Json) -> Json:
        """A request of Anthropic's Messages API → its message."""
        return messages.to_message(await self.responses(messages.to_params(body)), body)

    async def count_tokens(self, params: Json) -> int:
        """How many input tokens a Responses-API request has; only few engines can tell.

        Raises:
            PartError: `not_found`; this one can't.
        """
        hint = "an answer's usage tells"
        raise PartError("not_found", f"{self.name} can't count tokens before it answers", hint=hint)

    async def stream_responses(self, params: Json) -> AsyncGenerator[bytes]:
        """A Responses-API request → its server-sent events, as they come."""
        for event in numbered(events_of(await self.responses(_whole(params)))):
            yield encoded(event)

    async def stream_chat_completions(self, body: Json) -> AsyncGenerator[bytes]:
        """A Chat Completions request → its server-sent events, as they come."""
        completion = await self.chat_completions(_whole(body))
        for chunk in chunks_of(completion, usage=chat.wants_usage(body)):
            yield encoded(chunk, named=False)
        yield DONE

    async def stream_messages(self, body: Json) -> AsyncGenerator[bytes]:
        """A request of Anthropic's Messages API → its server-sent events, as they come."""
        writer = MessageWriter(body)
        async with aclosing(self.stream_responses(messages.to_params(body))) as pieces:
            async for event in whole(decoded(pieces)):
                for told in writer.write(event):
                    yield encoded(told)

    def endpoints(self) -> dict[str, Endpoint]:
        """The endpoints of every model server, and how busy it is."""
        responses = _streamed(self.responses, self.stream_responses, fail_responses)
        completions = _streamed(self.chat_completions, self.stream_chat_completions, fail_chat)
        return {
            "/v1/responses": queue_told(responses),
            "/v1/chat/completions": queue_told(completions),
            "/v1/messages": _streamed(self.messages, self.stream_messages, fail_messages),
            "/v1/messages/count_tokens": self._count_tokens,
            "/load": self.load,
        }

    def error_body(self, path: str, error: PartError) -> bytes:
        """In Anthropic's shape on the paths of its API."""
        return messages.error_body(error) if path.startswith("/v1/messages") else error.to_wire()

    async def _count_tokens(self, body: Json) -> Json:
        return {"input_tokens": await self.count_tokens(messages.to_params(body))}

    async def queued(self) -> int | None:
        """Requests that wait in the engine's own queue; None where it does not say."""
        return None

    async def load(self, _: Json) -> Json:
        """How often providers have refused this process (429, 503), and the engine's own queue."""
        return {"throttled": self.client.throttled, "queued": await self.queued()}


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


@dataclass(slots=True)
class Calls:
    """An agent's way out during one rollout: its model and its declared tools, timed."""

    client: Client
    config: AgentConfig
    declared: frozenset[str]
    model_s: float = 0.0
    tools_s: float = 0.0

    async def model(self, params: Json) -> Json:
        """One response of the policy model.

        Raises:
            PartError: the model server's or the provider's failure.
        """
        start = time.perf_counter()
        try:
            server, timeout_s = self.config.model_server.name, self.config.model_timeout_s
            response = await self.client.post(server, "/v1/responses", params, timeout_s=timeout_s)
            # A turn that had to be waited for is no time of the model's: it counts as queueing.
            self.model_s -= response.pop(QUEUED_FIELD, 0.0)
            return response
        finally:
            self.model_s += time.perf_counter() - start

    async def tool(self, call: Json) -> Json:
        """Run a `function_call` item; the `function_call_output` item to show to the model.

        A tool that is not declared, arguments that do not fit, an exception in the tool and a tool that takes
        too long are shown to the model. Anything else that fails is an infrastructure failure.

        Raises:
            PartError: the environment is gone, or lost the session.
        """
        start = time.perf_counter()
        try:
            output = await self._tool(str(call.get("name", "")), call.get("arguments"))
        except PartError as error:
            if error.kind not in ("bad_arguments", "tool_error", "timeout"):
                raise
            output = orjson.dumps({"error": error.message}).decode()
        finally:
            self.tools_s += time.perf_counter() - start
        return {"type": "function_call_output", "call_id": call.get("call_id", ""), "output": output}

    async def _tool(self, name: str, arguments: Any) -> str:
        if name not in self.declared:
            known = did_you_mean(name, [*self.declared])
            raise PartError("bad_arguments", f"there is no tool {name!r}{known}")
        body = parse_arguments(arguments)
        if body is None:
            shown = str(arguments)[:200]
            raise PartError("bad_arguments", f"the arguments of {name} are not a JSON object: {shown}")
        server, timeout_s = self.config.resources_server.name, self.config.rollout_timeout_s
        answer = await self.client.call(server, f"/{name}", body, timeout_s=timeout_s)
        # A tool that answers text shows that text; anything else is shown as the JSON it is.
        return orjson.loads(answer) if answer.startswith(b'"') else answer.decode()


class AgentServer(Server[AgentConfigT]):
    """An agent: write `responses(self, params, calls)`, which turns a request into a whole trajectory."""

    kind = "agents"
    error_kind = "agent_error"

    async def responses(self, params: Json, calls: Calls) -> Json:
        """The response whose `output` holds every item of every step, in order, with the usage summed."""
        raise NotImplementedError(f"{type(self).__name__} has no responses(self, params, calls)")

    def endpoints(self) -> dict[str, Endpoint]:
        """A whole rollout, and the trajectory alone."""
        return {"/run": self.run, "/v1/responses": self._respond}

    async def run(self, row: Json) -> Json:
        """Seed the session, let the agent work, verify: the row with `response`, verdict and step times."""
        resources, timeout_s = self.config.resources_server.name, self.config.rollout_timeout_s
        response: Json | None = None
        try:
            async with asyncio.timeout(timeout_s):
                await self.client.post(resources, "/seed_session", row, timeout_s=timeout_s)
                calls = self._calls(row["responses_create_params"])
                response = await self.responses(row["responses_create_params"], calls)
                start = time.perf_counter()
                row = await self.client.post(
                    resources, "/verify", row | {"response": response}, timeout_s=timeout_s
                )
        except TimeoutError as error:
            message = f"the rollout took longer than rollout_timeout_s={timeout_s:g}"
            raise PartError("timeout", message, where=self.name, response=response) from error
        except PartError as error:
            # What failed was the verdict, which can be had later.
            error.response = response
            raise
        verify_s = time.perf_counter() - start
        return row | {"metadata": {"model_s": calls.model_s, "tools_s": calls.tools_s, "verify_s": verify_s}}

    async def _respond(self, params: Json) -> Json:
        return await self.responses(params, self._calls(params))

    def _calls(self, params: Json) -> Calls:
        tools = cast(list[Json], params.get("tools") or [])
        return Calls(self.client, self.config, frozenset(str(tool.get("name")) for tool in tools))


def _streamed(
    answer: Endpoint,
    stream: Callable[[Json], AsyncGenerator[bytes]],
    fail: Callable[[PartError, int], bytes],
) -> Endpoint:
    """The endpoint that answers whole, or in a stream to a request that says `stream: true`."""

    async def endpoint(body: Json) -> Any:
        return await Stream.begin(stream(body), fail) if body.get("stream") else await answer(body)

    return endpoint


def _whole(body: Json) -> Json:
    """The request for the same answer in one piece."""
    return {key: body[key] for key in body if key not in chat.STREAMING}


def as_body(data: bytes) -> Json:
    """The JSON object that a request holds; an empty body is an empty object."""
    try:
        body = orjson.loads(data or b"{}")
    except orjson.JSONDecodeError as error:
        raise PartError("bad_request", f"the body is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise PartError("bad_request", f"the body is not a JSON object but {type(body).__name__}")
    return cast(Json, body)


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
