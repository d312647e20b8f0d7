"""Composition: YAML files and overrides become plain values, each of which knows where it was written.

A composition takes files in order, then overrides with Hydra's grammar (`x=1`, `+x=1` and `++x=1` mean the
same, `~x` deletes), then carries out `_inherit_from`, `_copy` and `_delete_key`. Lines are read off YAML's
own parse, beside the values.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from nemo_like.errors import ConfigError, did_you_mean
from nemo_like.settings import origin_of, redacted
from nemo_like.types import Json

Find = Callable[[str, Path | None], Path]
"""Makes a file of a path, and of the folder of the file that names it, if one does."""
COMMAND_LINE = "the command line"
UNSET = "???"
DIRECTIVES = ("_inherit_from", "_copy")
FETCHED = re.compile(r"\$\{\s*(inherit_from|copy)\s*:\s*([^{}\s]+)\s*\}")
"""The directives as a value: `${inherit_from:a.b}`, `${copy:a.b}`."""
REFERENCE = re.compile(r"\$\{\s*([A-Za-z_][\w-]*)\s*(?=[.}\[])")
"""The first name of `${name}` and `${name.key}`, not that of a resolver."""


@dataclass(frozen=True, slots=True)
class Override:
    """One argument of the command line."""

    key: str
    value: Any
    deletes: bool

    @classmethod
    def parse(cls, argument: str) -> Override:
        """An argument in Hydra's grammar.

        Raises:
            ConfigError: it is none.
        """
        if argument.startswith("--"):
            raise ConfigError(
                f"{argument}: options are written name=value, without dashes (--help lists them)"
            )
        try:
            parsed = OverridesParser.create().parse_override(argument)
        except HydraException as error:
            reason = str(error).splitlines()[0]
            hint = "a value with special characters is quoted: x='a,b'"
            raise ConfigError(f"{argument}: {reason}; {hint}") from error
        if parsed.is_sweep_override():
            raise ConfigError(f"{argument}: a list is written [a,b], text with commas 'a,b'")
        return cls(parsed.key_or_group.replace("/", "."), parsed.value(), parsed.is_delete())

    def problem(self, known: Iterable[str]) -> str | None:
        """What is wrong with it, where its first name is none of `known`."""
        top = self.key.split(".")[0]
        if top in known:
            return None
        return f"{self.key}: there is no setting or server '{top}'{did_you_mean(top, sorted(known))}"


class Composition:
    """Values as they come together.

    `origins` maps the dotted path of each value to where it was written, `file:line` or the command line.
    """

    def __init__(self) -> None:
        self._values = OmegaConf.create({})
        self.origins: dict[str, str] = {}
        self.files: list[Path] = []

    def add(self, file: Path, content: DictConfig) -> None:
        """Merge a file over what there is.

        Raises:
            ConfigError: it can't be merged.
        """
        try:
            self._values = cast(DictConfig, OmegaConf.merge(self._values, content))
        except OmegaConfBaseException as error:
            raise ConfigError(f"{shown(file)} can't be merged: {str(error).splitlines()[0]}") from error
        places = {path: f"{shown(file)}:{line}" for path, line in _lines(file).items()}
        self._note("", OmegaConf.to_container(content), places, otherwise=shown(file))
        self.files.append(file)

    def override(self, override: Override) -> None:
        """Apply an argument of the command line.

        Raises:
            ConfigError: it does not fit what there is.
        """
        if override.deletes:
            self._delete(override.key)
            return
        try:
            OmegaConf.update(self._values, override.key, override.value, merge=True, force_add=True)
        except OmegaConfBaseException as error:
            value = redacted(override.value, override.key)
            raise ConfigError(f"{override.key}={value}: {str(error).splitlines()[0]}") from error
        self._note(override.key, override.value, {}, otherwise=COMMAND_LINE)

    def names(self) -> set[str]:
        """Top-level names, and those that an interpolation somewhere refers to: a person may set them."""
        text = OmegaConf.to_yaml(self._values)
        return {str(key) for key in self._values} | ({*REFERENCE.findall(text)} - {"oc"})

    def raw(self, path: str) -> Any:
        """The value at a path as it was written, `${…}` and all; None where there is none."""
        value: Any = OmegaConf.to_container(self._values)
        for key in path.split("."):
            if isinstance(value, dict):
                value = cast(Json, value).get(key)
            elif isinstance(value, list) and key.isdigit() and int(key) < len(cast(list[Any], value)):
                value = cast(list[Any], value)[int(key)]
            else:
                return None
        return value

    def carry_out_directives(self) -> None:
        """Carry out `_inherit_from`, `_copy` and `_delete_key`, deepest source first.

        What is inherited from does not start itself; what is copied does.

        Raises:
            ConfigError: one refers to what is not there, or to itself.
        """
        directives = _Directives(cast(Json, OmegaConf.to_container(self._values)), self.origins)
        self._values = OmegaConf.create(cast(Json, directives.carry_out(directives.values, "", ())))
        for path in directives.inherited:
            self._delete(path)

    def resolved(self, only: Iterable[str] | None = None) -> tuple[Json, list[str]]:
        """Plain values, every `${…}` resolved, and a line for each that has no value.

        Those keep `???`, as do the fields of data sets, which nothing needs before it is read. `only` takes
        some of the top-level names.
        """
        values = self._values if only is None else OmegaConf.masked_copy(self._values, list(only))
        problems: list[str] = []
        plain = cast(Json, self._plain(values, "", problems))
        return plain, list(dict.fromkeys(problems))

    def _plain(self, node: Any, path: str, problems: list[str]) -> Any:
        if not OmegaConf.is_config(node):
            return node
        keys = list(node.keys()) if isinstance(node, DictConfig) else list(range(len(node)))
        values = {key: self._value(node, key, _joined(path, str(key)), problems) for key in keys}
        return values if isinstance(node, DictConfig) else [*values.values()]

    def _value(self, node: Any, key: Any, path: str, problems: list[str]) -> Any:
        place = origin_of(self.origins, path)
        place = f"{place}: " if place and place != COMMAND_LINE else ""
        try:
            if OmegaConf.is_missing(node, key):
                if ".datasets." not in path:
                    problems.append(f"{place}{path} is not set; add +{path}=…")
                return UNSET
            value = node[key]
        except OmegaConfBaseException as error:
            raw = str(cast(Any, OmegaConf.to_container(node))[key])
            problems.append(place + _unresolved(raw, path, str(error)))
            return UNSET
        return self._plain(value, path, problems)

    def _delete(self, path: str) -> None:
        parent, _, last = path.rpartition(".")
        node = OmegaConf.select(self._values, parent) if parent else self._values
        if isinstance(node, DictConfig):
            node.pop(last, None)

    def _note(self, path: str, value: Any, places: Mapping[str, str], *, otherwise: str) -> None:
        """Remember where a value and all in it were written."""
        if isinstance(value, dict):
            inner = cast(Json, value).items()
        else:
            if path in self.origins:
                for stale in [known for known in self.origins if known.startswith(f"{path}.")]:
                    del self.origins[stale]
            inner = enumerate(cast(list[Any], value)) if isinstance(value, list) else ()
        if path:
            self.origins[path] = places.get(path, otherwise)
        for key, part in inner:
            self._note(_joined(path, str(key)), part, places, otherwise=otherwise)


class _Directives:
    """What `_inherit_from`, `_copy` and `_delete_key` make of `values`; origins follow what is fetched."""

    def __init__(self, values: Json, origins: dict[str, str]) -> None:
        self.values = values
        self.inherited: list[str] = []
        self._origins = origins

    def carry_out(self, node: Any, path: str, chain: tuple[str, ...]) -> Any:
        if isinstance(node, list):
            parts = enumerate(cast(list[Any], node))
            return [self.carry_out(part, _joined(path, str(i)), chain) for i, part in parts]
        if isinstance(node, str) and (found := FETCHED.fullmatch(node)):
            return self._fetch(f"_{found[1]}", found[2], path, chain)
        if not isinstance(node, dict):
            return node
        here = dict(cast(Json, node))
        for directive in DIRECTIVES:
            if (source := here.pop(directive, None)) is None:
                continue
            base = self._fetch(directive, str(source), path, chain)
            if not isinstance(base, dict):
                raise self._wrong(path, directive, f"{source} is not a mapping")
            here = cast(Json, OmegaConf.to_container(OmegaConf.merge(base, here)))
        deleted: Any = here.pop("_delete_key", None) or []
        parts = (
            cast(list[Any], deleted) if isinstance(deleted, list) else str(deleted).replace(",", " ").split()
        )
        names = map(str, parts)
        for name in names:
            if name not in here:
                hint = did_you_mean(name, [*here])
                raise self._wrong(path, "_delete_key", f"there is no '{name}' to delete{hint}")
            del here[name]
        return {key: self.carry_out(value, _joined(path, str(key)), chain) for key, value in here.items()}

    def _fetch(self, directive: str, source: str, path: str, chain: tuple[str, ...]) -> Any:
        if source in chain:
            raise self._wrong(path, directive, f"{source} refers to itself")
        chain = (*chain, source)
        node: Any = self.values
        passed = ""
        for key in source.split("."):
            if isinstance(node, dict) and any(name in node for name in DIRECTIVES):
                node = self.carry_out(cast(Json, node), passed, chain)
            if not isinstance(node, dict) or key not in node:
                known = [*cast(Json, node)] if isinstance(node, dict) else []
                hint = did_you_mean(key, known)
                raise self._wrong(path, directive, f"{source} is not in the configuration{hint}")
            node, passed = cast(Json, node)[key], _joined(passed, key)
        if directive == "_inherit_from":
            self.inherited.append(source)
        for known, place in [*self._origins.items()]:
            if known == source or known.startswith(f"{source}."):
                self._origins.setdefault(path + known.removeprefix(source), place)
        return self.carry_out(node, path, chain)

    def _wrong(self, path: str, directive: str, reason: str) -> ConfigError:
        place = origin_of(self._origins, _joined(path, directive))
        return ConfigError(f"{place}: {_joined(path, directive)}: {reason}")


def read_with_includes(paths: Sequence[str], find: Find) -> Iterator[tuple[Path, DictConfig]]:
    """Every file of `paths` once, what a file includes before it.

    Raises:
        ConfigError: a file is not there, is not what it should be, or includes itself.
    """
    seen: set[Path] = set()

    def read(path: str, chain: tuple[Path, ...]) -> Iterator[tuple[Path, DictConfig]]:
        file = find(path, chain[-1].parent if chain else None).resolve()
        if file in chain:
            names = " → ".join(included.name for included in (*chain, file))
            raise ConfigError(f"{shown(file)} includes itself: {names}")
        if file in seen:
            return
        seen.add(file)
        content = read_yaml(file)
        for included in _included(file, content):
            yield from read(included, (*chain, file))
        yield file, content

    for path in paths:
        yield from read(path, ())


def _included(file: Path, content: DictConfig) -> list[str]:
    """Takes the files that a file includes out of its content."""
    paths: Any = cast(Json, OmegaConf.to_container(content)).get("config_paths") or []
    if "config_paths" in list(content):
        del content["config_paths"]
    if not isinstance(paths, list) or not all(isinstance(path, str) for path in cast(list[Any], paths)):
        raise ConfigError(f"{shown(file)}: config_paths should be a list of files (got {paths!r})")
    return cast(list[str], paths)


def read_yaml(file: Path) -> DictConfig:
    """The mapping in a YAML file.

    Raises:
        ConfigError: it holds none.
    """
    try:
        content = OmegaConf.load(file)
    except OSError as error:
        raise ConfigError(f"{shown(file)} can't be read: {error.strerror}") from error
    except (yaml.YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        raise ConfigError(f"{shown(file)} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, DictConfig):
        raise ConfigError(f"{shown(file)} should hold a mapping at its top level")
    return content


def shown(file: Path) -> str:
    """A file as a person would type it: from the working directory on, where it lies there."""
    here = Path.cwd()
    return str(file.relative_to(here) if file.is_relative_to(here) else file)


def _lines(file: Path) -> dict[str, int]:
    """Every key of a YAML file with its line; of keys that a `<<` brings in, those not written themselves."""
    found: dict[str, int] = {}

    def walk(node: Any, path: str) -> None:
        if isinstance(node, yaml.SequenceNode):
            parts = [(str(i), part, part) for i, part in enumerate(cast(list[Any], node.value))]
        elif isinstance(node, yaml.MappingNode):
            pairs = cast(list[tuple[Any, Any]], node.value)
            parts = [(str(key.value), key, part) for key, part in pairs]
        else:
            return
        for key, at, part in sorted(parts, key=lambda entry: entry[0] == "<<"):
            here = path if key == "<<" else _joined(path, key)
            if here:
                found.setdefault(here, at.start_mark.line + 1)
            walk(part, here)

    parse: Any = cast(Any, yaml).compose
    walk(parse(file.read_text("utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)), "")
    return found


def _unresolved(raw: str, path: str, error: str) -> str:
    name = raw.split("${")[-1].split("}")[0].removeprefix("oc.env:")
    where = "the environment" if "oc.env:" in raw else f"env.yaml, or +{name}=…"
    if name and name in error:
        return f"{name} is not set (needed by {path}): put it into {where}"
    return f"{path}: {error.splitlines()[0]}"


def _joined(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key
