"""A double of Azure ML, whose deployments run real containers: what it keeps and does. azure_server.py is its HTTP.

By the reference of each resource (https://learn.microsoft.com/rest/api/azureml/online-endpoints, …/online-deployments,
…/environment-versions), of the metric (https://learn.microsoft.com/azure/azure-monitor/reference/supported-metrics) and
of what is collected (https://learn.microsoft.com/azure/machine-learning/how-to-collect-production-data): a PUT of the
whole resource, changes that take time and are refused while others go on, deployments that stay after they failed,
traffic of whole percents, and copies of half of it at most to a deployment without any.
"""

from __future__ import annotations

import json
import random
import re
import threading
import time
import uuid
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from docker.errors import DockerException

from support import cloud_http
from support.cloud_http import Refusal
from support.faults import Faults

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from support.machines import Machine, Machines

SUBSCRIPTION, GROUP, NAME, LOCATION = "0b1f6471-1bf0-4dda-aec3-cb9272f09590", "ml", "a-workspace", "westeurope"
IN_GROUP = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}"
WORKSPACE = f"{IN_GROUP}/providers/Microsoft.MachineLearningServices/workspaces/{NAME}"
REGISTRY = f"{IN_GROUP}/providers/Microsoft.ContainerRegistry/registries/images"
PLACE = f"/subscriptions/{SUBSCRIPTION}/providers/Microsoft.MachineLearningServices/locations/{LOCATION}"
SIZE = {"name": "Standard_DS3_v2", "family": "standardDSv2Family", "vCPUs": 4}
ACCOUNT, CONTAINER = "store", "azureml-blobstore"
TICK = 0.1
LATE_SECONDS = 0.4
"""Counts and what is collected come this much later."""


_found = partial(cloud_http.found, code="NotFound")
_checked = partial(cloud_http.checked, code="BadArgument")


