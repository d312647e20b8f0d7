"""Servers: what people subclass to write a model server, an environment or an agent."""

from nemo_like.server.agent import AgentConfig, AgentServer, Calls
from nemo_like.server.chunked import ChunkedModelServer
from nemo_like.server.model import ModelConfig, ModelServer
from nemo_like.server.resources import ResourcesConfig, ResourcesServer, finite
from nemo_like.server.server import Endpoint, Server, ServerConfig, ServerKind, ServerRef
from nemo_like.tools import tool

__all__ = [
    "AgentConfig",
    "AgentServer",
    "Calls",
    "ChunkedModelServer",
    "Endpoint",
    "ModelConfig",
    "ModelServer",
    "ResourcesConfig",
    "ResourcesServer",
    "Server",
    "ServerConfig",
    "ServerKind",
    "ServerRef",
    "finite",
    "tool",
]
