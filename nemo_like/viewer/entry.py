"""A row of the viewer's tables: how a rollout becomes one, and how it comes back from the database."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nemo_like.viewer.formats import View, measurement
from nemo_like.viewer.markup import tag, text

PREVIEW = 160
"""Characters of a prompt and of an answer that a table has."""
CELLS = 32
"""Repeats of a task that are shown as cells."""
ENTRY = (
    "e.id, kind, task_key, rollout_index, agent, reward, success, failure, tool, turns, output_tokens, "
    "truncated, total_s, t.prompt, t.answer"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A row of a table."""

    id: int
    kind: str
    task_key: str
    rollout_index: int
    agent: str
    reward: float | None
    success: bool | None
    failure: str | None
    tools: list[str]
    turns: int
    tokens: int | None
    truncated: bool
    total_s: float | None
    prompt: str
    answer: str
    key: Any
    """What it is sorted by."""


def columns_of(view: View) -> tuple[Any, ...]:
    """A rollout as the columns of `entries` behind where it lies."""
    calls = view.calls
    failure = str(view.failure.get("kind")) if view.failure else None
    tools = "\n" + "".join(f"{tool}\n" for tool in dict.fromkeys(calls)) if calls else None

    def numbers(name: str) -> float | None:
        return measurement(view.numbers.get(name))

    return (
        *(view.kind, view.task_key, view.rollout_index, view.agent, view.reward, view.success, failure),
        *(tools, len(calls), view.turns, numbers("usage/input_tokens"), _tokens(view), view.truncated),
        *(numbers("metadata/total_s"), numbers("metadata/started_at")),
    )


def entry_of(row: tuple[Any, ...]) -> Entry:
    """The entry in the columns `ENTRY`, and what it is sorted by."""
    names = (
        "id",
        "kind",
        "task_key",
        "rollout_index",
        "agent",
        "reward",
        "success",
        "failure",
        "tools",
        "turns",
    )
    values = dict(
        zip((*names, "tokens", "truncated", "total_s", "prompt", "answer", "key"), row, strict=True)
    )
    values["tools"] = (values["tools"] or "").split()
    values["success"] = None if values["success"] is None else bool(values["success"])
    values["truncated"] = bool(values["truncated"])
    return Entry(**values)


def badge(entry: Entry) -> str:
    """What became of a rollout, by sign, words and colour."""
    if entry.kind == "malformed":
        return '<span class="badge bad" title="malformed line">⚠ malformed</span>'
    if entry.failure:
        return (
            f'<span class="badge failed" title="failed: {text(entry.failure)}">! {text(entry.failure)}</span>'
        )
    if entry.reward is None:
        return '<span class="badge" title="not scored">not scored</span>'
    state, sign = ("good", "✓") if entry.success else ("bad", "✗")
    words = "success" if entry.success else "no success"
    return tag("span", f"{sign} {entry.reward:.3g}", css=f"badge {state}", title=words)


def preview(whole: str) -> str:
    """The beginning of a text, on one line."""
    return " ".join(whole[: 4 * PREVIEW].split())[:PREVIEW].encode("utf-8", "replace").decode()


def said(view: View) -> str:
    """What there is to read of a row without an answer."""
    if view.failure:
        return f"{view.failure.get('kind')}: {view.failure.get('message')}"
    return str(view.row.get("error") or "") if view.kind == "malformed" else ""


def all_text(items: list[Any]) -> str:
    """Everything that can be searched for: messages, reasoning, arguments and outputs of tools."""
    found: list[str] = []

    def collect(value: Any) -> None:
        if isinstance(value, str):
            found.append(value)
        elif isinstance(value, list):
            for part in value:  # pyright: ignore[reportUnknownVariableType]  # any JSON
                collect(part)
        elif isinstance(value, dict):
            for name, part in value.items():  # pyright: ignore[reportUnknownVariableType]  # any JSON
                if name not in ("type", "id", "call_id", "role", "status", "image_url", "encrypted_content"):
                    collect(part)

    collect(items)
    return "\n".join(found).encode("utf-8", "replace").decode()


def _tokens(view: View) -> float | None:
    return measurement(view.numbers.get("usage/output_tokens", view.numbers.get("completion_tokens")))
