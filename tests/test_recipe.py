"""What is made of a row before it is sent: templates, skills, seeds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_like.errors import ConfigError, RowError
from nemo_like.prompt_config import PromptConfig, filled, read_prompt_config
from nemo_like.recipe import Recipe
from nemo_like.skills import hash_of, read_skills, stage

from .conftest import Json

SKILL = """---
name: {name}
description: How to add.
metadata:
  version: "1.2"
---

Add the ones first.
"""


def write_skill(folder: Path, name: str = "adding", text: str = SKILL) -> Path:
    (folder / name).mkdir(parents=True)
    (folder / name / "SKILL.md").write_text(text.format(name="adding"))
    return folder


def test_templates_make_the_messages_of_a_row_and_keep_its_parameters() -> None:
    prompt = PromptConfig(
        system="Be {mood}.", user="{question} Put it into \\boxed{{}}: {extra[topic]} {n:.1f}"
    )
    row: Json = {"question": "2+2?", "mood": "brief", "extra": {"topic": "sums"}, "n": 2}
    task = prompt.complete(row | {"responses_create_params": {"temperature": 0.5}})
    assert task["responses_create_params"] == {
        "temperature": 0.5,
        "input": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "2+2? Put it into \\boxed{}: sums 2.0"},
        ],
    }
    assert {key: task[key] for key in row} == row


@given(st.dictionaries(st.from_regex(r"[a-z]{1,5}", fullmatch=True), st.text(max_size=20), min_size=1))
def test_text_is_put_in_as_it_is_whatever_stands_in_it(row: dict[str, str]) -> None:
    assert filled("".join(f"<{{{key}}}>" for key in row), row) == "".join(
        f"<{text}>" for text in row.values()
    )


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{options}", '["a","b"]'),
        ("{options[1]}", "b"),
        ("{extra.topic}", "sums"),
        ("{extra}", '{"topic":"sums"}'),
        ("{nothing}", "null"),
        ("{{question}}", "{question}"),
    ],
)
def test_what_is_not_text_is_put_in_as_json(template: str, text: str) -> None:
    row: Json = {"options": ["a", "b"], "extra": {"topic": "sums"}, "nothing": None}
    assert filled(template, row) == text


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{qestion}", "needs a field 'qestion', which the row lacks; did you mean 'question'?"),
        ("{question.__class__}", "needs a field 'question.__class__', which the row lacks"),
        ("{question:d}", "does not fit the row"),
    ],
)
def test_a_row_that_a_template_does_not_fit_is_a_clear_error(template: str, words: str) -> None:
    with pytest.raises(RowError) as caught:
        PromptConfig(user=template).complete({"question": "?"})
    assert words in str(caught.value)


def test_a_row_that_has_an_input_already_is_refused() -> None:
    with pytest.raises(RowError, match=r"has a 'responses_create_params\.input' already"):
        PromptConfig(user="?").complete({"responses_create_params": {"input": "x"}})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("system: x", "user is required"),
        ("usr: x\nuser: y", "there is no setting 'usr'; did you mean 'user'?"),
        ("- user", "should hold a mapping"),
        ("user: 'a {b'", "user: expected '}' before end of string; a brace of its own is written {{"),
        ("user: 'boxed{}'", "user: '{}' names no field; a brace of its own is written {{"),
        ("user: [", "is not valid YAML"),
    ],
)
def test_a_prompt_config_that_is_none_is_named_by_file(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_prompt_config(file)
    assert str(file) in str(caught.value) and words in str(caught.value)


def test_skills_are_named_in_the_task_and_staged_as_they_were(tmp_path: Path) -> None:
    skills = read_skills(write_skill(tmp_path / "skills"))
    named = [{"name": "adding", "description": "How to add.", "version": "1.2"}]
    assert skills.ref == {"path": str(tmp_path / "skills"), "hash": skills.hash, "skills": named}
    task = Recipe(skills=skills).task({"responses_create_params": {"input": "?"}}, 0)
    assert task == {"responses_create_params": {"input": "?"}, "skills_ref": skills.ref}
    stage(task["skills_ref"], tmp_path / "home")
    assert hash_of(tmp_path / "home") == skills.hash
    (tmp_path / "skills/adding/more.txt").write_text("x")
    with pytest.raises(ConfigError, match="have changed since the run began"):
        stage(skills.ref, tmp_path / "home")


def test_skills_in_the_prompt_stand_after_the_instructions_of_the_row(tmp_path: Path) -> None:
    recipe = Recipe(skills=read_skills(write_skill(tmp_path / "skills")), skills_in_prompt=True)
    task = recipe.task({"responses_create_params": {"input": "?", "instructions": "Be brief."}}, 0)
    text = "Be brief.\n\n# Skill: adding\n\nHow to add.\n\nAdd the ones first."
    assert task["responses_create_params"]["instructions"] == text


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("adding", "no front matter", "should begin with front matter"),
        ("adding", "---\nname: adding\n---\n", "description should be text"),
        (
            "adding",
            "---\nname: adding\ndescripton: x\n---\n",
            "description should be text (the front matter has name, descripton)",
        ),
        ("summing", SKILL, "name should be the folder's, in small letters, digits and - (got 'adding')"),
        ("adding", "---\nname: [\n---\n", "the front matter is not valid YAML"),
    ],
)
def test_a_skill_that_is_none_is_named_by_file(tmp_path: Path, name: str, text: str, words: str) -> None:
    write_skill(tmp_path, name, text)
    with pytest.raises(ConfigError) as caught:
        read_skills(tmp_path)
    assert f"{name}/SKILL.md" in str(caught.value) and words in str(caught.value)


def test_a_folder_without_skills_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no folder with a SKILL\.md"):
        read_skills(tmp_path)
    with pytest.raises(ConfigError, match="is not a folder"):
        read_skills(tmp_path / "no")


@given(seed=st.none() | st.integers(0, 1000), repeat=st.integers(0, 9))
def test_each_repeat_has_a_seed_of_its_own_where_engines_look_for_it(seed: int | None, repeat: int) -> None:
    row: Json = {
        "responses_create_params": {"input": "?", "metadata": {"extra_body": '{"top_k": 5}', "a": "b"}}
    }
    params: Json = {} if seed is None else {"seed": seed}
    task = Recipe(params=params, add_seed=True).task(row, repeat)
    metadata = task["responses_create_params"]["metadata"]
    assert json.loads(metadata["extra_body"]) == {"top_k": 5, "seed": (seed or 0) + repeat}
    assert metadata["a"] == "b" and "seed" not in task["responses_create_params"]


@pytest.mark.parametrize("params", [{"seed": "x"}, {"metadata": "x"}, {"metadata": {"extra_body": "{"}}])
def test_a_seed_that_can_not_be_added_is_found_before_anything_is_sent(params: Json) -> None:
    with pytest.raises(RowError, match="num_repeats_add_seed needs"):
        Recipe(add_seed=True).complete({"responses_create_params": {"input": "?", **params}})


def test_what_decides_what_the_rollouts_are_is_told() -> None:
    prompt = PromptConfig(user="?")
    assert Recipe().identity == {}
    assert Recipe(params={"temperature": 1}, add_seed=True, prompt=prompt).identity == {
        "responses_create_params.temperature": 1,
        "num_repeats_add_seed": True,
        "prompt_config": prompt.fingerprint,
    }
    assert prompt.fingerprint != PromptConfig(user="??").fingerprint
