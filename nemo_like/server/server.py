"""What every server is: an ASGI app made of a few endpoints.

Each endpoint takes a JSON object and answers one; whatever goes wrong inside is named once, here, and leaves
as `{"error": …}` with its own HTTP status.
"""

import asyncio
import inspect
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
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
from starlette.requests import Request
from starlette.responses import Response as HTTPResponse
from typing_extensions import TypeVar

from nemo_like.asgi import ASGIApp, Receive, Scope, Send, header_of, read_body, send_json, send_pieces
from nemo_like.client import ROLLOUT_HEADER, Client, rollout_id
from nemo_like.errors import Kind, PartError, blame
from nemo_like.logs import serving
from nemo_like.settings import Settings
from nemo_like.streams import MEDIA_TYPE, Stream
from nemo_like.types import Json

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


class ServerRef(Settings):
    """Another instance of the run, by kind and name."""

    type: str
    name: str


ConfigT = TypeVar("ConfigT", bound=ServerConfig, default=ServerConfig)


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


def as_body(data: bytes) -> Json:
    """The JSON object that a request holds; an empty body is an empty object."""
    try:
        body = orjson.loads(data or b"{}")
    except orjson.JSONDecodeError as error:
        raise PartError("bad_request", f"the body is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise PartError("bad_request", f"the body is not a JSON object but {type(body).__name__}")
    return cast(Json, body)
