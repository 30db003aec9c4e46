"""Inference components in the double of SageMaker's hosting: copies of a container that come and go.

By https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_CreateInferenceComponent.html, …/API_Describe…,
…/API_UpdateInferenceComponent.html, …/API_UpdateInferenceComponentRuntimeConfig.html and
https://docs.aws.amazon.com/sagemaker/latest/dg/endpoint-auto-scaling-zero-instances.html. Where it is not documented
what is described while a component is updated, the double says what is least convenient: the new specification already.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from docker.errors import DockerException

from support.sagemaker_catalog import Refusal, arn_of
from support.sagemaker_guardrails import TICK, Steps

if TYPE_CHECKING:
    from collections.abc import Mapping

    from support.machines import Answer, Machine

ASLEEP = (
    "Inference Component has no capacity to process this request. ApplicationAutoScaling may be in-progress (if "
    "configured) or try to increase the capacity by invoking UpdateInferenceComponentRuntimeConfig API."
)
ATTRIBUTES = "x-amzn-sagemaker-custom-attributes"
UNNAMED = "Inference Component Name header is required for endpoints to which you plan to deploy inference components."
_MACHINE_MEBIBYTES = 8192 - 1024
"""What an ml.m5.large has for copies, beside SageMaker's own needs."""
_SCALED = {"ServiceNamespace": "sagemaker"}


@dataclass
class Component:
    """One component; all its copies are one container here."""

    name: str
    endpoint: str
    variant: str
    specification: dict[str, Any]
    desired: int
    current: int = 0
    status: str = "Creating"
    reason: str = ""
    machine: Machine | None = None
    taking_over: tuple[Machine, float] | None = None
    created: datetime = field(default_factory=lambda: datetime.now(UTC))


