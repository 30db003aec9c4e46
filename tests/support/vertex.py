"""A double of Vertex AI, whose endpoints run real containers: what it keeps and does. vertex_server.py is its HTTP.

By the reference of each resource (https://cloud.google.com/vertex-ai/docs/reference/rest/v1/projects.locations.endpoints,
…models; https://cloud.google.com/vertex-ai/docs/predictions/online-prediction-logging for the log,
https://cloud.google.com/monitoring/api/metrics_gcp_a_b for the metric): operations that take time, splits of whole
percents, etags, what is refused while it is in use, and machines that fail and are replaced.
"""

from __future__ import annotations

import contextlib
import random
import re
import threading
import time
import uuid
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from docker.errors import DockerException

from support.faults import Faults
from support.processor import patient
from support.vertex_rules import Refusal, check_labels, check_split, checked, found, matches

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from support.machines import Machine, Machines

PROJECT, LOCATION = "a-project", "europe-west4"
PARENT = f"projects/{PROJECT}/locations/{LOCATION}"
DATASET = "captures"
METRICS = "aiplatform.googleapis.com/prediction/online"
QUOTAS = ("custom_model_serving_cpus", "custom_model_serving_g2_cpus", "custom_model_serving_nvidia_l4_gpus")
TICK = 0.1
LATE_SECONDS = 0.4
"""Counts and rows of the log come this much later."""


def _within(series: dict[str, Any], since: float, until: float) -> dict[str, Any]:
    """A series without the points of other moments; one without a moment stays, as whoever reads it is to say so."""
    points = [
        one for one in series.get("points", [])
        if not (at := one.get("interval", {}).get("endTime", "")).endswith("Z")
        or since < datetime.fromisoformat(at).timestamp() <= until
    ]  # fmt: skip
    return {**series, "points": points}


