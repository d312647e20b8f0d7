"""Things found by name, and classes and functions found by path.

A folder of content (an environment, an agent) is loaded as a private package, so that `from .x import
y` works inside it and no folder takes a name like `agents` or `data` from anybody else's imports.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from hashlib import sha256
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar

from nemo_like.errors import MissingExtra, UsageError, did_you_mean

T = TypeVar("T")


class Registry(Generic[T]):
    """What can be chosen by name; `noun` is how the errors call it ("reward")."""

    def __init__(self, noun: str) -> None:
        self.noun = noun
        self._known: dict[str, T] = {}
        self._modules: dict[str, str] = {}

    def found_in(self, modules: dict[str, str]) -> None:
        """Name → the module that registers it, which is imported when the name is asked for."""
        self._modules |= modules

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that makes a function or a class known as `name`.

        Raises:
            UsageError: the name is taken.
        """

        def add(thing: T) -> T:
            if name in self._known:
                both = f"{_full_name(self._known[name])} and {_full_name(thing)}"
                raise UsageError(f"two {self.noun}s are named '{name}': {both}")
            self._known[name] = thing
            return thing

        return add

    def get(self, name: str) -> T:
        """The thing registered as `name`.

        Raises:
            UsageError: there is none; the nearest name is suggested.
        """
        if name not in self._known and name in self._modules:
            _import(self._modules[name], f"{self.noun} '{name}'")
        if name not in self._known:
            raise UsageError(f"no {self.noun} named '{name}'{did_you_mean(name, self.names())}")
        return self._known[name]

    def names(self) -> list[str]:
        """The known names, sorted."""
        return sorted(self._known.keys() | self._modules)


def load(path: str) -> Any:
    """The class or function that `path` names: `folder/file.py:Name` or `package.module:Name`.

    A file is looked up from the working directory.

    Raises:
        UsageError: the path has another form, the file or module can't be loaded, or it holds no such name.
    """
    place, _, name = path.rpartition(":")
    if not place or not name:
        raise UsageError(f"'{path}' is not a path to load; write file.py:Name or package.module:Name")
    module = load_file(Path(place)) if place.endswith(".py") else _import(place, place)
    if not hasattr(module, name):
        raise UsageError(f"{place} has no '{name}'{did_you_mean(name, _public_names(module))}")
    return getattr(module, name)


def load_file(file: Path) -> ModuleType:
    """The module in `file`, its folder being a private package; the same module each time.

    Raises:
        UsageError: there is no such file, or it can't be imported.
    """
    file = file.absolute()
    if not file.is_file():
        raise UsageError(f"there is no file {file}")
    return _import(f"{_package_of(file.parent.resolve())}.{file.stem}", str(file))


def _package_of(folder: Path) -> str:
    """Makes `folder` a package, once, and returns its name."""
    name = f"_nemo_like_{sha256(str(folder).encode('utf-8', 'surrogateescape')).hexdigest()[:16]}"
    if name not in sys.modules:
        spec = ModuleSpec(name, None, is_package=True)
        spec.submodule_search_locations = [str(folder)]
        sys.modules.setdefault(name, importlib.util.module_from_spec(spec))
    return name


def _import(module: str, shown: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except UsageError:
        raise
    except ModuleNotFoundError as error:
        if module.startswith("nemo_like.") and not str(error.name).startswith("nemo_like"):
            raise MissingExtra(f"{shown} needs {error.name}: pip install 'nemo-like[all]'") from error
        raise UsageError(f"{shown} can't be loaded: {type(error).__name__}: {error}") from error
    except Exception as error:
        raise UsageError(f"{shown} can't be loaded: {type(error).__name__}: {error}") from error


def _public_names(module: ModuleType) -> list[str]:
    """The classes and functions that `module` itself defines."""
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    ]


def _full_name(thing: object) -> str:
    return f"{getattr(thing, '__module__', '?')}.{getattr(thing, '__qualname__', repr(thing))}"
