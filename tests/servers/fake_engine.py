"""An engine in a few lines, for what matters only of the process: `fake_engine.py PORT WHAT…`.

WHAT: `ok`; `die WORDS…` ends at once; `wait FILE` is not ready until FILE is there; `child` starts a child
that outlives it unless somebody ends it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        ready = WHAT[0] != "wait" or Path(WHAT[1]).exists()
        self.answer(200 if ready else 503, {})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        said = body["messages"][-1]["content"]
        if said == "die":
            print("CUDA out of memory", flush=True)
            os._exit(7)
        if said == f"hang {os.getpid()}":
            print("hanging", flush=True)
            time.sleep(600)
        key = self.headers.get("authorization") == f"Bearer {os.environ.get('FAKE_KEY')}"
        facts = {"pid": os.getpid(), "key": key, "model": body["model"], "arguments": sys.argv[1:]}
        facts["flag"] = os.environ.get("FAKE_FLAG")
        message = {"role": "assistant", "content": json.dumps(facts)}
        self.answer(200, {"choices": [{"message": message, "finish_reason": "stop"}]})

    def answer(self, status: int, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Nothing."""


PORT, *WHAT = sys.argv[1:]

if __name__ == "__main__":
    if WHAT[0] == "die":
        print(*WHAT[1:], file=sys.stderr)
        sys.exit(3)
    if WHAT[0] == "child":
        code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
        print(subprocess.Popen([sys.executable, "-c", code, "fake_engine child"]).pid, flush=True)
    server = ThreadingHTTPServer(("127.0.0.1", int(PORT)), Handler)
    print("serving", flush=True)
    server.serve_forever()
