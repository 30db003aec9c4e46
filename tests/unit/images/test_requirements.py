"""requirements.txt is a file of pip's, inside the model's folder; each failure of uv has its own fix."""

from __future__ import annotations

import re
import socket
import subprocess
import zipfile
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from support.small_server import answering

from headgate.errors import RequirementsError
from headgate.home import Home
from images.artifact import _requirements
from images.pip_file import PipFile
from images.requirements import ensure_environment, lock_requirements

PYTHON = "3.11"


def wheel(folder, name: str, version: str, *requires: str) -> str:
    """Make a wheel with one module, which knows its version; returns its file's name."""
    folder.mkdir(parents=True, exist_ok=True)
    about, file = f"{name}-{version}.dist-info", f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(folder / file, "w") as packed:
        packed.writestr(f"{name}.py", f"VERSION = {version!r}\n")
        needs = "".join(f"Requires-Dist: {one}\n" for one in requires)
        packed.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}")
        packed.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        packed.writestr(f"{about}/RECORD", "")
    return file


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "home").ensure()


@pytest.fixture
def links(tmp_path):
    """Packages that are found without any index."""
    folder = tmp_path / "links"
    for version in ("1.0", "2.0", "3.0"):
        wheel(folder, "corn", version)
    wheel(folder, "rye", "1.0", "corn<2")
    wheel(folder, "fieldpriv", "1.0.0+cpu")
    # Their names have words of other failures.
    wheel(folder, "connectionpool403", "1.0")
    wheel(folder, "tlsconflict", "1.401", "connectionpool403>=2")
    return folder


def model(tmp_path, *lines: str, name: str = "model", **files: str) -> PipFile:
    folder = tmp_path / name
    folder.mkdir(exist_ok=True)
    (folder / "requirements.txt").write_text("\n".join(lines) + "\n")
    for file, text in files.items():
        (folder / f"{file}.txt").write_text(text)
    return PipFile.read(folder)


def lock(home: Home, asked: PipFile) -> str:
    return lock_requirements(home, asked, PYTHON, besides=())


def installed(home: Home, asked: PipFile, *modules: str) -> list[str]:
    python = ensure_environment(home, lock(home, asked), PYTHON, asked)
    code = f"import {', '.join(modules)}; print({', '.join(f'{one}.VERSION' for one in modules)})"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.parametrize("option", ["-c constraints.txt", "--constraint=constraints.txt"])
def test_constraints_are_those_beside_it_and_part_of_what_is_locked(home, links, tmp_path, option):
    asked = [f"--find-links {links}", "--no-index", "corn", option]
    first = model(tmp_path, *asked, constraints="corn<3")
    assert "corn==2.0" in lock(home, first)
    changed = model(tmp_path, *asked, constraints="corn<2")
    assert "corn==1.0" in lock(home, changed), "another constraint is another request"


def test_wheels_in_the_models_folder_are_installed_from_wherever_it_lies(home, tmp_path):
    for name in ("here", "there"):
        file = wheel(tmp_path / name / "wheels", "inside", "1.5")
        assert installed(home, model(tmp_path, f"wheels/{file}", "--no-index", name=name), "inside") == ["1.5"]
    # The same name with another content is another request.
    with zipfile.ZipFile(tmp_path / "there" / "wheels" / file, "a") as packed:
        packed.writestr("more.py", "")
    assert len({lock(home, PipFile.read(tmp_path / name)) for name in ("here", "there")}) == 2


@pytest.mark.parametrize("asks", [
    ["-f wheels", "inside"], ["--find-links=wheels", "inside"], ["inside @ file:wheels/inside-1.5-py3-none-any.whl"],
    ["inside @ file://{folder}/wheels/inside-1.5-py3-none-any.whl"], ["./wheels/inside-1.5-py3-none-any.whl[all]"],
])  # fmt: skip
def test_packages_beside_it_are_part_of_what_is_locked(home, tmp_path, asks):
    """Another wheel of the same name and version is another request: no model runs another one's code."""
    for name, word in (("here", "ours"), ("there", "theirs")):
        folder = tmp_path / name
        file = wheel(folder / "wheels", "inside", "1.5")
        with zipfile.ZipFile(folder / "wheels" / file, "a") as packed:
            packed.writestr("word.py", f"VERSION = {word!r}\n")
        asked = model(tmp_path, "--no-index", *(line.format(folder=folder) for line in asks), name=name)
        assert asked.missing() == []
        assert installed(home, asked, "word") == [word]
    (folder / "wheels" / file).unlink()
    (folder / "wheels").rmdir()
    assert PipFile.read(folder).missing(), "plan refuses it"


def test_links_and_local_versions_are_used_for_the_install_too(home, links, tmp_path):
    asked = model(
        tmp_path, f"-f {links}", "--no-index", "fieldpriv==1.0.0+cpu", "-r more.txt", more="rye # with corn\n"
    )
    assert installed(home, asked, "fieldpriv", "corn") == ["1.0.0+cpu", "1.0"]
    assert str(links) not in lock(home, asked)


