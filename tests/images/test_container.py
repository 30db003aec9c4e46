"""The real image under the conditions of each platform (sources: the table of docs/design.md), and how it is made."""

from __future__ import annotations

import gc
import json
import shutil
import socket
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from support import before_rename
from support.oci_registry import REGISTRY, registry
from support.stack import wait_for

from deploy_targets.kubernetes import manifests
from deploy_targets.kubernetes.settings import KubernetesSettings
from headgate.errors import ArtifactError, ImageError
from headgate.home import Home
from headgate.records import ModelVersion, Revision
from headgate.spec import ImageSettings
from images import build_container, fetch_artifact, model_in_image
from images.daemon import Daemon

ASK = {"instances": [{"x": 2.0}]}


@pytest.fixture(scope="module")
def home(tmp_path_factory, layers_cache):
    return layers_cache(Home(tmp_path_factory.mktemp("home")).ensure())


@pytest.fixture(scope="module")
def daemon(docker_base):
    with Daemon() as opened:
        yield opened.client


@pytest.fixture(scope="module")
def image(home, models, docker_base, daemon):
    artifact = fetch_artifact(str(models("pyfunc", does="double")), home.root)
    built = build_container(home, artifact, "contained", ImageSettings(base=docker_base))
    yield built
    daemon.images.remove(built.reference, force=True)


def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(daemon, reference, inside=8080, **options):
    outside = port()
    container = daemon.containers.run(
        reference, detach=True, ports={f"{inside}/tcp": ("127.0.0.1", outside)}, **options
    )
    try:
        yield container, f"http://127.0.0.1:{outside}"
    finally:
        container.remove(force=True)


def status(url: str) -> int:
    try:
        return httpx.get(f"{url}/ping", timeout=2).status_code
    except httpx.TransportError:
        return 0


def logs(container) -> str:
    return container.logs().decode()


HARD = {"read_only": True, "cap_drop": ["ALL"], "security_opt": ["no-new-privileges"], "pids_limit": 512}
PLATFORMS = {
    "sagemaker": {"command": ["serve"]},
    "vertex": {"inside": 8085, "environment": {
        "AIP_HTTP_PORT": "8085", "AIP_HEALTH_ROUTE": "/ping", "AIP_PREDICT_ROUTE": "/invocations",
    }},
    "azure-ml": {"environment": {"AZUREML_MODEL_DIR": "/var/azureml-app", "WORKER_COUNT": "1"}, "user": "1001:1001"},
    "cloud-run": {"inside": 9090, "environment": {"PORT": "9090", "K_SERVICE": "wine"}, "read_only": True},
    "kubernetes": {**HARD, "user": "12345:12345", "tmpfs": {}},
}  # fmt: skip


@pytest.mark.parametrize("platform", PLATFORMS)
def test_the_one_image_serves_on_every_platform(daemon, image, platform):
    with running(daemon, image.reference, **PLATFORMS[platform]) as (container, url):
        # Before it is ready it says 503, or nothing is listening yet; never anything else.
        seen = set()
        wait_for(lambda: seen.add(status(url)) or 200 in seen, 60)
        assert seen <= {0, 503, 200}
        reply = httpx.post(f"{url}/invocations", json=ASK)
        assert (reply.status_code, reply.json()) == (200, {"predictions": [{"x": 4.0}]}), logs(container)
        assert container.exec_run(["python3", "-m", "headgate_server.health"]).exit_code == 0
        began = time.monotonic()
        container.stop(timeout=20)
        assert container.wait()["StatusCode"] == 0
        assert time.monotonic() - began < 15, "SIGTERM ends it; SIGKILL is not needed"
        container.reload()
        assert not [change for change in container.diff() or [] if change["Path"].startswith("/opt")]


@pytest.fixture(scope="module")
def older(home, models, docker_base, daemon, tmp_path_factory):
    """The model's image and its record, as they were made when the server's package was `serving`."""
    artifact = fetch_artifact(str(models("pyfunc", does="double")), home.root)
    with before_rename.packaging(tmp_path_factory.mktemp("older")):
        built = build_container(home, artifact, "contained", ImageSettings(base=docker_base))
    yield before_rename.recorded(built)
    daemon.images.remove(built.reference, force=True)


