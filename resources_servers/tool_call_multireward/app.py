"""A small assistant's desk, where the calls that a request takes are known; several rewards, weighted."""

from __future__ import annotations

from math import fsum
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from nemo_like.rewards.tool_calls import Arguments, Order, ToolCallsTask, tool_calls
from nemo_like.server import ResourcesConfig, ResourcesServer, tool
from nemo_like.settings import Settings
from nemo_like.tools import tools_of
from nemo_like.types import Json, Response, ToolCall

RATES = {"EUR": 1.0, "USD": 1.1, "GBP": 0.85, "JPY": 160.0, "BRL": 5.5}
"""What a euro is in each currency."""
SKIES = ("sunny", "cloudy", "rainy", "windy")
Currency = Literal["EUR", "USD", "GBP", "JPY", "BRL"]


class Weights(Settings):
    """What each component adds to the reward; a perfect rollout earns their sum."""

    exact_match: float = Field(default=0.4, ge=0)
    """All calls right and none too many, else nothing."""
    name_accuracy: float = Field(default=0.2, ge=0)
    """The share of calls with the right name."""
    argument_accuracy: float = Field(default=0.2, ge=0)
    """The share of calls that have the right arguments too."""
    schema_valid: float = Field(default=0.1, ge=0)
    """Each call fits its tool's parameters, whether or not it is the right one."""
    answered: float = Field(default=0.1, ge=0)
    """The rollout ends with words."""


class ToolCallConfig(ResourcesConfig):
    """Settings of this environment."""

    weights: Weights = Weights()
    """What each component adds to the reward."""
    order: Order = "any"
    """`strict`: the calls have to be made in the order of the row."""
    extra_calls: bool = False
    """Whether other calls may be made besides."""
    arguments: Arguments = "exact"
    """`subset`: a call may have arguments that the row doesn't."""


class ToolCallMultireward(ResourcesServer[ToolCallConfig]):
    """Requests to an assistant that take none, one or several tool calls."""

    @tool
    async def get_weather(
        self,
        city: Annotated[str, Field(description="Name of the city")],
        unit: Literal["celsius", "fahrenheit"],
    ) -> Json:
        """The weather in a city."""
        # The same city has the same weather in every process.
        number = sum(map(ord, city))
        celsius = number % 35
        degrees = celsius if unit == "celsius" else round(celsius * 9 / 5 + 32)
        return {"city": city, "degrees": degrees, "unit": unit, "sky": SKIES[number % len(SKIES)]}

    @tool
    async def convert_currency(self, amount: float, source: Currency, target: Currency) -> Json:
        """An amount of money in another currency."""
        return {"amount": round(amount / RATES[source] * RATES[target], 2), "currency": target}

    @tool
    async def set_reminder(
        self,
        time: Annotated[str, Field(description="As HH:MM", pattern="^[0-2][0-9]:[0-5][0-9]$")],
        text: Annotated[str, Field(description="What to be reminded of, in the words of the request")],
    ) -> Json:
        """Set a reminder for today."""
        return {"success": True}

    async def verify(self, task: ToolCallsTask, response: Response) -> Json:
        """The weighted sum of five components, each of them from 0 to 1."""
        options = self.config.model_dump(include={"order", "extra_calls", "arguments"})
        components = {
            name: value for name, value in tool_calls(task, response, **options).items() if name != "reward"
        }
        made = response.tool_calls
        components["schema_valid"] = float(
            all(map(_fits, made)) and bool(made or not task.expected_tool_calls)
        )
        components["answered"] = float(bool(response.text.strip()))
        weights: dict[str, float] = self.config.weights.model_dump()
        reward = fsum(weights[name] * value for name, value in components.items())
        return {"reward": reward, "reward_components": components} | components


def _fits(call: ToolCall) -> bool:
    known = {tool.name: tool.arguments for tool in tools_of(ToolCallMultireward)}
    if call.name not in known or call.arguments is None:
        return False
    try:
        known[call.name].model_validate(call.arguments, strict=True)
    except ValidationError:
        return False
    return True
