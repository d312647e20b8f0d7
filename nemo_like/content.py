"""What content there is: environments, agents, model servers and rewards, each with a line on what it is.

Nothing is imported for it: the lines are read off the configurations and the docstrings.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import yaml

from nemo_like.rewards import rewards
from nemo_like.types import Json

FOLDERS = {"environments": "resources_servers", "agents": "agents", "models": "responses_api_models"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One thing that can be named."""

    kind: str
    """environments, agents, models or rewards"""
    name: str
    """As `env=…`, `model=…` or a rubric takes it."""
    about: str
    domain: str
    path: str


def entries(roots: Sequence[Path]) -> Iterator[Entry]:
    """All there is, kind by kind; of two folders of one name the one that is found first counts."""
    for kind, parent in FOLDERS.items():
        folders: dict[str, Path] = {}
        for root in roots:
            for app in sorted(root.glob(f"{parent}/*/app.py")):
                folders.setdefault(app.parent.name, app.parent)
        for name, folder in sorted(folders.items()):
            said = _said_by_config(folder, parent)
            yield Entry(
                kind=kind,
                name=name.removesuffix("_model") if kind == "models" else name,
                about=str(said.get("description") or _docstring(folder / "app.py")),
                domain=str(said.get("domain") or ""),
                path=str(folder),
            )
    for name in rewards.names():
        spec = find_spec(f"nemo_like.rewards.{name}")
        if spec is not None and spec.origin is not None:
            yield Entry(
                kind="rewards", name=name, about=_reward(Path(spec.origin)), domain="", path=spec.origin
            )


def first_line(text: str | None) -> str:
    """The first sentence of a docstring, on one line."""
    paragraph = " ".join((text or "").strip().split("\n\n")[0].split())
    return paragraph.removesuffix(".")


def _said_by_config(folder: Path, kind: str) -> Json:
    """The settings of the first instance in the folder's own configuration."""
    file = folder / "configs" / f"{folder.name}.yaml"
    try:
        values: Any = yaml.safe_load(file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    for value in cast(Json, values).values() if isinstance(values, dict) else ():
        implementations: Any = cast(Json, value).get(kind) if isinstance(value, dict) else None
        for settings in cast(Json, implementations).values() if isinstance(implementations, dict) else ():
            return cast(Json, settings) if isinstance(settings, dict) else {}
    return {}


def _docstring(file: Path) -> str:
    """What the server class in a file says of itself, or the file."""
    try:
        tree = ast.parse(file.read_text("utf-8"))
    except (OSError, SyntaxError, UnicodeDecodeError):
        return ""
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    servers = [node for node in classes if any("Server" in ast.unparse(base) for base in node.bases)]
    said = ast.get_docstring(servers[-1]) if servers else None
    return first_line(said or ast.get_docstring(tree))


def _reward(file: Path) -> str:
    """What the registered function in a module says of itself."""
    tree = ast.parse(file.read_text("utf-8"))
    for node in tree.body:
        decorators = getattr(node, "decorator_list", [])
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and any(
            "reward(" in ast.unparse(decorator) for decorator in decorators
        ):
            return first_line(ast.get_docstring(node))
    return first_line(ast.get_docstring(tree))