class ComponentHosting:
    """Of all endpoints; the double's other half has models, endpoints, machines and metrics."""

    def __init__(self) -> None:
        self.components: dict[str, Component] = {}
        self.asked_to_update: list[dict[str, Any]] = []
        self.steps = Steps()
        self.answered: dict[str, str] = {}
        """Which revision each request was answered by, which SageMaker tells nobody."""

    def create_inference_component(self, asked: dict[str, Any]) -> dict[str, Any]:
        name, specification = asked["InferenceComponentName"], asked["Specification"]
        with self._lock:
            endpoint = self._steady(asked["EndpointName"])
            if asked["VariantName"] not in endpoint.production:
                raise Refusal(f"Variant {asked['VariantName']} does not exist within endpoint configuration")
            if name in self.components:
                raise Refusal(f'Cannot create already existing inference component "{_arn(name)}".')
            self._found("model", self.models, specification["ModelName"])
            made = Component(
                name, endpoint.name, asked["VariantName"], specification, asked["RuntimeConfig"]["CopyCount"]
            )
            self.components[name] = made
            self._tag(_arn(name), asked.get("Tags", []))
        self._later(endpoint, lambda: self._begin(made))
        return {"InferenceComponentArn": _arn(name)}

    def describe_inference_component(self, asked: dict[str, Any]) -> dict[str, Any]:
        found = self._component(asked["InferenceComponentName"])
        return {
            **_summary(found), "InferenceComponentArn": _arn(found.name),
            "EndpointArn": arn_of("endpoint", found.endpoint), "Specification": found.specification,
            "RuntimeConfig": {"DesiredCopyCount": found.desired, "CurrentCopyCount": found.current},
            **({"FailureReason": found.reason} if found.reason else {}),
        }  # fmt: skip

    def list_inference_components(self, asked: dict[str, Any]) -> dict[str, Any]:
        return {"InferenceComponents": [
            {**_summary(found), "InferenceComponentArn": _arn(name), "EndpointArn": arn_of("endpoint", found.endpoint)}
            for name, found in sorted(self.components.items()) if found.endpoint == asked["EndpointNameEquals"]
        ]}  # fmt: skip

    def update_inference_component(self, asked: dict[str, Any]) -> dict[str, Any]:
        with self._lock:
            found = self._steady_component(asked["InferenceComponentName"])
            self._found("model", self.models, asked["Specification"]["ModelName"])
            self.asked_to_update.append(asked)
            if not found.desired:
                raise Refusal("Cannot update an inference component that has no copies by a rolling update")
            before, found.specification = found.specification, asked["Specification"]
            found.status, found.reason = "Updating", ""
        self._later(self.endpoints[found.endpoint], lambda: self._replace(found, before, asked["DeploymentConfig"]))
        return {"InferenceComponentArn": _arn(found.name)}

    def update_inference_component_runtime_config(self, asked: dict[str, Any]) -> dict[str, Any]:
        with self._lock:
            found = self._steady_component(asked["InferenceComponentName"])
        self._have(found, asked["DesiredRuntimeConfig"]["CopyCount"])
        return {"InferenceComponentArn": _arn(found.name)}

    def delete_inference_component(self, asked: dict[str, Any]) -> dict[str, Any]:
        found = self._component(asked["InferenceComponentName"])
        with self._lock:
            if found.status in {"Creating", "Updating"}:
                raise Refusal(f'Cannot delete in-progress inference component "{_arn(found.name)}".')
            found.status = "Deleting"

        def end() -> None:
            time.sleep(TICK)
            _end(found)
            with self._lock:
                del self.components[found.name]
                self.tags.pop(_arn(found.name), None)

        self._later(self.endpoints[found.endpoint], end)
        return {}

    # What happens by itself

    def ask_component(
        self, endpoint: str, name: str | None, body: bytes, kind: str, headers: Mapping[str, str]
    ) -> Answer:
        """One invocation, which its metrics count."""
        if name is None:
            raise Refusal(UNNAMED, "ValidationError")
        found = self.components.get(name)
        if found is None or found.endpoint != endpoint or found.status in {"Creating", "Failed"}:
            raise Refusal(f"Inference component {name} of endpoint {endpoint} not found.", "ValidationError")
        machine, (other, share) = found.machine, found.taking_over or (found.machine, 0.0)
        machine = other if self._random.random() < share else machine
        if not found.current or machine is None:
            self._wake(found)
            raise Refusal(ASLEEP, "ValidationError")
        told = {key: value for key, value in headers.items() if key.lower() == ATTRIBUTES}
        answer = machine.ask("/invocations", body, {"content-type": kind, **told})
        env = dict(one.partition("=")[::2] for one in machine.container.attrs["Config"]["Env"])
        self.answered[headers.get("X-Amzn-SageMaker-Inference-Id", "")] = env["HEADGATE_REVISION"]
        self.evidence.count(("", name), answer)
        return answer

    def quiet(self, name: str) -> None:
        """Nobody asks a component for a while: what its target tracking policy does then."""
        (target,) = self.client("application-autoscaling").describe_scalable_targets(
            **_SCALED, ResourceIds=[f"inference-component/{name}"]
        )["ScalableTargets"]
        assert "TargetTrackingScaling" in {one["PolicyType"] for one in self._policies(name)}
        self._have(self.components[name], target["MinCapacity"])

    def replace_failed_copies(self) -> None:
        for found in list(self.components.values()):
            if found.status == "InService" and found.current and found.machine and not found.machine.is_running():
                found.current = 0
                # New ones, as a container is gone with its machine.
                self._later(self.endpoints[found.endpoint], lambda found=found: self._again(found))

    def _wake(self, found: Component) -> None:
        """A metric, its alarm, and the policy that the alarm tells."""
        watch = self.client("cloudwatch").describe_alarms()["MetricAlarms"]
        dimensions = [{"Name": "InferenceComponentName", "Value": found.name}]
        told = {
            action for one in watch if one.get("MetricName") == "NoCapacityInvocationFailures"
            and one["Dimensions"] == dimensions for action in one["AlarmActions"]
        }  # fmt: skip
        steps = [one for one in self._policies(found.name) if one["PolicyARN"] in told]
        if steps and not found.desired and found.status == "InService":
            self._have(found, 1)

    def _policies(self, name: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.client("application-autoscaling").describe_scaling_policies(
            **_SCALED, ResourceId=f"inference-component/{name}"
        )["ScalingPolicies"]
        return found

    def _begin(self, made: Component) -> None:
        machine, problem = self._copy(made.specification, made.name) if made.desired else (None, "")
        with self._lock:
            made.machine, made.reason = machine, problem
            made.status, made.current = ("Failed", 0) if problem else ("InService", made.desired)

    def _replace(self, found: Component, before: dict[str, Any], deployment: dict[str, Any]) -> None:
        """Copies go over in steps; an alarm, or copies that do not start, take it back without an error."""
        machine, problem = self._copy(found.specification, found.name)
        old = found.machine
        if machine is not None:
            rolling = deployment["RollingUpdatePolicy"]
            step, watch = rolling["MaximumBatchSize"]["Value"], self.client("cloudwatch")
            names = [one["AlarmName"] for one in deployment.get("AutoRollbackConfiguration", {}).get("Alarms", [])]
            for share in range(step, 101, step):
                found.taking_over = machine, share / 100
                if problem := self.steps.last(watch, names, rolling["WaitIntervalInSeconds"]):
                    break
        with self._lock:
            if problem:
                found.specification, found.reason = before, problem
            else:
                found.machine = machine
            found.taking_over, found.status = None, "InService"
        # Requests that are on their way still get their answers.
        time.sleep(TICK)
        leaves = machine if problem else old
        if leaves is not None:
            leaves.end()

    def _have(self, found: Component, copies: int) -> None:
        with self._lock:
            found.desired, found.status = copies, "Updating"

        def become() -> None:
            problem = ""
            if copies and found.machine is None:
                found.machine, problem = self._copy(found.specification, found.name)
            with self._lock:
                found.current, found.status, found.reason = 0 if problem else copies, "InService", problem
            if not copies:
                time.sleep(TICK)
                _end(found)

        self._later(self.endpoints[found.endpoint], become)

    def _again(self, found: Component) -> None:
        time.sleep(1)
        found.machine, problem = self._copy(found.specification, found.name)
        found.current = 0 if problem else found.desired

    def _copy(self, specification: dict[str, Any], name: str) -> tuple[Machine | None, str]:
        """A container that passes its health checks; or none, and why."""
        needs = specification["ComputeResourceRequirements"]
        if not self.capacity or needs["MinMemoryRequiredInMb"] > _MACHINE_MEBIBYTES:
            return None, "Failed to find enough capacity for the inference component. Please add instances."
        container = self.models[specification["ModelName"]]["PrimaryContainer"]
        try:
            machine = self.machines.start(
                container["Image"], {**container["Environment"], **self.inside}, ["serve"]
            )  # fmt: skip
        except DockerException as error:
            return None, f"The image could not be pulled: {error}"
        seconds = specification["StartupParameters"]["ContainerStartupHealthCheckTimeoutInSeconds"]
        # A second here is two there.
        deadline = time.monotonic() + seconds / 2
        while not machine.answers("/ping"):
            if time.monotonic() > deadline or not machine.is_running():
                self._write_log(f"/aws/sagemaker/InferenceComponents/{name}", "components", machine.log())
                machine.end()
                return None, f"The container of inference component {name} did not pass the ping health check."
            time.sleep(TICK)
        return machine, ""

    def _component(self, name: str) -> Component:
        if name not in self.components:
            raise Refusal(f'Could not find inference component "{_arn(name)}".')
        return self.components[name]

    def _steady_component(self, name: str) -> Component:
        found = self._component(name)
        if found.status != "InService":
            raise Refusal(f'Cannot update in-progress inference component "{_arn(name)}".')
        return found


def _end(found: Component) -> None:
    if found.machine is not None:
        found.machine.end()
        found.machine = None


def _summary(found: Component) -> dict[str, Any]:
    return {
        "InferenceComponentName": found.name, "EndpointName": found.endpoint, "VariantName": found.variant,
        "InferenceComponentStatus": found.status, "CreationTime": found.created,
        "LastModifiedTime": datetime.now(UTC),
    }  # fmt: skip


def _arn(name: str) -> str:
    return arn_of("inference-component", name)
