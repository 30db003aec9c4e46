"""What Headgate's processes import, whatever lies in the folders of the caller."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest

from headgate.safe_path import NOT_INHERITED, PACKAGES, ROOT, clean

SITE = sysconfig.get_path("purelib")
IN_BUNDLES = {"headgate_server", "headgate_server.ship", "SERVER", "revision.image.server", "serving", "steering"}
"""Modules that are run in their own folder, in which nothing of anybody else's is, also as the code names them."""


def python(code: str, folder: Path, *options: str, **env: str) -> subprocess.CompletedProcess[str]:
    given = {**clean(), **env}
    return subprocess.run(
        [sys.executable, *options, "-c", code], cwd=folder, env=given, capture_output=True, text=True, check=False
    )


def test_the_packages_are_those_of_the_wheel():
    told = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = told["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert sorted(PACKAGES) == sorted(wheel["packages"])
    own = {name.split("/")[0] for name in wheel["force-include"].values()}
    assert own <= set(PACKAGES), "a wheel has no other name at its top"
    assert all((ROOT / name / "__init__.py").exists() for name in PACKAGES)


def test_every_process_is_started_without_the_current_folder():
    """Each `-m` in the product, its deployments, its units and its chart has -P before it."""
    sources = (file for name in PACKAGES for file in (ROOT / name).rglob("*.py"))
    others = (file for kind in ("docs/*.md", "ops/**/*.yaml", "ops/**/*.tpl") for file in ROOT.glob(kind))
    python = r"(?:sys\.executable|\bpython3?|interpreter\))"
    started = re.compile(rf"""{python}(?P<options>[\s",]+(?:-\w+[\s",]+)*?)-m[\s",]+(?:f"\{{)?(?P<module>[\w.]+)""")
    found = {}
    for file in (*sources, *others, ROOT / "prefect.yaml"):
        for one in started.finditer(file.read_text()):
            found.setdefault(one["module"], []).append((str(file), one["options"]))
    unsafe = {module: where for module, where in found.items()
              if module not in IN_BUNDLES and any("-P" not in options for _, options in where)}  # fmt: skip
    # What documents name: virtual environments, the tests, Prefect's own way; and the command, which leaves the folder.
    assert unsafe.keys() <= {"venv", "pytest", "prefect.engine", "headgate"}
    assert {"headgate.flow_run", "tasks.receiver", "tasks.worker", "revision.image.server", "SERVER"} <= found.keys()


def test_an_environment_is_cleaned(monkeypatch):
    for name in NOT_INHERITED:
        monkeypatch.setenv(name, "/x")
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    assert clean().keys() & {*NOT_INHERITED, "PYTHONHASHSEED"} == {"PYTHONHASHSEED"}


LEAVE = "import sys; {}; from headgate.safe_path import leave_callers_folders as leave; leave(); {}"


def test_the_callers_folders_are_left(tmp_path):
    (tmp_path / "own").mkdir()
    code = LEAVE.format("0", "import os; print(os.getcwd() in sys.path, '' in sys.path, sys.path, dict(os.environ))")
    given = os.pathsep.join(["own", "", str(tmp_path / "other"), f"{tmp_path}/./third"])
    said = python(code, tmp_path, PYTHONPATH=given, PYTHONSTARTUP="/x").stdout
    assert said.startswith("False False")
    assert str(tmp_path) not in said.replace(f"'PWD': '{tmp_path}'", "")
    assert not [name for name in NOT_INHERITED if name in said]


@pytest.mark.parametrize("named", [SITE, str(ROOT), sysconfig.get_path("stdlib")])
def test_pythons_own_folders_and_headgates_stay(tmp_path, named):
    done = python(
        LEAVE.format("0", f"import click, headgate.errors; print({named!r} in sys.path)"), tmp_path, PYTHONPATH=named
    )
    assert done.stdout == "True\n", done.stderr


def test_a_folder_that_a_launcher_put_first_stays(tmp_path):
    done = python(LEAVE.format("sys.path.insert(0, '/bundle')", "print(sys.path[0])"), tmp_path)
    assert done.stdout == "/bundle\n", done.stderr


def test_a_folder_that_was_removed_is_no_trouble(tmp_path):
    (tmp_path / "gone").mkdir()
    code = LEAVE.format("import os; os.rmdir(os.getcwd())", "print(sys.path)")
    done = python(code, tmp_path / "gone", PYTHONPATH=str(tmp_path))
    assert str(tmp_path / "gone") not in done.stdout
    assert f"'{tmp_path}'" not in done.stdout
    assert done.returncode == 0, done.stderr


CHECK = "import sys; from headgate.safe_path import require_own; {}; require_own()"


def refused(code: str, folder: Path, **env: str) -> str:
    done = python(code, folder, **env)
    assert done.returncode == 1
    said = done.stderr.partition("headgate.errors.ShadowedError: ")[2]
    assert said, done.stderr
    assert not (folder / "imported").exists(), "a check imports nothing"
    return said


def put(folder: Path, name: str) -> Path:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"open({str(folder / 'imported')!r}, 'w').close()")
    return file


