"""A Chat Completions request, checked: what a model in this process can be asked. What would change the
answer, and can't be done, is refused; other fields are ignored."""

from typing import Any, Literal, Self, cast

from pydantic import AliasChoices, BaseModel, Field, ValidationError, field_validator, model_validator

from nemo_like.errors import PartError
from nemo_like.settings import explain
from nemo_like.shapes import TEXT_PARTS
from nemo_like.types import Json, content_text, parse_arguments

NEUTRAL: dict[str, Any] = {
    "frequency_penalty": 0,
    "presence_penalty": 0,
    "repetition_penalty": 1,
    "logit_bias": {},
    "n": 1,
    "min_tokens": 0,
    "ignore_eos": False,
    "stop_token_ids": [],
    "bad_words": [],
    "structured_outputs": {},
}
"""What this server can't do, and the values that ask for nothing."""


class Request(BaseModel):
    """A request. Where it says nothing, OpenAI's defaults hold, not the model's generation_config."""

    messages: list[Json] = Field(min_length=1)
    tools: list[Json] = []
    tool_choice: Literal["auto", "none"] = "auto"
    temperature: float = Field(1.0, ge=0, le=10)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=-1)
    min_p: float = Field(0.0, ge=0, le=1)
    max_tokens: int | None = Field(
        None, ge=1, validation_alias=AliasChoices("max_completion_tokens", "max_tokens")
    )
    stop: str | list[str] = []
    seed: int | None = None
    logprobs: bool = False
    top_logprobs: int = Field(0, ge=0, le=20)
    chat_template_kwargs: Json = {}

    @classmethod
    def of(cls, body: Json) -> Self:
        """The request in a body; nulls say nothing.

        Raises:
            PartError: `bad_request`: every value that is wrong, with the reason.
        """
        try:
            return cls.model_validate({key: value for key, value in body.items() if value is not None})
        except ValidationError as error:
            message = explain(error, where="the request", known=[*cls.model_fields])
            raise PartError("bad_request", message) from error

    @model_validator(mode="before")
    @classmethod
    def _can_be_done(cls, body: Json) -> Json:
        for key, nothing in NEUTRAL.items():
            if body.get(key, nothing) != nothing:
                raise ValueError(f"{key} is not supported by this model server; leave it out")
        if (form := body.get("response_format")) not in (None, {"type": "text"}):
            kind = cast(Json, form).get("type") if isinstance(form, dict) else form
            raise ValueError(
                f"response_format {kind} is not supported by this model server: it holds no answer to a form"
            )
        return body

    @field_validator("tool_choice", mode="before")
    @classmethod
    def _can_be_chosen(cls, value: Any) -> Any:
        if value not in ("auto", "none"):
            raise ValueError("should be auto or none: this model server can't make a model call a tool")
        return value

    @field_validator("messages")
    @classmethod
    def _in_words_of_templates(cls, messages: list[Json]) -> list[Json]:
        return [_for_template(message) for message in messages]

    @property
    def offered(self) -> list[Json]:
        """The tools that the model may call."""
        return self.tools if self.tool_choice == "auto" else []

    @property
    def stops(self) -> tuple[str, ...]:
        """The texts that end the answer."""
        texts = [self.stop] if isinstance(self.stop, str) else self.stop
        return tuple(text for text in texts if text)


def _for_template(message: Json) -> Json:
    """A message as chat templates know it: text, arguments as objects, a system's prompt."""
    said = {key: value for key, value in message.items() if value is not None}
    if not isinstance(said.get("role"), str):
        raise ValueError("each message needs a role")
    if said["role"] == "developer":
        said["role"] = "system"
    content = said.get("content", "")
    for part in cast(list[Any], content) if isinstance(content, list) else []:
        kind = cast(Json, part).get("type") if isinstance(part, dict) else None
        if kind not in TEXT_PARTS:
            raise ValueError(
                f"should be text: this model server sends nothing else, such as {kind or 'that'}"
            )
    said["content"] = content_text(content)
    if calls := said.get("tool_calls"):
        said["tool_calls"] = [_call(call) for call in cast(list[Json], calls)]
    return said


def _call(call: Json) -> Json:
    """Templates write the arguments as JSON themselves; what is no object stays the text it is."""
    function = cast(Json, call.get("function") or {})
    arguments = function.get("arguments")
    parsed = parse_arguments(arguments)
    return call | {"function": function | {"arguments": arguments if parsed is None else parsed}}