@pytest.mark.parametrize("made", ["image", "older"])
def test_in_a_pod_the_server_answers_and_what_is_beside_it_sends_its_log(daemon, made, request, tmp_path):
    """The containers of the Deployment, with the same network and the same folders."""
    image = request.getfixturevalue(made)
    revision = Revision.of(
        ModelVersion(name="wine", version=1, digest=image.digest), image, env={}, workers=1, ready_timeout=60.0
    )
    settings = KubernetesSettings(kind="kubernetes", captures="file:///captures", captures_claim="log")
    kinds = dict(manifests.of_revision(settings, "wine", revision, 1, lambda _: "/apis/apps/v1"))
    server, log = kinds["deployments"]["spec"]["template"]["spec"]["containers"]
    assert "command" not in server, "the image says it"
    folders = {str(tmp_path / name): {"bind": where, "mode": "rw"}
               for name, where in (("scratch", manifests.SCRATCH), ("captures", "/captures"))}  # fmt: skip
    for folder in folders:
        Path(folder).mkdir()
        Path(folder).chmod(0o777)
    env = {one["name"]: one["value"] for one in server["env"]}
    with running(daemon, image.reference, environment=env, volumes=folders) as (container, url):
        wait_for(lambda: status(url) == 200, 60)
        beside = daemon.containers.run(
            image.reference, entrypoint=log["command"], environment=env, volumes=folders, detach=True,
            network_mode=f"container:{container.id}",
        )  # fmt: skip
        try:
            assert httpx.post(f"{url}/invocations", json=ASK).json() == {"predictions": [{"x": 4.0}]}
            sent = tmp_path / "captures" / "wine" / revision.name
            wait_for(lambda: list(sent.glob("*/*.arrows")) or beside.reload() or beside.status != "running", 60)
            assert list(sent.glob("*/*.arrows")), logs(beside)
        finally:
            beside.remove(force=True)


def test_googles_own_runner_serves_it(image, daemon, tmp_path, monkeypatch):
    from google.cloud.aiplatform.prediction import LocalModel

    # It knows an image by its name only.
    daemon.images.get(image.reference).tag("headgate-contained", "vertex")
    monkeypatch.chdir(tmp_path)
    model = LocalModel(
        serving_container_image_uri="headgate-contained:vertex", serving_container_predict_route="/invocations",
        serving_container_health_route="/ping", serving_container_ports=[8080],
    )  # fmt: skip
    try:
        with model.deploy_to_local_endpoint(container_ready_timeout=60) as endpoint:
            assert endpoint.run_health_check().status_code == 200
            reply = endpoint.predict(request=json.dumps(ASK), headers={"content-type": "application/json"})
            assert reply.json() == {"predictions": [{"x": 4.0}]}
            container = endpoint.container
        # It stops its container once more when it is collected, and leaves it.
        del endpoint
        gc.collect()
        container.remove(force=True)
    finally:
        daemon.images.remove("headgate-contained:vertex", force=True)


def test_what_the_image_says_of_itself(daemon, image):
    config = daemon.api.inspect_image(image.reference)["Config"]
    assert config["Labels"]["org.opencontainers.image.title"] == "contained"
    assert config["Labels"]["io.headgate.lock"] == image.lock_digest
    assert config["Labels"]["org.opencontainers.image.base.digest"].startswith("sha256:")
    assert config["Entrypoint"] == ["python3", "-m", image.server] == ["python3", "-m", "headgate_server"]
    assert config["User"] == "65532:65532"
    assert "org.opencontainers.image.source" not in config["Labels"], "a path of this machine says nothing elsewhere"


def test_the_same_model_is_the_same_image_on_another_machine(home, image, models, docker_base, tmp_path, layers_cache):
    other = layers_cache(Home(tmp_path / "elsewhere").ensure())
    copy = shutil.copytree(models("pyfunc", does="double"), tmp_path / "copy")
    built = build_container(other, fetch_artifact(str(copy), other.root), "contained", ImageSettings(base=docker_base))
    assert built.digest == image.digest