@pytest.mark.parametrize("name", ["tasks.py", "registry/__init__.py", "headgate_server.py"])
def test_a_file_of_the_current_folder_is_named_with_why_and_what_to_do(tmp_path, name):
    file, package = put(tmp_path, name), re.split(r"\W", name)[0]
    said = refused(CHECK.format("0"), tmp_path)
    assert f"{package} would be" not in said
    assert said.splitlines() == [
        f"{file} would be imported in place of Headgate's package {package}: Python searches the current folder first",
        f"  fix: rename {package} there, or start Python with -P",
    ]


def test_a_file_of_pythonpath_is_named(tmp_path):
    file = put(tmp_path / "own", "tasks.py")
    said = refused(CHECK.format("0"), tmp_path, PYTHONPATH="own")
    assert f"{file} would be imported in place of Headgate's package tasks: PYTHONPATH names {file.parent}" in said
    assert f"fix: take {file.parent} out of PYTHONPATH, or rename tasks there" in said


def test_a_file_beside_the_script_is_named(tmp_path):
    file = put(tmp_path / "own", "registry/__init__.py")
    (tmp_path / "own" / "mine.py").write_text("import flows.release")
    done = subprocess.run(
        [sys.executable, str(tmp_path / "own" / "mine.py")], cwd=tmp_path, env=clean(), capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    said = f"ShadowedError: {file} would be imported in place of Headgate's package registry: Python searches"
    assert f"{said} the folder of the script first" in done.stderr


def test_another_distribution_is_named(tmp_path):
    file = put(tmp_path / "site", "tasks/__init__.py")
    info = tmp_path / "site" / "acme_tasks-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-tasks\nVersion: 1.0\n")
    (info / "top_level.txt").write_text("tasks\n")
    said = refused(CHECK.format(f"sys.path.insert(1, {str(tmp_path / 'site')!r})"), tmp_path)
    assert (
        f"{file} would be imported in place of Headgate's package tasks: it is of the distribution acme-tasks" in said
    )
    assert "fix: pip uninstall acme-tasks; or install Headgate again, in an environment of its own" in said


def test_a_folder_that_a_path_file_adds_is_named(tmp_path):
    places = "sys.path.insert(1, {0!r}); import site; site.getsitepackages = lambda: [{1!r}]"
    put(tmp_path / "project", "flows.py")
    path_file = put(tmp_path / "site", "project.pth")
    path_file.write_text(f"# ours\n{tmp_path / 'project'}\n")
    said = refused(CHECK.format(places.format(str(tmp_path / "project"), str(tmp_path / "site"))), tmp_path)
    assert f"in place of Headgate's package flows: {path_file} names {tmp_path / 'project'}\n" in said
    path_file.unlink()
    said = refused(CHECK.format(places.format(str(tmp_path / "project"), str(tmp_path / "site"))), tmp_path)
    assert f"sys.path has {tmp_path / 'project'} before {ROOT}" in said


def installed(folder: Path, *left_out: str) -> Path:
    """Copy Headgate's packages to a folder that no Python knows of."""
    for name in set(PACKAGES) - set(left_out):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def test_a_headgate_that_only_the_caller_finds_is_refused(tmp_path):
    """What it starts would be another Headgate, or none."""
    copy = installed(tmp_path / "copy")
    for command, env in (
        ([sys.executable, "-m", "headgate", "schema"], {}),
        ([HEADGATE, "schema"], {"PYTHONPATH": str(copy)}),
    ):
        done = subprocess.run(command, cwd=copy, env={**clean(), **env}, capture_output=True, text=True, check=False)
        assert done.returncode == 2, done.stderr
        assert done.stderr.startswith(f"headgate: {copy / 'headgate'} was found by the current folder or by PYTHONPATH")
        assert f"they find {ROOT / 'headgate'}\n  fix: pip install {copy}" in done.stderr


HEADGATE = str(Path(sys.executable).parent / "headgate")


def test_a_package_that_is_not_there_is_named(tmp_path):
    copy = installed(tmp_path / "copy", "images")
    code = f"import sys; sys.path[:] = [one for one in sys.path if one != {str(ROOT)!r}] + [{str(copy)!r}]; "
    done = python(code + "from headgate.safe_path import enter; enter('headgate')", tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        f"headgate: Headgate's package images is not in {copy}",
        "  fix: install Headgate again, in an environment of its own: docs/install.md",
    ]
