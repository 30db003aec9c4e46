"""A double of SageMaker's hosting on moto's server, whose endpoints run real containers.

S3, STS, IAM, ECR and CloudWatch Logs are moto's (support/moto_server.py). What moto lacks or has otherwise is here, by
the API reference of each call (https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_UpdateEndpoint.html,
API_CreateEndpointConfig.html, API_UpdateEndpointWeightsAndCapacities.html, API_DescribeEndpoint.html,
API_runtime_InvokeEndpoint.html; https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_GetMetricData.html):
states that take time, shadow variants, an update that fails and goes back without an error, capture, metrics.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import boto3
from docker.errors import DockerException

from support.faults import Faults
from support.sagemaker_catalog import ACCOUNT, REGION, Catalog, Refusal, arn_of
from support.sagemaker_components import ComponentHosting
from support.sagemaker_evidence import Evidence
from support.sagemaker_guardrails import shift_in_steps

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from support.machines import Machine, Machines

ROLE = f"arn:aws:iam::{ACCOUNT}:role/headgate-endpoints"
TICK = 0.1
COPIES_LATE_SECONDS = 0.4
"""Captures of shadow variants are written this much after the others."""


@dataclass
class Variant:
    """One variant's machine and numbers."""

    config: dict[str, Any]
    machine: Machine | None
    weight: float
    count: int
    running: int = 0
    taking_over: tuple[Machine, float] | None = None


@dataclass
class Endpoint:
    """One endpoint as DescribeEndpoint has it."""

    name: str
    config: str
    status: str = "Creating"
    reason: str = ""
    pending: str = ""
    production: dict[str, Variant] = field(default_factory=dict)
    shadow: dict[str, Variant] = field(default_factory=dict)
    created: datetime = field(default_factory=lambda: datetime.now(UTC))
    tasks: list[threading.Thread] = field(default_factory=list)


