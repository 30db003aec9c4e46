"""Files of a user's that have the names of Headgate's packages, and of what it needs, beside which Headgate runs."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import psutil
import pytest
from support.models import pinned
from support.stack import HEADGATE, begin_stack, end_stack, http, running_stack, wait_for
from support.watched_logs import unwatch

from headgate.cli import COMMANDS
from headgate.home import Home
from headgate.safe_path import NOT_INHERITED, PACKAGES
from headgate.stack import Supervisor

if TYPE_CHECKING:
    from pathlib import Path

PACKAGED = ("registry", "deploy_targets", "mlflow")
NAMES = ("tasks", "flows", "monitoring", "headgate_server", "images", "click", "yaml", "prefect", "supervisor",
         "uvicorn", "compileall", "queue", *PACKAGED)  # fmt: skip
"""Of Headgate's packages, of what it needs, and of Python's own modules."""
TARGETED = "target: {kind: local}\n"


@pytest.fixture
def folder(tmp_path):
    """A user's folder, whose files note that they were imported in `imported`."""
    made = tmp_path / "project"
    (tmp_path / "imported").mkdir()
    for name in NAMES:
        file = made / name / "__init__.py" if name in PACKAGED else made / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"open({str(tmp_path / 'imported' / name)!r}, 'w').close()\n")
    return made


@pytest.fixture
def beside(folder, monkeypatch):
    """Have what the test starts begin in that folder, with PYTHONPATH naming it too; gives what was imported of it."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return lambda: sorted(path.name for path in (folder.parent / "imported").iterdir())


def test_the_files_are_what_python_finds_first(folder, beside):
    """Without which the other tests would show nothing."""
    subprocess.run([sys.executable, "-c", f"import {', '.join(NAMES)}"], check=True)
    assert beside() == sorted(NAMES)


def run(program: list[str], folder: Path, *arguments: str, expect: int = 0) -> None:
    env = {**os.environ, "HEADGATE_HOME": str(folder.parent / "home")}
    done = subprocess.run([*program, *arguments], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == expect, done.stderr
    assert "Traceback" not in done.stderr


def test_no_command_imports_files_of_the_folder_it_is_called_in(folder, beside, models, tmp_path):
    file = tmp_path / "release.yaml"
    file.write_text(f"model: wine\nartifact: {models('wine')}\n{TARGETED}")
    for module in sorted({module for module, _ in COMMANDS.values()}):
        run([HEADGATE], folder, next(name for name, (of, _) in COMMANDS.items() if of == module), "--help")
    for command in (
        ["validate", str(file)],
        ["scan", str(models("wine"))],
        ["doctor"],
        ["guard", "--once"],
        ["status"],
    ):
        run([HEADGATE], folder, *command)
    # Without a stack.
    run([HEADGATE], folder, "plan", str(file), expect=2)
    run([HEADGATE], folder, "rollback", "wine", "--reason", "x", expect=2)
    assert beside() == []


def test_nor_does_the_package_that_is_run_as_a_module(folder, beside):
    run([sys.executable, "-m", "headgate"], folder, "schema")
    run([sys.executable, "-m", "headgate"], folder, "status")
    assert beside() == []


@pytest.mark.timeout(600)
def test_a_stack_that_is_started_in_such_a_folder_releases(folder, beside, models, tmp_path):
    """By the stack's engine, by the command itself and by a worker; no process has the folder on its path."""
    home = tmp_path / "home"
    begin_stack(home)
    try:
        stack = running_stack(home)
        files = {name: tmp_path / f"{name}.yaml" for name in ("engine", "command", "worker", "own")}
        for name in ("engine", "command", "worker"):
            does = f"artifact: {models('pyfunc', does='double')}\n"
            files[name].write_text(f"model: {name}\n{does}{TARGETED}")
        assert stack.headgate("release", str(files["engine"])).returncode == 0
        assert stack.headgate("release", str(files["command"]), env={"HEADGATE_ENGINE": "off"}).returncode == 0
        assert stack.headgate("release", str(files["worker"]), "--watch").returncode == 0

        files["own"].write_text(f"model: own\nartifact: {logged_with_such_code(tmp_path)}\n{TARGETED}")
        url = stack.json("release", str(files["own"]))["url"]
        answer = http.post(url, json={"dataframe_records": [{"x": 1.0}]}).json()
        assert answer == {"predictions": [[f"the model's {name}" for name in SHIPPED]]}

        assert ran_by_the_worker(tmp_path, stack) == "helped"
        assert beside() == []
        found = Supervisor(Home(home))
        daemon = psutil.Process(found._call("getPID"))
        for process in [daemon, *daemon.children()]:
            assert not process.environ().keys() & NOT_INHERITED, process.cmdline()
        stack.headgate("doctor")
        assert beside() == []
    finally:
        end_stack(home)
        unwatch(Home(home).logs)


