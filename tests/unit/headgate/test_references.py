from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from headgate import references
from headgate.errors import SpecError
from headgate.home import Home
from headgate.references import NO_BLOCK, UnavailableError, UnresolvedError, problem_of, resolve
from headgate.release_file import parse_release
from headgate.stack import Program, launch
from headgate.stack.supervisor import _description

if TYPE_CHECKING:
    from pathlib import Path

FILE = "model: wine\nartifact: runs:/1/model\ntarget: {kind: local}\nruntime: {secrets: {TOKEN: 'REFERENCE'}}\n"


def write(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return f"file:{path}"


def test_values_are_found_where_the_references_say(tmp_path):
    given = {
        "A": "env:PLANTED",
        "B": write(tmp_path / "b", b"planted-b\n"),
        "C": write(tmp_path / "c", b" two\nlines\r\n"),
    }
    found = resolve(given, {"PLANTED": "planted-a"}, tmp_path)
    assert found == {"A": "planted-a", "B": "planted-b", "C": " two\nlines"}


@pytest.mark.parametrize(("content", "says"), [
    (b"", "is empty"), (b"\n", "is empty"), (b"planted\0x", "has a NUL in it"), (b"planted\xff", "is no text in UTF-8"),
    (b"p" * 65_537, "has more than the 65536 bytes that fit"),
])  # fmt: skip
def test_what_no_variable_can_hold_is_refused_and_not_repeated(tmp_path, content, says):
    reference = write(tmp_path / "secret", content)
    with pytest.raises(UnresolvedError) as raised:
        resolve({"TOKEN": reference}, {}, tmp_path)
    assert str(raised.value) == f"runtime.secrets.TOKEN: {reference} {says}"
    assert problem_of(reference, {}) == f"{reference} {says}"


def test_the_largest_value_fits(tmp_path):
    assert len(resolve({"A": write(tmp_path / "a", b"x" * 65_536 + b"\n")}, {}, tmp_path)["A"]) == 65_536


@pytest.mark.parametrize(("reference", "says"), [
    ("env:NOT_SET", "is not set in the environment that `headgate up` started the stack with"),
    ("file:/nowhere/token", "cannot be read: No such file or directory"),
    ("secret:db/password", "is no reference that a server of this machine can be given"),
])  # fmt: skip
def test_what_leads_nowhere_is_told_before_a_release(reference, says):
    assert says in problem_of(reference, {"SET": "planted"})


def test_what_cannot_be_known_yet_is_no_problem():
    assert problem_of("block:secret/anything", {}) == ""
    assert problem_of("env:NOT_SET", None) == ""


@pytest.mark.parametrize("code", ["print('planted', end='')", f"raise SystemExit({NO_BLOCK})", "raise SystemExit(1)"])
def test_a_block_is_read_by_a_process_of_its_own(tmp_path, monkeypatch, code):
    """What stands in a folder of the model's, or in PYTHONPATH, is not imported."""
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "__init__.py").write_text("raise SystemExit('the code of the model ran')")
    (tmp_path / "tasks" / "secret_block.py").write_text("raise SystemExit('the code of the model ran')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    asked = []
    real = subprocess.run

    def run(command, **options):
        asked.append((command, options["env"]))
        return real([sys.executable, "-c", code], **options)

    monkeypatch.setattr(references.subprocess, "run", run)
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    given = {"A": "block:secret/db"}
    if "planted" in code:
        assert resolve(given, {}, tmp_path) == {"A": "planted"}
    else:
        error = UnresolvedError if str(NO_BLOCK) in code else UnavailableError
        with pytest.raises(error, match=r"runtime\.secrets\.A: block:secret/db (is no Secret block|cannot be asked)"):
            resolve(given, {}, tmp_path)
    ((command, env),) = asked
    assert command == [sys.executable, "-P", "-m", "tasks.secret_block", "secret/db"]
    assert "PYTHONPATH" not in env
    assert env["PREFECT_API_URL"] == "http://127.0.0.1:9/api"


@pytest.mark.parametrize("reference", [
    "env:A_1", "file:/run/secrets/db password", "block:secret/my-db.prod", "secret:db/password", "secret:a.b-c/tls.key",
])  # fmt: skip
def test_references_are_taken(reference):
    assert parse_release(FILE.replace("REFERENCE", reference)).runtime.secrets == {"TOKEN": reference}


@pytest.mark.parametrize("reference", [
    "planted", "env:", "env:1A", "file:relative", "file:/a\\nb", "block:slack-webhook/x", "block:secret/", "secret:db",
    "secret:DB/key", "secret:db/a b", "env:A ", "vault:a/b",
])  # fmt: skip
def test_what_is_no_reference_is_refused_and_not_repeated(reference):
    text = FILE.replace("'REFERENCE'", json.dumps(reference.encode().decode("unicode_escape")))
    with pytest.raises(SpecError, match=r"runtime\.secrets\.TOKEN: is a reference: env:NAME, file:/path") as raised:
        parse_release(text)
    assert "planted" not in str(raised.value)


@pytest.mark.parametrize(("entry", "says"), [
    ("{secrets: {HEADGATE_WORKERS: 'env:A'}}", "the server's own"),
    ("{secrets: {PORT: 'env:A'}}", "the server's own"),
    ("{secrets: {LD_PRELOAD: 'env:A'}}", "makes the server load other code"),
    ("{secrets: {'A B': 'env:A'}}", "is no name of a variable"),
    ("{secrets: {A: 'env:A'}, env: {A: '1'}}", "A is in env and in secrets"),
])  # fmt: skip
def test_names_that_no_secret_has(entry, says):
    with pytest.raises(SpecError, match=says):
        parse_release(f"model: wine\nartifact: runs:/1/model\ntarget: {{kind: local}}\nruntime: {entry}\n")


def started(tmp_path: Path, secrets: dict[str, str], **env: str) -> subprocess.CompletedProcess[str]:
    """What a program that prints a secret does, as supervisord starts it."""
    command = [sys.executable, "-c", "import os; print(os.environ['TOKEN'], end='')"]
    program = Program("p", command, secrets=secrets, folder=tmp_path, inherits=("PATH",))
    description = tmp_path / "p.json"
    description.write_text(_description(program, Home(tmp_path)))
    assert "planted" not in description.read_text()
    return subprocess.run(
        [sys.executable, "-I", launch.__file__, str(description)], capture_output=True, text=True, check=False,
        env={**os.environ, launch.SUPERVISED_BY: str(tmp_path), **env},
    )  # fmt: skip


def test_a_program_is_given_its_secrets_when_it_starts_and_its_description_has_none(tmp_path):
    assert started(tmp_path, {"TOKEN": "env:PLANTED"}, PLANTED="planted-1").stdout == "planted-1"
    file = tmp_path / "token"
    reference = write(file, b"planted-2")
    assert started(tmp_path, {"TOKEN": reference}).stdout == "planted-2"
    file.write_bytes(b"planted-3")
    assert started(tmp_path, {"TOKEN": reference}).stdout == "planted-3", "a new value is there at the next start"


def test_a_program_without_its_secret_does_not_start_and_says_why(tmp_path):
    done = started(tmp_path, {"TOKEN": "env:PLANTED", "OTHER": "file:/nowhere"}, PLANTED="planted-1")
    assert (done.returncode, done.stdout) == (launch.LOAD_FAILED, "")
    assert done.stderr == "runtime.secrets.OTHER: file:/nowhere cannot be read: No such file or directory\n"


def test_a_program_that_waits_for_prefect_is_started_again(tmp_path, monkeypatch):
    """supervisord starts no program again that ends with LOAD_FAILED."""

    def away(*_):
        raise UnavailableError("away")

    monkeypatch.setattr(references, "resolve", away)
    monkeypatch.setenv(launch.SUPERVISED_BY, str(tmp_path))
    with pytest.raises(SystemExit) as ended:
        launch._secrets({"TOKEN": "block:secret/a"})
    assert ended.value.code == 1
