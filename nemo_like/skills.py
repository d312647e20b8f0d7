"""Skills: a folder of Agent Skills that the agents of a run may use, and what names exactly these.

Each is a folder with a `SKILL.md`, whose front matter says its `name` and its `description`. The collector
puts `skills_ref` (path, hash and who they are) into every task and record; an agent that works with files
stages them with `stage`. For any other agent, `skills.in_prompt=true` puts their text before the task.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

import yaml

from nemo_like.errors import ConfigError
from nemo_like.settings import Settings
from nemo_like.types import Json

FRONT_MATTER = re.compile(r"\A---\s*\n(.*?)\n---\s*(?:\n|\Z)", re.DOTALL)
NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
HASH_CHARACTERS = 12


class SkillsConfig(Settings):
    """Which skills the agents of a run have."""

    path: Path | None = None
    """Folder of skills: a folder each, with a SKILL.md in it."""
    in_prompt: bool = False
    """Whether their text stands in the instructions of every request, for agents that stage no files."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Skill:
    """One skill, as its front matter says."""

    name: str
    description: str
    version: str | None
    text: str
    """What SKILL.md says below the front matter."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Skills:
    """The skills of a run."""

    path: Path
    hash: str
    """The first 12 hexadecimal digits of SHA-256 over every file's path and bytes."""
    skills: tuple[Skill, ...]

    @property
    def ref(self) -> Json:
        """What stands in tasks and records as `skills_ref`."""
        named = [
            {"name": one.name, "description": one.description}
            | ({"version": one.version} if one.version else {})
            for one in self.skills
        ]
        return {"path": str(self.path), "hash": self.hash, "skills": named}

    @property
    def instructions(self) -> str:
        """The text of all, for a prompt."""
        return "\n\n".join(f"# Skill: {one.name}\n\n{one.description}\n\n{one.text}" for one in self.skills)


def read_skills(path: Path) -> Skills:
    """The skills in a folder.

    Raises:
        ConfigError: there are none, or a SKILL.md is not as it should be; the message names file and key.
    """
    path = path.absolute()
    folders = sorted(file.parent for file in path.glob("*/SKILL.md"))
    if not folders:
        what = "is not a folder" if not path.is_dir() else "holds no folder with a SKILL.md"
        raise ConfigError(f"skills.path: {path} {what}")
    return Skills(path=path, hash=hash_of(path), skills=tuple(_skill(folder) for folder in folders))


def hash_of(path: Path) -> str:
    """What tells the files of a folder from any others: over sorted relative paths and bytes."""
    digest = sha256()
    for file in sorted(file for file in path.rglob("*") if file.is_file()):
        digest.update(file.relative_to(path).as_posix().encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()[:HASH_CHARACTERS]


def stage(ref: Json, folder: Path) -> None:
    """Copy the skills of a task's `skills_ref` into `folder`, such as `.claude/skills` of an agent's home.

    Raises:
        ConfigError: they are not what they were when the run began.
    """
    path = Path(ref["path"])
    if not path.is_dir() or hash_of(path) != ref["hash"]:
        raise ConfigError(f"the skills in {path} have changed since the run began; start it again")
    shutil.copytree(path, folder, dirs_exist_ok=True)


def _skill(folder: Path) -> Skill:
    file = folder / "SKILL.md"
    found = FRONT_MATTER.match(text := file.read_text(encoding="utf-8"))
    if found is None:
        raise ConfigError(f"{file} should begin with front matter: --- lines around its name and description")
    try:
        values: Any = yaml.safe_load(found[1])
    except yaml.YAMLError as error:
        raise ConfigError(
            f"{file}: the front matter is not valid YAML: {' '.join(str(error).split())}"
        ) from error
    values = cast(Json, values) if isinstance(values, dict) else {}
    for key in ("name", "description"):
        if not isinstance(values.get(key), str) or not values[key].strip():
            there = ", ".join(values) or "nothing"
            raise ConfigError(f"{file}: {key} should be text (the front matter has {there})")
    name: str = values["name"]
    if not NAME.fullmatch(name) or name != folder.name:
        raise ConfigError(
            f"{file}: name should be the folder's, in small letters, digits and - (got {name!r})"
        )
    metadata: Any = values.get("metadata")
    version = cast(Json, metadata).get("version") if isinstance(metadata, dict) else None
    return Skill(
        name=name,
        description=values["description"].strip(),
        version=None if version is None else str(version),
        text=text[found.end() :].strip(),
    )