class FailedOperation(Exception):  # noqa: N818 - what an operation ends with
    """google.rpc.Code and a message."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


@dataclass
class Site:
    """One endpoint: its resource, and the machines behind what is deployed."""

    resource: dict[str, Any]
    machines: dict[str, Machine] = field(default_factory=dict)
    restarting: set[str] = field(default_factory=set)


class Vertex:
    """The double; `faults` is what is to go wrong."""

    def __init__(self, machines: Machines) -> None:
        self.machines, self.faults = machines, Faults()
        self.models: dict[str, dict[str, Any]] = {}
        self.sites: dict[str, Site] = {}
        self.operations: dict[str, dict[str, Any]] = {}
        self.repositories: set[str] = set()
        self.denied: set[str] = set()
        self.capacity, self.quotas = True, dict.fromkeys(QUOTAS, 40)
        self.lists_zeros = False
        """Whether a split has the deployed models without traffic too, which the reference leaves open."""
        self.ready_seconds = patient(30)
        """How long a container may take to pass its health checks, of which a second is many on Vertex AI."""
        self.may_end = threading.Event()
        """Cleared, operations go on until it is set."""
        self.may_end.set()
        self.series: list[dict[str, Any]] = []
        """What Cloud Monitoring says beside what was counted."""
        self.used: list[dict[str, Any]] = []
        """What it says of memory: a series of a replica."""
        self._answers: list[tuple[float, str, str, int]] = []
        self._rows: list[tuple[float, str, list[Any]]] = []
        self._logs: defaultdict[str, list[str]] = defaultdict(list)
        self._lock = threading.RLock()
        self._stop = threading.Event()
        self._random = random.Random(7)
        self._tasks: list[threading.Thread] = []

    # Models

    def upload_model(self, asked: dict[str, Any]) -> dict[str, Any]:
        name = f"{PARENT}/models/{checked(asked['modelId'], r'[a-z_][a-z0-9_-]{0,62}')}"
        with self._lock:
            if name in self.models:
                raise Refusal(409, "ALREADY_EXISTS", f"Model {name} already exists.")
            self.models[name] = {**asked["model"], "name": name, "createTime": _now(), "etag": _etag()}
        return self._begin(f"{name}/operations", lambda: {"model": name}, "UploadModel")

    def get_model(self, name: str) -> dict[str, Any]:
        return found(self.models, name)

    def list_models(self, wanted: str) -> dict[str, Any]:
        with self._lock:
            return {"models": [model for _, model in sorted(self.models.items()) if matches(model, wanted)]}

    def delete_model(self, name: str) -> dict[str, Any]:
        found(self.models, name)
        used = [site for site, one in self.sites.items() if any(d["model"] == name for d in _deployed(one))]
        if used:
            raise Refusal(400, "FAILED_PRECONDITION", f"The Model {name} is deployed at {used}.")
        return self._begin(f"{name}/operations", lambda: self.models.pop(name) and {})

    # Endpoints

    def create_endpoint(self, site: str, asked: dict[str, Any]) -> dict[str, Any]:
        name = f"{PARENT}/endpoints/{checked(site, r'[a-z]([a-z0-9-]{0,61}[a-z0-9])?')}"
        check_labels(asked.get("labels", {}))
        with self._lock:
            if name in self.sites:
                raise Refusal(409, "ALREADY_EXISTS", f"Endpoint {name} already exists.")
            dns = {"dedicatedEndpointDns": f"{site}.{LOCATION}-1.prediction.vertexai.goog"}
            resource = {
                **asked, "name": name, "createTime": _now(), "etag": _etag(), "deployedModels": [],
                **(dns if asked.get("dedicatedEndpointEnabled") else {}),
            }  # fmt: skip
            self.sites[name] = Site(resource)
        return self._begin(f"{name}/operations", lambda: {"name": name}, "CreateEndpoint")

    def get_endpoint(self, name: str) -> dict[str, Any]:
        with self._lock:
            site = found(self.sites, name)
            for deployed in site.resource["deployedModels"]:
                running = deployed["id"] in site.machines and deployed["id"] not in site.restarting
                deployed["status"] = {"availableReplicaCount": int(running)} | (
                    {} if running else {"message": "Model server exited unexpectedly."}
                )
            zeros = {one["id"]: 0 for one in _deployed(site)} if self.lists_zeros else {}
            split = {**zeros, **site.resource.get("trafficSplit", {})}
            return {**site.resource, "deployedModels": list(_deployed(site))} | (
                {"trafficSplit": split} if split else {}
            )

    def list_endpoints(self, wanted: str) -> dict[str, Any]:
        with self._lock:
            return {
                "endpoints": [
                    self.get_endpoint(name) for name in sorted(self.sites) if matches(self.sites[name].resource, wanted)
                ]
            }

    def patch_endpoint(self, name: str, mask: str, asked: dict[str, Any]) -> dict[str, Any]:
        with self._lock:
            site = found(self.sites, name)
            if asked.get("etag", site.resource["etag"]) != site.resource["etag"]:
                raise Refusal(409, "ABORTED", f"etag {asked['etag']} of {name} is not the current one.")
            for key in mask.split(","):
                if key == "trafficSplit":
                    check_split(asked[key], [one["id"] for one in _deployed(site)])
                if key == "labels":
                    check_labels(asked[key])
                site.resource[key] = asked[key]
            site.resource["etag"] = _etag()
            return self.get_endpoint(name)

    def deploy_model(self, name: str, asked: dict[str, Any]) -> dict[str, Any]:
        with self._lock:
            site, deployed = found(self.sites, name), dict(asked["deployedModel"])
            number = checked(deployed["id"], r"[0-9]{1,10}")
            if number in [one["id"] for one in _deployed(site)] or self._is_running(name, number):
                raise Refusal(400, "INVALID_ARGUMENT", f"DeployedModel {number} is at {name} already.")
            model = found(self.models, deployed["model"])
            split = {number if key == "0" else key: share for key, share in asked.get("trafficSplit", {}).items()}
            if split:
                check_split(split, [number, *(one["id"] for one in _deployed(site))])

        def carry_out() -> dict[str, Any]:
            machine = self._provision(name, model)
            with self._lock:
                site.machines[number] = machine
                site.resource["deployedModels"].append(deployed)
                if split:
                    site.resource["trafficSplit"] = split
                site.resource["etag"] = _etag()
            return {"deployedModel": deployed}

        return self._begin(f"{name}/operations", carry_out, "DeployModel", number)

    def deploy_by_hand(self, name: str, display_name: str, number: str) -> None:
        """Somebody deploys a model of theirs, by the console or the SDK, under a name for display."""
        with self._lock:
            deployed = {"id": number, "displayName": display_name, "model": f"{PARENT}/models/theirs"}
            self.sites[name].resource["deployedModels"].append(deployed)
            self.sites[name].machines[number] = self.machines.start("theirs", {})

    def undeploy_model(self, name: str, asked: dict[str, Any]) -> dict[str, Any]:
        with self._lock:
            site, number = found(self.sites, name), asked["deployedModelId"]
            if number not in [one["id"] for one in _deployed(site)]:
                raise Refusal(404, "NOT_FOUND", f"DeployedModel {number} is not at {name}.")
            if site.resource.get("trafficSplit", {}).get(number):
                raise Refusal(400, "FAILED_PRECONDITION", f"DeployedModel {number} has traffic.")

        def carry_out() -> dict[str, Any]:
            with self._lock:
                site.resource["deployedModels"] = [one for one in _deployed(site) if one["id"] != number]
                site.resource["etag"], machine = _etag(), site.machines.pop(number, None)
            if machine is not None:
                machine.end()
            return {}

        return self._begin(f"{name}/operations", carry_out, "UndeployModel")

    def delete_endpoint(self, name: str) -> dict[str, Any]:
        with self._lock:
            if _deployed(found(self.sites, name)):
                raise Refusal(400, "FAILED_PRECONDITION", f"Endpoint {name} has deployed models.")
        return self._begin(f"{name}/operations", lambda: self.sites.pop(name) and {})

    def get_operation(self, name: str) -> dict[str, Any]:
        with self._lock:
            return dict(found(self.operations, name))

    def list_operations(self, name: str) -> dict[str, Any]:
        with self._lock:
            return {
                "operations": [
                    dict(one) for key, one in self.operations.items() if key.startswith(f"{name}/") and not one["done"]
                ]
            }

    # Predictions, what is logged of them, and what is counted

    def raw_predict(self, name: str, body: bytes, kind: str) -> tuple[int, bytes, str, str]:
        """Status, answer, its content type, and the number of the model that gave it."""
        with self._lock:
            site = found(self.sites, name)
            split = site.resource.get("trafficSplit", {})
            if not split:
                raise Refusal(400, "FAILED_PRECONDITION", f"Endpoint {name} has no traffic.")
            number = self._random.choices(list(split), [int(share) for share in split.values()])[0]
            machine = site.machines[number]
        answer = machine.ask("/invocations", body, {"content-type": kind})
        logged = site.resource.get("predictRequestResponseLoggingConfig", {})
        with self._lock:
            self._answers.append((time.time(), name, number, answer.status))
            if logged.get("enabled") and self._random.random() < logged["samplingRate"]:
                response = [{"v": answer.body.decode()}] if answer.status < 400 else []
                row = [
                    number,
                    str(time.time_ns() // 1000),
                    str(uuid.uuid4().int >> 66),
                    [{"v": body.decode()}],
                    response,
                ]
                self._rows.append((time.time(), name, row))
        return answer.status, answer.body, answer.content_type, number

    def time_series(self, wanted: str, start: str, end: str) -> dict[str, Any]:
        since, until = (datetime.fromisoformat(moment).timestamp() for moment in (start, end))
        site, metric = re.search(r'endpoint_id="([^"]+)"', wanted)[1], re.search(r'metric.type="([^"]+)"', wanted)[1]
        if metric == f"{METRICS}/memory/bytes_used":
            return {"timeSeries": [_within(series, since, until) for series in self.used]}
        if metric != f"{METRICS}/response_count":
            raise Refusal(404, "NOT_FOUND", f"Cannot find metric(s) that match type = {metric}.")
        counted: Counter[tuple[str, str]] = Counter()
        with self._lock:
            for at, name, number, status in self._answers:
                if name == f"{PARENT}/endpoints/{site}" and since <= at < until and at < time.time() - LATE_SECONDS:
                    counted[str(status), number] += 1
        return {
            "timeSeries": [
                {
                    "metric": {"labels": {"response_code": code, "deployed_model_id": number}},
                    "points": [{"value": {"int64Value": str(count)}}],
                }
                for (code, number), count in counted.items()
            ]
            + self.series
        }

    def query(self, asked: dict[str, Any]) -> dict[str, Any]:
        values = {one["name"]: one["parameterValue"]["value"] for one in asked["queryParameters"]}
        start, until = (datetime.fromisoformat(values[name]).timestamp() for name in ("start", "until"))
        with self._lock:
            rows = [
                {"f": [{"v": value} for value in row]} for at, name, row in self._rows
                if f"/{name}".endswith(values["endpoint"]) and start <= int(row[1]) / 1e6 < until
                and at < time.time() - LATE_SECONDS
            ]  # fmt: skip
        return {"jobComplete": True, "rows": rows, "jobReference": {"projectId": PROJECT, "jobId": "one"}}

    def log_entries(self, asked: dict[str, Any]) -> dict[str, Any]:
        site = re.search(r'endpoint_id="([^"]+)"', asked["filter"])[1]
        newest = self._logs[site][::-1][: asked["pageSize"]]
        return {"entries": [{"textPayload": line} for line in newest]}

    # What happens by itself

    def kill(self, site: str, number: str) -> None:
        """A machine fails."""
        self.sites[f"{PARENT}/endpoints/{site}"].machines[number].container.kill()

    def run(self) -> None:
        """Replace machines that failed, until `close`."""
        while not self._stop.wait(TICK):
            with self._lock:
                known = [(name, site, *one) for name, site in self.sites.items() for one in site.machines.items()]
            for name, site, number, machine in known:
                if not machine.is_running() and number not in site.restarting:
                    site.restarting.add(number)
                    self._later(lambda name=name, site=site, number=number: self._restart(name, site, number))

    def close(self) -> None:
        self._stop.set()
        self.may_end.set()
        for task in self._tasks:
            task.join(60)

    def _restart(self, name: str, site: Site, number: str) -> None:
        time.sleep(1)
        with self._lock:
            # One that was undeployed has ended too.
            deployed = next((one for one in _deployed(site) if one["id"] == number), None)
        machine = None
        if deployed is not None:
            # What cannot be had now is tried again.
            with contextlib.suppress(FailedOperation):
                machine = self._provision(name, self.models[deployed["model"]])
        with self._lock:
            if machine is not None and number in site.machines:
                site.machines[number], machine = machine, None
            site.restarting.discard(number)
        if machine is not None:
            machine.end()

    def _provision(self, name: str, model: Mapping[str, Any]) -> Machine:
        if not self.capacity:
            raise FailedOperation(
                8, "Machine type temporarily unavailable, please deploy with a different machine type."
            )
        container = model["containerSpec"]
        env = {one["name"]: one["value"] for one in container.get("env", [])}
        env |= {"AIP_HTTP_PORT": "8080", "AIP_HEALTH_ROUTE": container["healthRoute"]}
        try:
            machine = self.machines.start(container["imageUri"], env)
        except DockerException as error:
            raise FailedOperation(3, f"The image could not be pulled: {error}") from error
        deadline = time.monotonic() + self.ready_seconds
        while not machine.answers(container["healthRoute"]):
            if not machine.is_running() or time.monotonic() > deadline:
                self._logs[name.rpartition("/")[2]] += machine.log()
                machine.end()
                raise FailedOperation(9, "Model server exited unexpectedly or did not pass its health checks.")
            time.sleep(TICK)
        return machine

    def _begin(
        self, where: str, act: Callable[[], dict[str, Any]], does: str = "Delete", about: str = ""
    ) -> dict[str, Any]:
        name = f"{where}/{uuid.uuid4().int >> 66}"
        metadata = {"@type": f"type.googleapis.com/google.cloud.aiplatform.v1.{does}OperationMetadata", "about": about}
        operation = self.operations[name] = {"name": name, "done": False, "metadata": metadata}

        def carry_out() -> None:
            time.sleep(self.machines.step_seconds)
            self.may_end.wait()
            try:
                outcome: dict[str, Any] = {"response": act()}
            except FailedOperation as failed:
                outcome = {"error": {"code": failed.code, "message": failed.message}}
            with self._lock:
                operation.update(outcome, done=True)

        begun = dict(operation)
        self._later(carry_out)
        return begun

    def _is_running(self, name: str, number: str) -> bool:
        running = [one for key, one in self.operations.items() if key.startswith(f"{name}/") and not one["done"]]
        return number in [one["metadata"]["about"] for one in running]

    def _later(self, act: Callable[[], None]) -> None:
        task = threading.Thread(target=act, daemon=True)
        self._tasks.append(task)
        task.start()


def _deployed(site: Site) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = site.resource["deployedModels"]
    return found


def _etag() -> str:
    return uuid.uuid4().hex[:12]


def _now() -> str:
    return datetime.now(UTC).isoformat()
