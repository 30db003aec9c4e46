"""What the contract suite needs of the clouds: their targets, on doubles that run real containers."""

from __future__ import annotations

import ssl
import uuid
from typing import TYPE_CHECKING, Any

import httpx
from botocore.exceptions import ClientError
from harness import READY_SECONDS, Reply, revision_of
from support import azure_ml as azure
from support.chaos import Kill
from support.sagemaker import ROLE
from support.sagemaker_evidence import BUCKET
from support.vertex import DATASET, LOCATION, PARENT, PROJECT

from deploy_targets.azure_ml.arm import Arm, operation
from deploy_targets.azure_ml.settings import AzureMlSettings
from deploy_targets.azure_ml.target import AzureMlTarget
from deploy_targets.sagemaker.aws import Aws
from deploy_targets.sagemaker.components_target import ComponentsTarget
from deploy_targets.sagemaker.settings import SageMakerSettings
from deploy_targets.sagemaker.target import SageMakerTarget
from deploy_targets.vertex import names as vertex_names
from deploy_targets.vertex.google import Google
from deploy_targets.vertex.settings import VertexSettings
from deploy_targets.vertex.target import VertexTarget
from headgate.home import Home
from headgate.records import Payload, Resources, Revision
from headgate.spec import ImageSettings
from images import build_container, fetch_artifact

if TYPE_CHECKING:
    from pathlib import Path

    from support.sagemaker import SageMaker
    from support.vertex import Vertex

    from deploy_targets import DeployTarget


class _Cloud:
    """What the clouds' doubles, which run real containers, share."""

    _home: Home
    _base: str

    def revision(self, model: Path, version: int, *, ready_timeout: float = READY_SECONDS, **more: Any) -> Revision:
        artifact = fetch_artifact(str(model), self._home.root)
        image = build_container(self._home, artifact, "contract", ImageSettings(base=self._base))
        return revision_of(image, version, ready_timeout, **more)

    def ask(self, endpoint: str, payload: Payload, times: int = 1) -> list[Reply]:
        return [self._ask(endpoint, payload) for _ in range(times)]


class SageMakerHarness(_Cloud):
    """The SageMaker target on moto's server and our own hosting, which runs real containers."""

    never_ready, ids_reach_servers = "did not pass the ping health check", False

    def __init__(self, root: Path, base: str, double: SageMaker) -> None:
        self._home, self._base, self._double = Home(root), base, double
        self._settings = SageMakerSettings(kind="sagemaker", role=ROLE, captures=f"s3://{BUCKET}/live")
        self.target = SageMakerTarget(self._settings)
        self._runtime = double.client("sagemaker-runtime")

    def again(self) -> DeployTarget:
        return SageMakerTarget(self._settings)

    def _ask(self, endpoint: str, payload: Payload) -> Reply:
        name = str(uuid.uuid4())
        try:
            reply = self._runtime.invoke_endpoint(
                EndpointName=endpoint, Body=payload.body, ContentType=payload.content_type, InferenceId=name
            )
        except self._runtime.exceptions.ModelError as error:
            return Reply(error.response["OriginalStatusCode"], "", name)
        return Reply(200, reply["InvokedProductionVariant"], name)

    def is_gone(self, endpoint: str, url: str) -> bool:
        try:
            self._runtime.invoke_endpoint(EndpointName=endpoint, Body=b"{}", ContentType="application/json")
        except self._runtime.exceptions.ModelError:
            return False
        except ClientError as error:
            return "not found" in str(error)
        return False

    def kills(self) -> list[Kill]:
        # After one call is before the next.
        once = ("create_model", "delete_model")
        twice = ("create_endpoint_config", "update_endpoint", "update_endpoint_weights_and_capacities",
                 "delete_endpoint_config")  # fmt: skip
        return [
            Kill("create_model", 1, "before"), *(Kill(name) for name in (*once, *twice)),
            *(Kill(name, 2) for name in twice),
        ]  # fmt: skip

    def points(self) -> list[tuple[Any, str, Any]]:
        return [(Aws, "_call", lambda _aws, _service, operation, *_: operation)]

    def kill(self, endpoint: str, revision: str) -> None:
        self._double.kill(endpoint, revision)

    def traces(self, endpoint: str) -> list[str]:
        double = self._double
        keys = double.client("s3").list_objects_v2(Bucket=BUCKET, Prefix=f"live/{endpoint}/").get("Contents", [])
        named = [
            name for known in (double.models, double.configs) for name in known if name.startswith(f"{endpoint}--")
        ]
        scaled = double.client("application-autoscaling").describe_scalable_targets(ServiceNamespace="sagemaker")
        return [
            *named, *(key["Key"] for key in keys), *(name for name in double.endpoints if name == endpoint),
            *(one["ResourceId"] for one in scaled["ScalableTargets"] if f"/{endpoint}/" in one["ResourceId"]),
        ]  # fmt: skip


