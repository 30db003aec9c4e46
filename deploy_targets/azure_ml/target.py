"""The Azure ML target: a revision is a deployment of a managed online endpoint.

A deployment without traffic can be asked by a header, and gets copies of up to half of the live requests. Traffic,
copies and the tags that keep the fence are one resource, so they change together.
"""

from __future__ import annotations

import json
import time
import uuid
from typing import TYPE_CHECKING, Any, ClassVar

from deploy_targets.azure_ml import names
from deploy_targets.azure_ml.arm import Arm
from deploy_targets.azure_ml.capture import Captures, collector
from deploy_targets.azure_ml.container_registry import repository
from deploy_targets.azure_ml.evidence import Counter, counts_delay, memory
from deploy_targets.azure_ml.online import CHANGE_SECONDS, Online, ours, state_of
from deploy_targets.azure_ml.preflight import findings, role
from deploy_targets.azure_ml.scaling import Scaling
from deploy_targets.clouds import OURS, PERCENT, above, description_of, version_of, wait_until_ready
from deploy_targets.protocol import Feature
from headgate.errors import RevisionFailedError, TargetError, TargetUnavailableError
from headgate.records import EndpointState, Payload, Prediction, RevisionState, Traffic

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import pyarrow as pa

    from deploy_targets.azure_ml.settings import AzureMlSettings
    from deploy_targets.protocol import ImageRepository
    from headgate.counts import Counts
    from headgate.findings import Finding
    from headgate.records import Alarm, Revision, Usage, Window

_MACHINE = "a machine has what its size has; choose target.machine"
_ONE_HEADER = "azureml-model-deployment"
"""Of a request: which deployment is to answer it
(https://learn.microsoft.com/azure/machine-learning/how-to-safely-rollout-online-endpoints)."""
_PROVISION_SECONDS = 2400.0
"""How long machines may take to be had and to pull the image, besides what the model needs to load."""
_LOG_LINES = 15
_PORT = 8080
_NO_ROOM = frozenset({"OutOfQuota", "OutOfCapacity"})


