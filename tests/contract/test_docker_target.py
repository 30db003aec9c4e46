"""What containers add to the contract of every target: limits, isolation, and state that survives us."""

from __future__ import annotations

import json
import os
import shutil

import pytest
from support.stack import http, wait_for

from deploy_targets.docker import DockerTarget, start_containers, stop_containers
from headgate.errors import RevisionFailedError, TargetError
from headgate.home import Home
from headgate.records import Resources, Traffic

ASK = {"dataframe_records": [{"x": 1.0}]}


@pytest.fixture
def live(docker_harness, models, request):
    """An endpoint with one live revision that has limits."""
    endpoint = f"docker-{abs(hash(request.node.name)) % 10_000}"
    limits = Resources(cpu=1.5, memory=512 * 2**20)
    revision = docker_harness.revision(models("pyfunc", does="double"), 1, resources=limits)
    docker_harness.target.deploy(endpoint, revision)
    docker_harness.target.route(endpoint, Traffic.all_to(revision.name))
    yield endpoint, revision
    docker_harness.target.delete(endpoint)
    assert docker_harness.traces(endpoint) == []


def host_config(harness, endpoint, revision):
    return harness.target._find(endpoint, revision.name).attrs["HostConfig"]


def test_a_container_has_limits_and_no_rights(docker_harness, live):
    endpoint, revision = live
    config = host_config(docker_harness, endpoint, revision)
    assert (config["NanoCpus"], config["Memory"], config["MemorySwap"]) == (1_500_000_000, 2**29, 2**29)
    assert config["PidsLimit"] == 1024
    assert config["ReadonlyRootfs"]
    assert config["CapDrop"] == ["ALL"]
    assert config["SecurityOpt"] == ["no-new-privileges"]
    assert config["RestartPolicy"]["Name"] == "unless-stopped"
    assert config["LogConfig"]["Config"] == {"max-size": "10m", "max-file": "3"}
    container = docker_harness.target._find(endpoint, revision.name)
    assert container.attrs["Config"]["User"].split(":")[0] not in {"", "0"}
    # Bound to this machine only.
    assert {entry["HostIp"] for bound in container.ports.values() for entry in bound or []} == {"127.0.0.1"}


def test_containers_cannot_reach_each_other(docker_harness, models, live):
    endpoint, revision = live
    other = docker_harness.revision(models("pyfunc", does="triple"), 2)
    docker_harness.target.deploy(endpoint, other)
    neighbour = docker_harness.target._find(endpoint, other.name)
    address = next(iter(neighbour.attrs["NetworkSettings"]["Networks"].values()))["IPAddress"]
    code = f"import socket; socket.setdefaulttimeout(2); print(socket.socket().connect_ex(('{address}', 8080)))"
    container = docker_harness.target._find(endpoint, revision.name)
    assert container.exec_run(["python3", "-c", code]).output.decode().strip() != "0"
    docker_harness.target.retire(endpoint, other.name)


def test_what_runs_is_known_after_our_folder_was_lost(docker_harness, live):
    """A target that knows nothing but the daemon still sees what there is, and brings it into the gateway again."""
    endpoint, revision = live
    target = docker_harness.target
    target.route(endpoint, Traffic.all_to(revision.name))
    gateway = target._home.gateway
    kept = {name: (gateway / name).read_text() for name in ("clusters.json", "routes.json")}
    shutil.rmtree(target._home.revisions / endpoint)
    clusters = json.loads(kept["clusters.json"])
    clusters["resources"] = [
        item for item in clusters["resources"] if not item["name"].startswith(f"{endpoint}--")
    ]  # fmt: skip
    clusters["version_info"] = "lost"
    (gateway / ".lost").write_text(json.dumps(clusters))
    (gateway / ".lost").rename(gateway / "clusters.json")
    fresh = DockerTarget(target._home)
    state = fresh.observe(endpoint).revisions[revision.name]
    assert (state.version, state.ready) == (revision.version, False)
    assert "not known to the gateway" in state.detail
    fresh.deploy(endpoint, revision)
    assert fresh.observe(endpoint).revisions[revision.name].ready
    wait_for(lambda: http.post(fresh.observe(endpoint).url, json=ASK).status_code == 200)


