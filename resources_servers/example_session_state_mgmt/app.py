"""A counter that each rollout has for itself."""

from __future__ import annotations

from dataclasses import dataclass

from nemo_like.server import ResourcesServer, tool
from nemo_like.types import Json, Response, Task

LIMIT = 10**12


class CounterTask(Task):
    """Where the counter starts, and where it should end."""

    initial_count: int = 0
    expected_count: int


@dataclass(slots=True)
class State:
    """The counter of one rollout."""

    count: int


class Counter(ResourcesServer):
    """A counter to add to and to read; what it stands at in the end is verified."""

    async def seed(self, task: CounterTask) -> State:
        """A counter that stands at `initial_count`."""
        return State(task.initial_count)

    @tool
    async def increment_counter(self, state: State, count: int) -> Json:
        """Add to the counter."""
        if abs(state.count + count) > LIMIT:
            raise ValueError(f"the counter can't go beyond {LIMIT}")
        state.count += count
        return {"success": True}

    @tool
    async def get_counter_value(self, state: State) -> Json:
        """The value of the counter."""
        return {"count": state.count}

    async def verify(self, task: CounterTask, response: Response, state: State) -> Json:
        """1.0 iff the counter stands at `expected_count`; the record gets it as `final_count`."""
        return {"reward": float(state.count == task.expected_count), "final_count": state.count}