SHIPPED = sorted({*PACKAGES, "serving"} - {"headgate_server"})
"""`serving` was the name of the server's package."""


def logged_with_such_code(tmp_path: Path) -> Path:
    """Log a model with modules of the names of Headgate's packages in its code_paths, by a program of its own."""
    source, model = tmp_path / "source", tmp_path / "model"
    source.mkdir()
    for name in SHIPPED:
        file = source / name / "__init__.py" if name in {"registry", "headgate"} else source / f"{name}.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text(f'NAME = "the model\'s {name}"\n')
    (source / "own.py").write_text(
        f"import mlflow\nimport {', '.join(SHIPPED)}\n"
        "class Own(mlflow.pyfunc.PythonModel):\n"
        "    def predict(self, context, model_input, params=None):\n"
        f"        return [[{', '.join(f'{name}.NAME' for name in SHIPPED)}] for _ in range(len(model_input))]\n"
        "mlflow.models.set_model(Own())\n"
    )
    code = [str(source / name) if (source / name).exists() else str(source / f"{name}.py") for name in SHIPPED]
    (source / "log.py").write_text(
        "import mlflow, pandas as pd\n"
        f"mlflow.pyfunc.save_model({str(model)!r}, python_model='own.py', code_paths={code!r},\n"
        f"    pip_requirements={pinned('mlflow', 'pandas')!r}, input_example=pd.DataFrame({{'x': [1.0]}}))\n"
    )
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "log.py"], cwd=source, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return model


def ran_by_the_worker(tmp_path: Path, stack) -> str:
    """Have the stack's worker run a flow of a user's own, with a module beside it and a step of Headgate's."""
    own, written = tmp_path / "flow", tmp_path / "written"
    own.mkdir()
    (own / "helper.py").write_text("HELPED = 'helped'\n")
    (own / "mine.py").write_text(
        "from pathlib import Path\n"
        "from prefect import flow\n"
        "from helper import HELPED\n"
        "from tasks.step import step\n"
        "@step\n"
        "def write(path):\n"
        "    Path(path).write_text(HELPED)\n"
        "@flow\n"
        "def mine(path: str):\n"
        "    write(path)\n"
    )
    (own / "deploy.py").write_text(
        "from prefect import flow\n"
        f"flow.from_source(source={str(own)!r}, entrypoint='mine.py:mine').deploy(\n"
        "    name='own', work_pool_name='headgate', build=False, print_next_steps=False)\n"
        "from prefect.deployments import run_deployment\n"
        f"print(run_deployment('mine/own', parameters={{'path': {str(written)!r}}}, timeout=0).id)\n"
    )
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "deploy.py"], cwd=own, env={**env, **stack.env}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    run = done.stdout.split()[-1]
    wait_for(lambda: stack.prefect.get(f"/flow_runs/{run}").json()["state"]["type"] in {"COMPLETED", "FAILED"}, 120)
    return written.read_text()
