"""The targets under test. A new one joins by a harness here, and passes the suite unchanged."""

from __future__ import annotations

import sys
import zlib
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from cloud_harness import AzureMlHarness, ComponentsHarness, SageMakerHarness, VertexHarness
from cluster_harness import GatewayApiHarness, KServeHarness, KubernetesHarness
from harness import DockerHarness, Harness, LocalHarness
from support import cluster
from support.azure_server import azure_ml
from support.gateway_translator import NAME as GATEWAY
from support.gateway_translator import translator
from support.kserve_controller import controller
from support.moto_server import sagemaker
from support.suite import TARGETS
from support.vertex_server import vertex

from deploy_targets.kubernetes.api import Api
from deploy_targets.kubernetes.settings import Gateway as KubernetesGateway
from deploy_targets.kubernetes.settings import KServe
from headgate.home import Home
from headgate.records import Traffic

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.sagemaker import SageMaker


BEHIND_ENVOY = TARGETS[:2]
collect_ignore = [] if cluster.CONTEXT else [
    "test_kubernetes_target.py", "test_kubernetes_scaling.py", "test_kubernetes_kserve.py",
]  # fmt: skip


@pytest.fixture(scope="session", params=TARGETS)
def harness(request: pytest.FixtureRequest) -> Harness:
    if request.param == "local":
        return LocalHarness(request.getfixturevalue("gateway_home"))
    return request.getfixturevalue(f"{request.param}_harness")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what a platform does not have.

    Only our own gateway compares a fence and acts in one step. Vertex AI neither mirrors nor has histograms; Azure ML
    has no histograms either, and its API does not tell of a container that ended. Inference components of
    SageMaker split and copy nothing; the version before is asked again, so latencies would say nothing.
    """
    uses = "what_servers_use"
    lacks = {"vertex": ("mirrored", "latencies", uses), "azure_ml": ("latencies", "killed_revision", uses),
             "sagemaker": (uses,), "sagemaker_components": ("weights", "mirrored", "latencies", uses)}  # fmt: skip
    for item in list(items):
        params = getattr(item, "callspec", None)
        target = params.params.get("harness") if params else None
        fences = item.path.name != "test_fencing.py" or target in (*BEHIND_ENVOY, None)
        can = not any(what in item.name for what in lacks.get(target, ()))
        if not (fences and can):
            items.remove(item)


@contextmanager
def on_sagemaker(name: str) -> Iterator[SageMaker]:
    with sagemaker(name) as double, pytest.MonkeyPatch.context() as patch:
        for variable, value in double.environment.items():
            patch.setenv(variable, value)
        yield double


@pytest.fixture(scope="session")
def sagemaker_harness(gateway_home: Path, docker_base: str) -> Iterator[SageMakerHarness]:
    with on_sagemaker("contract") as double:
        yield SageMakerHarness(gateway_home, docker_base, double)


@pytest.fixture(scope="session")
def sagemaker_components_harness(gateway_home: Path, docker_base: str) -> Iterator[ComponentsHarness]:
    with on_sagemaker("components") as double:
        yield ComponentsHarness(gateway_home, docker_base, double)


@pytest.fixture(scope="session")
def vertex_harness(gateway_home: Path, docker_base: str, tmp_path_factory) -> Iterator[VertexHarness]:
    folder = tmp_path_factory.mktemp("google")
    with vertex("contract", folder) as (double, environment), pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        yield VertexHarness(
            gateway_home, docker_base, double, environment["CLOUDSDK_API_ENDPOINT_OVERRIDES_AIPLATFORM"]
        )


@pytest.fixture(scope="session")
def azure_ml_harness(gateway_home: Path, docker_base: str, tmp_path_factory) -> Iterator[AzureMlHarness]:
    folder = tmp_path_factory.mktemp("azure")
    with azure_ml("contract", folder) as (double, environment), pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        yield AzureMlHarness(gateway_home, docker_base, double, environment["REQUESTS_CA_BUNDLE"])


@pytest.fixture(scope="session")
def kubernetes_harness(gateway_home: Path, docker_base: str) -> Iterator[KubernetesHarness]:
    with cluster.namespace(Home(gateway_home), docker_base, gateway_home / "captures") as settings:
        yield KubernetesHarness(gateway_home, docker_base, settings)


@pytest.fixture(scope="session")
def kubernetes_gateway_api_harness(gateway_home: Path, docker_base: str) -> Iterator[GatewayApiHarness]:
    folder = gateway_home / "gateway-api"
    cluster.make_kind("httproutes")
    with (
        cluster.namespace(Home(gateway_home), docker_base, folder / "captures", own_gateway=False) as settings,
        translator(Api(settings.context, settings.namespace), folder) as url,
    ):
        outside = {"gateway": KubernetesGateway(name=GATEWAY), "url": url}
        yield GatewayApiHarness(gateway_home, docker_base, settings.model_copy(update=outside))


@pytest.fixture(scope="session")
def kubernetes_kserve_harness(gateway_home: Path, docker_base: str) -> Iterator[KServeHarness]:
    if not cluster.make_kind("inferenceservices"):
        pytest.skip("this cluster has a KServe of its own, which would change back what the stand-in for it makes")
    try:
        with (
            cluster.namespace(Home(gateway_home), docker_base, gateway_home / "kserve" / "captures") as settings,
            controller(settings.context, settings.namespace),
        ):
            kserve = settings.model_copy(update={"kserve": KServe(mode="Standard")})
            yield KServeHarness(gateway_home, docker_base, kserve)
    finally:
        cluster.remove_kind("inferenceservices")


@pytest.fixture(scope="session")
def docker_harness(gateway_home: Path, docker_base: str) -> Iterator[DockerHarness]:
    made = DockerHarness(gateway_home, docker_base)
    yield made
    made.remove_images()


@pytest.fixture(scope="session")
def pair(harness: Harness, models):
    """An endpoint with two ready revisions."""
    endpoint = "pair"
    first = harness.revision(models("pyfunc", does="double"), 1)
    second = harness.revision(models("pyfunc", does="negative"), 2)
    for revision in (first, second):
        harness.target.deploy(endpoint, revision)
    yield endpoint, first, second
    harness.target.delete(endpoint)


@pytest.fixture
def settled(harness: Harness, pair):
    """The first of the pair has all traffic, and the second is ready for some."""
    endpoint, first, second = pair
    harness.target.route(endpoint, Traffic.all_to(first.name))
    # One that clients were taken from may have given its machines up.
    harness.target.deploy(endpoint, second)
    return endpoint, first, second


@pytest.fixture
def double(cloud):
    """Of the cloud that a file is about; each has a fixture `cloud`."""
    return cloud._double


@pytest.fixture
def live(cloud, double, models, request):
    """An endpoint with one live revision, and another that is ready to be deployed."""
    endpoint = f"live-{zlib.crc32(request.node.name.encode())}"
    first = cloud.revision(models("pyfunc", does="double"), 1)
    second = cloud.revision(models("pyfunc", does="negative"), 2)
    cloud.target.deploy(endpoint, first)
    cloud.target.route(endpoint, Traffic.all_to(first.name))
    yield endpoint, first, second
    double.faults.clear()
    cloud.target.delete(endpoint)
    assert cloud.traces(endpoint) == []
