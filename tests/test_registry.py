"""Things by name and by path, and what is said where there is none."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from nemo_like.errors import MissingExtra, UsageError
from nemo_like.registry import Registry, load, load_file

Greeting = Callable[[], str]


@pytest.fixture
def greetings() -> Registry[Greeting]:
    registry: Registry[Greeting] = Registry("greeting")

    @registry.register("hello")
    def hello() -> str:
        return "Hello."

    @registry.register("good_morning")
    def good_morning() -> str:
        return "Good morning."

    return registry


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text("from .words import HELLO\n\nclass Greeter:\n    word = HELLO\n")
    (tmp_path / "words.py").write_text("HELLO = 'Hello.'\n")
    return tmp_path


def test_what_is_registered_is_found_by_its_name(greetings: Registry[Greeting]) -> None:
    assert greetings.get("good_morning")() == "Good morning."
    assert greetings.names() == ["good_morning", "hello"]


def test_an_unknown_name_is_answered_with_the_nearest(greetings: Registry[Greeting]) -> None:
    with pytest.raises(UsageError, match=r"^no greeting named 'helo'; did you mean 'hello'\?$"):
        greetings.get("helo")


def test_a_name_near_none_is_answered_with_all(greetings: Registry[Greeting]) -> None:
    with pytest.raises(UsageError, match=r"^no greeting named 'xyz'; there are: good_morning, hello$"):
        greetings.get("xyz")


def test_a_name_can_be_taken_once(greetings: Registry[Greeting]) -> None:
    def other() -> str:
        return ""

    with pytest.raises(UsageError, match=r"two greetings are named 'hello': .*hello and .*other"):
        greetings.register("hello")(other)


def test_a_class_is_loaded_from_a_file_and_its_folder_is_a_package(folder: Path) -> None:
    assert load(f"{folder}/app.py:Greeter").word == "Hello."


def test_a_file_is_looked_up_from_the_working_directory(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    assert load(f"{folder.name}/app.py:Greeter").word == "Hello."


def test_a_file_is_loaded_once(folder: Path) -> None:
    (folder.parent / "link").unlink(missing_ok=True)
    (folder.parent / "link").symlink_to(folder)
    modules = {id(load_file(folder / "app.py")), id(load_file(folder.parent / "link/app.py"))}
    assert len(modules) == 1


def test_folders_with_the_same_files_do_not_mix(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "app.py").write_text("from .words import WORD\n")
        (tmp_path / name / "words.py").write_text(f"WORD = {name!r}\n")
    assert [load(f"{tmp_path}/{name}/app.py:WORD") for name in ("a", "b")] == ["a", "b"]


def test_a_folder_takes_no_name_of_other_peoples_imports(tmp_path: Path) -> None:
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents/app.py").write_text("X = 1\n")
    load_file(tmp_path / "agents/app.py")
    assert not {"agents", "app", "agents.app"} & sys.modules.keys()


def test_a_function_is_loaded_from_a_module() -> None:
    assert load("nemo_like.registry:load") is load


def test_a_name_that_is_not_there_is_answered_with_the_nearest(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"app.py has no 'Greter'; did you mean 'Greeter'\?$"):
        load(f"{folder}/app.py:Greter")


@pytest.mark.parametrize("path", ["", "app.py", "app.py:", ":Greeter", "nemo_like.registry"])
def test_a_path_of_another_form_is_refused_with_the_right_one(path: str) -> None:
    with pytest.raises(UsageError, match=r"write file.py:Name or package.module:Name$"):
        load(path)


def test_a_missing_file_is_named_in_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=f"^there is no file {tmp_path}/none.py$"):
        load("none.py:Greeter")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import no_such_module", r"app.py can't be loaded: ModuleNotFoundError: .*no_such_module"),
        ("def", r"app.py can't be loaded: SyntaxError"),
        ("1 / 0", r"app.py can't be loaded: ZeroDivisionError: division by zero$"),
    ],
)
def test_a_file_that_fails_is_named_with_its_reason(tmp_path: Path, code: str, said: str) -> None:
    (tmp_path / "app.py").write_text(code)
    with pytest.raises(UsageError, match=said):
        load(f"{tmp_path}/app.py:X")


def test_a_mended_file_can_be_loaded_again(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("1 / 0")
    with pytest.raises(UsageError):
        load_file(tmp_path / "app.py")
    (tmp_path / "app.py").write_text("answer = 42")
    assert load(f"{tmp_path}/app.py:answer") == 42


def test_an_unknown_module_is_named() -> None:
    with pytest.raises(UsageError, match=r"^no_such.module can't be loaded: ModuleNotFoundError"):
        load("no_such.module:X")


def test_a_files_own_readable_error_passes_through(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(
        "from nemo_like.errors import MissingExtra\nraise MissingExtra('pip install x')"
    )
    with pytest.raises(MissingExtra, match=r"^pip install x$"):
        load_file(tmp_path / "app.py")
