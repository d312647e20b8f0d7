"""Plays a page of this folder: saves its files into a new folder, and runs its commands there.

    python examples/play.py examples/first_environment.md /tmp/first

A block that begins with `# some/file` is saved under that name; `bash` blocks are run, servers beside the
rest.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def play(page: Path, folder: Path) -> None:
    """Everything that a page says, in order."""
    folder.mkdir(parents=True)
    servers: list[subprocess.Popen[str]] = []
    try:
        for language, text in FENCE.findall(page.read_text("utf-8")):
            first = text.partition("\n")[0]
            if language in ("python", "yaml") and re.fullmatch(r"# [\w./-]+\.\w+", first):
                file = folder / first[2:]
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text, "utf-8")
            elif language == "bash" and text.startswith("ng_run"):
                servers.append(_started(text, folder))
            elif language == "bash":
                print(f"$ {text}", end="", flush=True)
                subprocess.run(["bash", "-euc", text], cwd=folder, check=True)
    finally:
        for server in servers:
            server.send_signal(signal.SIGINT)
            server.wait(20)


def _started(text: str, folder: Path) -> subprocess.Popen[str]:
    """A command that goes on, once it is ready."""
    server = subprocess.Popen(["bash", "-c", f"exec {text}"], cwd=folder, text=True, stdout=subprocess.PIPE)
    while server.stdout and (line := server.stdout.readline()):
        print(line, end="", flush=True)
        if line.startswith("Ctrl-C"):
            return server
    raise SystemExit(f"it ended: {text}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    play(Path(sys.argv[1]), Path(sys.argv[2]))