class SageMaker(Catalog, ComponentHosting):
    """The double; `url` is where its moto server is, `inside` what leads containers to it, and `faults` go wrong."""

    def __init__(self, machines: Machines) -> None:
        Catalog.__init__(self)
        ComponentHosting.__init__(self)
        self.machines, self.faults, self.evidence = machines, Faults(), Evidence()
        self.capacity, self.quota = True, 4.0
        self.denied: set[str] = set()
        self.url, self.inside = "", {}
        self._stop = threading.Event()
        self._random = random.Random(7)
        self._clients = threading.Lock()
        self._session = boto3.Session(aws_access_key_id="test", aws_secret_access_key="test", region_name=REGION)  # noqa: S106 - of nobody

    # Endpoints

    def create_endpoint(self, asked: dict[str, Any]) -> dict[str, Any]:
        name = asked["EndpointName"]
        with self._lock:
            if name in self.endpoints:
                raise Refusal(f'Cannot create already existing endpoint "{arn_of("endpoint", name)}".')
            self._found("endpoint configuration", self.configs, asked["EndpointConfigName"])
            endpoint = self.endpoints[name] = Endpoint(name, asked["EndpointConfigName"])
            self._tag(arn_of("endpoint", name), asked.get("Tags", []))
        self._later(endpoint, lambda: self._change(endpoint, asked["EndpointConfigName"], {}))
        return {"EndpointArn": arn_of("endpoint", name)}

    def update_endpoint(self, asked: dict[str, Any]) -> dict[str, Any]:
        with self._lock:
            endpoint = self._steady(asked["EndpointName"])
            self._found("endpoint configuration", self.configs, asked["EndpointConfigName"])
            if endpoint.status == "Failed":
                raise Refusal(f'Cannot update failed endpoint "{arn_of("endpoint", endpoint.name)}".')
            if asked["EndpointConfigName"] == endpoint.config:
                raise Refusal("Cannot update endpoint with the endpoint configuration that it has")
            endpoint.status, endpoint.pending = "Updating", asked["EndpointConfigName"]
        self._later(endpoint, lambda: self._change(endpoint, asked["EndpointConfigName"], asked))
        return {"EndpointArn": arn_of("endpoint", endpoint.name)}

    def update_endpoint_weights_and_capacities(self, asked: dict[str, Any]) -> dict[str, Any]:
        with self._lock:
            endpoint = self._steady(asked["EndpointName"])
            wanted = {one["VariantName"]: one for one in asked["DesiredWeightsAndCapacities"]}
            if unknown := set(wanted) - set(endpoint.production):
                raise Refusal(f"The variant name(s) {sorted(unknown)} does not exist within endpoint configuration")
            endpoint.status = "Updating"

        def weigh() -> None:
            time.sleep(self.machines.step_seconds)
            with self._lock:
                for name, one in wanted.items():
                    endpoint.production[name].weight = one.get("DesiredWeight", endpoint.production[name].weight)
                endpoint.status = "InService"

        self._later(endpoint, weigh)
        return {"EndpointArn": arn_of("endpoint", endpoint.name)}

    def describe_endpoint(self, asked: dict[str, Any]) -> dict[str, Any]:
        with self._lock:
            endpoint = self._found("endpoint", self.endpoints, asked["EndpointName"])
            capture = self.configs.get(endpoint.config, {}).get("DataCaptureConfig", {})
            return {
                "EndpointName": endpoint.name, "EndpointArn": arn_of("endpoint", endpoint.name),
                "EndpointConfigName": endpoint.config, "EndpointStatus": endpoint.status,
                **({"FailureReason": endpoint.reason} if endpoint.reason else {}),
                **({"PendingDeploymentSummary": {"EndpointConfigName": endpoint.pending}} if endpoint.pending else {}),
                **{key: [_summary(name, one) for name, one in variants.items()]
                   for key, variants in (("ProductionVariants", endpoint.production),
                                         ("ShadowProductionVariants", endpoint.shadow)) if variants},
                "DataCaptureConfig": {
                    "EnableCapture": True, "CaptureStatus": "Started", "KmsKeyId": capture.get("KmsKeyId", ""),
                    "CurrentSamplingPercentage": capture.get("InitialSamplingPercentage", 0),
                    "DestinationS3Uri": capture.get("DestinationS3Uri", "s3://none"),
                },
                "CreationTime": endpoint.created, "LastModifiedTime": datetime.now(UTC),
            }  # fmt: skip

    def list_endpoints(self, asked: dict[str, Any]) -> dict[str, Any]:
        return {"Endpoints": [
            {"EndpointName": name, "EndpointArn": arn_of("endpoint", name), "CreationTime": found.created,
             "LastModifiedTime": found.created, "EndpointStatus": found.status}
            for name, found in sorted(self.endpoints.items()) if asked.get("NameContains", "") in name
        ]}  # fmt: skip

    def delete_endpoint(self, asked: dict[str, Any]) -> dict[str, Any]:
        with self._lock:
            endpoint = self._steady(asked["EndpointName"])
            if there := [one.name for one in self.components.values() if one.endpoint == endpoint.name]:
                raise Refusal(f"Cannot delete an endpoint that has inference components: {there}")
            endpoint.status = "Deleting"

        def end() -> None:
            time.sleep(self.machines.step_seconds)
            for variant in (*endpoint.production.values(), *endpoint.shadow.values()):
                if variant.machine is not None:
                    variant.machine.end()
            with self._lock:
                del self.endpoints[endpoint.name]
                self.tags.pop(arn_of("endpoint", endpoint.name), None)

        self._later(endpoint, end)
        return {}

    # Invocations, their metrics and captures

    def invoke(self, name: str, body: bytes, kind: str, headers: Mapping[str, str]) -> tuple[int, str, bytes, str]:
        """Status, variant, answer and its content type of one invocation."""
        with self._lock:
            endpoint = self.endpoints.get(name)
            if endpoint is None or endpoint.status in {"Creating", "Failed"}:
                raise Refusal(f"Endpoint {name} of account {ACCOUNT} not found.", "ValidationError")
            target, known = headers.get("X-Amzn-SageMaker-Target-Variant"), endpoint.production
            if any(variant.machine is None for variant in known.values()):
                component = headers.get("X-Amzn-SageMaker-Inference-Component")
                answer = self.ask_component(name, component, body, kind, headers)
                return answer.status, component, answer.body, answer.content_type
            if target is not None and target not in known:
                raise Refusal(f"Variant {target} not found for endpoint {name}", "ValidationError")
            weights = [variant.weight for variant in known.values()]
            chosen = target or self._random.choices(list(known), weights)[0]
            variant = known[chosen]
            copies = [
                (copy, one) for copy, one in endpoint.shadow.items()
                if self._random.random() * variant.weight < one.weight and target is None
            ]  # fmt: skip
        inference = headers.get("X-Amzn-SageMaker-Inference-Id")
        for copy, one in copies:
            # The copy has an id of its own.
            threading.Thread(target=self._ask, args=(name, copy, one, body, kind, None, COPIES_LATE_SECONDS)).start()
        answer = self._ask(name, chosen, variant, body, kind, inference, 0.0)
        return answer.status, chosen, answer.body, answer.content_type

    def _ask(
        self, endpoint: str, name: str, variant: Variant, body: bytes, kind: str, inference: str | None, late: float
    ) -> Any:
        began = datetime.now(UTC)
        machine, (other, share) = variant.machine, variant.taking_over or (variant.machine, 0.0)
        machine = other if self._random.random() < share else machine
        answer = machine.ask("/invocations", body, {"content-type": kind})
        self.evidence.add(endpoint, name, answer, began, body, kind, inference, late)
        return answer

    def simulate_principal_policy(self, asked: dict[str, Any]) -> dict[str, Any]:
        return {"EvaluationResults": [
            {"EvalActionName": name, "EvalDecision": "implicitDeny" if name in self.denied else "allowed"}
            for name in asked["ActionNames"]
        ]}  # fmt: skip

    def list_service_quotas(self, _asked: dict[str, Any]) -> dict[str, Any]:
        name = "ml.m5.large for endpoint usage"
        return {"Quotas": [
            {"QuotaName": name, "QuotaCode": "L-1", "Value": self.quota, "ServiceCode": "sagemaker"}
        ]}  # fmt: skip

    # What happens by itself

    def kill(self, endpoint: str, variant: str) -> None:
        """A machine fails."""
        known = self.endpoints[endpoint]
        (known.production | known.shadow)[variant].machine.container.kill()

    def run(self, s3: Any) -> None:
        """Write captures, and replace machines that failed, until `close`."""
        while not self._stop.wait(TICK):
            self.evidence.write_captures(s3)
            with self._lock:
                serving = [found for found in self.endpoints.values() if found.status == "InService"]
            self.replace_failed_copies()
            for endpoint in serving:
                for variant in (*endpoint.production.values(), *endpoint.shadow.values()):
                    self._replace_failed(endpoint, variant)

    def close(self) -> None:
        self._stop.set()
        for endpoint in list(self.endpoints.values()):
            for task in endpoint.tasks:
                task.join(60)

    @property
    def environment(self) -> dict[str, str]:
        """What leads boto3 to the double."""
        return {
            "AWS_ENDPOINT_URL": self.url, "AWS_REGION": REGION, "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
        }  # fmt: skip

    def client(self, service: str) -> Any:
        # A session makes one client at a time; in two threads one of them fails with KeyError.
        with self._clients:
            return self._session.client(service, endpoint_url=self.url)

    def _replace_failed(self, endpoint: Endpoint, variant: Variant) -> None:
        if variant.machine is None or variant.machine.is_running():
            variant.running = variant.count
        elif variant.running and self._holder(endpoint, variant.machine) is not None:
            variant.running = 0
            # A new machine, as the old one's container is gone with it.
            self._later(endpoint, lambda: self._restart(endpoint, variant.machine))

    def _restart(self, endpoint: Endpoint, failed: Machine) -> None:
        time.sleep(1)
        # An update may have removed the variant, and its model may be deleted, in the meantime.
        holder = self._holder(endpoint, failed)
        if holder is None:
            return
        machine = self._start(holder.config)
        while not machine.answers("/ping") and machine.is_running():
            time.sleep(TICK)
        with self._lock:
            holder = self._holder(endpoint, failed)
            if holder is not None:
                holder.machine = machine
        if holder is None:
            machine.end()

    def _holder(self, endpoint: Endpoint, machine: Machine) -> Variant | None:
        """Return the variant that the endpoint has on this machine, or None."""
        with self._lock:
            known = (*endpoint.production.values(), *endpoint.shadow.values())
            is_there = self.endpoints.get(endpoint.name) is endpoint
            return next((one for one in known if is_there and one.machine is machine), None)

    def _start(self, config: dict[str, Any]) -> Machine:
        container = self.models[config["ModelName"]]["PrimaryContainer"]
        return self.machines.start(container["Image"], container.get("Environment", {}), ["serve"])

    def _change(self, endpoint: Endpoint, config_name: str, asked: dict[str, Any]) -> None:
        config, kept = self.configs[config_name], endpoint.production | endpoint.shadow
        made, problem = self._made(endpoint, config, asked)
        production, shadow = made["ProductionVariants"], made["ShadowProductionVariants"]
        if not problem and "DeploymentConfig" in asked:
            problem = shift_in_steps(
                self.steps, self.client("cloudwatch"), endpoint.production, production, asked["DeploymentConfig"]
            )
        with self._lock:
            if problem:
                endpoint.status, endpoint.reason, endpoint.pending = "InService" if asked else "Failed", problem, ""
                leaves = production | shadow
            else:
                endpoint.production, endpoint.shadow, leaves = production, shadow, kept
                endpoint.config, endpoint.status, endpoint.reason, endpoint.pending = config_name, "InService", "", ""
                self.evidence.where[endpoint.name] = config.get("DataCaptureConfig", {}).get("DestinationS3Uri", "")
            stay = [variant.machine for variant in (endpoint.production | endpoint.shadow).values()]
        # Requests that are on their way still get their answers.
        time.sleep(self.machines.step_seconds)
        for variant in leaves.values():
            if variant.machine is not None and variant.machine not in stay:
                variant.machine.end()

    def _made(
        self, endpoint: Endpoint, config: dict[str, Any], asked: dict[str, Any]
    ) -> tuple[dict[str, dict[str, Variant]], str]:
        """The variants of a configuration, as far as they can be had; and why not all of them."""
        retained = {"DesiredWeight", "DesiredInstanceCount"} if asked.get("RetainAllVariantProperties") else set()
        retained -= {one["VariantPropertyType"] for one in asked.get("ExcludeRetainedVariantProperties", [])}
        kept = endpoint.production | endpoint.shadow
        made: dict[str, dict[str, Variant]] = {"ProductionVariants": {}, "ShadowProductionVariants": {}}
        for key, one in [(part, one) for part in made for one in config.get(part, [])]:
            name, old = one["VariantName"], kept.get(one["VariantName"])
            weight, count = one.get("InitialVariantWeight", 1.0), one["InitialInstanceCount"]
            if old is not None:
                weight = old.weight if "DesiredWeight" in retained else weight
                count = old.count if "DesiredInstanceCount" in retained else count
            if "ModelName" not in one:
                made[key][name] = Variant(one, None, weight, count, count)
                continue
            if old is not None and old.config["ModelName"] == one["ModelName"]:
                made[key][name] = Variant(one, old.machine, weight, count, old.running)
                continue
            machine, problem = self._provision(endpoint.name, one)
            if machine is None:
                return made, problem
            made[key][name] = Variant(one, machine, weight, count, count)
        return made, ""

    def _provision(self, endpoint: str, config: dict[str, Any]) -> tuple[Machine | None, str]:
        """A machine whose container passes its health checks; or none, and why."""
        if not self.capacity:
            return None, (
                "Unable to provision requested ML compute capacity due to InsufficientInstanceCapacity error. Please "
                "retry using a different ML instance type or after some time."
            )
        try:
            machine = self._start(config)
        except DockerException as error:
            return None, f"The image could not be pulled: {error}"
        # A second here is two there.
        deadline = time.monotonic() + config.get("ContainerStartupHealthCheckTimeoutInSeconds", 240) / 2
        while not machine.answers("/ping"):
            if time.monotonic() > deadline or not machine.is_running():
                self._write_log(f"/aws/sagemaker/Endpoints/{endpoint}", config["VariantName"], machine.log())
                machine.end()
                return None, (
                    f"The primary container for production variant {config['VariantName']} did not pass the ping "
                    "health check. Please check CloudWatch logs for this endpoint."
                )
            time.sleep(TICK)
        return machine, ""

    def _write_log(self, group: str, variant: str, lines: list[str]) -> None:
        logs = self.client("logs")
        stream = f"{variant}/i-{uuid.uuid4().hex[:17]}"
        with contextlib.suppress(logs.exceptions.ResourceAlreadyExistsException):
            logs.create_log_group(logGroupName=group)
        logs.create_log_stream(logGroupName=group, logStreamName=stream)
        events = [{"timestamp": int(time.time() * 1000), "message": line} for line in lines if line]
        if events:
            logs.put_log_events(logGroupName=group, logStreamName=stream, logEvents=events)

    def _later(self, endpoint: Endpoint, act: Callable[[], None]) -> None:
        task = threading.Thread(target=act, daemon=True)
        endpoint.tasks.append(task)
        task.start()

    def _steady(self, name: str) -> Endpoint:
        endpoint: Endpoint = self._found("endpoint", self.endpoints, name)
        if endpoint.status not in {"InService", "Failed"}:
            raise Refusal(f'Cannot update in-progress endpoint "{arn_of("endpoint", name)}".')
        return endpoint


def _summary(name: str, variant: Variant) -> dict[str, Any]:
    return {
        "VariantName": name, "CurrentWeight": variant.weight, "DesiredWeight": variant.weight,
        "CurrentInstanceCount": variant.running, "DesiredInstanceCount": variant.count,
    }  # fmt: skip
