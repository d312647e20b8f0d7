"""A fast, deterministic stand-in for an OpenAI-compatible model endpoint, for overhead measurements.

It answers POST /v1/responses and /v1/chat/completions (and GET /v1/models, /health) with a fixed text after
`--latency` seconds. It is stateless: with tools in the request it emits `--tool-calls` rounds of one function
call each (counted from the tool outputs already in the request) and then the text, so every client does the
same work. `--faults` turns a share of the requests into faults of the kinds named in `--fault-kinds`, drawn
by a seeded generator: 500, 429, drop, hang, drip (a byte a second), badjson (cut off), wrongjson (valid but
no response), empty, huge (50 MB), calls (10,000 tool calls at once). With `--key` any other bearer token is
answered 401. With `--capacity N` it works at N requests at once, and answers what comes beyond with 429, or
has it wait (`--beyond wait`), which its /metrics tells as vLLM's does with `--tell-queue`. Chat honours `n`;
`"stream": true` is answered as server-sent events.

Its own cost is kept far below that of any client: one process, a bare asyncio protocol on uvloop, prebuilt
bodies. GET /stats returns how many requests of each kind were served, so that a run can be checked for doing
the work.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
from collections import deque
from typing import ClassVar

TEXT = "Let me think step by step. " * 20 + "So the final answer is \\boxed{B}.\nAnswer: B"


class State:
    args: argparse.Namespace
    rng: random.Random
    served: ClassVar[dict[str, int]] = {"responses": 0, "chat": 0, "tool_calls": 0, "faults": 0, "other": 0}
    inflight = 0
    waiting: ClassVar[deque] = deque()
    peak = 0
    n = 0


def tool_rounds_done(body: bytes) -> int:
    return (
        body.count(b'"function_call_output"') + body.count(b'"role":"tool"') + body.count(b'"role": "tool"')
    )


def first_tool(req: dict) -> tuple[str, str]:
    tool = req["tools"][min(State.args.tool_index, len(req["tools"]) - 1)]
    function = tool.get("function", tool)
    props = (function.get("parameters") or {}).get("properties") or {}
    values = {
        "string": "Blazing",
        "integer": 1,
        "number": 1.0,
        "boolean": True,
        "array": [1, 2],
        "object": {},
    }
    arguments = {}
    for key, spec in props.items():
        kind = spec.get("type", "string")
        arguments[key] = values.get(kind if isinstance(kind, str) else kind[0], "x")
    return function["name"], json.dumps(arguments)


USAGE_R = {
    "input_tokens": 200,
    "input_tokens_details": {"cached_tokens": 0},
    "output_tokens": 120,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": 320,
}
USAGE_C = {"prompt_tokens": 200, "completion_tokens": 120, "total_tokens": 320}


def answer(path: str, body: bytes) -> bytes:
    State.n += 1
    calls = State.args.tool_calls and b'"tools"' in body and tool_rounds_done(body) < State.args.tool_calls
    tool = first_tool(json.loads(body)) if calls else None
    State.served["tool_calls"] += tool is not None
    kind, worded = ("responses", response) if path.endswith("/responses") else ("chat", completion)
    State.served[kind] += 1
    return json.dumps(worded(body, tool)).encode()


def response(_: bytes, tool: tuple[str, str] | None) -> dict:
    if tool is not None:
        name, arguments = tool
        item = {"type": "function_call", "id": f"fc_{State.n}", "call_id": f"call_{State.n}"}
        item |= {"name": name, "arguments": arguments, "status": "completed"}
    else:
        content = [{"type": "output_text", "text": TEXT, "annotations": []}]
        item = {"type": "message", "id": f"msg_{State.n}", "role": "assistant", "status": "completed"}
        item |= {"content": content}
    return {
        "id": f"resp_{State.n}",
        "object": "response",
        "created_at": 1700000000,
        "model": "mock",
        "status": "completed",
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "output": [item],
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "usage": USAGE_R,
    }


def completion(body: bytes, tool: tuple[str, str] | None) -> dict:
    message, finish = {"role": "assistant", "content": TEXT}, "stop"
    if tool is not None:
        function = dict(zip(("name", "arguments"), tool, strict=True))
        call = {"id": f"call_{State.n}", "type": "function", "function": function}
        message, finish = message | {"content": None, "tool_calls": [call]}, "tool_calls"
    n = json.loads(body).get("n") or 1 if b'"n"' in body else 1
    choice = {"message": message, "finish_reason": finish, "logprobs": None}
    return {
        "id": f"chatcmpl-{State.n}",
        "object": "chat.completion",
        "created": 1700000000,
        "model": "mock",
        "usage": USAGE_C | {"completion_tokens": 120 * n, "total_tokens": 200 + 120 * n},
        "choices": [{"index": i} | choice for i in range(n)],
    }


def events(path: str, whole: bytes) -> bytes:
    """The answer as server-sent events: text in two deltas, tool calls in one."""
    d = json.loads(whole)
    if path.endswith("/responses"):
        out = [{"type": "response.created", "response": d | {"status": "in_progress", "output": []}}]
        for i, item in enumerate(d["output"]):
            out.append({"type": "response.output_item.added", "output_index": i, "item": item})
            if item["type"] == "message":
                text = item["content"][0]["text"]
                place = {"item_id": item["id"], "output_index": i, "content_index": 0}
                deltas = (text[:100], text[100:])
                out += [{"type": "response.output_text.delta", **place, "delta": part} for part in deltas]
                out.append(
                    {
                        "type": "response.output_text.done",
                        "item_id": item["id"],
                        "output_index": i,
                        "content_index": 0,
                        "text": text,
                    }
                )
            else:
                out.append(
                    {
                        "type": "response.function_call_arguments.done",
                        "item_id": item["id"],
                        "output_index": i,
                        "arguments": item["arguments"],
                    }
                )
            out.append({"type": "response.output_item.done", "output_index": i, "item": item})
        out.append({"type": "response.completed", "response": d})
        for i, e in enumerate(out):
            e["sequence_number"] = i
        return b"".join(
            b"event: %s\ndata: %s\n\n" % (e["type"].encode(), json.dumps(e).encode()) for e in out
        )
    base = {"id": d["id"], "object": "chat.completion.chunk", "created": d["created"], "model": d["model"]}
    chunks = []
    for c in d["choices"]:
        m = c["message"]
        deltas = (
            [{"role": "assistant", "tool_calls": [t | {"index": i} for i, t in enumerate(m["tool_calls"])]}]
            if m.get("tool_calls")
            else [{"role": "assistant", "content": m["content"][:100]}, {"content": m["content"][100:]}]
        )
        chunks += [
            base | {"choices": [{"index": c["index"], "delta": x, "finish_reason": None}]} for x in deltas
        ]
        chunks.append(
            base | {"choices": [{"index": c["index"], "delta": {}, "finish_reason": c["finish_reason"]}]}
        )
    chunks.append(base | {"choices": [], "usage": d["usage"]})
    return b"".join(b"data: %s\n\n" % json.dumps(c).encode() for c in chunks) + b"data: [DONE]\n\n"


def oversized(path: str, body: bytes, kind: str) -> bytes:
    """An answer of 50 MB; or one of 10,000 tool calls, once in a conversation."""
    d = json.loads(answer(path, body))
    if not path.endswith("/responses") or (kind == "calls" and tool_rounds_done(body)):
        return json.dumps(d).encode()
    if kind == "huge":
        d["output"] = [
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": ""}]}
        ]
        d["output"][0]["content"][0]["text"] = "word " * 10_000_000
    else:
        name, arguments = first_tool(json.loads(body))
        call = {"type": "function_call", "name": name, "arguments": arguments}
        d["output"] = [call | {"call_id": f"call_{i}"} for i in range(10_000)]
    return json.dumps(d).encode()


def frame(status: str, payload: bytes) -> bytes:
    return (
        f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(payload)}\r\n\r\n"
    ).encode() + payload


class Http(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport, self.buffer, self.queue = transport, b"", []
        self.busy = False

    def data_received(self, data):
        self.buffer += data
        while True:
            end = self.buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = self.buffer[:end].decode("latin1")
            lines = head.split("\r\n")
            length, chunked, self.token = 0, False, ""
            for line in lines[1:]:
                key, _, value = line.partition(":")
                key = key.lower()
                if key == "content-length":
                    length = int(value)
                elif key == "transfer-encoding" and "chunked" in value.lower():
                    chunked = True
                elif key == "authorization":
                    self.token = value.strip().removeprefix("Bearer ")
            if chunked:
                stop = self.buffer.find(b"0\r\n\r\n", end)
                if stop < 0:
                    return
                raw, rest, body = self.buffer[end + 4 : stop], self.buffer[stop + 5 :], b""
                while raw:
                    size, _, raw = raw.partition(b"\r\n")
                    n = int(size, 16)
                    body, raw = body + raw[:n], raw[n + 2 :]
                self.buffer = rest
            else:
                if len(self.buffer) < end + 4 + length:
                    return
                body, self.buffer = self.buffer[end + 4 : end + 4 + length], self.buffer[end + 4 + length :]
            method, path, _ = lines[0].split(" ", 2)
            self.handle(method, path.split("?")[0], body)

    def handle(self, method, path, body):
        if State.args.key and self.token != State.args.key and not path.endswith(("/stats", "/health")):
            self.transport.write(
                frame(
                    "401 Unauthorized",
                    b'{"error":{"message":"Incorrect API key provided","code":"invalid_api_key"}}',
                )
            )
            return
        if method == "POST" and path.endswith(("/responses", "/chat/completions")):
            if State.args.capacity and State.inflight >= State.args.capacity:
                if State.args.beyond == "wait":
                    State.waiting.append((self, path, body))
                else:
                    State.served["faults"] += 1
                    State.inflight += 1
                    self.reply(path, body, "429")
                return
            self.work(path, body)
            return
        State.served["other"] += 1
        if path.endswith("/stats"):
            payload = json.dumps({**State.served, "peak_inflight": State.peak}).encode()
        elif path.endswith("/metrics") and State.args.tell_queue:
            payload = b'vllm:num_requests_waiting{model_name="mock"} %d\n' % len(State.waiting)
        elif path.endswith("/models"):
            payload = (
                b'{"object":"list","data":[{"id":"mock","object":"model","created":0,"owned_by":"mock"}]}'
            )
        else:
            payload = b'{"status":"ok"}'
        self.transport.write(frame("200 OK", payload))

    def work(self, path, body):
        State.inflight += 1
        State.peak = max(State.peak, State.inflight)
        delay = State.args.latency
        if State.args.jitter:
            delay *= State.rng.lognormvariate(0, State.args.jitter)
        kind = None
        if State.args.faults and State.rng.random() < State.args.faults:
            kind = State.rng.choice(State.args.fault_kinds.split(","))
            State.served["faults"] += 1
        if delay:
            asyncio.get_running_loop().call_later(delay, self.reply, path, body, kind)
        else:
            self.reply(path, body, kind)

    def reply(self, path, body, kind):
        State.inflight -= 1
        if State.waiting:
            connection, *request = State.waiting.popleft()
            connection.work(*request)
        if self.transport.is_closing():
            return
        if kind is None:
            payload = answer(path, body)
            if b'"stream": true' in body or b'"stream":true' in body:
                payload = events(path, payload)
                kind = "Content-Type: text/event-stream"
                head = f"HTTP/1.1 200 OK\r\n{kind}\r\nContent-Length: {len(payload)}\r\n\r\n"
                self.transport.write(head.encode() + payload)
            else:
                self.transport.write(frame("200 OK", payload))
        elif kind == "500":
            self.transport.write(frame("500 Internal Server Error", b'{"error":{"message":"mock failure"}}'))
        elif kind == "429":
            self.transport.write(
                frame(
                    f"429 Too Many Requests\r\nRetry-After: {State.args.retry_after}",
                    b'{"error":{"message":"slow down"}}',
                )
            )
        elif kind == "drop":
            self.transport.abort()
        elif kind == "badjson":
            self.transport.write(frame("200 OK", b'{"id": "resp_trunc'))
        elif kind == "wrongjson":
            self.transport.write(frame("200 OK", b'{"object":"response","output":"not a list","choices":{}}'))
        elif kind == "empty":
            self.transport.write(frame("200 OK", b""))
        elif kind in ("huge", "calls"):
            self.transport.write(frame("200 OK", oversized(path, body, kind)))
        elif kind == "drip":
            self.drip(frame("200 OK", answer(path, body)), 0)
        elif kind == "hang":
            asyncio.get_running_loop().call_later(State.args.hang_seconds, lambda: self.transport.abort())

    def drip(self, data, i):
        if i < len(data) and not self.transport.is_closing():
            self.transport.write(data[i : i + 1])
            asyncio.get_running_loop().call_later(1, self.drip, data, i + 1)


async def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=18000, help="0 takes a free one")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before each answer")
    parser.add_argument(
        "--jitter", type=float, default=0.0, help="sigma of a lognormal factor on the latency"
    )
    parser.add_argument("--tool-calls", type=int, default=0, help="rounds of tool calls before the text")
    parser.add_argument("--tool-index", type=int, default=0)
    parser.add_argument("--faults", type=float, default=0.0, help="share of requests that fail")
    parser.add_argument("--fault-kinds", default="500,429,drop")
    parser.add_argument("--retry-after", default="0", help="the Retry-After of a 429, seconds")
    parser.add_argument("--capacity", type=int, default=0, help="requests at once; 0 is no bound")
    parser.add_argument("--beyond", choices=["refuse", "wait"], default="refuse")
    parser.add_argument("--tell-queue", action="store_true", help="whether /metrics tells how many wait")
    parser.add_argument("--key", help="the only bearer token accepted")
    parser.add_argument("--hang-seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=0)
    State.args = parser.parse_args()
    State.rng = random.Random(State.args.seed)
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for sig in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(sig, stop.set)
    server = await loop.create_server(Http, "127.0.0.1", State.args.port, backlog=8192)
    print(f"mock endpoint on 127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await stop.wait()
    server.close()


if __name__ == "__main__":
    try:
        import uvloop

        uvloop.install()
    except ImportError:
        pass
    asyncio.run(main())
