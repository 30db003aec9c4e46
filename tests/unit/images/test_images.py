from __future__ import annotations

import shutil
import subprocess

import pytest

from headgate.errors import ArtifactError, RequirementsError
from headgate.home import Home
from images import build_image, fetch_artifact, input_example


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return Home(tmp_path_factory.mktemp("home")).ensure()


@pytest.fixture
def wine(models, tmp_path):
    """A wine model that a test may damage."""
    return shutil.copytree(models("wine"), tmp_path / "wine")


def fetch(folder):
    return fetch_artifact(str(folder), folder.parent)


def test_what_mlflow_wrote_is_read(wine):
    artifact = fetch(wine)
    assert artifact.flavors == ("sklearn",)
    assert artifact.has_example
    assert any(line.startswith("scikit-learn==") for line in artifact.requirements)
    assert b"alcohol" in input_example(wine).body


def test_mlflow_is_added_where_the_model_leaves_it_out(wine):
    (wine / "requirements.txt").write_text("# none\nscikit-learn\n")
    assert [line.split("==")[0] for line in fetch(wine).requirements] == ["scikit-learn", "mlflow"]


def test_what_is_no_model_is_refused(wine, tmp_path):
    for folder, says in ((tmp_path / "nothing", "no folder"), (tmp_path, "not an MLflow model")):
        with pytest.raises(ArtifactError, match=says):
            fetch_artifact(str(folder), tmp_path)
    (wine / "MLmodel").write_text("flavors: {sklearn: {}}")
    with pytest.raises(ArtifactError, match="no python_function flavour"):
        fetch(wine)
    (wine / "MLmodel").write_text("- broken: [")
    with pytest.raises(ArtifactError, match="cannot be read"):
        fetch(wine)


def test_a_run_that_does_not_exist_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    with pytest.raises(ArtifactError, match="runs:/0123/model cannot be fetched"):
        fetch_artifact("runs:/0123/model", tmp_path)


def test_the_same_content_is_the_same_image(home, wine, tmp_path):
    first = build_image(home, fetch(wine))
    again = build_image(home, fetch(shutil.copytree(wine, tmp_path / "elsewhere")))
    assert first == again
    assert (first.path / "serving" / "app.py").exists()
    assert (first.path / "model" / "MLmodel").read_bytes() == (wine / "MLmodel").read_bytes()
    (wine / "model.pkl").write_bytes(b"other weights")
    changed = build_image(home, fetch(wine))
    assert changed.digest != first.digest
    assert changed.interpreter == first.interpreter, "the same lock shares an environment"


def test_the_lock_is_exact_and_names_no_index(home, wine):
    lock = (build_image(home, fetch(wine)).path / "requirements.lock").read_text()
    assert "scikit-learn==" in lock
    assert "--hash=sha256:" in lock
    assert "://" not in lock


def test_the_environment_has_the_model_and_the_server_and_not_us(home, wine):
    image = build_image(home, fetch(wine))
    code = "import sklearn, mlflow, uvicorn, importlib.util as u; raise SystemExit(bool(u.find_spec('prefect')))"
    assert subprocess.run([image.interpreter, "-I", "-c", code], check=False).returncode == 0


def test_a_package_that_does_not_exist_is_named(home, wine):
    (wine / "requirements.txt").write_text("mlflow\nscikit-learn==999.0.0\n")
    with pytest.raises(RequirementsError, match=r"scikit-learn==999\.0\.0"):
        build_image(home, fetch(wine))
    assert not list(home.envs.glob(".*.building"))


def test_a_python_that_is_not_here_is_named(home, wine):
    text = (wine / "python_env.yaml").read_text()
    (wine / "python_env.yaml").write_text(
        text.replace("python: 3.", "python: 2.", 1).replace("python: 2.11", "python: 2.6")
    )
    with pytest.raises(RequirementsError, match=r"Python 2\.6|cannot be resolved"):
        build_image(home, fetch(wine))
