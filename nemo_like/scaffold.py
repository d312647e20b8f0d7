"""Scaffolds: a folder to begin an environment, an agent or a model server with; its test passes as it is."""

from __future__ import annotations

import re
from pathlib import Path

from nemo_like.config import KIND_ALIASES
from nemo_like.errors import UsageError

TEMPLATES = Path(__file__).parent / "scaffolds"
PLACEHOLDERS = {
    "resources_servers": ("my_environment", "MyEnvironment"),
    "agents": ("my_agent", "MyAgent"),
    "responses_api_models": ("my_model", "MyModel"),
}
"""The name and the class that a template of each kind has."""
NAME = re.compile(r"[a-z][a-z0-9_]*")


def scaffold(kind: str, entrypoint: str) -> list[Path]:
    """Write the folder that `entrypoint` names, such as `resources_servers/x`; the files in it.

    Raises:
        UsageError: it is there already, or its name is none.
    """
    parent, _, name = entrypoint.strip("/").rpartition("/")
    parent = parent or kind
    if KIND_ALIASES.get(parent, parent) != kind:
        raise UsageError(f"entrypoint: should be {kind}/NAME (got {entrypoint})")
    if not NAME.fullmatch(name):
        raise UsageError(f"entrypoint: a name has small letters, digits and _ (got '{name}')")
    folder = Path(parent) / name
    if folder.exists():
        raise UsageError(f"{folder} exists; choose another name")
    placeholder, class_placeholder = PLACEHOLDERS[kind]
    class_name = "".join(part.capitalize() for part in name.split("_"))
    template = TEMPLATES / kind / placeholder
    written: list[Path] = []
    for file in sorted(path for path in template.rglob("*") if path.is_file() and path.suffix != ".pyc"):
        text = file.read_text("utf-8").replace(placeholder, name).replace(class_placeholder, class_name)
        text = text.replace(f"{kind}/{name}", f"{parent}/{name}")
        target = folder / str(file.relative_to(template)).replace(placeholder, name)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
        written.append(target)
    return written