@pytest.mark.skipif(REGISTRY is None, reason="docker-registry is not installed")
def test_a_pushed_image_runs_and_only_what_changed_is_pushed_again(home, daemon, models, docker_base, tmp_path):
    with registry(tmp_path / "r") as host:
        settings = ImageSettings(base=docker_base, repository=f"{host}/team/wine")
        first, second = (
            build_container(home, fetch_artifact(str(models("pyfunc", does=does)), home.root), "contained", settings)
            for does in ("double", "triple")
        )
        assert first.reference == f"{host}/team/wine@{first.digest}"
        layers = [
            [layer["digest"] for layer in _manifest(host, built.digest)["layers"]] for built in (first, second)
        ]  # fmt: skip
        assert layers[0][:-1] == layers[1][:-1]
        assert layers[0][-1] != layers[1][-1]
        daemon.images.pull(f"{host}/team/wine", tag=second.digest)
        try:
            with running(daemon, second.reference, **HARD) as (_, url):
                wait_for(lambda: status(url) == 200, 60)
                assert httpx.post(f"{url}/invocations", json=ASK).json() == {"predictions": [{"x": 6.0}]}
        finally:
            daemon.images.remove(second.reference, force=True)


def _manifest(host, digest):
    accept = {"accept": "application/vnd.docker.distribution.manifest.v2+json"}
    return httpx.get(f"http://{host}/v2/team/wine/manifests/{digest}", headers=accept).raise_for_status().json()


@pytest.mark.parametrize("name", ["headgate-nothing:there", "No Name", "a/../b", "-", "x" * 300])
def test_what_is_no_image_is_named(daemon, tmp_path, name):
    with pytest.raises(ArtifactError, match="neither a folder nor an image of this machine's daemon"):
        model_in_image(name, tmp_path)


def test_a_base_that_cannot_be_pulled_is_named_with_what_to_do(home, models, daemon):
    artifact = fetch_artifact(str(models("pyfunc", does="double")), home.root)
    with pytest.raises(ImageError, match=r"image\.base: 127\.0\.0\.1:9/nothing:v1 cannot be pulled") as caught:
        build_container(home, artifact, "contained", ImageSettings(base="127.0.0.1:9/nothing:v1"))
    assert "HEADGATE_BASE_IMAGE" in caught.value.fix


def test_a_base_with_another_python_is_refused(home, models, docker_base, monkeypatch):
    artifact = fetch_artifact(str(models("pyfunc", does="double")), home.root)
    from images import base

    with pytest.raises(ImageError, match=r"has Python 3\.11, and the model was trained with 3\.12"), Daemon() as daemon:
        base.base_in_daemon(daemon, docker_base, "3.12", home)
    assert artifact.python == "3.11"


def test_without_a_daemon_the_message_says_so(home, models, monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    artifact = fetch_artifact(str(models("pyfunc", does="double")), home.root)
    with pytest.raises(ImageError, match="no Docker daemon answers"):
        build_container(home, artifact, "contained", ImageSettings())


def test_a_daemon_that_wants_every_layer_gets_every_layer(home, models, docker_base, daemon, monkeypatch):
    """As one with another image store does, which does not look at what older images have."""
    loads = []
    send = Daemon._send

    def refuses_gaps(self, manifest, tag, left_out):
        loads.append(len(left_out))
        if left_out:
            raise ImageError("content digest sha256:ab: not found")
        send(self, manifest, tag, left_out)

    monkeypatch.setattr(Daemon, "_send", refuses_gaps)
    artifact = fetch_artifact(str(models("pyfunc", does="quadruple")), home.root)
    built = build_container(home, artifact, "contained", ImageSettings(base=docker_base))
    try:
        assert loads[0] > 0 == loads[1]
        with running(daemon, built.reference) as (_, url):
            wait_for(lambda: status(url) == 200, 60)
    finally:
        daemon.images.remove(built.reference, force=True)
