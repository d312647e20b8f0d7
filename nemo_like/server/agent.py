"""An agent: a model and an environment, turn by turn."""

import asyncio
import time
from dataclasses import dataclass
from typing import Any, cast

import orjson
from pydantic import Field
from typing_extensions import TypeVar

from nemo_like.client import Client
from nemo_like.errors import PartError, did_you_mean
from nemo_like.rate import QUEUED_FIELD
from nemo_like.server.server import Endpoint, Server, ServerConfig, ServerRef
from nemo_like.types import Json, parse_arguments


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


AgentConfigT = TypeVar("AgentConfigT", bound=AgentConfig, default=AgentConfig)


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
