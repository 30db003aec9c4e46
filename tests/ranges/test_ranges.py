"""The oldest and the newest versions that pyproject.toml allows, each installed from the wheel as users install it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
UV = str(Path(sys.executable).parent / "uv")

pytestmark = pytest.mark.timeout(1500)


def run(*command: str, folder: Path, **env: str) -> str:
    ours = ("HEADGATE_", "PREFECT_", "MLFLOW_", "VIRTUAL_ENV")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    done = subprocess.run(command, cwd=folder, env=clean | env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    run(UV, "build", "--quiet", "--wheel", "--out-dir", str(folder), str(REPOSITORY), folder=folder)
    (built,) = folder.glob("*.whl")
    assert built.name.startswith("headgate_ml-")
    return built


@pytest.fixture
def environment(wheel, tmp_path):
    """Make an environment from the wheel; gives its folder of programs."""

    def make(*options: str) -> Path:
        run(UV, "venv", "--quiet", "--python", sys.executable, str(tmp_path / "venv"), folder=tmp_path)
        binaries = tmp_path / "venv" / "bin"
        run(UV, "pip", "install", "--quiet", "--python", str(binaries / "python"), *options, f"{wheel}[postgresql]",
            folder=tmp_path)  # fmt: skip
        return binaries

    return make


def test_the_documented_name_installs_the_command(environment, tmp_path):
    """As docs/install.md says: from the wheel, with the versions of the lock."""
    binaries = environment("--constraints", str(REPOSITORY / "requirements.lock"))
    said = run(str(binaries / "headgate"), "--help", folder=tmp_path, HEADGATE_HOME=str(tmp_path / "home"))
    assert "Release trained models safely." in said
    assert "headgate-ml" in run(UV, "pip", "list", "--python", str(binaries / "python"), folder=tmp_path)


@pytest.mark.parametrize("resolution", ["lowest-direct", "highest"])
def test_an_endpoint_lives_with_each_end_of_the_ranges(environment, tmp_path, resolution):
    binaries = environment("--resolution", resolution)
    tests = REPOSITORY / "tests"
    path = os.pathsep.join(map(str, (tests, tests / "support", REPOSITORY / "examples")))
    life = str(Path(__file__).with_name("life.py"))
    run(str(binaries / "python"), life, str(tmp_path), folder=tmp_path, PYTHONPATH=path)
