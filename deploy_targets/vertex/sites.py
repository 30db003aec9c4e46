"""Endpoints as Vertex AI has them: made, deployed to, split and removed, each change awaited and read again.

Deploying and removing are long-running operations, which a caller that died leaves running; so whoever comes next waits
for those first. Changes of the split and of labels carry the `etag` of what was read, and are refused where another was
quicker. https://cloud.google.com/vertex-ai/docs/reference/rest/v1/projects.locations.endpoints
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_exponential_jitter

from deploy_targets.clouds import ADOPTED_SECONDS, OURS, above, see_that_it_is_ours
from deploy_targets.vertex import names
from headgate.errors import TargetError, TargetUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from deploy_targets.vertex.google import Google
    from deploy_targets.vertex.settings import VertexSettings
    from headgate.records import Revision

Described = dict[str, Any]

_METHOD = "projects.locations.endpoints"
REMOVE_SECONDS = 900.0
_OPERATION = re.compile(r"\.(\w+?)(Operation)?Metadata$")
"""What an operation does, in the type of its metadata: …aiplatform.v1.DeployModelOperationMetadata."""
_QUICK = frozenset({"CreateEndpoint", "UndeployModel", "Delete"})
"""Operations for which no machines are waited for."""
_SETTLE_SECONDS = 120.0
"""How long something may still be in use after what used it is gone."""


class Sites:
    """The endpoints of one project and location, by their ids.

    Args:
        google: the project.
        settings: how endpoints are made.
    """

    def __init__(self, google: Google, settings: VertexSettings) -> None:
        self._google, self._settings = google, settings

    def path(self, site: str) -> str:
        """An endpoint's whole name."""
        return f"{self._google.parent}/endpoints/{site}"

    def described(self, site: str) -> Described | None:
        """What Vertex says of an endpoint; None where there is none."""
        return self._google.find("aiplatform", f"{_METHOD}.get", name=self.path(site))

    def of(self, endpoint: str) -> dict[str, Described]:
        """Every endpoint that belongs to one of ours, its own among them, by id."""
        listed = self._google.pages(
            "aiplatform", f"{_METHOD}.list", "endpoints", parent=self._google.parent,
            filter=f'labels.{OURS}="{endpoint}"',
        )  # fmt: skip
        return {one["name"].rpartition("/")[2]: one for one in listed}

    def url(self, site: str, described: Mapping[str, Any]) -> str:
        """Where requests to it go."""
        dedicated = described.get("dedicatedEndpointDns", "")
        host = f"https://{dedicated}" if dedicated else self._google.url("aiplatform")
        return f"{host}/v1/{self.path(site)}:rawPredict"

    def settled(self, site: str, seconds: float = ADOPTED_SECONDS) -> Described | None:
        """What Vertex says of an endpoint, once no operation on it goes on.

        Args:
            site: its id.
            seconds: how long a deployment that goes on may take; it is not waited for any less than by who began it.

        Raises:
            TargetUnavailableError: an operation goes on for longer.
        """
        described = self.described(site)
        if described is None:
            return None
        running = list(
            self._google.pages(
                "aiplatform", f"{_METHOD}.operations.list", "operations", name=self.path(site), filter="done=false"
            )
        )
        for operation in running:
            what = _does(operation)
            limit = REMOVE_SECONDS if what in _QUICK else max(seconds, ADOPTED_SECONDS)
            self._google.wait(operation, limit, f"{what} on {site}, which was begun before,")
        return self.described(site) if running else described

    def ensure(self, site: str, endpoint: str, sample: float, seconds: float) -> Described:
        """An endpoint, made where there is none.

        Args:
            site: its id.
            endpoint: which of ours it belongs to.
            sample: the share of requests that are logged; 0 for none.
            seconds: how long what goes on there may take.

        Raises:
            TargetError: it is there, and not ours.
        """
        described = self.settled(site, seconds)
        if described is None:
            self._make(site, endpoint, sample)
            described = self.described(site)
        if described is None:
            raise TargetUnavailableError(f"Vertex AI made the endpoint {site} and does not show it")
        return ours(described, endpoint)

    def deploy(self, site: str, model: str, revision: Revision, split: Mapping[str, int] | None) -> Mapping[str, Any]:
        """Begin to deploy a revision; the operation.

        Args:
            site: where.
            model: the whole name of its model.
            revision: what.
            split: the endpoint's traffic from then on, in which "0" is the revision; as it is where None.
        """
        settings = self._settings
        machine = {"machineType": settings.machine} | (
            {"acceleratorType": settings.accelerator, "acceleratorCount": settings.accelerators}
            if settings.accelerator else {}
        )  # fmt: skip
        resources: dict[str, Any] = {
            "machineSpec": machine, "minReplicaCount": revision.workers,
            "maxReplicaCount": revision.most_workers or revision.workers,
        }  # fmt: skip
        if revision.most_workers:
            metric = "aiplatform.googleapis.com/prediction/online/cpu/utilization"
            resources["autoscalingMetricSpecs"] = [{"metricName": metric, "target": settings.cpu_target}]
        deployed = {
            "id": names.deployed_id(revision.name), "displayName": revision.name, "model": model,
            "dedicatedResources": resources,
            **({"serviceAccount": settings.service_account} if settings.service_account else {}),
        }  # fmt: skip
        body = {"deployedModel": deployed, **({"trafficSplit": dict(split)} if split else {})}
        try:
            return self._google.call("aiplatform", f"{_METHOD}.deployModel", endpoint=self.path(site), body=body)
        except TargetError:
            # Google's client may have asked before, and not heard the answer.
            if revision.name in names.deployed(self.settled(site)):
                return {"done": True}
            raise

    def see_that_it_is_on(self, site: str, revision: str) -> None:
        """Raises TargetUnavailableError where an operation ended well and a revision is not deployed."""
        if revision not in names.deployed(self.described(site)):
            raise TargetUnavailableError(f"Vertex AI deployed {revision} on {site} and does not show it")

    def change(self, site: str, described: Mapping[str, Any], **content: object) -> Described:
        """Change an endpoint's labels or split, unless another did since it was read; what Vertex says then.

        Raises:
            TargetUnavailableError: another did, or nothing has happened.
        """
        body = {**content, "etag": described["etag"]}
        changed = self._google.call(
            "aiplatform", f"{_METHOD}.patch", name=self.path(site), updateMask=",".join(content), body=body
        )  # fmt: skip
        if any(_read(key, changed.get(key)) != _read(key, value) for key, value in content.items()):
            raise TargetUnavailableError(f"Vertex AI took the change of {site} and does not show it")
        return changed

    def undeploy(self, site: str, revision: str) -> None:
        """Take a revision off an endpoint; nothing happens where it is not on it."""
        described = self.settled(site)
        if revision in names.deployed(described):
            number = names.deployed(described)[revision]["id"]
            # Google's client may have asked before, and not heard the answer.
            operation = self._google.find(
                "aiplatform", f"{_METHOD}.undeployModel", endpoint=self.path(site), body={"deployedModelId": number}
            )
            if operation is not None:
                self._see_that_it_ended(operation, f"taking {revision} off {site}")
            if revision in names.deployed(self.described(site)):
                raise TargetUnavailableError(f"Vertex AI took {revision} off {site} and still shows it")

    def remove(self, site: str) -> None:
        """Remove an endpoint and all that is on it; nothing happens where it is gone."""
        described = self.settled(site)
        if described is None:
            return
        if names.shares_of(described.get("trafficSplit")):
            described = self.change(site, described, trafficSplit={})
        for revision in names.deployed(described):
            self.undeploy(site, revision)
        for attempt in patiently():
            with attempt:
                operation = self._google.find("aiplatform", f"{_METHOD}.delete", name=self.path(site))
                if operation is not None:
                    self._see_that_it_ended(operation, f"removing {site}")
                if self.described(site) is not None:
                    raise TargetUnavailableError(f"Vertex AI removed the endpoint {site} and still shows it")

    def keep_out(self, site: str, described: Mapping[str, Any], fence: int | None) -> Described:
        """Refuse a lower fence, and keep a higher one; what Vertex says then.

        Raises:
            LeaseLostError: the endpoint has seen a higher one.
        """
        labels = above(described.get("labels", {}), fence, "Vertex AI")
        if labels == described.get("labels", {}):
            return dict(described)
        return self.change(site, described, labels=labels)

    def _make(self, site: str, endpoint: str, sample: float) -> None:
        settings = self._settings
        logged = {
            "enabled": True, "samplingRate": sample, "bigqueryDestination": {"outputUri": settings.captures},
        }  # fmt: skip
        body = {
            "displayName": site, "labels": {**settings.labels, OURS: endpoint},
            **({"predictRequestResponseLoggingConfig": logged} if sample else {}),
            **({"dedicatedEndpointEnabled": True} if settings.dedicated else {}),
            **({"encryptionSpec": {"kmsKeyName": settings.kms_key}} if settings.kms_key else {}),
        }  # fmt: skip
        operation = self._google.make(
            "aiplatform", f"{_METHOD}.create", parent=self._google.parent, endpointId=site, body=body
        )
        if operation is not None:
            self._see_that_it_ended(operation, f"making {site}")

    def _see_that_it_ended(self, operation: Mapping[str, Any], what: str) -> None:
        if error := self._google.wait(operation, REMOVE_SECONDS, what):
            raise TargetUnavailableError(f"{what} failed: {error.get('message', error)}", fix="try again")


def _does(operation: Mapping[str, Any]) -> str:
    """What an operation does, such as DeployModel; its kind is in its metadata, and its name is a number."""
    kind = (operation.get("metadata") or {}).get("@type", "")
    found = _OPERATION.search(str(kind))
    return found[1] if found else "an operation"


def _read(key: str, value: Any) -> Any:  # noqa: ANN401 - a split, or labels
    """A field as it is compared: in the one way in which it is read everywhere."""
    return names.shares_of(value) if key == "trafficSplit" else value or {}


def ours(described: Described, endpoint: str) -> Described:
    """The same.

    Raises:
        TargetError: somebody else made it.
    """
    see_that_it_is_ours(described.get("labels", {}).get(OURS), endpoint, "Vertex AI", described["displayName"])
    return described


def patiently() -> Iterator[Any]:
    """Attempts at what is refused while something is still in use."""
    return iter(
        Retrying(
            retry=retry_if_exception_type(TargetUnavailableError), stop=stop_after_delay(_SETTLE_SECONDS),
            wait=wait_exponential_jitter(0.5, 10), reraise=True,
        )
    )  # fmt: skip