class FailedChange(Exception):  # noqa: N818 - what a change ends with
    """A code and a message."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


@dataclass
class Site:
    """One endpoint: its resource, those of its deployments, and the machines behind them."""

    resource: dict[str, Any]
    deployments: dict[str, dict[str, Any]] = field(default_factory=dict)
    machines: dict[str, Machine] = field(default_factory=dict)


class AzureMl:
    """The double; `faults` is what is to go wrong."""

    def __init__(self, machines: Machines) -> None:
        self.machines, self.faults = machines, Faults()
        self.url = ""
        self.retry_after = ""
        """What Retry-After says where requests are throttled."""
        self.may_end = threading.Event()
        """Cleared, changes go on until it is set."""
        self.may_end.set()
        self.sites: dict[str, Site] = {}
        self.environments: dict[tuple[str, str], dict[str, Any]] = {}
        self.containers: dict[str, dict[str, Any]] = {}
        self.operations: dict[str, dict[str, Any]] = {}
        self.scaled: dict[str, dict[str, Any]] = {}
        self.actions, self.exceptions = ["*"], ["Microsoft.Authorization/*/Write"]
        self.registry: str | None = REGISTRY
        self.capacity, self.cores = True, 100
        self.used: dict[str, list[dict[str, Any]]] = {}
        """What Azure Monitor says of the memory of a deployment's machines: a point a minute."""
        self._answers: list[tuple[float, str, str, int]] = []
        self._blobs: defaultdict[str, list[tuple[float, bytes]]] = defaultdict(list)
        self._lock = threading.RLock()
        self._random = random.Random(7)
        self._tasks: list[threading.Thread] = []
        self._failed_logs: dict[tuple[str, str], list[str]] = {}

    # Endpoints

    def get_endpoint(self, name: str) -> dict[str, Any]:
        with self._lock:
            return json.loads(json.dumps(_found(self.sites, name).resource))

    def list_endpoints(self) -> list[dict[str, Any]]:
        with self._lock:
            return [self.get_endpoint(name) for name in sorted(self.sites)]

    def put_endpoint(self, name: str, asked: dict[str, Any]) -> dict[str, Any]:
        _checked(name, r"[a-zA-Z][a-zA-Z0-9-]{1,30}[a-zA-Z0-9]")
        with self._lock:
            site = self.sites.get(name)
            _check_shares(asked["properties"], list(site.deployments) if site else [])
            if site is not None:
                self._see_that_nothing_goes_on(site.resource, name)
                kept = {key: site.resource["properties"][key] for key in ("scoringUri", "provisioningState")}
                wanted = {**asked, "properties": {**asked["properties"], **kept}}
                site.resource["properties"]["provisioningState"] = "Updating"
            else:
                site = self.sites[name] = Site({
                    "id": f"{WORKSPACE}/onlineEndpoints/{name}", "name": name, **asked,
                    "properties": {**asked["properties"], "provisioningState": "Creating",
                                   "scoringUri": f"{self.url}/endpoints/{name}/score"},
                })  # fmt: skip
                wanted = asked

        def carry_out() -> None:
            with self._lock:
                properties = {**site.resource["properties"], **wanted["properties"], "provisioningState": "Succeeded"}
                site.resource.update({**wanted, "properties": properties})

        return self._begin(carry_out)

    def delete_endpoint(self, name: str) -> dict[str, Any]:
        with self._lock:
            site = _found(self.sites, name)
            site.resource["properties"]["provisioningState"] = "Deleting"

        def carry_out() -> None:
            with self._lock:
                machines = list(self.sites.pop(name).machines.values())
            for machine in machines:
                machine.end()

        return self._begin(carry_out)

    # Deployments, and the images that they run

    def get_deployment(self, endpoint: str, name: str) -> dict[str, Any]:
        with self._lock:
            return json.loads(json.dumps(_found(_found(self.sites, endpoint).deployments, name)))

    def list_deployments(self, endpoint: str) -> list[dict[str, Any]]:
        with self._lock:
            return [self.get_deployment(endpoint, name) for name in sorted(_found(self.sites, endpoint).deployments)]

    def put_deployment(self, endpoint: str, name: str, asked: dict[str, Any]) -> dict[str, Any]:
        _checked(name, r"[a-zA-Z][a-zA-Z0-9-]{1,30}[a-zA-Z0-9]")
        with self._lock:
            site = _found(self.sites, endpoint)
            self._see_that_nothing_goes_on(site.resource, endpoint)
            if name in site.deployments:
                self._see_that_nothing_goes_on(site.deployments[name], name)
            key = tuple(
                asked["properties"]["environmentId"].removeprefix(f"{WORKSPACE}/environments/").split("/versions/")
            )
            environment = _found(self.environments, key)
            resource = site.deployments[name] = {
                "id": f"{WORKSPACE}/onlineEndpoints/{endpoint}/deployments/{name}", "name": name, **asked,
                "properties": {**asked["properties"], "provisioningState": "Creating"},
            }  # fmt: skip

        def carry_out() -> None:
            try:
                machine = self._provision(environment["properties"], resource["properties"])
            except FailedChange as failed:
                resource["properties"]["provisioningState"] = "Failed"
                self._failed_logs[endpoint, name] = getattr(failed, "log", [])
                raise
            with self._lock:
                site.machines[name] = machine
                resource["properties"]["provisioningState"] = "Succeeded"

        return self._begin(carry_out)

    def delete_deployment(self, endpoint: str, name: str) -> dict[str, Any]:
        with self._lock:
            site = _found(self.sites, endpoint)
            resource, shares = _found(site.deployments, name), site.resource["properties"]
            if any((shares.get(key) or {}).get(name) for key in ("traffic", "mirrorTraffic")):
                raise Refusal(400, "BadRequest", f"Deployment {name} has traffic; set it to 0 first.")
            self._see_that_nothing_goes_on(site.resource, endpoint)
            resource["properties"]["provisioningState"] = "Deleting"

        def carry_out() -> None:
            with self._lock:
                site.deployments.pop(name, None)
                machine = site.machines.pop(name, None)
            if machine is not None:
                machine.end()

        return self._begin(carry_out)

    def logs(self, endpoint: str, name: str, lines: int) -> dict[str, Any]:
        return {"content": "\n".join(self._failed_logs.get((endpoint, name), [])[-lines:])}

    def put_environment(self, name: str, version: str, asked: dict[str, Any]) -> dict[str, Any]:
        with self._lock:
            there = self.environments.get((name, version))
            if there is not None and there["properties"]["image"] != asked["properties"]["image"]:
                raise Refusal(409, "Conflict", f"Environment {name}:{version} is there, and cannot be changed.")
            self.environments[name, version] = {
                "id": f"{WORKSPACE}/environments/{name}/versions/{version}", "name": version, **asked,
            }  # fmt: skip
            return self.environments[name, version]

    def list_environments(self, name: str) -> list[dict[str, Any]]:
        with self._lock:
            found = [one for (known, _), one in sorted(self.environments.items()) if known == name]
        if not found:
            raise Refusal(404, "NotFound", f"There is no environment {name}.")
        return found

    def delete_environment(self, name: str, version: str = "") -> dict[str, Any]:
        with self._lock:
            gone = None if version else self.containers.pop(name, None)
            keys = [key for key in self.environments if key[0] == name and version in {"", key[1]}]
            if not keys and gone is None:
                raise Refusal(404, "NotFound", f"There is no environment {name}:{version}.")
            for key in keys:
                del self.environments[key]
        return {}

    def get_operation(self, name: str) -> dict[str, Any]:
        with self._lock:
            return dict(_found(self.operations, name))

    # Requests, what is collected of them, and what is counted

    def score(self, name: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes, str, str]:
        """Status, answer, its content type, and the deployment that gave it."""
        with self._lock:
            site = _found(self.sites, name)
            properties, one = site.resource["properties"], headers.get("azureml-model-deployment")
            weights = {key: share for key, share in (properties.get("traffic") or {}).items() if share}
            if one is None and not weights:
                raise Refusal(404, "NotFound", f"Endpoint {name} has no traffic.")
            chosen = one or self._random.choices(list(weights), list(weights.values()))[0]
            copied = [key for key, share in (properties.get("mirrorTraffic") or {}).items()
                      if not one and self._random.random() < share / 100]  # fmt: skip
            machine, copies = _found(site.machines, chosen), {key: site.machines.get(key) for key in copied}
        request_id, kind = headers.get("x-request-id") or str(uuid.uuid4()), headers.get("content-type", "")
        for key, another in copies.items():
            if another is not None:
                self._later(lambda key=key, another=another: self._ask(name, key, another, request_id, body, kind))
        return *self._ask(name, chosen, machine, request_id, body, kind), chosen

    def _ask(
        self, name: str, deployment: str, machine: Machine, request_id: str, body: bytes, kind: str
    ) -> tuple[int, bytes, str]:
        asked_at = datetime.now(UTC)
        answer = machine.ask("/invocations", body, {"content-type": kind})
        collections = self.sites[name].deployments[deployment]["properties"]["dataCollector"]["collections"]
        with self._lock:
            self._answers.append((time.time(), name, deployment, answer.status))
            self._collect(name, deployment, "request", request_id, asked_at, body, kind, collections)
            if answer.status < 400:
                self._collect(
                    name, deployment, "response", request_id, datetime.now(UTC), answer.body, answer.content_type,
                    collections,
                )  # fmt: skip
        return answer.status, answer.body, answer.content_type

    def _collect(
        self, name: str, deployment: str, what: str, request_id: str, at: datetime, body: bytes, kind: str,
        how: Mapping[str, Any],
    ) -> None:  # fmt: skip
        # One draw a request, so that the answer is kept where the request is.
        kept = random.Random(request_id).random() < how[what]["samplingRate"]
        if how[what]["dataCollectionMode"] != "Enabled" or not kept:
            return
        event = {
            "specversion": "1.0", "id": str(uuid.uuid4()), "source": f"/{name}/{deployment}",
            "type": f"azureml.inference.{what}", "datacontenttype": kind, "time": at.isoformat(),
            "xrequestid": request_id, "data": json.loads(body) if kind == "application/json" else body.decode(),
        }  # fmt: skip
        blob = f"modelDataCollector/{name}/{deployment}/{what}/{at:%Y/%m/%d/%H}/instance.jsonl"
        self._blobs[blob].append((time.time(), json.dumps(event).encode() + b"\n"))

    def blobs(self, prefix: str) -> dict[str, bytes]:
        """Their content, by name, of what is there by now."""
        with self._lock:
            until = time.time() - LATE_SECONDS
            found = {
                name: b"".join(line for at, line in lines if at < until)
                for name, lines in self._blobs.items() if name.startswith(prefix)
            }  # fmt: skip
            return {name: content for name, content in found.items() if content}

    def delete_blob(self, name: str) -> None:
        with self._lock:
            self._blobs.pop(name, None)

    def metrics(self, name: str, query: Mapping[str, str]) -> dict[str, Any]:
        if query["metricnames"] != "RequestsPerMinute" or query["aggregation"] != "Average":
            raise Refusal(400, "BadRequest", f"There is no such metric: {query}")
        since, until = (datetime.fromisoformat(moment).timestamp() for moment in query["timespan"].split("/"))
        counted: Counter[tuple[str, str]] = Counter()
        until = min(until, time.time() - LATE_SECONDS)
        with self._lock:
            counted.update(
                (deployment, f"{status // 100}xx") for at, endpoint, deployment, status in self._answers
                if endpoint == name and since <= at < until
            )  # fmt: skip
        return {
            "value": [
                {
                    "name": {"value": "RequestsPerMinute"},
                    "timeseries": [
                        {
                            "metadatavalues": [
                                {"name": {"value": "deployment"}, "value": deployment},
                                {"name": {"value": "statuscodeclass"}, "value": kind},
                            ],
                            "data": [{"timeStamp": query["timespan"].partition("/")[0], "average": float(count)}, {}],
                        }
                        for (deployment, kind), count in counted.items()
                    ],
                }
            ]
        }

    def memory(self, endpoint: str, name: str, query: Mapping[str, str]) -> dict[str, Any]:
        """A metric of a deployment, which has its own; one that is not asked for by its name is refused."""
        self.get_deployment(endpoint, name)
        if query["metricnames"] != "CpuMemoryUtilizationPercentage" or query["aggregation"] != "Maximum":
            raise Refusal(400, "BadRequest", f"Failed to find metric configuration for {query}")
        since, until = (datetime.fromisoformat(moment) for moment in query["timespan"].split("/"))
        data = [
            point for point in self.used.get(name, []) if since <= datetime.fromisoformat(point["timeStamp"]) < until
        ]
        series = [{"metadatavalues": [], "data": data}] if data else []
        return {"value": [{"name": {"value": query["metricnames"]}, "errorCode": "Success", "timeseries": series}]}

    # What happens by itself

    def kill(self, endpoint: str, deployment: str) -> None:
        """A machine fails."""
        self.sites[endpoint].machines[deployment].container.kill()

    def close(self) -> None:
        self.may_end.set()
        for task in self._tasks:
            task.join(60)

    def _provision(self, environment: Mapping[str, Any], deployment: Mapping[str, Any]) -> Machine:
        if not self.capacity:
            raise FailedChange("OutOfCapacity", "There is not enough capacity of the size that was asked for.")
        routes = environment["inferenceConfig"]
        try:
            machine = self.machines.start(environment["image"], deployment["environmentVariables"])
        except DockerException as error:
            raise FailedChange("ImageBuildFailure", f"The image could not be pulled: {error}") from error
        probe = deployment["readinessProbe"]
        period = float(re.fullmatch(r"PT(\d+)S", probe["period"])[1])
        # A minute there is some seconds here.
        deadline = time.monotonic() + max(6.0, period * probe["failureThreshold"] / 4)
        while not machine.answers(routes["readinessRoute"]["path"]):
            if not machine.is_running() or time.monotonic() > deadline:
                failed = FailedChange(
                    "ResourceNotReady", "User container has crashed or terminated, or did not pass its readiness probe."
                )
                failed.log = machine.log()
                machine.end()
                raise failed
            time.sleep(TICK)
        return machine

    def _begin(self, act: Callable[[], None]) -> dict[str, Any]:
        name = str(uuid.uuid4())
        operation = self.operations[name] = {"name": name, "status": "InProgress"}

        def carry_out() -> None:
            time.sleep(self.machines.step_seconds)
            self.may_end.wait()
            try:
                act()
                outcome: dict[str, Any] = {"status": "Succeeded"}
            except FailedChange as failed:
                outcome = {"status": "Failed", "error": {"code": failed.code, "message": failed.message}}
            with self._lock:
                operation.update(outcome)

        self._later(carry_out)
        return {"_operation": name}

    def _see_that_nothing_goes_on(self, resource: Mapping[str, Any], name: str) -> None:
        state = resource["properties"]["provisioningState"]
        if state in {"Creating", "Updating", "Deleting"}:
            raise Refusal(409, "Conflict", f"Cannot change {name} because it is in {state} provisioning state.")

    def _later(self, act: Callable[[], object]) -> None:
        task = threading.Thread(target=act, daemon=True)
        self._tasks.append(task)
        task.start()


def _check_shares(properties: Mapping[str, Any], deployments: list[str]) -> None:
    weights, copied = properties.get("traffic") or {}, properties.get("mirrorTraffic") or {}
    if unknown := {*weights, *copied} - set(deployments):
        raise Refusal(400, "BadArgument", f"There are no deployments {sorted(unknown)}.")
    if sum(weights.values()) not in {0, 100}:
        raise Refusal(400, "BadArgument", f"Traffic sums to {sum(weights.values())}, not to 0 or 100.")
    if len(copied) > 1 or sum(copied.values()) > 50:
        raise Refusal(400, "BadArgument", "At most 50 percent can be mirrored, to one deployment.")
    if any(weights.get(name) for name in copied):
        raise Refusal(400, "BadArgument", "A deployment takes live or mirrored traffic, not both.")
