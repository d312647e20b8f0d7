"""A Chat Completions request, checked: what this model can be asked. Fields that it has no use for are
ignored."""

from typing import Any, Literal, Self, cast

from pydantic import AliasChoices, BaseModel, Field, ValidationError, field_validator, model_validator

from nemo_like.errors import PartError
from nemo_like.settings import explain
from nemo_like.shapes import TEXT_PARTS
from nemo_like.types import Json, content_text

RANDOM_SEED = 2**32 - 1
"""What llama.cpp takes for "no seed"."""


class Function(BaseModel):
    """A tool that the model may call."""

    name: str
    description: str = ""
    parameters: Json = {"type": "object", "properties": {}, "additionalProperties": False}


class Tool(BaseModel):
    """A tool, as Chat Completions wraps it."""

    type: Literal["function"] = "function"
    function: Function


class CalledFunction(BaseModel):
    """What an earlier answer called: the name, and the arguments as JSON text."""

    name: str
    arguments: str = "{}"


class Call(BaseModel):
    """A call in an earlier answer."""

    id: str = ""
    function: CalledFunction


class Message(BaseModel):
    """A message of the conversation; its content is text alone."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str = ""
    tool_calls: list[Call] = []
    tool_call_id: str = ""

    @field_validator("content", mode="before")
    @classmethod
    def _as_text(cls, content: Any) -> Any:
        for part in cast(list[Any], content) if isinstance(content, list) else []:
            kind = cast(Json, part).get("type") if isinstance(part, dict) else None
            if kind not in TEXT_PARTS:
                raise ValueError(f"should be text: this model reads nothing else, such as {kind or 'that'}")
        return content_text(content) if isinstance(content, list) else content


class ToolName(BaseModel):
    """The name in a `tool_choice`."""

    name: str


class ToolChoice(BaseModel):
    """The one function that has to be called."""

    function: ToolName


class JsonSchema(BaseModel):
    """A schema that the answer follows."""

    of: Json = Field(alias="schema")


class ResponseFormat(BaseModel):
    """The form of the answer."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _has_schema(self) -> Self:
        if self.type == "json_schema" and self.json_schema is None:
            raise ValueError("needs a json_schema with a schema in it")
        return self


class Request(BaseModel):
    """A request. Where it says nothing, OpenAI's defaults hold, not llama.cpp's."""

    messages: list[Message] = Field(min_length=1)
    tools: list[Tool] = []
    tool_choice: Literal["auto", "none", "required"] | ToolChoice = "auto"
    response_format: ResponseFormat | None = None
    temperature: float = Field(1.0, ge=0, le=10)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=-1)
    min_p: float = Field(0.0, ge=0, le=1)
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    presence_penalty: float = Field(0.0, ge=-2, le=2)
    logit_bias: dict[str, float] = {}
    max_tokens: int | None = Field(
        None, ge=1, validation_alias=AliasChoices("max_completion_tokens", "max_tokens")
    )
    stop: str | list[str] = []
    seed: int | None = None
    logprobs: bool = False
    top_logprobs: int = Field(0, ge=0, le=20)
    n: Literal[1] = 1

    @classmethod
    def of(cls, body: Json) -> Self:
        """The request in a body; nulls say nothing.

        Raises:
            PartError: `bad_request`: every value that is wrong, with the reason.
        """
        try:
            return cls.model_validate(_without_nulls(body))
        except ValidationError as error:
            message = explain(error, where="the request", known=[*cls.model_fields])
            raise PartError("bad_request", message) from error

    @property
    def schema_of_answer(self) -> Json | None:
        """The JSON schema that a text answer has to follow, if any."""
        if self.response_format is None or self.response_format.type == "text":
            return None
        schema = self.response_format.json_schema
        return schema.of if schema else {"type": "object"}

    def sampling(self, most_tokens: int) -> Json:
        """How to sample, in llama.cpp's words and in full, so that none of its own defaults counts.

        An answer without a bound of its own has `most_tokens`.
        """
        return {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": max(self.top_k, 0),
            "min_p": self.min_p,
            "frequency_penalty": self.frequency_penalty,
            "presence_penalty": self.presence_penalty,
            "repeat_penalty": 1.0,
            "logit_bias": self.logit_bias,
            "seed": RANDOM_SEED if self.seed is None else self.seed % RANDOM_SEED,
            "stop": [self.stop] if isinstance(self.stop, str) else self.stop,
            "max_tokens": self.max_tokens or most_tokens,
        }


def _without_nulls(value: Any) -> Any:
    """`value` without the keys that are null, in messages too, where a schema's own nulls stay."""
    fields = {key: each for key, each in cast(Json, value).items() if each is not None}
    if isinstance(messages := fields.get("messages"), list):
        fields["messages"] = [
            _without_nulls(message) if isinstance(message, dict) else message
            for message in cast(list[Any], messages)
        ]
    return fields
