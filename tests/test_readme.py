"""Every command and snippet of the documentation, run in an empty folder, in the order it is read."""

from __future__ import annotations

import re
import signal
import subprocess
from pathlib import Path

import pytest

from .conftest import BIN, Project

ROOT = Path(__file__).parent.parent
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FOLDERS = ("", "resources_servers", "agents", "responses_api_models", "nemo_like")
READMES = [
    *(
        path
        for folder in FOLDERS
        for path in sorted((ROOT / folder).glob("README.md" if not folder else "**/README.md"))
        # A scaffold's page is tried where the scaffold is.
        if "scaffolds" not in path.parts
    ),
    ROOT / "scripts/README_difficulty_filter.md",
    ROOT / "scripts/README_rescore.md",
    ROOT / "README_tasks.md",
    ROOT / "README_generate_rollouts.md",
    *sorted((ROOT / "examples").glob("*.md")),
    *(ROOT / folder / "README.md" for folder in ("benchmarks", "data", "tests/faults", "tests/gym_configs")),
    *(ROOT / folder / "README.md" for folder in ("rollout_generation", "litellm", "environments/word_count")),
]
NEEDS = {
    "README_generate_rollouts.md": "scripts",
    "rollout_generation/README.md": "rollout_generation/generate_rollouts.py",
}
"""Pages whose commands are typed in the repository, and what they want of it."""


def blocks(readme: Path) -> list[tuple[str, str]]:
    return [(language, text) for language, text in FENCE.findall(readme.read_text())]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("readme", READMES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_readme_does_what_it_says(readme: Path, project: Project, no_orphans: None) -> None:
    """Blocks that begin with `# some/file` are saved there, `bash` and other `python` blocks are run, others
    only show."""
    if needed := NEEDS.get(str(readme.relative_to(ROOT))):
        (project.path / needed).parent.mkdir(exist_ok=True)
        (project.path / needed).symlink_to(ROOT / needed)
    background: list[subprocess.Popen[str]] = []
    try:
        for language, text in blocks(readme):
            first, _, rest = text.partition("\n")
            if language in ("python", "yaml", "json") and re.fullmatch(r"# [\w./-]+\.\w+", first):
                file = project.path / first[2:]
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(rest if language == "json" else text)
            elif language == "bash":
                shell(text, project.path, background)
            elif language == "python":
                (project.path / "snippet.py").write_text(text)
                shell("python snippet.py", project.path, background)
    finally:
        for process in background:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=20)


def shell(text: str, folder: Path, background: list[subprocess.Popen[str]]) -> None:
    """Run commands as typed; `ng_run` and `ng_viewer` go to the background once they are ready."""
    environment = {"PATH": f"{BIN}:/usr/local/bin:/usr/bin:/bin", "HOME": str(folder)}
    if text.lstrip().startswith(("ng_run", "ng_viewer")):
        process = subprocess.Popen(
            ["bash", "-c", f"exec {text}"], cwd=folder, env=environment, text=True, stdout=subprocess.PIPE
        )
        background.append(process)
        assert process.stdout is not None
        while not (line := process.stdout.readline()).startswith("Ctrl-C"):
            assert line, f"it ended: {text}"
        return
    done = subprocess.run(
        ["bash", "-euc", text],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"


def test_the_readmes_hold_something_to_run() -> None:
    assert sum(language == "bash" for readme in READMES for language, _ in blocks(readme)) >= 5


def test_no_page_is_left_out() -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    pages = {ROOT / name for name in tracked.stdout.splitlines()}
    scaffolds = {page for page in pages if "scaffolds" in page.parts}
    # The changelog holds no command.
    assert pages - scaffolds - {ROOT / "CHANGELOG.md"} == {*READMES}


@pytest.mark.slow
def test_a_page_of_the_examples_can_be_played_by_itself(tmp_path: Path) -> None:
    done = subprocess.run(
        [BIN / "python", ROOT / "examples/play.py", ROOT / "examples/own_model_server.md", tmp_path / "new"],
        env={"PATH": f"{BIN}:/usr/local/bin:/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "new/results/sums.jsonl").is_file()


def test_every_server_folder_has_a_page() -> None:
    servers = [path.parent for folder in FOLDERS[1:4] for path in (ROOT / folder).glob("*/app.py")]
    assert servers
    assert [str(folder) for folder in servers if not (folder / "README.md").is_file()] == []
