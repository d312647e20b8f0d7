"""From a command line and YAML files to one checked configuration.

What overrides what, the later the stronger: the files of `config_paths` in order (an including file overrides
what it includes), `env.yaml`, the command line. Files are looked up in the given `search_dirs`, the working
directory and the installed content, and where another file names them, in its folder at last.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, Self, cast

from pydantic import Field, model_validator

from nemo_like.compose import COMMAND_LINE, UNSET, Composition, Override, read_with_includes, read_yaml
from nemo_like.errors import ConfigError, did_you_mean
from nemo_like.settings import Settings, origin_of
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
    log_level: Literal["debug", "info", "warning", "error"] | None = None
    """The least that is logged: by servers into their files (null: info), by commands (null: warning)."""

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
    origins: Mapping[str, str] = field(default_factory=dict[str, str], compare=False)
    """The key of a setting → the `file:line` it was written at; "" is that of them all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """A command's whole configuration: plain values, secrets included, and the servers among them."""

    values: Json
    instances: tuple[Instance, ...]
    roots: tuple[Path, ...]
    composition: Composition
    """What the values came from."""

    def settings(self, cls: type[Any]) -> Any:
        """The settings of class `cls`, taken from the top level."""
        given = {key: value for key, value in self.values.items() if key in cls.names()}
        return cls.from_mapping(given, where="the command", origins=_written(self.composition.origins))


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
        ConfigError: something in it is wrong; a line for each thing says where it was written, the key, and
        what there is instead.
    """
    config, problems = examine(arguments, *commands, default_paths=default_paths, complete=complete)
    if problems:
        raise ConfigError("\n".join(problems))
    return config


def examine(
    arguments: Sequence[str],
    *commands: type[Settings],
    default_paths: Sequence[str] = (),
    complete: bool = True,
) -> tuple[Config, list[str]]:
    """The configuration as far as it is right, and a line for everything in it that is wrong.

    Raises:
        ConfigError: it can't even be put together: a file that is not there or no YAML, a directive that
        refers to nothing.
    """
    overrides = [Override.parse(argument) for argument in arguments]
    asked = Composition()
    for override in overrides:
        asked.override(override)
    layout, _ = asked.resolved(only=StackConfig.model_fields)
    stack = StackConfig.from_mapping(layout, where="the command")
    roots = (*(path.absolute() for path in stack.search_dirs), Path.cwd(), content_root())
    files = [*stack.config_paths, *named_configs(stack, roots)] or list(default_paths)
    composed = Composition()
    for file, content in read_with_includes(files, lambda path, beside: find(path, roots, beside=beside)):
        composed.add(file, content)
    if env := _env_file(roots):
        composed.add(env, read_yaml(env))
    known = {*composed.names(), *(key for cls in (*commands, StackConfig) for key in cls.names())}
    problems = [problem for override in overrides if (problem := override.problem(known))]
    for override in overrides:
        composed.override(override)
    composed.carry_out_directives()
    values, unset = composed.resolved()
    instances, wrong = _instances(values, roots, _written(composed.origins))
    if complete:
        wrong += _wrong_references(instances)
    config = Config(values=values, instances=tuple(instances), roots=roots, composition=composed)
    return config, [*problems, *unset, *wrong]


def content_root() -> Path:
    """The folder with the content that came along: in a wheel inside this package, else beside it."""
    package = Path(__file__).parent
    return package / "_content" if (package / "_content").is_dir() else package.parent


def find(path: str | Path, roots: Sequence[Path], *, beside: Path | None = None) -> Path:
    """The first existing `root / path`, or else that in the folder `beside`.

    Raises:
        ConfigError: there is none; the message lists every place tried, and the nearest name.
    """
    places: list[Path] = [*dict.fromkeys([*roots, *([beside] if beside else [])])]
    for root in places:
        if (root / path).exists():
            return root / path
    looked = ", ".join(map(str, places)) if not Path(path).is_absolute() else "/"
    raise ConfigError(f"there is no file {path} (looked in {looked}){_near(str(path), places)}")


def _near(path: str, places: Sequence[Path]) -> str:
    """A file of a name like `path`, out of its folder and of where configurations lie."""
    patterns = [f"{Path(path).parent}/*", *(["configs/*.yaml", "*/*/configs/*.yaml"] if ".y" in path else [])]
    there = [
        str(file.relative_to(root))
        for root in places
        for pattern in (patterns if not Path(path).is_absolute() else [])
        for file in root.glob(pattern)
    ]
    near = get_close_matches(path, there, n=1, cutoff=0.75)
    return f"; did you mean {near[0]}?" if near else ""


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


def _written(origins: Mapping[str, str]) -> dict[str, str]:
    """The origins that are worth telling: what stands on the command line has just been typed."""
    return {path: "" if place == COMMAND_LINE else place for path, place in origins.items()}


def _env_file(roots: Sequence[Path]) -> Path | None:
    """The first `env.yaml` of the search roots and the working directory."""
    return next((root / "env.yaml" for root in roots[:-1] if (root / "env.yaml").is_file()), None)


def _instances(
    values: Json, roots: Sequence[Path], origins: Mapping[str, str]
) -> tuple[list[Instance], list[str]]:
    """The servers among the values, and what is wrong with the others that look like one."""
    instances: list[Instance] = []
    problems: list[str] = []
    for name, value in values.items():
        value = cast(Json, value) if isinstance(value, dict) else {}
        place = f"{origin}: " if (origin := origin_of(origins, name)) else ""
        try:
            if kind := _kind_of(name, value):
                instances.append(_instance(name, kind, value[kind], roots, origins))
        except ConfigError as error:
            problems.append(f"{place}{error}")
    return instances, problems


def _kind_of(name: str, value: Json) -> str | None:
    """The key that makes a server of a top-level value; None where it is another setting."""
    known = [*KINDS, *KIND_ALIASES]
    kinds = [key for key in value if key in known]
    if len(kinds) > 1:
        raise ConfigError(f"{name} should have one kind (got {', '.join(kinds)})")
    for key in value:
        if key not in known and isinstance(value[key], dict) and (kinds or _looks_like(key, known)):
            raise ConfigError(f"{name}: there is no kind of server '{key}'{did_you_mean(key, known)}")
    return kinds[0] if kinds else None


def _looks_like(key: str, known: Sequence[str]) -> bool:
    return bool(get_close_matches(key, known, n=1, cutoff=0.8))


def _instance(
    name: str, written_kind: str, implementations: Any, roots: Sequence[Path], origins: Mapping[str, str]
) -> Instance:
    kind = KIND_ALIASES.get(written_kind, written_kind)
    if not isinstance(implementations, dict | None):
        raise ConfigError(f"{name}: {written_kind} should hold one implementation (got {implementations!r})")
    implementations = cast(Json, implementations or {})
    if len(implementations) != 1:
        got = ", ".join(implementations) or "none"
        raise ConfigError(f"{name} should have one implementation (got {got})")
    [(implementation, settings)] = implementations.items()
    if not isinstance(settings, dict | None):
        raise ConfigError(f"{name}: {implementation} should hold settings (got {settings!r})")
    path = f"{name}.{written_kind}.{implementation}"
    inner = {
        key.removeprefix(path).lstrip("."): o
        for key, o in origins.items()
        if f"{key}.".startswith(f"{path}.")
    }
    return Instance(
        name=name,
        kind=kind,
        implementation=implementation,
        folder=_folder(kind, implementation, roots),
        settings=dict(cast(Json, settings or {})),
        origins=inner,
    )


def _folder(kind: str, implementation: str, roots: Sequence[Path]) -> Path:
    for folder in (kind, *(alias for alias, name in KIND_ALIASES.items() if name == kind)):
        for root in roots:
            if (root / folder / implementation).is_dir():
                return (root / folder / implementation).resolve()
    there = sorted({path.parent.name for root in roots for path in root.glob(f"{kind}/*/app.py")})
    raise ConfigError(f"there is no folder {kind}/{implementation}{did_you_mean(implementation, there)}")


def _wrong_references(instances: Sequence[Instance]) -> Iterator[str]:
    by_kind = {kind: [i.name for i in instances if i.kind == kind] for kind in KINDS}
    for instance in instances:
        for key, value in instance.settings.items():
            if not isinstance(value, dict) or set(cast(Json, value)) != {"type", "name"}:
                continue
            kind, name = str(cast(Json, value)["type"]), str(cast(Json, value)["name"])
            known = by_kind.get(KIND_ALIASES.get(kind, kind), [])
            if name not in (*known, UNSET):
                hint = did_you_mean(name, known) or ("; add one: model=embedded" if kind == KINDS[0] else "")
                place = f"{origin}: " if (origin := origin_of(instance.origins, key)) else ""
                yield f"{place}{instance.name}: {key}: there is no server '{name}' of kind {kind}{hint}"
