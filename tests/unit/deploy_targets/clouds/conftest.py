"""The doubles of SageMaker, Vertex AI and Azure ML, on machines that only pretend to run an image."""

from __future__ import annotations

import pytest
from support import azure_ml as azure
from support.azure_server import azure_ml
from support.moto_server import sagemaker
from support.pretended import Pretended
from support.pretended_clouds import ENDPOINT, live
from support.sagemaker import ROLE
from support.sagemaker_evidence import BUCKET
from support.vertex import DATASET, LOCATION, PROJECT
from support.vertex_server import vertex

from deploy_targets.azure_ml.settings import AzureMlSettings
from deploy_targets.azure_ml.target import AzureMlTarget
from deploy_targets.sagemaker.components_target import ComponentsTarget
from deploy_targets.sagemaker.settings import SageMakerSettings
from deploy_targets.sagemaker.target import SageMakerTarget
from deploy_targets.vertex.settings import VertexSettings
from deploy_targets.vertex.target import VertexTarget


@pytest.fixture(scope="session")
def sagemaker_double():
    with sagemaker("unit", Pretended()) as running:
        yield running


@pytest.fixture
def on_sagemaker(sagemaker_double, monkeypatch):
    """Variants."""
    target = SageMakerTarget(_settings(sagemaker_double, monkeypatch))
    yield live(target, sagemaker_double)
    _remove(target, sagemaker_double)


@pytest.fixture
def on_components(sagemaker_double, monkeypatch):
    """Inference components."""
    settings = _settings(sagemaker_double, monkeypatch, inference_components={"machines": 4, "wait": "0s"})
    target = ComponentsTarget.of(settings)
    yield live(target, sagemaker_double)
    _remove(target, sagemaker_double)


def _settings(double, monkeypatch, **more) -> SageMakerSettings:
    for name, value in double.environment.items():
        monkeypatch.setenv(name, value)
    said = {"kind": "sagemaker", "role": ROLE, "captures": f"s3://{BUCKET}/live", **more}
    return SageMakerSettings.model_validate(said)


def _remove(target, double) -> None:
    """Moto's account is the process's: what one test left is removed by what made it."""
    double.faults.clear()
    double.evidence.in_part, double.evidence.page = "", 0
    double.evidence.used.clear()
    target.delete(ENDPOINT)


@pytest.fixture(scope="session")
def vertex_double(tmp_path_factory):
    with vertex("unit", tmp_path_factory.mktemp("google"), Pretended()) as running:
        yield running


@pytest.fixture(scope="session")
def azure_double(tmp_path_factory):
    with azure_ml("unit", tmp_path_factory.mktemp("azure"), Pretended()) as running:
        yield running


@pytest.fixture
def on_vertex(vertex_double, monkeypatch):
    double, environment = vertex_double
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    settings = VertexSettings(kind="vertex", captures=f"bq://{PROJECT}.{DATASET}.live", location=LOCATION)
    yield live(VertexTarget(settings), double)
    _settle(double)
    double.models.clear()
    double.lists_zeros, double.series, double.used = False, [], []


@pytest.fixture
def on_azure(azure_double, monkeypatch):
    double, environment = azure_double
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    settings = AzureMlSettings(
        kind="azure-ml", subscription=azure.SUBSCRIPTION, group=azure.GROUP, workspace=azure.NAME,
        storage=f"{double.url}/{azure.ACCOUNT}",
    )  # fmt: skip
    yield live(AzureMlTarget(settings), double)
    _settle(double)
    double.environments.clear()
    double.containers.clear()
    double.used.clear()
    double.retry_after = ""


def _settle(double) -> None:
    """What one test left is not there for the next."""
    double.faults.clear()
    double.may_end.set()
    double.close()
    double.sites.clear()
    double.operations.clear()
    double.machines.started.clear()
