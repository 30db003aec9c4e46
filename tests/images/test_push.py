"""Pushing to a real registry: what is sent, what is not, and what happens when the way there is bad."""

from __future__ import annotations

import base64
import gc
import hashlib
import json
import random
import tracemalloc

import httpx
import pytest
from support.oci_registry import (
    HTPASSWD,
    PASSWORD,
    REGISTRY,
    USER,
    bad_network,
    certificate,
    keeping_registry,
    registry,
    token_server,
)

from headgate.errors import ImageError, ImageRegistryError, ImageRegistryUnavailableError
from headgate.home import Home
from images import upload
from images.base import base_for_registry
from images.layers import Content, Layer
from images.manifest import CONFIG, MANIFEST, TAR, Blob, Manifest, extend
from images.repository import _INDEXES, Repository
from images.runtime import this_platform

pytestmark = pytest.mark.skipif(REGISTRY is None, reason="docker-registry is not installed")

MIB = 2**20


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    with registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture
def weights(tmp_path):
    """Six mebibytes that no other test has, as a layer."""
    file = tmp_path / "weights.bin"
    file.write_bytes(random.randbytes(6 * MIB))
    return Layer({"opt/headgate/model/weights.bin": Content(file)})


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch):
    monkeypatch.setattr(upload, "PIECE", MIB)


def image(*layers: Layer) -> Manifest:
    blobs = tuple(Blob(layer.digest, layer.size, TAR, layer.read, layer.digest) for layer in layers)
    return Manifest(Blob.of(b"{}", CONFIG), blobs)


def stored(host: str, path: str, digest: str) -> bytes:
    return httpx.get(f"http://{host}/v2/{path}/blobs/{digest}").raise_for_status().content


def login(monkeypatch, folder, host, password=PASSWORD):
    """What `docker login` writes."""
    folder.mkdir(exist_ok=True)
    secret = base64.b64encode(f"{USER}:{password}".encode()).decode()
    (folder / "config.json").write_text(json.dumps({"auths": {host: {"auth": secret}}}))
    monkeypatch.setenv("DOCKER_CONFIG", str(folder))


def test_one_pass_hashes_and_uploads(host, weights, tmp_path):
    with Repository(f"{host}/one-pass", tmp_path) as repository:
        digest = repository.upload(weights, "key")
    assert digest == weights.digest
    assert stored(host, "one-pass", digest) == b"".join(weights.read())
    assert not list(tmp_path.glob("*.json")), "what is finished is forgotten"


def test_a_push_is_by_digest_and_a_second_one_sends_nothing(host, weights, tmp_path):
    with bad_network(host) as network, Repository(f"{network.host}/again", tmp_path) as repository:
        reference = repository.push(image(weights), "first")
        assert reference.endswith(f"/again@{image(weights).digest}")
        sent = network.sent
        assert sent > weights.size
        assert repository.push(image(weights), "second") == reference
        assert network.sent - sent < 20_000
    named = httpx.get(f"http://{host}/v2/again/manifests/second", headers={"accept": MANIFEST})
    assert named.headers["docker-content-digest"] == image(weights).digest


def test_a_layer_of_another_repository_is_mounted(host, weights, tmp_path):
    with bad_network(host) as network:
        with Repository(f"{network.host}/base", tmp_path) as repository:
            repository.push(image(weights), "v1")
        sent = network.sent
        with Repository(f"{network.host}/mounts-it", tmp_path) as repository:
            repository.push(image(weights), "v1")
        assert network.sent - sent < 20_000
    assert len(stored(host, "mounts-it", weights.digest)) == weights.size


def test_a_connection_that_breaks_in_a_piece_costs_one_blob_with_dockers_registry(host, weights, tmp_path):
    other = Layer({"opt/headgate/model/other.bin": Content(random.randbytes(2 * MIB))})
    with bad_network(host) as network, Repository(f"{network.host}/broken", tmp_path) as repository:
        repository.put(image(other).layers[0])
        network.cut_after = [int(3.5 * MIB)]
        sent = network.sent
        repository.push(image(other, weights), "v1")
        assert not network.cut_after, "it was cut"
        assert network.sent - sent < weights.size + 4 * MIB, "the layer that was there was not sent again"
    assert stored(host, "broken", weights.digest) == b"".join(weights.read())


