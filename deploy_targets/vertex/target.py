"""The Vertex AI target: a revision is a model that is deployed on an endpoint.

A model without a share of an endpoint's traffic cannot be asked there, and nothing mirrors. So each revision is
deployed on a second endpoint too, where it alone answers: that is where the smoke test asks it, and what the champion
was asked is asked again. Both deployments take minutes and machines of their own; a change of weights takes seconds.
"""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING, Any, ClassVar

from deploy_targets.clouds import OURS, PERCENT, above, description_of, version_of, wait_until_ready
from deploy_targets.protocol import Feature
from deploy_targets.vertex import names
from deploy_targets.vertex.artifact_registry import repository
from deploy_targets.vertex.capture import Captures
from deploy_targets.vertex.evidence import Counter, counts_delay, memory
from deploy_targets.vertex.google import Google, is_quota
from deploy_targets.vertex.preflight import findings, misfits, role
from deploy_targets.vertex.sites import REMOVE_SECONDS, Sites, ours, patiently
from headgate.errors import RevisionFailedError, TargetError, TargetUnavailableError
from headgate.records import EndpointState, Payload, Prediction, RevisionState, Traffic

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import pyarrow as pa

    from deploy_targets.protocol import ImageRepository
    from deploy_targets.vertex.settings import VertexSettings
    from headgate.counts import Counts
    from headgate.findings import Finding
    from headgate.records import Alarm, Revision, Usage, Window
    from headgate.spec import ReleaseSpec

_MACHINE = "a machine has what its type has; choose target.machine, and target.accelerator"
_NO_MIRROR = "Vertex AI does not copy requests"
_MODELS = "projects.locations.models"
_PROVISION_SECONDS = 2400.0
"""How long machines may take to be had and to pull the image, besides what the model needs to load."""
_LOG_LINES = 15
_PORT = 8080


