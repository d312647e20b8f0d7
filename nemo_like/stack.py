"""The servers that a command works with: a stack of its own, or those that run in this directory."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

from nemo_like.client import Client
from nemo_like.config import Config, StackConfig
from nemo_like.head import ServerInfo, find_servers
from nemo_like.supervisor import running


@asynccontextmanager
async def servers_of(config: Config) -> AsyncGenerator[tuple[Sequence[ServerInfo], Client]]:
    """The servers, and a client that reaches them; a stack of the command's own is stopped at the end.

    Raises:
        StackError: it does not start, or none runs here.
    """
    stack: StackConfig = config.settings(StackConfig)
    if stack.config_paths or stack.model or stack.env:
        async with running(config) as supervisor, supervisor.client() as client:
            yield supervisor.servers(), client
        return
    async with Client({}) as probe:
        servers = await find_servers(stack.head_server, probe)
    async with Client({server.name: server.workers for server in servers}) as client:
        yield servers, client
