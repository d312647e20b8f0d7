"""From a command line and YAML files to one checked configuration.

Overrides have Hydra's grammar, with `x=1`, `+x=1` and `++x=1` meaning the same and `~x` deleting. What
overrides what, the later the stronger: the files of `config_paths` in order (an including file overrides what
it includes), `env.yaml`, the command line. Files are looked up in the given `search_dirs`, the working
directory and the installed content.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import Field, model_validator

from nemo_like.errors import ConfigError, did_you_mean
from nemo_like.settings import Settings
from nemo_like.types import Json

KINDS = ("responses_api_models", "resources_servers", "agents")
KIND_ALIASES = {"responses_api_agents": "agents"}


class HeadConfig(Settings):
    """Where the head server of a run listens."""

    host: str = "127.0.0.1"
    """Its address."""
    port: int = 0
    """Its port; 0 lets the kernel pick one, which `.nemo_like/head.json` then tells."""


class StackConfig(Settings):
    """Which servers make up a run, and how they are laid out."""

    config_paths: list[str] = Field(default_factory=list[str])
    """YAML files to merge, in order."""
    model: str | None = None
    """A model server by name (`embedded`, `openai`), instead of its path."""
    env: list[str] | str = Field(default_factory=list[str])
    """Environments by name (`[arithmetic,word_count]`), instead of their paths."""
    search_dirs: list[Path] = Field(default_factory=list[Path])
    """Folders in which configurations, content and data are looked up before the working directory."""
    num_workers: int = Field(1, ge=1)
    """Worker processes, each holding every server that has no process of its own."""
    colocate: bool = True
    """Whether servers share worker processes; if not, each has its own."""
    in_process: bool = False
    """Whether the servers that share a worker live in the collector's own process: the cheapest rollouts, for
    environments that neither block nor crash. Only where a command has a stack of its own."""
    head_server: HeadConfig = Field(default_factory=HeadConfig)
    """Where the head server listens."""

    @model_validator(mode="after")
    def _one_process_is_one_worker(self) -> Self:
        if self.in_process and (self.num_workers > 1 or not self.colocate):
            raise ValueError("in_process=true has one worker, which all servers share")
        return self


@dataclass(frozen=True, kw_only=True, slots=True)
class Instance:
    """One server of a run: its name, what it is, where its code lies, its settings (with secrets)."""

    name: str
    kind: str
    implementation: str
    folder: Path
    settings: Json


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """A command's whole configuration: plain values, secrets included, and the servers among them."""

    values: Json
    instances: tuple[Instance, ...]
    roots: tuple[Path, ...]

    def settings(self, cls: type[Any]) -> Any:
        """The settings of class `cls`, taken from the top level."""
        given = {key: value for key, value in self.values.items() if key in cls.model_fields}
        return cls.from_mapping(given, where="the command")


def load(
    arguments: Sequence[str],
    *commands: type[Settings],
    default_paths: Sequence[str] = (),
    complete: bool = True,
) -> Config:
    """The configuration that `arguments` ask of a command with the settings of `commands`.

    `default_paths` are composed where the arguments name no configuration at all. Unless it has to be
    `complete`, servers may refer to others that are not in it.

    Raises:
        ConfigError: something in it is wrong; the message names the file or the key, and what there is
        instead.
    """
    overrides = [_Override.parse(argument) for argument in arguments]
    asked = OmegaConf.create({})
    for override in overrides:
        override.apply(asked)
    layout = _plain(OmegaConf.masked_copy(asked, list(StackConfig.model_fields)))
    stack = StackConfig.from_mapping(layout, where="the command")
    roots = (*(path.absolute() for path in stack.search_dirs), Path.cwd(), content_root())
    files = [*stack.config_paths, *named_configs(stack, roots)] or list(default_paths)
    composed = _merged([*_read_with_includes(files, roots), *_read_env(roots)])
    known = {
        *map(str, composed),
        *_referenced(composed),
        *(f for c in (*commands, StackConfig) for f in c.model_fields),
    }
    for override in overrides:
        override.check(known)
        override.apply(composed)
    values = _plain(_directed(composed))
    instances = tuple(_instances(values, roots))
    if complete:
        _check_references(instances)
    return Config(values=values, instances=instances, roots=roots)


def content_root() -> Path:
    """The folder with the content that came along: in a wheel inside this package, else beside it."""
    package = Path(__file__).parent
    return package / "_content" if (package / "_content").is_dir() else package.parent


