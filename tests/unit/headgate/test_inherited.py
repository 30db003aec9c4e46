"""Foreign code inherits named variables of the environment, and no secret beside them."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from headgate.home import Home
from headgate.inherited import BUILD, MORE, SERVER, for_builds, only
from headgate.stack import launch
from headgate.stack.supervisor import Program, _description

SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "a", "AWS_SESSION_TOKEN": "b", "GOOGLE_APPLICATION_CREDENTIALS": "c",
    "AZURE_CLIENT_SECRET": "d", "MLFLOW_TRACKING_PASSWORD": "e", "PREFECT_API_AUTH_STRING": "f", "PGPASSWORD": "g",
    "HEADGATE_WEBHOOK_SECRET": "h", "OPENAI_API_KEY": "i", "GITHUB_TOKEN": "j", "DATABASE_URL": "k", "PYTHONPATH": "/l",
    "LD_PRELOAD": "/m", "PYTHONSTARTUP": "/n", "MLFLOW_TRACKING_USERNAME": "o", "MLFLOW_FLASK_SERVER_SECRET_KEY": "p",
}  # fmt: skip
HARMLESS = {
    "PATH": "/bin",
    "LANG": "C.UTF-8",
    "LC_ALL": "C",
    "TZ": "UTC",
    "OMP_NUM_THREADS": "2",
    "CUDA_VISIBLE_DEVICES": "0",
}


@pytest.mark.parametrize("patterns", [SERVER, BUILD], ids=["server", "build"])
def test_no_secret_is_inherited(patterns):
    assert only(patterns, {**SECRETS, **HARMLESS}) == HARMLESS


def test_a_build_has_what_uv_needs_and_what_is_named(monkeypatch):
    for name in ("UV_INDEX_ACME_PASSWORD", "https_proxy", "CFLAGS", "ACME_TOKEN", "OTHER_TOKEN", *SECRETS):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv(MORE, "ACME_TOKEN, GOOGLE_APPLICATION_CREDENTIALS")
    found = for_builds()
    assert {
        "UV_INDEX_ACME_PASSWORD",
        "https_proxy",
        "CFLAGS",
        "ACME_TOKEN",
        "GOOGLE_APPLICATION_CREDENTIALS",
    } <= found.keys()
    assert found.keys() & {"OTHER_TOKEN", *SECRETS} == {"GOOGLE_APPLICATION_CREDENTIALS"}


@pytest.mark.parametrize(("inherits", "secret"), [(SERVER, None), (("*",), "a"), (None, "a")])
def test_a_program_gets_what_it_inherits_and_what_it_is_given(tmp_path, inherits, secret):
    command = [sys.executable, "-c", "import json, os; print(json.dumps(dict(os.environ)))"]
    program = Program("p", command, {"GIVEN": "1"}, folder=tmp_path, inherits=inherits or ("*",))
    described = json.loads(_description(program, Home(tmp_path)))
    if inherits is None:
        # As an earlier version wrote it.
        del described["inherits"]
    file = tmp_path / "p.json"
    file.write_text(json.dumps(described))
    done = subprocess.run(
        [sys.executable, "-I", launch.__file__, str(file)], env={**SECRETS, **HARMLESS}, capture_output=True, check=True
    )
    found = json.loads(done.stdout)
    assert found.get("AWS_SECRET_ACCESS_KEY") == secret
    assert not found.keys() & {"PYTHONPATH", "PYTHONSTARTUP"}, "which programs of the stack do not get either"
    assert (found["GIVEN"], found["TZ"]) == ("1", "UTC")