class VertexTarget:
    """Endpoints of one project and location.

    Args:
        settings: which, and how machines are made.
    """

    UNSUPPORTED: ClassVar[Mapping[Feature, str]] = {
        Feature.SCALE_TO_ZERO: "minReplicaCount of Vertex AI's v1 API is 1 at least; set replicas.min to 1",
        Feature.CPU_LIMIT: _MACHINE,
        Feature.MEMORY_LIMIT: _MACHINE,
        Feature.GPU: _MACHINE,
        Feature.MIRROR: f"{_NO_MIRROR}; a canary is compared with what the champion is asked",
        Feature.SECRETS: "Vertex AI would show their values to everybody who may read the model; have the model "
        "read its secrets from Secret Manager, with the identity that its server runs as",
        Feature.ALARMS: "Cloud Monitoring's alerts are not read; have what they notify call `headgate rollback`",
        **dict.fromkeys((Feature.LIMITS, Feature.TIMEOUTS), "Vertex AI's own gateway has the limits"),
        Feature.REDACT: "Vertex AI logs whole bodies; leave capture.redact out, and guard the table",
    }
    SUBSTITUTED: ClassVar[Mapping[Feature, str]] = {
        Feature.SHADOW: "asked again from the log, on an endpoint of the candidate's own",
    }
    CALLS: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "deploy": ("models.upload", "endpoints.create (for the candidate alone)", "endpoints.deployModel, twice"),
        "shadow": ("endpoints.rawPredict, once a request that is compared",),
        "shift": ("endpoints.patch, once a step",),
        "promote": ("endpoints.patch",),
    }
    LATENCY_BOUNDS: ClassVar[tuple[float, ...]] = ()
    LOOK_SECONDS: ClassVar[float] = 10.0
    LOG_DELAY: ClassVar[float] = 300.0
    WEIGHT_STEP: ClassVar[int] = PERCENT
    MIRROR_LIMIT: ClassVar[int] = 0
    RUNS_CONTAINERS: ClassVar[bool] = True

    def __init__(self, settings: VertexSettings) -> None:
        self._settings = settings
        self._google = Google(settings.project, settings.location)
        self._sites = Sites(self._google, settings)
        self._counters: dict[str, Counter] = {}

    @classmethod
    def of(cls, settings: VertexSettings) -> VertexTarget:
        """The target that a release file describes."""
        return cls(settings)

    def preflight(self) -> list[Finding]:
        """Whether Google knows us, what we may, and what the settings name."""
        return findings(self._google, self._settings)

    def permissions(self) -> str:
        """A custom role, in YAML."""
        return role(self._settings)

    def repository(self, model: str, named: str) -> ImageRepository:
        """One of the project's Artifact Registry, made where there is none; or what the release file names."""
        return repository(self._google, self._settings.location, model, named)

    def endpoints(self) -> list[str]:
        """Those that have a model or an endpoint of ours."""
        google, ours = self._google, f"labels.{OURS}:*"
        models = google.pages("aiplatform", f"{_MODELS}.list", "models", parent=google.parent, filter=ours)
        sites = google.pages(
            "aiplatform", "projects.locations.endpoints.list", "endpoints", parent=google.parent, filter=ours
        )
        return sorted({one["labels"][OURS] for one in (*models, *sites)})

    def misfits(self, _spec: ReleaseSpec) -> list[Finding]:
        """A setting with which a release would make endpoints that it cannot ask."""
        return misfits(self._settings)

    def observe(self, endpoint: str) -> EndpointState | None:
        """What its endpoints say, and the models that are deployed nowhere."""
        described, models = self._sites.described(endpoint), self._models(endpoint)
        if described is None and not models:
            return None
        return EndpointState(
            endpoint=endpoint, url=self._sites.url(endpoint, described or {}),
            revisions=self._states(endpoint, described, models), traffic=names.traffic_of(described),
        )  # fmt: skip

    def deploy(self, endpoint: str, revision: Revision) -> None:
        """Make its model, and deploy it twice: on the endpoint without traffic, and on one of its own."""
        names.see_that_it_is_a_name(endpoint, revision.name)
        own, what = names.full_name(endpoint, revision.name), f"the deployment of {revision.name}"
        seconds = revision.ready_timeout + _PROVISION_SECONDS
        there = self._sites.described(endpoint)
        if there is not None:
            ours(there, endpoint)
        model = self._make_model(endpoint, revision)
        begun = [self._begin(endpoint, endpoint, model, revision), self._begin(own, endpoint, model, revision)]
        waited = [self._google.wait(operation, seconds, what) for operation in begun if operation]
        failures = [error for error in waited if error]
        if failures:
            log = self._log_tail(own) if not is_quota(failures[0]) else ""
            self._take_back(endpoint, revision.name)
            raise _failed(revision.name, failures[0], log)
        for site in (endpoint, own):
            self._sites.see_that_it_is_on(site, revision.name)
        wait_until_ready(self.observe, endpoint, revision)

    def route(self, endpoint: str, traffic: Traffic, *, fence: int | None = None) -> None:
        """Set the split and the fence in one change, which is refused where somebody else was quicker."""
        described = self._sites.described(endpoint)
        self._see_that_it_can_be_routed(endpoint, described, traffic)
        assert described is not None  # noqa: S101 - it has what it is to route to
        split, labels = names.split_of(traffic), above(described.get("labels", {}), fence, "Vertex AI")
        now = names.shares_of(described.get("trafficSplit"))
        if now != split or labels != described.get("labels", {}):
            self._sites.change(endpoint, described, trafficSplit=split, labels=labels)
        found = names.traffic_of(self._sites.described(endpoint))
        if found != traffic:
            raise TargetUnavailableError(f"traffic of {endpoint} was to be {traffic}, and Vertex AI says {found}")

    def fence(self, endpoint: str, fence: int) -> None:
        """Have the endpoint's labels keep the number."""
        described = self._sites.described(endpoint)
        if described is not None:
            self._sites.keep_out(endpoint, ours(described, endpoint), fence)

    @property
    def counts_delay(self) -> float:
        """Seconds after which Cloud Monitoring shows a request in `counts` at the latest."""
        return counts_delay()

    def counts(self, endpoint: str) -> Mapping[str, Counts]:
        """Cloud Monitoring's sums of each revision since this target was opened."""
        counter = self._counters.setdefault(endpoint, Counter(self._google, endpoint))
        return counter.read(names.deployed(self._sites.described(endpoint)))

    def usage(self, endpoint: str) -> Mapping[str, Usage]:
        """Cloud Monitoring's bytes of each revision's replicas, minutes late."""
        return memory(self._google, endpoint, names.deployed(self._sites.described(endpoint)))

    def alarms(self) -> list[Alarm]:
        """None, as UNSUPPORTED says."""
        return []

    def captured(self, endpoint: str, window: Window) -> Iterator[pa.RecordBatch]:
        """What was logged to BigQuery."""
        revisions = {names.deployed_id(name): name for name in self._models(endpoint)}
        yield from Captures(self._google, self._settings.captures, endpoint).read(window, revisions)

    def invoke(self, endpoint: str, payload: Payload, revision: str | None = None) -> Prediction:
        """rawPredict, on the revision's own endpoint if one is named."""
        site = names.full_name(endpoint, revision) if revision else endpoint
        described = (self._sites.described(site) or {}) if self._settings.dedicated else {}
        request_id, began = str(uuid.uuid4()), time.perf_counter()
        status, body = self._google.post(self._sites.url(site, described), payload.body, payload.content_type)
        return Prediction(status=status, body=body, request_id=request_id, seconds=time.perf_counter() - began)

    def retire(self, endpoint: str, revision: str, *, fence: int | None = None) -> None:
        """Take it off both endpoints, and remove its own and its model; rows of the log go as their table's do."""
        described = self._sites.settled(endpoint)
        traffic = names.traffic_of(described)
        if traffic is not None and traffic.uses(revision):
            raise TargetError(f"{revision} of {endpoint} still has traffic: {traffic.weight(revision)} basis points")
        if described is not None:
            self._sites.keep_out(endpoint, ours(described, endpoint), fence)
        self._take_off(endpoint, revision)

    def delete(self, endpoint: str, *, fence: int | None = None) -> None:
        """Remove all its endpoints, then its models."""
        described = self._sites.settled(endpoint)
        if described is not None:
            self._sites.keep_out(endpoint, ours(described, endpoint), fence)
        # The one that clients know is the last: without it nobody would look for the others' fence.
        for site in sorted(self._sites.of(endpoint), key=lambda one: one == endpoint):
            self._sites.remove(site)
        for revision in self._models(endpoint):
            self._remove_model(endpoint, revision)

    def _make_model(self, endpoint: str, revision: Revision) -> str:
        """A model with its container, under a name of its own: an existing one is the same, or not ours. Its name."""
        google, model_id = self._google, names.full_name(endpoint, revision.name)
        name = f"{google.parent}/models/{model_id}"
        env = {**revision.env, "HEADGATE_REVISION": revision.name, "HEADGATE_ENDPOINT": endpoint,
               "HEADGATE_PREDICTION_LOG": "off"}  # fmt: skip
        container = {
            "imageUri": revision.image.reference, "env": [{"name": key, "value": env[key]} for key in sorted(env)],
            "ports": [{"containerPort": _PORT}], "predictRoute": "/invocations", "healthRoute": "/ping",
        }  # fmt: skip
        there = google.find("aiplatform", f"{_MODELS}.get", name=name)
        if there is None:
            body = {
                "modelId": model_id,
                "model": {
                    "displayName": model_id, "description": description_of(revision), "containerSpec": container,
                    "labels": {**self._settings.labels, OURS: endpoint},
                    **({"encryptionSpec": {"kmsKeyName": self._settings.kms_key}} if self._settings.kms_key else {}),
                },
            }  # fmt: skip
            operation = google.make("aiplatform", f"{_MODELS}.upload", parent=google.parent, body=body)
            if operation is not None and (error := google.wait(operation, REMOVE_SECONDS, f"making {model_id}")):
                raise TargetError(f"Vertex AI does not take the model {model_id}: {error.get('message', error)}")
            there = google.find("aiplatform", f"{_MODELS}.get", name=name)
        if there is None:
            raise TargetUnavailableError(f"Vertex AI took the model {model_id} and does not show it")
        has = there.get("containerSpec", {})
        if (has.get("imageUri"), has.get("env")) != (container["imageUri"], container["env"]):
            raise TargetError(
                f"Vertex AI has another model {model_id}: {has.get('imageUri')}, not {container['imageUri']}",
                fix=f"see whose it is, and remove it: gcloud ai models delete {model_id}",
            )
        return name

    def _begin(self, site: str, endpoint: str, model: str, revision: Revision) -> Mapping[str, Any] | None:
        """Begin to deploy on an endpoint, made where there is none; None where it is deployed there."""
        own = site != endpoint
        sample = 0.0 if own else float(revision.env.get("HEADGATE_LOG_SAMPLE", "1"))
        described = self._sites.ensure(site, endpoint, sample, revision.ready_timeout + _PROVISION_SECONDS)
        if revision.name in names.deployed(described):
            return None
        return self._sites.deploy(site, model, revision, {"0": 100} if own else None)

    def _see_that_it_can_be_routed(self, endpoint: str, described: Mapping[str, Any] | None, traffic: Traffic) -> None:
        if traffic.mirror is not None:
            raise TargetError(f"no mirror to {traffic.mirror.revision} of {endpoint}: {_NO_MIRROR}")
        on = names.deployed(described)
        for name in traffic.weights:
            if why_not := _why_not_ready(on[name]) if name in on else "is not deployed":
                raise TargetError(f"no traffic to {name} of {endpoint}: it {why_not}", fix="headgate status")

    def _states(
        self, endpoint: str, described: Mapping[str, Any] | None, models: Mapping[str, Any]
    ) -> dict[str, RevisionState]:
        on, own = names.deployed(described), self._sites.of(endpoint)
        states = {}
        for name in sorted({*on, *models}):
            alone = names.deployed(own.get(names.full_name(endpoint, name)))
            why_not = next((why for one in (on, alone) if (why := _why_not_ready(one.get(name)))), "")
            version = version_of(models[name].get("description", "")) if name in models else None
            states[name] = RevisionState(name=name, ready=not why_not, detail=why_not, version=version)
        return states

    def _models(self, endpoint: str) -> dict[str, Any]:
        """The endpoint's models, by their revisions."""
        listed = self._google.pages(
            "aiplatform", f"{_MODELS}.list", "models", parent=self._google.parent,
            filter=f'labels.{OURS}="{endpoint}"',
        )  # fmt: skip
        named = {names.revision_of(one["name"].rpartition("/")[2], endpoint): one for one in listed}
        return {revision: one for revision, one in named.items() if revision}

    def _take_off(self, endpoint: str, revision: str) -> None:
        self._sites.undeploy(endpoint, revision)
        self._sites.remove(names.full_name(endpoint, revision))
        self._remove_model(endpoint, revision)

    def _take_back(self, endpoint: str, revision: str) -> None:
        """What a revision that cannot start leaves; the endpoint too, where nothing else is on it."""
        self._take_off(endpoint, revision)
        if not names.deployed(self._sites.described(endpoint)) and not self._models(endpoint):
            self._sites.remove(endpoint)

    def _remove_model(self, endpoint: str, revision: str) -> None:
        name = f"{self._google.parent}/models/{names.full_name(endpoint, revision)}"
        # For a while after it was taken off, it counts as deployed.
        for attempt in patiently():
            with attempt:
                operation = self._google.find("aiplatform", f"{_MODELS}.delete", name=name)
                what = f"removing the model of {revision}"
                if operation is not None and (error := self._google.wait(operation, REMOVE_SECONDS, what)):
                    raise TargetUnavailableError(f"{what} failed: {error.get('message', error)}")
                if self._google.find("aiplatform", f"{_MODELS}.get", name=name) is not None:
                    raise TargetUnavailableError(f"Vertex AI removed the model of {revision} and still shows it")

    def _log_tail(self, site: str) -> str:
        """The end of what the containers of an endpoint wrote; empty where nothing can be read."""
        wanted = f'resource.type="aiplatform.googleapis.com/Endpoint" AND resource.labels.endpoint_id="{site}"'
        body = {
            "resourceNames": [f"projects/{self._google.project}"], "filter": wanted, "orderBy": "timestamp desc",
            "pageSize": _LOG_LINES,
        }  # fmt: skip
        try:
            found = self._google.call("logging", "entries.list", body=body).get("entries", [])
        except TargetError:
            # Who may not read logs still learns why it failed.
            return ""
        lines = [one.get("textPayload") or one.get("jsonPayload", {}).get("message", "") for one in found]
        return "\n".join(reversed([line for line in lines if line]))


def _why_not_ready(deployed: Mapping[str, Any] | None) -> str:
    if deployed is None:
        return "is not deployed"
    status = deployed.get("status", {})
    if status.get("availableReplicaCount", 1):
        return ""
    return f"runs on no machine: {status.get('message', '')}".rstrip(": ")


def _failed(revision: str, error: Mapping[str, Any], log: str) -> RevisionFailedError:
    said = error.get("message", str(error))
    if is_quota(error):
        fix = "ask for more at IAM & Admin > Quotas, or take another target.machine or location"
        return RevisionFailedError(f"{revision} cannot start: {said}", fix=fix)
    return RevisionFailedError(
        f"{revision} cannot start: {said}" + (f"; its log ends:\n{log}" if log else ""),
        fix="raise runtime.ready_timeout if it was still loading, or mend the model and log it again",
    )
