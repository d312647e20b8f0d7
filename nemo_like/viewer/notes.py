"""Marks and remarks on rollouts, in a file beside theirs, which is only ever appended to."""

from __future__ import annotations

import time
from pathlib import Path

import orjson

from nemo_like.types import Json
from nemo_like.viewer.formats import fields

MARKS = {"good": "★ good", "bad": "✗ bad", "odd": "? odd"}
MAX_CHARACTERS = 10_000


class Notes:
    """The notes on one rollouts file, `<stem>.notes.jsonl`: a row a note."""

    def __init__(self, rollouts: Path) -> None:
        self.path = rollouts.with_name(f"{rollouts.stem}.notes.jsonl")

    def add(self, task_key: str, rollout_index: int, *, mark: str = "", remark: str = "") -> None:
        """Append one note; an `OSError` where the file can't be written."""
        note = {
            "_ng_task_key": task_key,
            "_ng_rollout_index": rollout_index,
            "mark": mark if mark in MARKS else "",
            "remark": remark.strip()[:MAX_CHARACTERS],
            "at": time.time(),
        }
        with self.path.open("ab") as file:
            file.write(orjson.dumps(note, option=orjson.OPT_APPEND_NEWLINE))

    def of(self, task_key: str, rollout_index: int) -> list[Json]:
        """The notes on one rollout, oldest first; lines that are no notes are left out."""
        try:
            lines = self.path.read_bytes().splitlines()
        except FileNotFoundError:
            return []
        found: list[Json] = []
        for line in lines:
            try:
                note = fields(orjson.loads(line))
            except orjson.JSONDecodeError:
                continue
            if (note.get("_ng_task_key"), note.get("_ng_rollout_index")) == (task_key, rollout_index):
                found.append(note)
        return found