def test_it_goes_down_and_comes_up_with_the_stack(docker_harness, live):
    endpoint, revision = live
    target = docker_harness.target
    assert stop_containers(target._home) >= 1
    wait_for(lambda: not target.observe(endpoint).revisions[revision.name].ready)
    assert start_containers(target._home) >= 1
    wait_for(lambda: target.observe(endpoint).revisions[revision.name].ready)
    # Another stack's containers are not ours.
    assert stop_containers(Home(target._home.root / "other")) == 0


@pytest.mark.parametrize(("does", "limits", "says"), [
    ("hungry", Resources(memory=400 * 2**20), "it ran out of memory"),
    ("broken", Resources(), "this model cannot be loaded"),
    ("double", Resources(gpu=1), r"(?i)device driver|gpu"),
])  # fmt: skip
def test_a_container_that_cannot_start_says_why_and_leaves_nothing(docker_harness, models, does, limits, says):
    endpoint = f"cannot-{does}"
    revision = docker_harness.revision(models("pyfunc", does=does), 1, resources=limits)
    with pytest.raises(RevisionFailedError, match=says):
        docker_harness.target.deploy(endpoint, revision)
    assert docker_harness.target.observe(endpoint) is None
    assert docker_harness.traces(endpoint) == []


def test_the_image_goes_with_its_last_revision_where_the_file_says_so(docker_harness, models):
    endpoint = "image-goes"
    model = models("pyfunc", does="quadruple")
    first, second = (
        docker_harness.revision(model, version, keep_image=keep) for version, keep in ((1, False), (2, True))
    )
    for revision in (first, second):
        docker_harness.target.deploy(endpoint, revision)
    docker_harness.target.retire(endpoint, first.name)
    images = docker_harness.docker.images
    assert images.get(first.image.reference), "the second one runs it"
    docker_harness.target.retire(endpoint, second.name)
    assert images.get(first.image.reference), "the second one keeps it"
    docker_harness.target.deploy(endpoint, first)
    docker_harness.target.delete(endpoint)
    with pytest.raises(Exception, match="No such image"):
        images.get(first.image.reference)
    with pytest.raises(RevisionFailedError, match="no longer has image"):
        docker_harness.target.deploy(endpoint, first)
    assert docker_harness.traces(endpoint) == []


def test_a_network_that_somebody_else_uses_is_named_and_removed_the_next_time(docker_harness, docker_base, models):
    endpoint = "used-network"
    revision = docker_harness.revision(models("pyfunc", does="double"), 1)
    docker_harness.target.deploy(endpoint, revision)
    network = docker_harness.target._network
    stranger = docker_harness.docker.containers.run(docker_base, ["sleep", "300"], network=network, detach=True)
    try:
        with pytest.raises(TargetError, match=rf"not all of {revision.name} can be removed: .*{network}"):
            docker_harness.target.retire(endpoint, revision.name)
    finally:
        stranger.remove(force=True)
    docker_harness.target.retire(endpoint, revision.name)
    docker_harness.target.delete(endpoint)
    assert docker_harness.traces(endpoint) == []


def test_without_a_daemon_preflight_says_so(docker_harness, monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    (finding,) = DockerTarget(docker_harness.target._home).preflight()
    assert (finding.severity, finding.subject) == ("error", "docker")
    assert finding.fix


@pytest.mark.skipif(os.getuid() != 0, reason="only root's files are another user's")
def test_the_log_of_predictions_is_written_by_another_user(docker_harness, live):
    endpoint, revision = live
    folder = docker_harness.target._home.revisions / endpoint / revision.name
    http.post(docker_harness.target.observe(endpoint).url, json=ASK)
    wait_for(lambda: list(folder.glob("predictions/*.arrows")))
    assert {path.stat().st_uid for path in folder.rglob("*.arrows")} == {65532}
