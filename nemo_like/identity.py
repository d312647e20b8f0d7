"""What identifies a verifier: the code and the settings that its verdicts come from."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from hashlib import blake2b
from pathlib import Path

import orjson

from nemo_like import rewards
from nemo_like.types import Json


def verifier_id(name: str, files: Iterable[Path], settings: Json) -> str:
    """`name@hash`; the same as long as the files, the rewards that come along, and the settings are."""
    said = orjson.dumps(settings, default=str, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS)
    parts = (hash_of(rewards_folder()), *(_hash_of_file(file) for file in sorted(files)), said)
    return f"{name}@{_hash(b' '.join(parts)).hex()}"


def code_of(folder: Path) -> list[Path]:
    """The Python files of a folder, without those that make its data."""
    return [file for file in folder.glob("*.py") if not file.name.startswith("make_")]


def rewards_folder() -> Path:
    """Where the rewards lie that come along."""
    return Path(rewards.__file__).parent


@cache
def hash_of(folder: Path) -> bytes:
    """A hash of a folder's code, as it was when it was first asked for."""
    return _hash(b" ".join(_hash_of_file(file) for file in sorted(code_of(folder))))


def _hash_of_file(file: Path) -> bytes:
    return _hash(file.name.encode() + b" " + file.read_bytes())


def _hash(data: bytes) -> bytes:
    return blake2b(data, digest_size=6).digest()
