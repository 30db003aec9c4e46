"""Planted secrets: wherever a user may put one, it is in nothing that is written."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import httpx
import psutil
import pytest
from conftest import QUICK
from support.stack import HEADGATE, wait_for

from headgate.inherited import SERVER, only
from headgate.sign_in import mlflow_sign_in
from headgate.stack import Supervisor
from registry import Kind

PLANTED = {
    "OPS_CHAT": "json://bot:planted-apprise-1@127.0.0.1:9/planted-apprise-2",
    "MLFLOW_TRACKING_USERNAME": "planted-mlflow-user",
    "MLFLOW_TRACKING_PASSWORD": "planted-mlflow-password",
    # Of another server: the stack's is not named beside it.
    "PREFECT_API_AUTH_STRING": "admin:planted-prefect",
}
# No part of any of these may be seen.
SECRETS = ("planted-apprise", "planted-mlflow", "planted-prefect", "planted-uri", "planted-journal", "plantedslack")
NOTIFY = 'notify: ["env:OPS_CHAT", "block:slack-webhook/planted"]\n'


def written(root: Path) -> dict[Path, bytes]:
    """Every file of the folder that may hold what someone wrote."""
    skipped = {"envs", "layers", "uploads"}
    return {
        path: path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and not path.is_symlink() and not skipped & set(path.relative_to(root).parts)
    }


@pytest.fixture
def block(world):
    """A Slack block whose URL is a secret; nobody listens there."""
    from prefect.blocks.notifications import SlackWebhook

    webhook = SlackWebhook(url="https://127.0.0.1:9/services/T000/B000/plantedslack000000000000")
    webhook.save("planted", overwrite=True)


@pytest.fixture
def ann(stack):
    """Another administrator of MLflow."""
    api = f"{stack.ports.mlflow_url}/api/2.0/mlflow/users"
    with httpx.Client(auth=mlflow_sign_in(stack.env), timeout=30) as admin:
        admin.post(f"{api}/create", json={"username": "ann", "password": "planted-uri-1"}).raise_for_status()
        admin.patch(f"{api}/update-admin", json={"username": "ann", "is_admin": True}).raise_for_status()
        yield "ann:planted-uri-1"
        admin.request("DELETE", f"{api}/delete", json={"username": "ann"}).raise_for_status()


def test_nothing_that_is_written_holds_a_secret(world, models, block, ann, tmp_path, monkeypatch):
    for name, value in PLANTED.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("PREFECT_API_URL")
    file = tmp_path / "release.yaml"
    # MLflow's own address with a password, as some write it.
    uri = world.stack.ports.mlflow_url.replace("http://", f"http://{ann}@")
    environment = {**os.environ, "HEADGATE_HOME": str(world.stack.root), "MLFLOW_TRACKING_URI": uri}
    printed = ""
    for artifact, code in ((models("pyfunc", does="double"), 0), (models("pyfunc", does="always"), 3), ("/nowhere", 1)):
        file.write_text(world.text(artifact, QUICK + NOTIFY))
        done = subprocess.run(
            [HEADGATE, "release", str(file), "--json"], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done.stderr
        printed += done.stdout + done.stderr
    # MLflow is away, and says so with its address.
    gone = {**environment, "MLFLOW_TRACKING_URI": f"http://{ann}@127.0.0.1:9"}
    file.write_text(world.text(models("pyfunc", does="triple"), QUICK + NOTIFY))
    done = subprocess.run([HEADGATE, "release", str(file)], env=gone, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    printed += done.stdout + done.stderr
    broken = {**environment, "HEADGATE_JOURNAL_URL": "postgresql+psycopg://headgate:planted-journal@127.0.0.1:9/x"}
    done = subprocess.run([HEADGATE, "status"], env=broken, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    printed += done.stdout + done.stderr
    notes = [row.reason for row in world.journal.read(world.endpoint, kinds=(Kind.NOTE,)) if row.what == "not told"]
    assert any("env:OPS_CHAT" in note for note in notes)
    assert any("block:slack-webhook/planted" in note for note in notes)
    # What Prefect is told of, it has a moment later.
    wait_for(lambda: b"not told" in b"".join(written(world.stack.home.prefect).values()))
    kept = written(world.stack.root)
    for secret in SECRETS:
        assert secret not in printed
        assert [path for path, content in kept.items() if secret.encode() in content] == []


def test_the_stacks_own_secrets_are_where_only_their_owner_reads(world):
    for secret in json.loads(world.stack.home.secrets_file.read_text()).values():
        holders = [path for path, content in written(world.stack.root).items() if secret.encode() in content]
        assert world.stack.home.secrets_file in holders
        assert [path for path in holders if path.stat().st_mode & 0o077] == []


def test_a_models_server_has_nothing_of_the_shell_that_started_the_stack(world, models):
    world.release(models("pyfunc", does="double"))
    (pid,) = {one.pid for name, one in Supervisor(world.stack.home).states().items() if name.startswith(world.endpoint)}
    server, daemon = (
        set(Path(f"/proc/{one}/environ").read_text().split("\0")) for one in (pid, psutil.Process(pid).ppid())
    )
    assert any(line.startswith("PYTEST_") for line in daemon), "supervisord has what these tests have"
    inherited = {line.partition("=")[0] for line in server & daemon} - {"", "PYTHONUNBUFFERED"}
    assert inherited == only(SERVER, dict.fromkeys(inherited)).keys()
    assert not any(line.startswith(("PYTEST_", "MLFLOW_", "PREFECT_")) for line in server)
