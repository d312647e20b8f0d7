"""Configuration: what overrides what, names and paths, and what a mistake is answered with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nemo_like.collect import CollectConfig
from nemo_like.config import StackConfig, load
from nemo_like.errors import ConfigError
from nemo_like.settings import is_secret, redacted

from .conftest import Json, Project

names = st.sampled_from(["a", "b", "c", "d"])
scalars = st.one_of(st.integers(-9, 9), st.booleans(), st.sampled_from(["x", "y z", ""]))
mappings = st.dictionaries(
    names,
    st.recursive(scalars, lambda inner: st.dictionaries(names, inner, max_size=3), max_leaves=6),
    max_size=4,
)


def deep_merge(values: Json, over: Json) -> Json:
    """The slow obvious version."""
    result = dict(values)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = deep_merge(result[key], value) if both else value
    return result


def save(path: Path, content: Any) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return str(path)


def plain(arguments: list[str]) -> Json:
    return {k: v for k, v in load(arguments).values.items() if k not in StackConfig.model_fields}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(first=mappings, second=mappings, env=mappings, key=names, value=st.integers(-9, 9))
def test_files_then_env_yaml_then_the_command_line(
    project: Project, first: Json, second: Json, env: Json, key: str, value: int
) -> None:
    paths = [save(project.path / "1.yaml", first), save(project.path / "2.yaml", second)]
    save(project.path / "env.yaml", env)
    expected = deep_merge(deep_merge(first, second), env)
    expected |= {key: value} if key in expected else {}
    override = [f"+{key}={value}"] if key in expected else []
    assert plain([f"+config_paths=[{','.join(paths)}]", *override]) == expected


@pytest.mark.parametrize("form", ["x.y=2", "+x.y=2", "++x.y=2"])
def test_the_three_forms_of_an_override_mean_the_same(project: Project, form: str) -> None:
    path = save(project.path / "a.yaml", {"x": {"y": 1, "z": 3}})
    assert plain([f"+config_paths=[{path}]", form]) == {"x": {"y": 2, "z": 3}}


def test_a_tilde_deletes(project: Project) -> None:
    path = save(project.path / "a.yaml", {"x": {"y": 1, "z": 3}, "w": 1})
    assert plain([f"+config_paths=[{path}]", "~x.y", "~w"]) == {"x": {"z": 3}}


def test_an_including_file_overrides_what_it_includes(project: Project) -> None:
    save(project.path / "base.yaml", {"x": 1, "y": 1})
    path = save(project.path / "top.yaml", {"config_paths": ["base.yaml"], "x": 2})
    assert plain([f"+config_paths=[{path}]"]) == {"x": 2, "y": 1}


def test_a_file_that_includes_itself_is_named(project: Project) -> None:
    save(project.path / "a.yaml", {"config_paths": ["b.yaml"]})
    save(project.path / "b.yaml", {"config_paths": ["a.yaml"]})
    with pytest.raises(ConfigError, match="includes itself"):
        load(["+config_paths=[a.yaml]"])


def test_inherit_from_moves_and_copy_copies(project: Project) -> None:
    content = {
        "base": {"x": {"y": 1}, "z": 2},
        "heir": {"_inherit_from": "base", "x": {"y": 5}},
        "other": {"k": 1},
        "twin": {"_copy": "other", "_delete_key": "k", "m": 3},
    }
    path = save(project.path / "a.yaml", content)
    assert plain([f"+config_paths=[{path}]"]) == {
        "heir": {"x": {"y": 5}, "z": 2},
        "other": {"k": 1},
        "twin": {"m": 3},
    }


def test_every_unset_value_is_reported_at_once(project: Project) -> None:
    path = save(
        project.path / "a.yaml", "x: ???\ny: {z: '???'}\nw: ${policy_api_key}\nv: ${oc.env:NO_SUCH_VAR}\n"
    )
    with pytest.raises(ConfigError) as caught:
        load([f"+config_paths=[{path}]"])
    said = str(caught.value)
    assert "x is not set" in said and "y.z is not set" in said
    assert "policy_api_key is not set (needed by w): put it into env.yaml, or +policy_api_key=…" in said
    assert "NO_SUCH_VAR is not set" in said


def test_env_yaml_and_the_environment_supply_values(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_VAR", "there")
    save(project.path / "env.yaml", {"policy_model_name": "m"})
    path = save(
        project.path / "a.yaml", "x: ${policy_model_name}\ny: ${oc.env:SOME_VAR}\nz: ${oc.env:NONE,5}\n"
    )
    assert plain([f"+config_paths=[{path}]"]) == {"policy_model_name": "m", "x": "m", "y": "there", "z": "5"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["+limt=3"], "there is no setting or server 'limt'; did you mean 'limit'?"),
        (["--limit=3"], "options are written name=value, without dashes"),
        (["+config_paths=[nowhere.yaml]"], "there is no file nowhere.yaml (looked in "),
        (["model=opnai"], "there is no model named 'opnai'; did you mean 'openai'?"),
        (["env=[arithmetc]"], "there is no environment named 'arithmetc'; did you mean 'arithmetic'?"),
        (
            ["env=arithmetic"],
            "there is no server 'policy_model' of kind responses_api_models; add one: model=embedded",
        ),
        (["+limit=1,2"], "a list is written [a,b]"),
    ],
)
def test_a_mistake_is_answered_with_what_there_is(project: Project, arguments: list[str], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(arguments, CollectConfig)
    assert words in str(caught.value)


def test_a_wrong_value_names_key_reason_and_value(project: Project) -> None:
    config = load(["+limit=0", "+num_repeats=x"], CollectConfig)
    with pytest.raises(ConfigError) as caught:
        config.settings(CollectConfig)
    said = str(caught.value).splitlines()
    assert "the command: limit: should be greater than or equal to 1 (got 0)" in said
    assert any(line.startswith("the command: num_repeats: should be a valid integer") for line in said)
    assert "the command: input_jsonl_fpath is required" in said


def test_broken_yaml_names_file_and_line(project: Project) -> None:
    path = save(project.path / "a.yaml", "x: [1\ny: 2\n")
    with pytest.raises(ConfigError, match=r"a\.yaml is not valid YAML: .* line 2"):
        load([f"+config_paths=[{path}]"])


def test_names_and_paths_compose_the_same(project: Project) -> None:
    paths = [
        "responses_api_models/scripted_model/configs/scripted_model.yaml",
        "resources_servers/arithmetic/configs/arithmetic.yaml",
    ]
    by_path, by_name = (
        load([f"+config_paths=[{','.join(paths)}]"]),
        load(["model=scripted", "env=arithmetic"]),
    )
    assert by_path.instances == by_name.instances
    assert [i.name for i in by_name.instances] == ["policy_model", "arithmetic", "arithmetic_simple_agent"]


def test_a_folder_of_ones_own_shadows_the_installed_one(project: Project) -> None:
    own = project.path / "resources_servers" / "arithmetic"
    save(own / "app.py", "")
    assert load(["model=scripted", "env=arithmetic"]).instances[1].folder == own


@pytest.mark.parametrize(
    ("key", "secret"),
    [("policy_api_key", True), ("password", True), ("hf_token", True), ("client_secret", True), ("key", True)]
    + [("max_output_tokens", False), ("tokens", False), ("keyboard", False), ("token_count", False)],
)
def test_what_is_secret(key: str, secret: bool) -> None:
    assert is_secret(key) is secret


def test_secrets_are_redacted_wherever_they_stand() -> None:
    values = {
        "a": [{"api_key": "s3cret", "max_output_tokens": 5}],
        "url": "http://me:s3cret@host/v1",
        "key": "",
    }
    assert redacted(values) == {
        "a": [{"api_key": "***", "max_output_tokens": 5}],
        "url": "http://me:***@host/v1",
        "key": "",
    }