def find(path: str | Path, roots: Sequence[Path]) -> Path:
    """The first existing `root / path`.

    Raises:
        ConfigError: there is none; the message lists every place tried.
    """
    for root in roots:
        if (root / path).exists():
            return root / path
    places = ", ".join(dict.fromkeys(str(root) for root in roots)) if not Path(path).is_absolute() else "/"
    raise ConfigError(f"there is no file {path} (looked in {places})")


def named_configs(stack: StackConfig, roots: Sequence[Path]) -> list[str]:
    """The configuration files of `model=…` and `env=[…]`."""
    environments = [stack.env] if isinstance(stack.env, str) else stack.env
    models = [stack.model] if stack.model else []
    return [
        *(_named("responses_api_models", name, "_model", roots) for name in models),
        *(_named("resources_servers", name, "", roots) for name in environments),
    ]


def _named(kind: str, name: str, suffix: str, roots: Sequence[Path]) -> str:
    folder, _, flavor = name.partition("/")
    for candidate in dict.fromkeys((folder, folder + suffix)):
        path = f"{kind}/{candidate}/configs/{flavor or candidate}.yaml"
        if any((root / path).is_file() for root in roots):
            return path
    files = (file for root in roots for file in root.glob(f"{kind}/*/configs/*.yaml"))
    there = {file.parent.parent.name.removesuffix(suffix) for file in files}
    noun = "model" if kind == "responses_api_models" else "environment"
    raise ConfigError(f"there is no {noun} named '{name}'{did_you_mean(name, sorted(there))}")


@dataclass(frozen=True, slots=True)
class _Override:
    """One argument of the command line."""

    key: str
    value: Any
    deletes: bool

    @classmethod
    def parse(cls, argument: str) -> _Override:
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

    def check(self, known: set[str]) -> None:
        top = self.key.split(".")[0]
        if top not in known:
            hint = did_you_mean(top, sorted(known))
            raise ConfigError(f"{self.key}: there is no setting or server '{top}'{hint}")

    def apply(self, config: DictConfig) -> None:
        parent, _, last = self.key.rpartition(".")
        if self.deletes:
            node = OmegaConf.select(config, parent) if parent else config
            if isinstance(node, DictConfig):
                node.pop(last, None)
            return
        try:
            OmegaConf.update(config, self.key, self.value, merge=True, force_add=True)
        except OmegaConfBaseException as error:
            raise ConfigError(f"{self.key}={self.value}: {str(error).splitlines()[0]}") from error


def _read_with_includes(paths: Sequence[str], roots: Sequence[Path]) -> Iterator[tuple[Path, DictConfig]]:
    """Every file once, what a file includes before it."""
    seen: set[Path] = set()

    def read(path: str, chain: tuple[Path, ...]) -> Iterator[tuple[Path, DictConfig]]:
        file = find(path, roots).resolve()
        if file in chain:
            raise ConfigError(f"{file} includes itself: {' → '.join(p.name for p in (*chain, file))}")
        if file in seen:
            return
        seen.add(file)
        content = _read_yaml(file)
        for included in cast(list[str], content.pop("config_paths", None) or []):
            yield from read(included, (*chain, file))
        yield file, content

    for path in paths:
        yield from read(path, ())


def _read_env(roots: Sequence[Path]) -> Iterator[tuple[Path, DictConfig]]:
    """The first `env.yaml` of the search roots and the working directory."""
    for root in roots[:-1]:
        if (root / "env.yaml").is_file():
            yield root / "env.yaml", _read_yaml(root / "env.yaml")
            return


def _read_yaml(file: Path) -> DictConfig:
    try:
        content = OmegaConf.load(file)
    except (yaml.YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, DictConfig):
        raise ConfigError(f"{file} should hold a mapping at its top level")
    return content


def _merged(contents: Sequence[tuple[Path, DictConfig]]) -> DictConfig:
    merged = OmegaConf.create({})
    for file, content in contents:
        try:
            merged = cast(DictConfig, OmegaConf.merge(merged, content))
        except OmegaConfBaseException as error:
            raise ConfigError(f"{file} can't be merged: {str(error).splitlines()[0]}") from error
    return merged


def _referenced(config: DictConfig) -> set[str]:
    """Top-level names that an interpolation somewhere refers to: a person may set them."""
    text = OmegaConf.to_yaml(config)
    return {part.split("}")[0].split(".")[0] for part in text.split("${")[1:]}


