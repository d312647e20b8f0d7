"""Tools and which may be called: Responses ↔ Chat, whose tools are nested one level deeper. Pure.

Responses groups tools in namespaces; Chat knows each by one name, `<namespace>__<name>`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from nemo_like.dropped import tell_dropped
from nemo_like.errors import PartError
from nemo_like.shapes import fields_of, list_at, object_at, objects_in, text_at, text_of, without_nulls
from nemo_like.types import Json

DROPPED = {"allowed_callers", "async", "defer_loading", "output_schema"}
"""Keys of a tool of Responses that Chat has no words for."""


def chat_tools(given: Json) -> Json:
    """Takes the tools out of `given`, with what servers refuse where there are none."""
    tools, choice = list_at(given.pop("tools", []), "tools"), given.pop("tool_choice", None)
    parallel = given.pop("parallel_tool_calls", None)
    if tools:
        names = names_of({"tools": tools})
        return {
            "tools": [_chat_tool(tool, place) for tool, place in _flat_tools(tools, names)],
            "tool_choice": _chat_choice(cast(Json, choice), names) if isinstance(choice, dict) else choice,
            "parallel_tool_calls": parallel,
        }
    if choice in (None, "auto", "none"):
        return {}
    raise PartError("bad_request", f"tool_choice {text_of(choice)} needs tools, and the request has none")


def params_choice(choice: Any) -> Any:
    """What Responses has for a `tool_choice` of Chat."""
    chosen = flat(choice)
    fields = fields_of(chosen)
    if fields.get("type") == "allowed_tools":
        return fields | {"tools": [flat(tool) for tool in objects_in(fields.get("tools"))]}
    return chosen


def tools_of(params: Json) -> list[Json]:
    """The tools of a Responses request as Chat has them; what is no function stays as it is."""
    tools = objects_in(params.get("tools"))
    if names := names_of(params):
        tools = [fields_of(tool) for tool, _ in _flat_tools(tools, names)]
    return [
        {"type": "function", "function": without_nulls({k: tool[k] for k in tool if k != "type"})}
        if tool.get("type") == "function"
        else tool
        for tool in (cast(Json, flat(tool)) for tool in tools)
    ]


def names_of(params: Json) -> dict[str, Json]:
    """The one name of every tool in a namespace → the `name` and `namespace` of its calls."""
    names: dict[str, Json] = {}
    for space in objects_in(params.get("tools")):
        if space.get("type") == "namespace":
            for tool in objects_in(space.get("tools")):
                call = {"name": text_of(tool.get("name")), "namespace": text_of(space.get("name"))}
                names[flat_name(call)] = call
    return names


def flat_name(named: Json) -> str:
    """The one name of a call, or of a tool that is chosen."""
    name, namespace = text_of(named.get("name")), text_of(named.get("namespace"))
    return f"{namespace}__{name}" if namespace else name


def flat(value: Any) -> Any:
    """`{type: function, function: {name: …}}` → `{type: function, name: …}`; so for formats and annotations.
    What is not nested stays as it is."""
    fields = fields_of(value)
    kind = fields.get("type")
    inner = fields_of(fields.get(kind)) if isinstance(kind, str) else {}
    return {"type": kind, **inner} if inner else value


def nested(value: Any, kind: str, place: str) -> Json:
    """The inverse of `flat`, for a value of this kind."""
    fields = object_at(flat(value), place)
    if fields.get("type") != kind:
        raise PartError(
            "bad_request", f"{place}: only the type {kind} can be sent (got {text_of(fields):.200})"
        )
    text_at(fields.get("name") or None, f"{place}.name")
    return {"type": kind, kind: without_nulls({key: fields[key] for key in fields if key != "type"})}


def _flat_tools(tools: list[Any], names: dict[str, Json]) -> Iterator[tuple[Any, str]]:
    """Each tool and where it stands, those of a namespace by their one name."""
    for at, tool in enumerate(tools):
        fields, place = fields_of(tool), f"tools[{at}]"
        if fields.get("type") != "namespace":
            if names and str(fields.get("name")) in names:
                raise PartError("bad_request", f"{place}: another tool is called {fields['name']} too")
            yield tool, place
            continue
        namespace = text_at(fields.get("name") or None, f"{place}.name")
        if fields.get("description"):
            tell_dropped(["description of a namespace"])
        for number, each in enumerate(list_at(fields.get("tools"), f"{place}.tools")):
            inner = fields_of(each)
            if inner.get("name"):
                each = inner | {"name": flat_name(inner | {"namespace": namespace})}
            yield each, f"{place}.tools[{number}]"


def _chat_tool(tool: Any, place: str) -> Json:
    function = nested(tool, "function", place)["function"]
    if dropped := DROPPED & function.keys():
        tell_dropped(f"{key} of a tool" for key in dropped)
    return {"type": "function", "function": {k: function[k] for k in function if k not in dropped}}


def _chat_choice(choice: Json, names: dict[str, Json]) -> Json:
    """A tool that is chosen, or several of which one may be."""

    def chosen(tool: Any, place: str) -> Json:
        fields = fields_of(flat(tool))
        calls = [name for name, call in names.items() if call["name"] == fields.get("name")]
        flat_names = [flat_name(fields)] if fields.get("namespace") else calls
        if len(flat_names) == 1:
            tool = {"type": fields.get("type"), "name": flat_names[0]}
        return nested(tool, "function", place)

    if choice.get("type") != "allowed_tools":
        return chosen(choice, "tool_choice")
    fields = fields_of(flat(choice))
    allowed = list_at(fields.get("tools"), "tool_choice.tools")
    tools = [chosen(tool, f"tool_choice.tools[{at}]") for at, tool in enumerate(allowed)]
    return {"type": "allowed_tools", "allowed_tools": {"mode": fields.get("mode") or "auto", "tools": tools}}
