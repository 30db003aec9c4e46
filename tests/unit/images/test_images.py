from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
import yaml
from support import before_rename

from headgate.errors import ArtifactError, RequirementsError
from headgate.home import Home
from headgate.safe_path import PACKAGES, ROOT
from images import build_image, fetch_artifact, input_example
from images.bundle import SERVER


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
    assert (first.path / "headgate_server" / "app.py").exists()
    assert first.server == "headgate_server"
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


def put_code(model, *names):
    """Have a model bring modules, as `code_paths` does."""
    for name in names:
        (model / "code" / name).parent.mkdir(parents=True, exist_ok=True)
        (model / "code" / name).touch()
    known = yaml.safe_load((model / "MLmodel").read_text())
    known["flavors"]["python_function"]["code"] = "code"
    (model / "MLmodel").write_text(yaml.safe_dump(known))


@pytest.mark.parametrize("taken", ["headgate_server/__init__.py", "headgate_server/features.py", "headgate_server.py",
                                   "headgate_server.abi3.so"])  # fmt: skip
def test_a_model_with_a_module_of_the_servers_name_is_refused(wine, taken):
    put_code(wine, taken)
    name = taken.partition("/")[0]
    with pytest.raises(
        ArtifactError, match=f"artifact: code/{name} has the name of the server's own package"
    ) as raised:
        fetch(wine)
    assert raised.value.fix == "rename headgate_server in the model's code_paths, and log the model again"


def test_a_model_may_have_modules_of_the_names_of_headgates_other_packages(wine):
    put_code(wine, *(f"{name}.py" for name in PACKAGES if name != "headgate_server"))
    # What the server's package was called before.
    put_code(wine, "serving/__init__.py", "serving/features.py")
    put_code(wine, "headgate_server_costs.py", "headgate_server.md")
    assert fetch(wine).path == wine


def test_the_server_imports_no_other_package_of_headgates():
    """Of each it imports, the model could not have one of that name: this is the list of what is refused."""
    code = (
        "import importlib, json, pkgutil, sys, headgate_server\n"
        "for one in pkgutil.iter_modules(headgate_server.__path__, 'headgate_server.'):\n"
        "    importlib.import_module(one.name)\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    imported = set(json.loads(done.stdout))
    assert {"headgate_server", "mlflow", "uvicorn"} <= imported
    assert imported & set(PACKAGES) == {SERVER}


def test_a_bundle_of_before_has_the_server_by_its_old_name(home, wine, tmp_path):
    """It is another bundle, with its own record, and the environment is the same."""
    image = build_image(home, fetch(wine))
    with before_rename.packaging(tmp_path / "older"):
        older = build_image(home, fetch(wine))
    assert sorted(path.name for path in older.path.iterdir()) == ["model", "requirements.lock", "serving"]
    assert older.digest != image.digest
    assert older.interpreter == image.interpreter
    assert before_rename.recorded(older) == older


def test_the_code_that_is_packaged_is_headgates_own(home, wine, monkeypatch, tmp_path):
    """Also where another package of the server's name would be imported."""
    (tmp_path / "headgate_server").mkdir()
    (tmp_path / "headgate_server" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert (build_image(home, fetch(wine)).path / "headgate_server" / "app.py").exists()