class ComponentsHarness(SageMakerHarness):
    """SageMaker's inference components, whose requests name theirs and are logged by the containers."""

    ids_reach_servers = True

    def __init__(self, root: Path, base: str, double: SageMaker, **more: Any) -> None:
        super().__init__(root, base, double)
        self._settings = SageMakerSettings.model_validate({
            "kind": "sagemaker", "role": ROLE, "captures": f"s3://{BUCKET}/live",
            "inference_components": {"machines": 4, "batch": "50%", "wait": "60s"}, **more,
        })  # fmt: skip
        self.target = ComponentsTarget.of(self._settings)

    def again(self) -> DeployTarget:
        return ComponentsTarget.of(self._settings)

    def revision(self, model: Path, version: int, *, ready_timeout: float = READY_SECONDS, **more: Any) -> Revision:
        more = {"resources": Resources(memory=2**29), **more}
        return super().revision(model, version, ready_timeout=ready_timeout, **more)

    def _ask(self, endpoint: str, payload: Payload) -> Reply:
        name = str(uuid.uuid4())
        try:
            self._runtime.invoke_endpoint(
                EndpointName=endpoint, Body=payload.body, ContentType=payload.content_type, InferenceId=name,
                InferenceComponentName=endpoint, CustomAttributes=f"x-request-id={name}",
            )  # fmt: skip
        except self._runtime.exceptions.ModelError as error:
            return Reply(error.response["OriginalStatusCode"], self._double.answered[name], name)
        return Reply(200, self._double.answered[name], name)

    def kills(self) -> list[Kill]:
        # After one call is before the next.
        calls = (
            "create_model", "create_inference_component", "update_inference_component", "delete_inference_component",
            "delete_model",
        )  # fmt: skip
        twice = ("add_tags", "update_inference_component_runtime_config")
        return [
            Kill("create_model", 1, "before"), *(Kill(name) for name in (*calls, *twice)),
            *(Kill(name, 2) for name in twice),
        ]  # fmt: skip

    def kill(self, endpoint: str, revision: str) -> None:
        there, own = self._double.components, f"{endpoint}--{revision}"
        live = there[endpoint].specification["ModelName"] == own if endpoint in there else False
        there[endpoint if live else own].machine.container.kill()

    def traces(self, endpoint: str) -> list[str]:
        named = [name for name in self._double.components if name == endpoint or name.startswith(f"{endpoint}--")]
        alarms = self._double.client("cloudwatch").describe_alarms(AlarmNames=[f"headgate-wake-{endpoint}"])
        scaled = self._double.client("application-autoscaling").describe_scalable_targets(
            ServiceNamespace="sagemaker", ResourceIds=[f"inference-component/{endpoint}"]
        )
        return [
            *super().traces(endpoint), *named, *(one["AlarmName"] for one in alarms["MetricAlarms"]),
            *(one["ResourceId"] for one in scaled["ScalableTargets"]),
        ]  # fmt: skip