@contextmanager
def index(folder):
    """A simple index with the files of a folder; gives its address."""
    for file in folder.iterdir():
        pages = folder / "simple" / file.name.partition("-")[0]
        pages.mkdir(parents=True, exist_ok=True)
        with (pages / "index.html").open("a") as page:
            page.write(f'<a href="/{file.name}">{file.name}</a><br>')
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(folder)))
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}/simple"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("option", ["-i", "--index-url=", "--extra-index-url"])
def test_an_index_is_asked_for_the_install_too_and_its_password_is_written_nowhere(home, links, tmp_path, option):
    with index(links) as address:
        space = "" if option.endswith("=") else " "
        asked = model(tmp_path, f"{option}{space}http://ann:s3cret@{address}", "fieldpriv==1.0.0+cpu")
        assert installed(home, asked, "fieldpriv") == ["1.0.0+cpu"]
    assert asked.sources() == [f"{option}{space}http://{address}"]
    everything = b"".join(one.read_bytes() for one in home.root.rglob("*") if one.is_file())
    assert b"s3cret" not in everything


@pytest.mark.parametrize(("lines", "added"), [
    (["pandas"], "mlflow==3.17.2"), ([], "mlflow==3.17.2"), (["mlflow-skinny==3.1"], "mlflow==3.17.2"),
    (["mlflow==3.16.0"], None), (["mlflow<3.17,>=3"], None), (["mlflow~=3.16.0"], None),
    (["MLflow [extras] <=3.16"], None),
    (["mlflow @ file:///models/mlflow-3.16.0-py3-none-any.whl"], None),
    (["wheels/mlflow-3.16.0-py3-none-any.whl"], None),
    (["mlflow==3.16.0 ; python_version >= '3.9' --hash=sha256:ab"], None), (["-r more.txt"], None),
    (["pandas", "-c more.txt"], "mlflow==3.17.2"),
])  # fmt: skip
def test_mlflow_is_added_where_nothing_names_it(tmp_path, lines, added):
    asked = model(tmp_path, *lines, more="# the server\nmlflow>=3\n")
    assert _requirements(asked.folder, "3.17.2") == (*lines, *([added] if added else []))


def test_a_line_that_goes_on_and_comments_are_read_as_pip_does(tmp_path):
    asked = model(
        tmp_path, "# a comment", "corn \\", "  ==1.0  # why", "", "rye @ https://example.com/rye.zip#sha256=ab"
    )
    assert asked.lines == ("corn    ==1.0", "rye @ https://example.com/rye.zip#sha256=ab")
    assert asked.names() == {"corn", "rye"}
    assert asked.sources() == ["rye @ https://example.com/rye.zip#sha256=ab"]


def refused(status: int):
    return answering(lambda _: (status, b""))


@pytest.mark.parametrize(("lines", "fix"), [
    (["--no-index", "-f {links}", "rye", "corn>=2"], "loosen the versions"),
    (["--no-index", "-f {links}", "corn==9"], "name a version that the index has"),
    (["--no-index", "-f {links}", "wheat"], "name a version that the index has"),
    (["--no-index", "wheels/gone-1.0-py3-none-any.whl"], "log the files that requirements.txt names"),
    (["-c gone.txt", "corn"], "log gone.txt in the model's folder"),
    (["--index-url http://127.0.0.1:9/simple", "corn"], "an index does not answer"),
    (["--no-index", "-f {links}", "connectionpool403==9"], "name a version that the index has"),
    (["--no-index", "-f {links}", "tlsconflict", "connectionpool403==1.0"], "loosen the versions"),
    (["git+https://127.0.0.1:9/corn.git"], "git cannot fetch"),
])  # fmt: skip
def test_each_failure_has_its_own_fix(home, links, tmp_path, lines, fix, monkeypatch):
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    with pytest.raises(RequirementsError) as raised:
        lock(home, model(tmp_path, *(line.format(links=links) for line in lines)))
    assert fix in raised.value.fix


def test_an_index_that_refuses_and_a_python_that_is_not_here(home, tmp_path, monkeypatch):
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    with refused(401) as url, pytest.raises(RequirementsError) as raised:
        lock(home, model(tmp_path, f"--index-url {url}/simple", "corn"))
    assert "asks for a user" in raised.value.fix
    with pytest.raises(RequirementsError, match=r"trained with Python 3\.99") as raised:
        ensure_environment(home, "", "3.99")
    assert "install that Python" in raised.value.fix


def test_a_hash_is_no_status_of_an_index(home, links, tmp_path):
    asked = model(tmp_path, "--no-index", f"-f {links}", "corn==1.0")
    changed = re.sub(r"sha256:\w+", f"sha256:{'0403' * 16}", lock(home, asked))
    with pytest.raises(RequirementsError) as raised:
        ensure_environment(home, changed, PYTHON, asked)
    assert "the index has another file than when it was locked" in raised.value.fix


def test_an_index_that_does_not_answer_in_time_is_an_error_that_names_the_limit(home, tmp_path, monkeypatch):
    monkeypatch.setenv("HEADGATE_BUILD_SECONDS", "1")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/simple"
        with pytest.raises(RequirementsError, match="uv has not ended after 1 s") as caught:
            lock(home, model(tmp_path, f"--index-url {url}", "corn"))
    assert "HEADGATE_BUILD_SECONDS" in caught.value.fix
