"""Tools for a model whose chat template has no place for them.

The prompt gets a line a tool and a worked example. The answer is held to a JSON schema, so it always parses:
`{"name": …, "arguments": …}` is a call, `{"answer": …}` is text. A model of this size can't tell when it
needs a tool, so it calls one first; once there is a result it may answer, and the example shows how.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, cast
from uuid import uuid4

from nemo_like.errors import PartError, did_you_mean
from nemo_like.types import Json, parse_arguments

from .request import Call, CalledFunction, Function, Message, Request

HOW_TO = 'To call one, reply {"name": ..., "arguments": {...}}. To answer, reply {"answer": "..."}.'
EXAMPLE = [
    Message(role="user", content="What time is it in Rome?"),
    Message(
        role="assistant",
        tool_calls=[
            Call(id="example", function=CalledFunction(name="get_time", arguments='{"place": "Rome"}'))
        ],
    ),
    Message(role="tool", tool_call_id="example", content="14:05"),
    Message(role="assistant", content="The time in Rome is 14:05."),
]


class Toolbox:
    """The tools of a request: the prompt and the schema that they become, and the reading of the answer.

    Raises:
        PartError: `bad_request`: the tool that has to be called is not there.
    """

    def __init__(self, request: Request) -> None:
        self._request = request
        self._tools = {tool.function.name: tool.function for tool in request.tools}
        self._callable = [*self._tools]
        choice = request.tool_choice
        if not isinstance(choice, str):
            name = choice.function.name
            if name not in self._tools:
                hint = did_you_mean(name, [*self._tools])
                raise PartError("bad_request", f"tool_choice: there is no tool {name!r}{hint}")
            self._callable = [name]
        self._may_answer = choice == "auto" and _has_result(request.messages)

    def messages(self) -> list[Json]:
        """The conversation in words of the chat template, the tools in front."""
        given = self._request.messages
        systems = 1 if given[0].role in ("system", "developer") else 0
        lines = [message.content for message in given[:systems]]
        lines += ["You can call tools:", *(_signature(tool) for tool in self._tools.values()), HOW_TO]
        prompt = Message(role="system", content="\n".join(lines))
        return in_words([prompt, *EXAMPLE, *given[systems:]], say=_answer)

    def schema(self) -> Json:
        """What the answer is held to."""
        # Each schema becomes a root of its own, so that a `$ref` in it finds what it names.
        roots = {name: self._tools[name].parameters for name in self._callable}
        ways = [_closed(name={"const": name}, arguments={"$ref": f"#/$defs/{name}"}) for name in roots]
        if self._may_answer:
            roots["$answer"] = self._request.schema_of_answer or {"type": "string"}
            ways.append(_closed(answer={"$ref": "#/$defs/$answer"}))
        return {"anyOf": ways, "$defs": {name: _moved(root, name) for name, root in roots.items()}}

    def read(self, text: str) -> Json:
        """The assistant's message that the model's text amounts to; what was cut short stays text."""
        said = parse_arguments(text.strip()) or {}
        if (name := said.get("name")) in self._tools:
            arguments = json.dumps(said.get("arguments", {}), ensure_ascii=False)
            function = {"name": name, "arguments": arguments}
            call = {"id": f"call_{uuid4().hex}", "type": "function", "function": function}
            return {"role": "assistant", "content": None, "tool_calls": [call]}
        answer = said.get("answer", text)
        content = answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False)
        return {"role": "assistant", "content": content}


def in_words(messages: list[Message], say: Callable[[str], str] = str) -> list[Json]:
    """Messages as the chat template knows them: calls and their results become text.

    `say` words what the assistant answered.
    """
    names = {call.id: call.function.name for message in messages for call in message.tool_calls}
    return [_in_words(message, names, say) for message in messages]


def _in_words(message: Message, names: dict[str, str], say: Callable[[str], str]) -> Json:
    if message.role == "tool":
        name = names.get(message.tool_call_id, "the tool")
        return {"role": "user", "content": f"Result of {name}: {message.content}"}
    if message.role != "assistant":
        role = "system" if message.role == "developer" else message.role
        return {"role": role, "content": message.content}
    calls = [
        f'{{"name": {json.dumps(call.function.name)}, "arguments": {call.function.arguments}}}'
        for call in message.tool_calls
    ]
    said = [say(message.content)] if message.content else []
    return {"role": "assistant", "content": "\n".join(said + calls)}


def _answer(text: str) -> str:
    return json.dumps({"answer": text}, ensure_ascii=False)


def _has_result(messages: list[Message]) -> bool:
    """Whether a tool has answered since the user last spoke."""
    for message in reversed(messages):
        if message.role in ("tool", "user"):
            return message.role == "tool"
    return False


def _signature(tool: Function) -> str:
    """A tool in one line: `- add(a: integer, b?: integer): Add two numbers.`"""
    schema = tool.parameters
    required = schema.get("required", [])
    parameters = ", ".join(
        f"{name}{'' if name in required else '?'}: {_kind(kind)}"
        for name, kind in cast(dict[str, Any], schema.get("properties", {})).items()
    )
    description = " ".join(tool.description.split())
    return f"- {tool.name}({parameters}): {description}" if description else f"- {tool.name}({parameters})"


def _kind(schema: Any) -> str:
    """A schema in a word: `integer`, `list of string`, `"red" or "blue"`."""
    fields = cast(Json, schema) if isinstance(schema, dict) else {}
    if "enum" in fields:
        return " or ".join(json.dumps(value, ensure_ascii=False) for value in fields["enum"])
    if fields.get("type") == "array":
        return f"list of {_kind(fields.get('items'))}"
    return str(fields.get("type", "value"))


def _closed(**properties: Json) -> Json:
    """The schema of an object with just these properties."""
    names = [*properties]
    return {"type": "object", "properties": properties, "required": names, "additionalProperties": False}


def _moved(schema: Any, name: str) -> Any:
    """A schema whose root moves to `#/$defs/NAME`, its references with it."""
    if isinstance(schema, list):
        return [_moved(each, name) for each in cast(list[Any], schema)]
    if not isinstance(schema, dict):
        return schema
    moved = {key: _moved(value, name) for key, value in cast(Json, schema).items()}
    reference = moved.get("$ref")
    if isinstance(reference, str) and reference.startswith("#"):
        moved["$ref"] = f"#/$defs/{name}{reference[1:]}"
    return moved
