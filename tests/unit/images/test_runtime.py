from __future__ import annotations

import gzip
import hashlib
import io
import random
import shutil
import tarfile

import pytest

from headgate.errors import PackageError, RequirementsError
from headgate.home import Home
from headgate.safe_path import ROOT
from images.bundle import SERVER, SERVER_CODE
from images.pip_file import PipFile
from images.requirements import install_into, lock_requirements
from images.runtime import code_layer, keep, packages_layer, this_platform


def layer(root):
    """Of a server that needs next to nothing, as the layer of the real one takes most of a minute."""
    home = Home(root).ensure()
    return packages_layer(home, lock_requirements(home, PipFile(("click==8.3.0",)), "3.11", besides=()), "3.11")


def code(root):
    return code_layer(Home(root).ensure(), "3.11", SERVER)


def names_in(made):
    with tarfile.open(fileobj=io.BytesIO(b"".join(made.read(0)))) as archive:
        return set(archive.getnames())


def test_another_package_is_another_layer_also_of_the_same_code(tmp_path, monkeypatch):
    for name in ("one", "two"):
        (tmp_path / "code" / name).mkdir(parents=True)
        (tmp_path / "code" / name / "__init__.py").touch()
    monkeypatch.setattr("images.bundle.ROOT", tmp_path / "code")
    home = Home(tmp_path / "home").ensure()
    for name in ("one", "two"):
        assert f"opt/headgate/{name}/__init__.py" in names_in(code_layer(home, "3.11", name))


@pytest.mark.parametrize("layer", [layer, code])
def test_the_same_lock_and_the_same_code_are_the_same_layers_on_another_machine(tmp_path, layer):
    first, second = layer(tmp_path / "one"), layer(tmp_path / "two")
    assert (first.digest, first.diff_id, first.size) == (second.digest, second.diff_id, second.size)
    content = b"".join(first.read(0))
    assert first.digest == f"sha256:{hashlib.sha256(content).hexdigest()}"
    assert first.diff_id == f"sha256:{hashlib.sha256(gzip.decompress(content)).hexdigest()}"


def test_they_hold_packages_server_and_byte_code_and_are_made_once(tmp_path, monkeypatch):
    made, own = layer(tmp_path), code(tmp_path)
    site, server = "opt/headgate/lib/python3.11/site-packages", f"opt/headgate/{SERVER}"
    packages = names_in(made)
    assert {f"{site}/click/core.py", f"{site}/click/__pycache__/core.cpython-311.pyc"} <= packages
    assert {f"{server}/app.py", f"{server}/__pycache__/app.cpython-311.pyc"} <= names_in(own)
    assert not {name for name in packages if name.startswith(server)}
    monkeypatch.setattr("images.runtime.install_into", None)
    monkeypatch.setattr("images.runtime._compile", None)
    assert layer(tmp_path).digest == made.digest
    assert code(tmp_path).digest == own.digest


def test_another_headgate_has_the_same_layer_of_packages(tmp_path, monkeypatch):
    before = layer(tmp_path), code(tmp_path)
    shutil.copytree(ROOT / SERVER, tmp_path / "next" / SERVER)
    with (tmp_path / "next" / SERVER / "app.py").open("a", encoding="utf-8") as file:
        file.write("# the next version\n")
    monkeypatch.setenv(SERVER_CODE, str(tmp_path / "next"))
    after = layer(tmp_path), code(tmp_path)
    assert [one.digest == other.digest for one, other in zip(before, after, strict=True)] == [True, False]


def test_a_package_without_a_wheel_for_the_images_platform_is_named(tmp_path):
    home = Home(tmp_path).ensure()
    with pytest.raises(RequirementsError, match=r"(?s)cannot be resolved.*pywin32"):
        lock_requirements(home, PipFile(("pywin32==311",)), "3.11")


def test_a_package_without_any_wheel_is_built_here(tmp_path):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "pyproject.toml").write_text("[project]\nname = 'own-thing'\nversion = '1.0'\n")
    (tmp_path / "own" / "own_thing.py").write_text("answer = 42\n")
    with tarfile.open(tmp_path / "own_thing-1.0.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "own", "own_thing-1.0")
    digest = hashlib.sha256((tmp_path / "own_thing-1.0.tar.gz").read_bytes()).hexdigest()
    lock = f"own-thing @ {(tmp_path / 'own_thing-1.0.tar.gz').as_uri()} --hash=sha256:{digest}\n"
    install_into(tmp_path / "site", lock, "3.11", this_platform().wheels)
    assert (tmp_path / "site" / "own_thing.py").read_text() == "answer = 42\n"


def test_a_full_disk_is_named_and_nothing_half_is_left(tmp_path):
    folder = tmp_path / "layer"
    folder.mkdir()
    (folder / "layer.tar.gz").symlink_to("/dev/full")
    with pytest.raises(PackageError, match="cannot be written: No space left on device"):
        keep(iter([random.randbytes(2**20)] * 3), folder)
    assert not folder.exists()


class Installs:
    """In place of uv: one package, and what else lies in the folder."""

    def __init__(self, **more: str) -> None:
        self.more = more

    def __call__(self, site, *_):
        info = site / "good-1.dist-info"
        info.mkdir(parents=True)
        (site / "bin").mkdir()
        for name in ("good.py", "bin/good"):
            (site / name).write_text("x = 1\n")
        (site / "bin" / "good").chmod(0o755)
        (info / "RECORD").write_text("good.py,,\n../../bin/good,,\ngood-1.dist-info/RECORD,,\n")
        for name, text in self.more.items():
            path = site / name.replace("_", ".", 1)
            path.write_text(text)
            path.chmod(0o755 if name.startswith("run") else 0o644)


def test_nothing_runs_at_the_start_of_python(tmp_path, monkeypatch):
    starters = {"evil_pth": "import os; os.system('true')", "sitecustomize_py": "", "usercustomize_py": ""}
    monkeypatch.setattr("images.runtime.install_into", Installs(**starters))
    names = {name.rpartition("/")[2] for name in names_in(layer(tmp_path))}
    assert {"good", "good.py"} <= names
    assert not {"evil.pth", "sitecustomize.py", "usercustomize.py"} & names


def test_an_executable_that_no_package_lists_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("images.runtime.install_into", Installs(run_sh="true"))
    with pytest.raises(PackageError, match=r"run\.sh is an executable that no installed package lists"):
        layer(tmp_path)
