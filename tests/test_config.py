"""Configuration: what overrides what, names and paths, and what a mistake is answered with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nemo_like.collect import CollectConfig
from nemo_like.config import StackConfig, examine, load
from nemo_like.errors import ConfigError
from nemo_like.settings import is_secret, redacted

from .conftest import Json, Project

GYM = Path(__file__).parent / "gym_configs"

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


def test_a_wrong_value_of_a_file_names_file_and_line_too(project: Project) -> None:
    path = save(project.path / "run.yaml", "num_repeats: 3\n# and:\nlimit: none\n")
    with pytest.raises(ConfigError) as caught:
        load([f"+config_paths=[{path}]", "+num_repeats=0"], CollectConfig).settings(CollectConfig)
    said = str(caught.value).splitlines()
    assert any(line.startswith("run.yaml:3: the command: limit: should be a valid integer") for line in said)
    assert "the command: num_repeats: should be greater than or equal to 1 (got 0)" in said


def test_each_value_knows_where_it_was_written_whatever_it_went_through(project: Project) -> None:
    save(project.path / "base.yaml", "base:\n  x: 1\n  y: {z: 1}\nk: [1, 2]\n")
    save(project.path / "env.yaml", "n: 5\n")
    save(
        project.path / "top.yaml",
        "config_paths: [base.yaml]\nheir:\n  _inherit_from: base\n  y: {w: 2}\n"
        "twin: ${copy:heir.y}\nk: [3]\nm: ${n}\n",
    )
    config = load(["+config_paths=[top.yaml]", "+heir.v=7"])
    assert config.values["heir"] == {"x": 1, "y": {"z": 1, "w": 2}, "v": 7}
    assert config.values["twin"] == {"z": 1, "w": 2}
    origins = config.composition.origins
    wanted = {
        "heir.x": "base.yaml:2",
        "heir.y.z": "base.yaml:3",
        "heir.y.w": "top.yaml:4",
        "heir.v": "the command line",
        "twin.w": "top.yaml:4",
        "k.0": "top.yaml:6",
        "m": "top.yaml:7",
        "n": "env.yaml:1",
    }
    assert {path: origins[path] for path in wanted} == wanted
    assert "k.1" not in origins


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a: {_inherit_from: bse}\nbase: {x: 1}\n", "a.yaml:1: a._inherit_from: bse is not in the config"),
        ("a: {_inherit_from: bse}\nbase: {x: 1}\n", "did you mean 'base'?"),
        ("base: 1\nb:\n  _copy: base\n", "a.yaml:3: b._copy: base is not a mapping"),
        ("b: {_copy: c}\nc:\n  _copy: b\n", "refers to itself"),
        ("b:\n  k: 1\n  _delete_key: kk\n", "a.yaml:3: b._delete_key: there is no 'kk' to delete"),
        ("a: {resource_servers: {arithmetic: {}}}\n", "did you mean 'resources_servers'?"),
        ("a: {resources_servers: {arithmetc: {}}}\n", "did you mean 'arithmetic'?"),
        ("a: {resources_servers: {arithmetic: {}, word_count: {}}}\n", "one implementation (got arithmetic"),
        ("a: {resources_servers: {arithmetic: {}}, agents: {simple_agent: {}}}\n", "should have one kind"),
        ("a: {resources_servers: [arithmetic]}\n", "hold one implementation (got ['arithmetic'])"),
        ("a: {resources_servers: 1.5}\n", "a: resources_servers should hold one implementation (got 1.5)"),
        ("b:\n  k: 1\n  _delete_key: 7\n", "a.yaml:3: b._delete_key: there is no '7' to delete"),
        ("config_paths: 7\n", "a.yaml: config_paths should be a list of files (got 7)"),
        ("config_paths: [{b: 1}]\n", "a.yaml: config_paths should be a list of files (got [{'b': 1}])"),
        ("config_paths: ${nowhere}\n", "a.yaml: config_paths should be a list of files (got '${nowhere}')"),
    ],
)
def test_a_mistake_in_a_file_is_told_with_its_place(project: Project, content: str, words: str) -> None:
    save(project.path / "a.yaml", content)
    with pytest.raises(ConfigError) as caught:
        load(["+config_paths=[a.yaml]"])
    assert words in str(caught.value) and str(caught.value).startswith("a.yaml:")


def test_everything_that_is_wrong_is_told_at_once(project: Project) -> None:
    save(project.path / "a.yaml", "x: ???\na:\n  agents:\n    simple_agnt: {}\nb: ${nowhere}\n")
    _, problems = examine(["+config_paths=[a.yaml]", "+limt=3"], CollectConfig)
    assert [problem.partition(": ")[0] for problem in problems] == [
        "limt",
        *["a.yaml:1", "a.yaml:5", "a.yaml:2"],
    ]


def test_a_folder_is_no_file(project: Project) -> None:
    (project.path / "a").mkdir()
    with pytest.raises(ConfigError, match="a can't be read: Is a directory"):
        load(["+config_paths=[a]"])


def test_a_file_that_is_not_there_is_answered_with_the_nearest(project: Project) -> None:
    save(project.path / "configs/mine.yaml", {"x": 1})
    for wrong, near in (
        ("configs/mien.yaml", "configs/mine.yaml"),
        (
            "resources_servers/arithmetic/arithmetic.yaml",
            "resources_servers/arithmetic/configs/arithmetic.yaml",
        ),
    ):
        with pytest.raises(ConfigError, match=f"did you mean {near}"):
            load([f"+config_paths=[{wrong}]"])


def test_a_file_is_found_beside_the_one_that_includes_it(project: Project) -> None:
    save(project.path / "deep/in/base.yaml", {"x": 1})
    save(project.path / "deep/in/top.yaml", {"config_paths": ["base.yaml"], "y": 2})
    assert plain(["+config_paths=[deep/in/top.yaml]"]) == {"x": 1, "y": 2}


@pytest.mark.parametrize("policy", ["openai_policy", "vllm_policy"])
@pytest.mark.parametrize("name", ["weather", "math", "competition"])
def test_nemo_gyms_own_files_compose_unchanged(project: Project, policy: str, name: str) -> None:
    save(project.path / "responses_api_models/vllm_model/app.py", "")
    save(project.path / "env.yaml", (GYM / "env.yaml").read_text())
    paths = f"tests/gym_configs/{policy}.yaml,tests/gym_configs/{name}.yaml"
    config = load([f"+config_paths=[{paths}]", f"+search_dirs=[{GYM.parent.parent}]"])
    kinds = {instance.name: instance.kind for instance in config.instances}
    assert kinds == {
        "policy_model": "responses_api_models",
        name: "resources_servers",
        f"{name}_simple_agent": "agents",
    }
    stack: StackConfig = config.settings(StackConfig)
    assert stack.head_server.port == 11000
    settings = {instance.name: instance.settings for instance in config.instances}
    assert "some/model" in settings["policy_model"].values()
    if name == "competition":
        assert settings[name]["should_use_judge"] is True and settings[name]["domain"] == "math"
        assert "max_steps" not in settings["competition_simple_agent"]
        assert settings["competition_simple_agent"]["resources_server"]["name"] == "competition"


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
    + [("max_output_tokens", False), ("tokens", False), ("keyboard", False), ("token_count", False)]
    + [("reward_fn_key", False), ("prompt_key", False), ("my_prompt_key", True)],
)
def test_what_is_secret(key: str, secret: bool) -> None:
    assert is_secret(key) is secret


def test_secrets_are_redacted_wherever_they_stand() -> None:
    values = {
        "a": [{"api_key": "s3cret", "max_output_tokens": 5}],
        "url": "http://me:s3cret@host/v1",
        "key": "",
        "default_headers": {"X-Tenant": "s3cret", "X-Empty": ""},
    }
    assert redacted(values) == {
        "a": [{"api_key": "***", "max_output_tokens": 5}],
        "url": "http://me:***@host/v1",
        "key": "",
        "default_headers": {"X-Tenant": "***", "X-Empty": "***"},
    }
