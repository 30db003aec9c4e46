"""Secrets of containers: the server has them, and neither Docker nor any file of ours does."""

from __future__ import annotations

import json
import shutil

import pytest
from support.stack import wait_for

from deploy_targets.docker import mounted_secrets, start_containers, stop_containers
from headgate.errors import RevisionFailedError
from headgate.records import Traffic

PLANTED = "planted-container-secret"


@pytest.fixture
def secret(tmp_path):
    path = tmp_path / "token"
    path.write_text(PLANTED + "\n")
    return path


@pytest.fixture
def live(docker_harness, models, secret, request):
    """An endpoint with one live revision that has a secret."""
    endpoint = f"secret-{abs(hash(request.node.name)) % 10_000}"
    revision = docker_harness.revision(models("pyfunc", does="double"), 1, secrets={"TOKEN": f"file:{secret}"})
    docker_harness.target.deploy(endpoint, revision)
    docker_harness.target.route(endpoint, Traffic.all_to(revision.name))
    yield endpoint, revision
    docker_harness.target.delete(endpoint)
    assert docker_harness.traces(endpoint) == []


def folder_of(harness, endpoint, revision):
    return mounted_secrets.folder_of(harness.target._home_id, endpoint, revision.name)


def test_docker_shows_the_names_and_no_values(docker_harness, live):
    endpoint, revision = live
    container = docker_harness.target._find(endpoint, revision.name)
    assert PLANTED not in json.dumps(container.attrs)
    assert "HEADGATE_SECRETS=TOKEN" in container.attrs["Config"]["Env"]
    folder = folder_of(docker_harness, endpoint, revision)
    assert folder.is_relative_to(mounted_secrets._MEMORY)
    assert [(path.name, path.stat().st_mode & 0o777) for path in folder.iterdir()] == [("TOKEN", 0o400)]
    assert folder.parent.stat().st_mode & 0o077 == 0
    assert container.exec_run(["cat", "/run/secrets/headgate/TOKEN"]).output.decode() == PLANTED
    assert container.exec_run(["rm", "-f", "/run/secrets/headgate/TOKEN"]).exit_code != 0, "it is mounted to be read"
    home = docker_harness.target._home.root
    found = [path for path in home.rglob("*") if path.is_file() and "layers" not in path.parts]
    assert [path for path in found if PLANTED.encode() in path.read_bytes()] == []


def test_the_server_finds_it_when_it_is_started_again(docker_harness, live):
    endpoint, revision = live
    target = docker_harness.target
    target._find(endpoint, revision.name).restart()
    wait_for(lambda: target.observe(endpoint).revisions[revision.name].ready)


def test_after_a_restart_of_the_machine_up_makes_it_anew(docker_harness, live, secret):
    endpoint, revision = live
    target, folder = docker_harness.target, folder_of(docker_harness, endpoint, revision)
    assert stop_containers(target._home) >= 1
    assert not folder.exists(), "what is down leaves nothing in memory"
    secret.unlink()
    with pytest.raises(RevisionFailedError, match=rf"{revision.name}: runtime\.secrets\.TOKEN: .* cannot be read"):
        start_containers(target._home)
    assert not target.observe(endpoint).revisions[revision.name].ready
    secret.write_text("another value\n")
    assert start_containers(target._home) >= 1
    wait_for(lambda: target.observe(endpoint).revisions[revision.name].ready)
    container = target._find(endpoint, revision.name)
    assert container.exec_run(["cat", "/run/secrets/headgate/TOKEN"]).output == b"another value"


def test_a_revision_that_ended_leaves_nothing(docker_harness, models, secret):
    endpoint = "secret-gone"
    revision = docker_harness.revision(models("pyfunc", does="double"), 2, secrets={"TOKEN": f"file:{secret}"})
    docker_harness.target.deploy(endpoint, revision)
    docker_harness.target.retire(endpoint, revision.name)
    assert not folder_of(docker_harness, endpoint, revision).exists()


def test_a_server_whose_secret_is_lost_does_not_answer_without_it(docker_harness, live):
    endpoint, revision = live
    target = docker_harness.target
    folder = folder_of(docker_harness, endpoint, revision)
    shutil.rmtree(folder)
    container = target._find(endpoint, revision.name)
    container.restart()
    wait_for(lambda: "the secret TOKEN cannot be read" in container.logs().decode())


def test_a_release_whose_secret_cannot_be_had_starts_nothing(docker_harness, models):
    revision = docker_harness.revision(models("pyfunc", does="double"), 3, secrets={"TOKEN": "file:/nowhere/token"})
    with pytest.raises(RevisionFailedError, match=r"runtime\.secrets\.TOKEN: file:/nowhere/token cannot be read"):
        docker_harness.target.deploy("secret-none", revision)
    assert docker_harness.target.observe("secret-none") is None
