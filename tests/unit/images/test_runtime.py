from __future__ import annotations

import gzip
import hashlib
import io
import random
import tarfile

import pytest

from headgate.errors import PackageError, RequirementsError
from headgate.home import Home
from images.requirements import install_into, lock_requirements
from images.runtime import keep, runtime_layer, this_platform


def layer(root):
    """Of a server that needs next to nothing, as the layer of the real one takes most of a minute."""
    home = Home(root).ensure()
    return runtime_layer(home, lock_requirements(home, ("click==8.3.0",), "3.11", besides=()), "3.11")


def test_the_same_lock_is_the_same_layer_on_another_machine(tmp_path):
    first, second = layer(tmp_path / "one"), layer(tmp_path / "two")
    assert (first.digest, first.diff_id, first.size) == (second.digest, second.diff_id, second.size)
    content = b"".join(first.read(0))
    assert first.digest == f"sha256:{hashlib.sha256(content).hexdigest()}"
    assert first.diff_id == f"sha256:{hashlib.sha256(gzip.decompress(content)).hexdigest()}"


def test_it_holds_packages_server_and_byte_code_and_is_made_once(tmp_path, monkeypatch):
    made = layer(tmp_path)
    with tarfile.open(fileobj=io.BytesIO(b"".join(made.read(0)))) as archive:
        names = set(archive.getnames())
    site = "opt/headgate/lib/python3.11/site-packages"
    assert {f"{site}/click/core.py", f"{site}/click/__pycache__/core.cpython-311.pyc"} <= names
    assert {"opt/headgate/serving/app.py", "opt/headgate/serving/__pycache__/app.cpython-311.pyc"} <= names
    monkeypatch.setattr("images.runtime.install_into", None)
    assert layer(tmp_path).digest == made.digest


def test_a_package_without_a_wheel_for_the_images_platform_is_named(tmp_path):
    home = Home(tmp_path).ensure()
    with pytest.raises(RequirementsError, match=r"(?s)cannot be resolved.*pywin32"):
        lock_requirements(home, ("pywin32==311",), "3.11")


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
