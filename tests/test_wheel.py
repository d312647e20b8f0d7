"""The package as people install it: a wheel, in an empty folder."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of an environment that holds the wheel; what it needs comes from the tests' own."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        folder,
        ROOT,
    ]
    subprocess.run(build, check=True, timeout=200)
    [wheel] = folder.glob("nemo_like-*.whl")
    venv.create(folder / "venv", with_pip=False, symlinks=True)
    [site] = (folder / "venv").glob("lib/python*/site-packages")
    python = folder / "venv/bin/python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", wheel]
    subprocess.run(pip, check=True, timeout=100)
    here = next(path for path in map(Path, sys.path) if path.name == "site-packages")
    # After its own, so that the wheel is what is imported.
    (site / "zz_needs.pth").write_text(f"{here}\n")
    return folder / "venv/bin"


def run(bin_folder: Path, folder: Path, *command: str) -> str:
    done = subprocess.run(
        [bin_folder / command[0], *command[1:]],
        cwd=folder,
        env={"PATH": f"{bin_folder}:/usr/bin:/bin", "HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_a_wheel_brings_its_content_and_ones_own_folders_shadow_it(installed: Path, tmp_path: Path) -> None:
    where = run(installed, tmp_path, "python", "-c", "import nemo_like; print(nemo_like.__file__)")
    assert str(installed.parent) in where
    listed = run(installed, tmp_path, "ng_list", "environments", "+json=true")
    assert "/nemo_like/_content/resources_servers/arithmetic" in listed
    collect = (
        *("ng_collect_rollouts", "model=scripted", "env=arithmetic", "+policy_script=['14']"),
        "+input_jsonl_fpath=resources_servers/arithmetic/data/example.jsonl",
    )
    assert "5 of 5 rollouts" in run(installed, tmp_path, *collect, "+output_jsonl_fpath=a.jsonl")
    run(installed, tmp_path, "ng_init_resources_server", "+entrypoint=resources_servers/arithmetic")
    assert f"{tmp_path}/resources_servers/arithmetic" in run(installed, tmp_path, *("ng_list", "+json=true"))
    app = tmp_path / "resources_servers/arithmetic/app.py"
    app.write_text(
        "from nemo_like.server import ResourcesServer\n"
        "class Mine(ResourcesServer):\n    async def verify(self, task, response): return 0.5\n"
    )
    run(installed, tmp_path, *collect, "+output_jsonl_fpath=b.jsonl")
    assert '"reward":0.5' in (tmp_path / "b.jsonl").read_text()