def test_a_connection_that_breaks_costs_nothing_where_the_registry_keeps_half_a_piece(weights, tmp_path):
    with keeping_registry() as kept, bad_network(kept.host) as network:
        network.cut_after = [int(1.5 * MIB), int(2.2 * MIB)]
        with Repository(f"{network.host}/broken", tmp_path) as repository:
            digest = repository.upload(weights, "key")
        assert not network.cut_after
        assert network.sent < weights.size + 300_000
    assert digest == weights.digest
    assert kept.blobs[digest] == b"".join(weights.read())


def test_an_upload_goes_on_after_the_process_was_killed(host, weights, tmp_path):
    class Killed:
        """A layer whose reader is killed after a few pieces."""

        size = weights.size

        def read(self, start):
            for place, chunk in enumerate(weights.read(start)):
                if place >= 8:  # four headers, then mebibytes
                    raise KeyboardInterrupt
                yield chunk

    with bad_network(host) as network:
        with Repository(f"{network.host}/killed", tmp_path) as repository, pytest.raises(KeyboardInterrupt):
            repository.upload(Killed(), "key")
        sent = network.sent
        assert sent > 2 * MIB
        with Repository(f"{network.host}/killed", tmp_path) as repository:
            digest = repository.upload(weights, "key")
        assert network.sent - sent < weights.size - 2 * MIB
    assert digest == weights.digest
    assert stored(host, "killed", digest) == b"".join(weights.read())


def test_a_registry_that_throttles_is_asked_again(host, weights, tmp_path):
    with bad_network(host) as network, Repository(f"{network.host}/throttled", tmp_path) as repository:
        network.refuse = ["429 Too Many Requests", "503 Service Unavailable", "500 Internal Server Error"]
        repository.push(image(weights), "v1")
        assert not network.refuse


def test_a_registry_that_does_not_answer_is_named_with_what_to_do(weights, tmp_path, monkeypatch):
    monkeypatch.setattr("images.repository.ATTEMPTS", 2)
    says = pytest.raises(ImageRegistryUnavailableError, match=r"registry 127\.0\.0\.1:9 does not answer")
    with Repository("127.0.0.1:9/team/wine", tmp_path) as repository, says as caught:
        repository.push(image(weights), "v1")
    assert "HEADGATE_INSECURE_REGISTRIES" in caught.value.fix


def test_memory_stays_small(host, tmp_path, monkeypatch):
    monkeypatch.setattr(upload, "PIECE", 8 * MIB)
    file = tmp_path / "big.bin"
    with file.open("wb") as target:
        for _ in range(96):
            target.write(random.randbytes(MIB))
    layer = Layer({"big": Content(file)})
    tracemalloc.start()
    # What is kept in cycles counts too.
    gc.disable()
    try:
        with Repository(f"{host}/memory", tmp_path) as repository:
            repository.upload(layer, "key")
    finally:
        gc.enable()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 24 * MIB


def test_a_password(weights, tmp_path, monkeypatch):
    (tmp_path / "htpasswd").write_text(f"{HTPASSWD}\n")
    auth = {"htpasswd": {"realm": "tests", "path": str(tmp_path / "htpasswd")}}
    with registry(tmp_path / "r", auth=auth) as host:
        with Repository(f"{host}/wine", tmp_path) as repository:
            with pytest.raises(ImageRegistryError, match="401") as caught:
                repository.push(image(weights), "v1")
            assert caught.value.fix == f"docker login {host}"
        login(monkeypatch, tmp_path / "docker", host, "wrong")
        with Repository(f"{host}/wine", tmp_path) as repository, pytest.raises(ImageRegistryError, match="401"):
            repository.push(image(weights), "v1")
        login(monkeypatch, tmp_path / "docker", host)
        with Repository(f"{host}/wine", tmp_path) as repository:
            repository.push(image(weights), "v1")


