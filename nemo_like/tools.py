"""Tools: methods of an environment that the model may call."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, create_model
from pydantic.json_schema import GenerateJsonSchema

from nemo_like.types import Json

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, kw_only=True, slots=True)
class Tool:
    """A tool: its name, its definition as the model sees it, and the check of its arguments."""

    name: str
    definition: Json
    arguments: type[BaseModel]
    takes_state: bool


def tool(method: F) -> F:
    """Declare a method as a tool: its docstring is the description, its annotations are the parameters.

    A parameter called `state` gets the session's state instead. A plain `def` runs in a thread, an `async
    def` on the event loop. What it raises is shown to the model.
    """
    method.__dict__["is_tool"] = True
    return method


@cache
def tools_of(cls: type[Any]) -> tuple[Tool, ...]:
    """The tools that a class declares, in the order of their definition."""
    names = dict.fromkeys(name for base in reversed(cls.__mro__) for name in vars(base))
    methods = [(name, getattr(cls, name)) for name in names if not name.startswith("_")]
    return tuple(_as_tool(name, method) for name, method in methods if getattr(method, "is_tool", False))


def _as_tool(name: str, method: Callable[..., Any]) -> Tool:
    parameters = inspect.signature(method, eval_str=True).parameters
    wanted = {p.name: p for p in parameters.values() if p.name not in ("self", "state")}
    fields: dict[str, Any] = {
        key: (p.annotation, ... if p.default is p.empty else p.default) for key, p in wanted.items()
    }
    arguments = create_model(name, __config__=ConfigDict(extra="forbid"), **fields)
    schema = arguments.model_json_schema(schema_generator=_Untitled)
    del schema["title"]
    definition: Json = {
        "type": "function",
        "name": name,
        "description": inspect.getdoc(method) or "",
        "parameters": {"properties": {}, "required": []} | schema,
        # Strict mode wants every parameter to be required.
        "strict": all(p.default is p.empty for p in wanted.values()),
    }
    return Tool(name=name, definition=definition, arguments=arguments, takes_state="state" in parameters)


class _Untitled(GenerateJsonSchema):
    """A JSON schema without the titles that pydantic derives from the fields' names."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False
