"""The clouds on which whole releases are tested: a double of each, and what differs for a test that is the same."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deploy_targets.azure_ml.target import AzureMlTarget
from deploy_targets.sagemaker.target import SageMakerTarget
from deploy_targets.vertex.names import deployed_id
from deploy_targets.vertex.target import VertexTarget
from support import azure_ml as azure
from support.azure_server import azure_ml
from support.moto_server import sagemaker
from support.sagemaker import ROLE
from support.sagemaker_catalog import REGION
from support.sagemaker_evidence import BUCKET
from support.vertex import DATASET, LOCATION, PROJECT
from support.vertex_server import vertex

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SIGNED = f"AWS4-HMAC-SHA256 Credential=test/20260101/{REGION}/sagemaker/aws4_request, SignedHeaders=host, Signature=0"
"""Who asks; the double does not verify it."""


@dataclass
class CloudWorld:
    """One cloud.

    Attributes:
        settings: `target` of the release file, without its kind.
        revision: the header of an answer that says who gave it, and `named` what it says of a revision.
        authorization: of a client's requests, for a target.
        changes: the calls that change something; `evidence` is the one that reads the counts.
        left: the names of everything that the double still has.
    """

    kind: str
    target: type[Any]
    double: Any
    environment: dict[str, str]
    settings: dict[str, str]
    revision: str
    named: Callable[[str], str]
    authorization: Callable[[Any], str]
    changes: tuple[str, ...]
    evidence: str
    left: Callable[[], list[str]]


@contextmanager
def on_sagemaker(_folder: Path) -> Iterator[CloudWorld]:
    with sagemaker("flows") as double:
        yield CloudWorld(
            "sagemaker", SageMakerTarget, double, double.environment,
            {"role": ROLE, "captures": f"s3://{BUCKET}/live"},
            revision="x-amzn-invoked-production-variant", named=str, authorization=lambda _target: SIGNED,
            changes=(
                "create_model", "create_endpoint_config", "update_endpoint", "update_endpoint_weights_and_capacities",
                "delete_endpoint_config", "delete_model", "add_tags",
            ),
            evidence="get_metric_data",
            left=lambda: [*double.models, *double.configs, *double.endpoints, *double.components],
        )  # fmt: skip


@contextmanager
def on_vertex(folder: Path) -> Iterator[CloudWorld]:
    with vertex("flows", folder) as (double, environment):
        yield CloudWorld(
            "vertex", VertexTarget, double, environment,
            {"captures": f"bq://{PROJECT}.{DATASET}.live", "location": LOCATION},
            revision="x-vertex-ai-deployed-model-id", named=deployed_id,
            authorization=lambda target: f"Bearer {target._google.token()}",
            changes=(
                "models.upload", "models.delete", "endpoints.create", "endpoints.deployModel", "endpoints.patch",
                "endpoints.undeployModel", "endpoints.delete",
            ),
            evidence="timeSeries.list",
            left=lambda: [name.rpartition("/")[2] for name in (*double.models, *double.sites)],
        )  # fmt: skip


@contextmanager
def on_azure_ml(folder: Path) -> Iterator[CloudWorld]:
    with azure_ml("flows", folder) as (double, environment):
        yield CloudWorld(
            "azure-ml", AzureMlTarget, double, environment,
            {
                "subscription": azure.SUBSCRIPTION, "group": azure.GROUP, "workspace": azure.NAME,
                "storage": f"{double.url}/{azure.ACCOUNT}",
            },
            revision="azureml-model-deployment", named=str,
            authorization=lambda target: f"Bearer {target._arm.token()}",
            changes=(
                "versions.put", "deployments.put", "onlineEndpoints.put", "deployments.delete", "versions.delete",
            ),
            evidence="metrics.get",
            left=lambda: ["/".join(key) for key in double.environments]
            + [name for site in double.sites.values() for name in site.deployments],
        )  # fmt: skip


CLOUDS = {"sagemaker": on_sagemaker, "vertex": on_vertex, "azure-ml": on_azure_ml}
