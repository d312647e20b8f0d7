"""Says a word backwards; the last word of the answer counts."""

from __future__ import annotations

from nemo_like.server import ResourcesServer
from nemo_like.types import Json, Response, Task


class MyTask(Task):
    """The fields of a row that this environment needs."""

    expected_answer: str


class MyEnvironment(ResourcesServer):
    """Says a word backwards."""

    async def verify(self, task: MyTask, response: Response) -> Json:
        """1.0 iff the answer's last word is the expected one."""
        words = response.text.split()
        said = words[-1].strip(".") if words else None
        return {"reward": float(said == task.expected_answer), "extracted_answer": said}