class AzureMlTarget:
    """Managed online endpoints of one workspace.

    Args:
        settings: which, and how machines are made.
    """

    UNSUPPORTED: ClassVar[Mapping[Feature, str]] = {
        Feature.SCALE_TO_ZERO: "a managed deployment has one machine at least; set replicas.min to 1",
        Feature.CPU_LIMIT: _MACHINE,
        Feature.MEMORY_LIMIT: _MACHINE,
        Feature.GPU: _MACHINE,
        Feature.SECRETS: "Azure ML would show their values to everybody who may read the deployment; have the model "
        "read its secrets from Key Vault, with the identity that its server runs as",
        Feature.ALARMS: "Azure Monitor's alerts are not read; have what they notify call `headgate rollback`",
        **dict.fromkeys((Feature.LIMITS, Feature.TIMEOUTS), "Azure ML's own gateway has the limits"),
        Feature.REDACT: "Azure ML collects whole bodies; leave capture.redact out, and guard the workspace's storage",
    }
    SUBSTITUTED: ClassVar[Mapping[Feature, str]] = {}
    CALLS: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "deploy": ("PUT environments/versions", "PUT onlineEndpoints/deployments"),
        "shadow": ("PUT onlineEndpoints, twice",),
        "shift": ("PUT environments, once a release", "PUT onlineEndpoints, once a step"),
        "promote": ("PUT onlineEndpoints",),
    }
    LATENCY_BOUNDS: ClassVar[tuple[float, ...]] = ()
    LOOK_SECONDS: ClassVar[float] = 10.0
    LOG_DELAY: ClassVar[float] = 300.0
    WEIGHT_STEP: ClassVar[int] = PERCENT
    MIRROR_LIMIT: ClassVar[int] = names.MIRROR_LIMIT
    RUNS_CONTAINERS: ClassVar[bool] = True

    def __init__(self, settings: AzureMlSettings) -> None:
        self._settings = settings
        self._arm = Arm(settings)
        self._online = Online(self._arm, settings)
        self._scaling = Scaling(self._arm, settings.cpu_target)
        self._counters: dict[str, Counter] = {}
        self._captures: dict[str, Captures] = {}

    @classmethod
    def of(cls, settings: AzureMlSettings) -> AzureMlTarget:
        """The target that a release file describes."""
        return cls(settings)

    def preflight(self) -> list[Finding]:
        """Whether Azure knows us, what we may, and whether the workspace has what a release needs."""
        return findings(self._arm, self._settings)

    def permissions(self) -> str:
        """A custom role, in JSON."""
        return json.dumps(role(self._arm), indent=2)

    def repository(self, model: str, named: str) -> ImageRepository:
        """One in the workspace's own container registry; or what the release file names."""
        return repository(self._arm, model, named)

    def endpoints(self) -> list[str]:
        """Those of ours in the workspace; whatever else is ours belongs to one of them."""
        return sorted(one["tags"][OURS] for one in self._online.all())

    def observe(self, endpoint: str) -> EndpointState | None:
        """What the endpoint and its deployments say, and the images that are deployed nowhere."""
        described = self._online.described(endpoint)
        if described is None:
            return None
        return EndpointState(
            endpoint=endpoint, url=described["properties"].get("scoringUri") or "",
            revisions=self._states(endpoint), traffic=names.traffic_of(described),
        )  # fmt: skip

    def deploy(self, endpoint: str, revision: Revision) -> None:
        """Make the endpoint where there is none, its image's environment, and the deployment, without traffic."""
        names.see_that_it_is_a_name(endpoint)
        self._online.ensure(endpoint)
        seconds = revision.ready_timeout + _PROVISION_SECONDS
        there = self._online.settled(endpoint, revision.name, seconds)
        if state_of(there) not in {"", "Succeeded"}:
            # Azure keeps what failed, and what it says of it; it can only be made anew.
            self._online.remove(endpoint, revision.name)
            there = None
        environment = self._make_environment(endpoint, revision)
        if there is None:
            error = self._arm.change(
                "PUT", self._online.path(endpoint, revision.name), self._deployment(endpoint, environment, revision),
                seconds,
            )  # fmt: skip
            if error:
                log = self._log_tail(endpoint, revision.name) if error.get("code") not in _NO_ROOM else ""
                self._take_back(endpoint, revision.name)
                raise _failed(revision.name, error, log)
            if self._arm.find(self._online.path(endpoint, revision.name)) is None:
                raise TargetUnavailableError(f"Azure deployed {revision.name} on {endpoint} and does not show it")
        wait_until_ready(self.observe, endpoint, revision)
        if revision.most_workers:
            self._scaling.begin(self._online.path(endpoint, revision.name), revision.workers, revision.most_workers)

    def route(self, endpoint: str, traffic: Traffic, *, fence: int | None = None) -> None:
        """Set weights, copies and the fence in one change."""
        described = self._online.claimed(endpoint, fence)
        self._see_that_it_can_be_routed(endpoint, described, traffic)
        assert described is not None  # noqa: S101 - it has what it is to route to
        before, (weights, copied) = names.traffic_of(described), names.shares_of(traffic)
        tags = above(described["tags"], fence, "Azure ML")
        if before != traffic:
            tags = names.with_copies(tags, traffic)
        if before != traffic or tags != described["tags"]:
            self._online.change(endpoint, described, fence, traffic=weights, mirrorTraffic=copied, tags=tags)
        found = names.traffic_of(self._online.described(endpoint))
        if found != traffic:
            raise TargetUnavailableError(f"traffic of {endpoint} was to be {traffic}, and Azure says {found}")

    def fence(self, endpoint: str, fence: int) -> None:
        """Have the endpoint's tags keep the number."""
        described = self._online.claimed(endpoint, fence)
        if described is not None:
            self._keep(endpoint, described, fence, above(described["tags"], fence, "Azure ML"))

    @property
    def counts_delay(self) -> float:
        """Seconds after which Azure Monitor shows a request in `counts` at the latest."""
        return counts_delay()

    def counts(self, endpoint: str) -> Mapping[str, Counts]:
        """Azure Monitor's sums of each deployment since this target was opened."""
        counter = self._counters.setdefault(endpoint, Counter(self._arm, self._online.path(endpoint)))
        return counter.read(self._online.deployments(endpoint))

    def usage(self, endpoint: str) -> Mapping[str, Usage]:
        """Azure Monitor's percents of the machines' memory, minutes late."""
        paths = {name: self._online.path(endpoint, name) for name in self._online.deployments(endpoint)}
        return memory(self._arm, paths)

    def alarms(self) -> list[Alarm]:
        """None, as UNSUPPORTED says."""
        return []

    def captured(self, endpoint: str, window: Window) -> Iterator[pa.RecordBatch]:
        """What the data collector wrote."""
        described = self._online.described(endpoint) or {"tags": {}}
        traffic = names.traffic_of(described)
        mirror, copies = traffic.mirror if traffic else None, names.copies_of(described["tags"])
        deployments = self._online.deployments(endpoint)
        yield from self._captured(endpoint).read(window, deployments, copies, mirror.revision if mirror else None)

    def invoke(self, endpoint: str, payload: Payload, revision: str | None = None) -> Prediction:
        """A request to the endpoint, for one deployment if named."""
        url = ((self._online.described(endpoint) or {}).get("properties", {})).get("scoringUri")
        if not url:
            raise TargetError(f"Azure has no endpoint {endpoint} that could be asked", fix="headgate status")
        request_id, began = str(uuid.uuid4()), time.perf_counter()
        headers = {"content-type": payload.content_type, "x-request-id": request_id}
        status, body = self._arm.post(url, payload.body, headers | ({_ONE_HEADER: revision} if revision else {}))
        return Prediction(status=status, body=body, request_id=request_id, seconds=time.perf_counter() - began)

    def retire(self, endpoint: str, revision: str, *, fence: int | None = None) -> None:
        """Remove the deployment, what was written of it, and its image's environment."""
        described = self._online.claimed(endpoint, fence)
        if described is None:
            return
        traffic = names.traffic_of(described)
        if traffic is not None and traffic.uses(revision):
            raise TargetError(
                f"{revision} of {endpoint} still has traffic: {traffic.weight(revision)} basis points"
                + (", mirrored" if traffic.mirror and traffic.mirror.revision == revision else "")
            )
        tags = above(ours(described, endpoint)["tags"], fence, "Azure ML")
        self._keep(endpoint, described, fence, names.without_copies(tags, revision))
        self._take_off(endpoint, revision)

    def delete(self, endpoint: str, *, fence: int | None = None) -> None:
        """Remove what is deployed and its images, then the endpoint, by which all of it is found."""
        described = self._online.claimed(endpoint, fence)
        if described is None:
            return
        tags = above(ours(described, endpoint)["tags"], fence, "Azure ML")
        if names.traffic_of(described) is not None or tags != described["tags"]:
            self._online.change(endpoint, described, fence, traffic={}, mirrorTraffic={}, tags=tags)
        for revision in self._states(endpoint):
            self._take_off(endpoint, revision)
        self._remove(self._environment(endpoint))
        self._online.remove(endpoint)

    def _captured(self, endpoint: str) -> Captures:
        return self._captures.setdefault(endpoint, Captures(self._arm, self._settings.storage, endpoint))

    def _keep(self, endpoint: str, described: Mapping[str, Any], fence: int | None, tags: Mapping[str, str]) -> None:
        ours(dict(described), endpoint)
        if tags != described["tags"]:
            self._online.change(endpoint, described, fence, tags=tags)

    def _make_environment(self, endpoint: str, revision: Revision) -> str:
        """The image, as a version of the endpoint's environment: an existing one is the same, or not ours. Its id."""
        path = f"{self._environment(endpoint)}/versions/{revision.name}"
        routes = {
            "livenessRoute": _route("/ping"),
            "readinessRoute": _route("/ping"),
            "scoringRoute": _route("/invocations"),
        }
        there = self._arm.find(path)
        if there is None:
            image = {"image": revision.image.reference, "osType": "Linux", "inferenceConfig": routes}
            body = {"properties": {**image, "isAnonymous": False, "description": description_of(revision)}}
            self._arm.call("PUT", path, body)
            there = self._arm.find(path)
        if there is None:
            raise TargetUnavailableError(f"Azure took the environment of {revision.name} and does not show it")
        has = there.get("properties", {}).get("image")
        if has != revision.image.reference:
            raise TargetError(
                f"Azure has another environment {names.environment(endpoint)}:{revision.name}: {has}, not "
                f"{revision.image.reference}",
                fix=f"see whose it is, and choose another `endpoint:` than {endpoint}",
            )
        return path

    def _deployment(self, endpoint: str, environment: str, revision: Revision) -> dict[str, Any]:
        settings, env = self._settings, {
            **revision.env, "HEADGATE_REVISION": revision.name, "HEADGATE_ENDPOINT": endpoint,
            "HEADGATE_PREDICTION_LOG": "off",
        }  # fmt: skip
        probe = {"initialDelay": "PT5S", "period": "PT5S", "timeout": "PT2S", "successThreshold": 1}
        seconds = max(5, round(revision.ready_timeout))
        return {
            "location": self._arm.location, "kind": "Managed", "tags": {**settings.tags, OURS: revision.name},
            "sku": {"name": "Default", "capacity": revision.workers},
            "properties": {
                "endpointComputeType": "Managed", "environmentId": environment, "environmentVariables": env,
                "description": description_of(revision), "instanceType": settings.machine,
                "scaleSettings": {"scaleType": "Default"}, "appInsightsEnabled": False,
                "requestSettings": {
                    "maxConcurrentRequestsPerInstance": settings.concurrency, "requestTimeout": "PT60S",
                },
                "readinessProbe": {**probe, "failureThreshold": seconds // 5},
                # A model that is loading is not ready, and is not to be started again.
                "livenessProbe": {**probe, "failureThreshold": 6, "initialDelay": f"PT{seconds}S"},
                "dataCollector": collector(float(revision.env.get("HEADGATE_LOG_SAMPLE", "1"))),
                "egressPublicNetworkAccess": "Disabled" if settings.private else "Enabled",
            },
        }  # fmt: skip

    def _see_that_it_can_be_routed(self, endpoint: str, described: Mapping[str, Any] | None, traffic: Traffic) -> None:
        on, mirror = self._online.deployments(endpoint) if described is not None else {}, traffic.mirror
        for name in traffic.weights:
            if why_not := _why_not_ready(on.get(name)):
                raise TargetError(f"no traffic to {name} of {endpoint}: it {why_not}", fix="headgate status")
        if mirror is not None and mirror.revision not in on:
            raise TargetError(f"no mirror to {mirror.revision} of {endpoint}: it is not deployed")

    def _states(self, endpoint: str) -> dict[str, RevisionState]:
        on, images = self._online.deployments(endpoint), self._environments(endpoint)
        states = {}
        for name in sorted({*on, *images}):
            why_not, about = _why_not_ready(on.get(name)), on.get(name) or images[name]
            version = version_of(about.get("properties", {}).get("description") or "")
            states[name] = RevisionState(name=name, ready=not why_not, detail=why_not, version=version)
        return states

    def _environment(self, endpoint: str) -> str:
        return self._online.environment(endpoint)

    def _environments(self, endpoint: str) -> dict[str, Any]:
        """The endpoint's images, by their revisions."""
        return {one["name"]: one for one in self._arm.pages(f"{self._environment(endpoint)}/versions")}

    def _take_off(self, endpoint: str, revision: str) -> None:
        self._scaling.end(self._online.path(endpoint, revision))
        self._online.remove(endpoint, revision)
        self._captured(endpoint).remove(revision)
        self._remove(f"{self._environment(endpoint)}/versions/{revision}")

    def _remove(self, path: str) -> None:
        if error := self._arm.change("DELETE", path, None, CHANGE_SECONDS):
            raise TargetUnavailableError(f"removing {path.rpartition('/')[2]} failed: {error.get('message', error)}")
        if self._arm.find(path) is not None:
            raise TargetUnavailableError(f"Azure removed {path.rpartition('/')[2]} and still shows it")

    def _take_back(self, endpoint: str, revision: str) -> None:
        """What a revision that cannot start leaves; the endpoint too, where nothing else is on it."""
        self._take_off(endpoint, revision)
        if not self._states(endpoint):
            self.delete(endpoint)

    def _log_tail(self, endpoint: str, revision: str) -> str:
        """The end of what a deployment's container wrote; empty where nothing can be read."""
        body = {"containerType": "InferenceServer", "tail": _LOG_LINES}
        try:
            return str(
                self._arm.call("POST", f"{self._online.path(endpoint, revision)}/getLogs", body).get("content", "")
            )
        except TargetError:
            # Who may not read logs still learns why it failed.
            return ""


def _route(path: str) -> dict[str, Any]:
    return {"path": path, "port": _PORT}


def _why_not_ready(deployment: Mapping[str, Any] | None) -> str:
    if deployment is None:
        return "is not deployed"
    state = state_of(deployment)
    return "" if state in {"Succeeded", "Updating", "Scaling"} else f"is {state.lower()}"


def _failed(revision: str, error: Mapping[str, Any], log: str) -> RevisionFailedError:
    said = error.get("message", str(error))
    if error.get("code") in _NO_ROOM:
        fix = "ask for more under Quota in Azure ML studio, or take another target.machine or region"
        return RevisionFailedError(f"{revision} cannot start: {said}", fix=fix)
    return RevisionFailedError(
        f"{revision} cannot start: {said}" + (f"; its log ends:\n{log}" if log else ""),
        fix="raise runtime.ready_timeout if it was still loading, or mend the model and log it again",
    )
