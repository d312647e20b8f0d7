"""A small environment and a model of one's own, written into a folder as a person would."""

from __future__ import annotations

from pathlib import Path

from .conftest import Json, write_jsonl

ENVIRONMENT = '''
import os
from nemo_like.server import ResourcesServer, tool
from nemo_like.types import Response, Task

class ToyTask(Task):
    answer: str

class Toy(ResourcesServer):
    async def seed(self, task: ToyTask) -> dict:
        return {"count": 0}

    @tool
    async def add(self, state: dict, n: int = 1) -> dict:
        """Add to the count."""
        state["count"] += n
        return {"count": state["count"], "pid": os.getpid()}

    async def verify(self, task: ToyTask, response: Response, state: dict) -> dict:
        return {"reward": float(task.answer in response.text), "pid": os.getpid(), "count": state["count"]}
'''
MODEL = '''
import asyncio, os, pathlib
from nemo_like.errors import PartError
from nemo_like.server import ModelConfig, ModelServer

class ToyConfig(ModelConfig):
    answer: str = "four"
    """What it says."""
    api_key: str = ""
    """A secret."""
    marks: str = "marks"
    """Folder where it notes what it was asked: a file a question, a byte a time."""

class ToyModel(ModelServer[ToyConfig]):
    async def responses(self, params):
        asked = params["input"][0]["content"]
        times = self.note(asked.replace("/", "_"))
        match asked.split():
            case ["fail", kind, *rest] if not rest or times <= int(rest[0]):
                raise PartError(kind, f"as asked: {kind}", where="provider")
            case ["stall", seconds]:
                await asyncio.sleep(float(seconds))
            case ["exit", n] if times <= int(n):
                os._exit(9)
            case ["lie"]:
                return {"output": "no list"}
        content = [{"type": "output_text", "text": self.config.answer}]
        output = [{"type": "message", "role": "assistant", "content": content}]
        return {"id": "r", "object": "response", "status": "completed", "output": output,
                "usage": {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}}

    def note(self, asked):
        folder = pathlib.Path(self.config.marks)
        folder.mkdir(exist_ok=True)
        with (folder / asked).open("ab") as file:
            file.write(b"x")
            return file.tell()
'''
CONFIG = """
policy_model:
  responses_api_models:
    toy_model: {entrypoint: app.py, api_key: s3cret-key}
toy:
  resources_servers:
    toy: {entrypoint: app.py, domain: math}
toy_agent:
  responses_api_agents:
    simple_agent:
      entrypoint: app.py
      resources_server: {type: resources_servers, name: toy}
      model_server: {type: responses_api_models, name: policy_model}
"""
TOY = "+config_paths=[toy.yaml]"


def write_toys(folder: Path) -> None:
    """The toy environment, the toy model and `toy.yaml`, in `folder`."""
    for name, code in (("resources_servers/toy", ENVIRONMENT), ("responses_api_models/toy_model", MODEL)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "app.py").write_text(code)
    (folder / "toy.yaml").write_text(CONFIG)


def task(asked: str, answer: str = "four") -> Json:
    """A task for the toys; the model obeys `fail KIND [TIMES]`, `stall S`, `exit TIMES` and `lie`."""
    return {"responses_create_params": {"input": asked}, "answer": answer}


def write_tasks(path: Path, n: int) -> Path:
    """`n` tasks, half of which the toy model gets right."""
    return write_jsonl(path, [task(f"question {i}", "four" if i % 2 else "five") for i in range(n)])