def _directed(config: DictConfig) -> DictConfig:
    """`config` with `_inherit_from`, `_copy` and `_delete_key` carried out, deepest source first.

    What is inherited from does not start itself; what is copied does.
    """
    values = cast(Json, OmegaConf.to_container(config))
    source = OmegaConf.create(values)
    inherited: list[str] = []

    def carry_out(node: Any, chain: tuple[str, ...]) -> Any:
        if isinstance(node, list):
            return [carry_out(part, chain) for part in cast(list[Any], node)]
        if not isinstance(node, dict):
            return node
        here = dict(cast(Json, node))
        for directive in ("_inherit_from", "_copy"):
            if (path := here.pop(directive, None)) is None:
                continue
            found = OmegaConf.select(source, str(path))
            if not isinstance(found, DictConfig) or path in chain:
                reason = "refers to itself" if path in chain else "is not a mapping of the configuration"
                raise ConfigError(f"{directive}: {path} {reason}")
            if directive == "_inherit_from":
                inherited.append(str(path))
            base = carry_out(OmegaConf.to_container(found), (*chain, str(path)))
            here = cast(Json, OmegaConf.to_container(OmegaConf.merge(base, here)))
        for key in str(here.pop("_delete_key", None) or "").replace(",", " ").split():
            here.pop(key, None)
        return {key: carry_out(value, chain) for key, value in here.items()}

    directed = OmegaConf.create(cast(Json, carry_out(values, ())))
    for path in inherited:
        _Override(path, None, deletes=True).apply(directed)
    return directed


def _plain(config: DictConfig) -> Json:
    """Plain values, every `${…}` resolved and every `???` set, or one error that lists all that are not."""
    if unset := list(_unset(config)):
        raise ConfigError("\n".join(dict.fromkeys(unset)))
    return cast(Json, OmegaConf.to_container(config, resolve=True))


def _unset(node: Any, path: str = "") -> Iterator[str]:
    """What is wrong with each value that has none."""
    if not OmegaConf.is_config(node):
        return
    keys = node.keys() if isinstance(node, DictConfig) else range(len(node))
    for key in keys:
        here = f"{path}.{key}" if path else str(key)
        try:
            missing = OmegaConf.is_missing(node, key)
            value = None if missing else node[key]
        except OmegaConfBaseException as error:
            raw = str(cast(Any, OmegaConf.to_container(node))[key])
            name = raw.split("${")[-1].split("}")[0].removeprefix("oc.env:")
            where = "the environment" if "oc.env:" in raw else f"env.yaml, or +{name}=…"
            if name and name in str(error):
                yield f"{name} is not set (needed by {here}): put it into {where}"
            else:
                yield f"{here}: {str(error).splitlines()[0]}"
            continue
        if missing:
            yield f"{here} is not set; add +{here}=…"
        yield from _unset(value, here)


def _instances(values: Json, roots: Sequence[Path]) -> list[Instance]:
    instances: list[Instance] = []
    for name, value in values.items():
        value = cast(Json, value) if isinstance(value, dict) else {}
        kinds = [key for key in value if KIND_ALIASES.get(key, key) in KINDS]
        if not kinds:
            continue
        implementations: Json = value[kinds[0]] or {}
        if len(kinds) > 1 or len(implementations) != 1:
            both = ", ".join(kinds if len(kinds) > 1 else implementations)
            raise ConfigError(f"{name} should have one kind and one implementation (got {both or 'none'})")
        kind = KIND_ALIASES.get(kinds[0], kinds[0])
        [(implementation, settings)] = implementations.items()
        folder = _folder(kind, implementation, roots)
        settings = dict(cast(Json, settings or {}))
        instances.append(
            Instance(name=name, kind=kind, implementation=implementation, folder=folder, settings=settings)
        )
    return instances


def _folder(kind: str, implementation: str, roots: Sequence[Path]) -> Path:
    for folder in (kind, *(alias for alias, name in KIND_ALIASES.items() if name == kind)):
        for root in roots:
            if (root / folder / implementation).is_dir():
                return (root / folder / implementation).resolve()
    there = sorted({path.parent.name for root in roots for path in root.glob(f"{kind}/*/app.py")})
    raise ConfigError(f"there is no folder {kind}/{implementation}{did_you_mean(implementation, there)}")


def _check_references(instances: Sequence[Instance]) -> None:
    by_kind = {kind: [i.name for i in instances if i.kind == kind] for kind in KINDS}
    for instance in instances:
        for key, value in instance.settings.items():
            if not isinstance(value, dict) or set(cast(Json, value)) != {"type", "name"}:
                continue
            kind, name = str(cast(Json, value)["type"]), str(cast(Json, value)["name"])
            known = by_kind.get(KIND_ALIASES.get(kind, kind), [])
            if name not in known:
                hint = did_you_mean(name, known) or ("; add one: model=embedded" if kind == KINDS[0] else "")
                raise ConfigError(f"{instance.name}: {key}: there is no server '{name}' of kind {kind}{hint}")
