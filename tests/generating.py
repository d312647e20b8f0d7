"""What the tests of generating share: an endpoint that notes what it is asked, and the command."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from nemo_like.generate import main

Json = dict[str, Any]
Reply = Callable[[Json], tuple[int, Any]]
"""Request → status, and JSON or any text."""


def completion(text: Any = "4", finish: Any = "stop", **message: Any) -> Json:
    said = {"role": "assistant", "content": text} | message
    usage = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}
    return {"choices": [{"index": 0, "message": said, "finish_reason": finish}], "usage": usage}


class Endpoint(ThreadingHTTPServer):
    """An endpoint on loopback, in a thread of this process."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, reply: Reply) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.reply = reply
        self.asked: list[Json] = []
        self.paths: set[str] = set()
        self.keys: set[str | None] = set()
        self.models = ["the-model"]
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"

    @property
    def prompts(self) -> list[str]:
        return [body["messages"][-1]["content"] for body in self.asked]

    def handle_error(self, *_: Any) -> None:
        """Callers that were killed are no news."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    """Head and body leave together, or each answer would wait 40 ms for the other side's word."""
    server: Endpoint

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.asked.append(body)
        self.server.paths.add(self.path)
        self.server.keys.add(self.headers["authorization"])
        self.answer(*self.server.reply(body))

    def do_GET(self) -> None:
        self.answer(200, {"object": "list", "data": [{"id": name} for name in self.server.models]})

    def answer(self, status: int, body: Any) -> None:
        data = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Tests are quiet."""


@contextmanager
def endpoint(reply: Reply | None = None) -> Iterator[Endpoint]:
    with Endpoint(
        reply or (lambda body: (200, completion(f"re: {body['messages'][-1]['content']}")))
    ) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def generate(data: Path | str, *arguments: Any, url: str | None = None) -> int:
    """The command, in this process; its exit status."""
    server = ("--use_vllm", "--vllm_base_url", url) if url else ()
    return main([str(each) for each in ("--data_path", data, *server, *arguments)])


def rows_of(path: Path | str) -> list[Json]:
    """A Parquet file's rows, as Arrow has them."""
    return pq.read_table(path).to_pylist()