class VertexHarness(_Cloud):
    """The Vertex AI target on a double that runs real containers."""

    never_ready, ids_reach_servers = "did not pass its health checks", False

    def __init__(self, root: Path, base: str, double: Vertex, url: str) -> None:
        self._home, self._base, self._double, self._url = Home(root), base, double, url
        self._settings = VertexSettings(kind="vertex", captures=f"bq://{PROJECT}.{DATASET}.live", location=LOCATION)
        self.target = VertexTarget(self._settings)
        self._http = httpx.Client(timeout=60)

    def again(self) -> DeployTarget:
        return VertexTarget(self._settings)

    def revision(self, model: Path, version: int, *, ready_timeout: float = READY_SECONDS, **more: Any) -> Revision:
        # Vertex AI is not told how long a container may take.
        self._double.ready_seconds = ready_timeout
        return super().revision(model, version, ready_timeout=ready_timeout, **more)

    def _ask(self, endpoint: str, payload: Payload) -> Reply:
        headers = {"authorization": f"Bearer {self.target._google.token()}", "content-type": payload.content_type}
        url = f"{self._url}/v1/{PARENT}/endpoints/{endpoint}:rawPredict"
        reply = self._http.post(url, content=payload.body, headers=headers)
        number = reply.headers.get("x-vertex-ai-deployed-model-id", "")
        return Reply(reply.status_code, self._names(endpoint).get(number, ""), "")

    def _names(self, endpoint: str) -> dict[str, str]:
        site = self._double.sites.get(f"{PARENT}/endpoints/{endpoint}")
        return {one["id"]: one["displayName"] for one in site.resource["deployedModels"]} if site else {}

    def is_gone(self, endpoint: str, url: str) -> bool:
        headers = {"authorization": f"Bearer {self.target._google.token()}", "content-type": "application/json"}
        return self._http.post(url, content=b"{}", headers=headers).status_code == httpx.codes.NOT_FOUND

    def kills(self) -> list[Kill]:
        once = ("models.upload", "endpoints.create", "models.delete", "endpoints.delete")
        twice = ("endpoints.deployModel", "endpoints.patch", "endpoints.undeployModel")
        return [
            Kill("models.upload", 1, "before"), *(Kill(name) for name in (*once, *twice)),
            *(Kill(name, 2) for name in twice),
        ]  # fmt: skip

    def points(self) -> list[tuple[Any, str, Any]]:
        return [(Google, "_call", lambda _google, _service, method, *_: method.removeprefix("projects.locations."))]

    def kill(self, endpoint: str, revision: str) -> None:
        self._double.kill(endpoint, vertex_names.deployed_id(revision))

    def traces(self, endpoint: str) -> list[str]:
        known = (*self._double.models, *self._double.sites)
        found = [name.rpartition("/")[2] for name in known]
        return [name for name in found if name == endpoint or name.startswith(f"{endpoint}--")]


class AzureMlHarness(_Cloud):
    """The Azure ML target on a double that runs real containers."""

    never_ready, ids_reach_servers = "did not pass its readiness probe", False

    def __init__(self, root: Path, base: str, double: azure.AzureMl, certificate: str) -> None:
        self._home, self._base, self._double = Home(root), base, double
        self._settings = AzureMlSettings(
            kind="azure-ml", subscription=azure.SUBSCRIPTION, group=azure.GROUP, workspace=azure.NAME,
            storage=f"{double.url}/{azure.ACCOUNT}",
        )  # fmt: skip
        self.target = AzureMlTarget(self._settings)
        self._http = httpx.Client(timeout=60, verify=ssl.create_default_context(cafile=certificate))

    def again(self) -> DeployTarget:
        return AzureMlTarget(self._settings)

    def _post(self, endpoint: str, payload: Payload) -> httpx.Response:
        name = str(uuid.uuid4())
        headers = {"authorization": f"Bearer {self.target._arm.token()}", "content-type": payload.content_type,
                   "x-request-id": name}  # fmt: skip
        reply = self._http.post(f"{self._double.url}/endpoints/{endpoint}/score", content=payload.body, headers=headers)
        reply.headers["x-request-id"] = name
        return reply

    def _ask(self, endpoint: str, payload: Payload) -> Reply:
        reply = self._post(endpoint, payload)
        return Reply(
            reply.status_code, reply.headers.get("azureml-model-deployment", ""), reply.headers["x-request-id"]
        )

    def is_gone(self, endpoint: str, url: str) -> bool:
        return self._post(endpoint, Payload(body=b"{}")).status_code == httpx.codes.NOT_FOUND

    def kills(self) -> list[Kill]:
        once = ("versions.put", "deployments.put", "deployments.delete", "versions.delete")
        return [
            Kill("versions.put", 1, "before"), *(Kill(name) for name in once),
            *(Kill("onlineEndpoints.put", number) for number in (1, 2)),
        ]  # fmt: skip

    def points(self) -> list[tuple[Any, str, Any]]:
        return [(Arm, "_call", lambda _arm, verb, path, *_: operation(verb, path))]

    def kill(self, endpoint: str, revision: str) -> None:
        self._double.kill(endpoint, revision)

    def traces(self, endpoint: str) -> list[str]:
        double = self._double
        return [
            *(name for name in double.sites if name == endpoint),
            *(name for name in double.scaled if name.startswith(f"headgate-{endpoint}-")),
            *("/".join(key) for key in double.environments if key[0] == f"headgate-{endpoint}"),
            *double.blobs(f"modelDataCollector/{endpoint}/"),
        ]  # fmt: skip