def test_tokens_over_tls(weights, tmp_path, monkeypatch):
    crt, pem, key = certificate(tmp_path / "tls")
    with token_server(crt, key) as (realm, scopes):
        auth = {"token": {"realm": realm, "service": "tests", "issuer": "tests", "rootcertbundle": str(crt)}}
        http = {"tls": {"certificate": str(crt), "key": str(pem)}}
        with registry(tmp_path / "r", auth=auth, http=http) as host:
            login(monkeypatch, tmp_path / "docker", host)
            says = pytest.raises(ImageRegistryUnavailableError, match="certificate")
            with Repository(f"{host}/wine", tmp_path) as repository, says:
                repository.has(weights.digest)
            monkeypatch.setenv("SSL_CERT_FILE", str(crt))
            with Repository(f"{host}/wine", tmp_path) as repository:
                reference = repository.push(image(weights), "v1")
                content = b"".join(repository.read(weights.digest, 5))
    assert reference.startswith(f"{host}/wine@sha256:")
    assert hashlib.sha256(content).digest() == hashlib.sha256(b"".join(weights.read(5))).digest()
    assert {scope.partition(":")[2].partition(":")[0] for scope in scopes} == {"wine"}


@pytest.mark.parametrize("kind", ["image", "index"])
def test_a_base_of_a_registry_needs_no_daemon_and_is_mounted(host, weights, tmp_path, monkeypatch, kind):
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    home, base = Home(tmp_path / "home").ensure(), f"bases/python-{kind}"
    config = {
        "architecture": this_platform().architecture, "os": "linux", "rootfs": {"diff_ids": [weights.digest]},
        "config": {"Env": ["PATH=/usr/bin", "A=a", "PYTHON_VERSION=3.11.9"], "Cmd": ["bash"],
                   "Labels": {"theirs": "kept"}},
    }  # fmt: skip
    layer = Blob(weights.digest, weights.size, TAR, weights.read, weights.digest)
    ours = Layer({"opt/headgate/model/a": Content(b"model")})
    with bad_network(host) as network:
        with Repository(f"{network.host}/{base}", home.uploads) as repository:
            manifest = Manifest(Blob.of(json.dumps(config).encode(), CONFIG), (layer,))
            repository.push(manifest, "v1")
            if kind == "index":
                entry = {"mediaType": MANIFEST, "size": len(manifest.content), "digest": manifest.digest}
                entries = [
                    {**entry, "platform": {"os": "linux", "architecture": name}}
                    for name in ("s390x", this_platform().architecture)
                ]
                content = json.dumps({"schemaVersion": 2, "mediaType": _INDEXES[0], "manifests": entries})
                headers = {"content-type": _INDEXES[0]}
                repository.call("PUT", f"{base}/manifests/v1", headers=headers, content=content)
        sent = network.sent
        with Repository(f"{network.host}/team/wine-{kind}", home.uploads) as repository:
            found = base_for_registry(f"{network.host}/{base}:v1", "3.11", repository, home)
            own = Blob(ours.digest, ours.size, TAR, ours.read, ours.digest)
            repository.push(extend(found, [own], {"Labels": {"ours": "too"}, "Env": ["A=b"]}), "v1")
            made = repository.manifest("v1", this_platform().architecture)
            stored_config = json.loads(b"".join(repository.read(made["config"]["digest"])))
            with pytest.raises(ImageError, match=r"has Python 3\.11, and the model was trained with 3\.12"):
                base_for_registry(f"{network.host}/{base}:v1", "3.12", repository, home)
        assert network.sent - sent < 100_000, "the base was mounted"
    assert [part["digest"] for part in made["layers"]] == [weights.digest, ours.digest]
    assert stored_config["rootfs"]["diff_ids"] == [weights.digest, ours.digest]
    assert stored_config["config"]["Labels"] == {"theirs": "kept", "ours": "too"}
    assert stored_config["config"]["Env"] == ["PATH=/usr/bin", "A=b", "PYTHON_VERSION=3.11.9"]
    assert "Cmd" not in stored_config["config"], "arguments of a base are not ours"


def test_a_name_without_a_host_is_docker_hubs(tmp_path):
    with Repository("wine:v1", tmp_path) as repository:
        assert (repository.host, repository.path) == ("docker.io", "library/wine")
