"""Online endpoints as Azure has them: made, changed and removed, each change awaited and read again.

A change is a PUT of the whole endpoint, and Azure compares no version of it: what was read just before is written back
with the difference. An endpoint and a deployment can be changed only once what is going on has ended, which a caller
that died leaves going on; so whoever comes next waits for that first.
https://learn.microsoft.com/rest/api/azureml/online-endpoints
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deploy_targets.azure_ml import names
from deploy_targets.azure_ml.fences import Fences, lost
from deploy_targets.clouds import ADOPTED_SECONDS, FENCE, OURS, fence_of, poll, see_that_it_is_ours
from headgate.errors import TargetUnavailableError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from deploy_targets.azure_ml.arm import Arm
    from deploy_targets.azure_ml.settings import AzureMlSettings

Described = dict[str, Any]

CHANGE_SECONDS = 900.0
_GOING_ON = frozenset({"Creating", "Updating", "Scaling", "Deleting"})
_WRITABLE = ("authMode", "publicNetworkAccess", "description", "properties", "traffic", "mirrorTraffic")


class Online:
    """The online endpoints of one workspace, and what is deployed on them.

    Args:
        arm: the workspace.
        settings: how endpoints are made.
    """

    def __init__(self, arm: Arm, settings: AzureMlSettings) -> None:
        self._arm, self._settings, self._fences = arm, settings, Fences(arm)

    def path(self, endpoint: str, deployment: str = "") -> str:
        """An endpoint's id, or that of a deployment of it."""
        return f"{self._arm.workspace}/onlineEndpoints/{endpoint}" + (
            f"/deployments/{deployment}" if deployment else ""
        )

    def all(self) -> list[Described]:
        """Every endpoint of the workspace that is ours."""
        every = map(_tidy, self._arm.pages(f"{self._arm.workspace}/onlineEndpoints"))
        return [one for one in every if one is not None and OURS in one["tags"]]

    def described(self, endpoint: str) -> Described | None:
        """What Azure says of an endpoint; None where there is none."""
        return _tidy(self._arm.find(self.path(endpoint)))

    def deployments(self, endpoint: str) -> dict[str, Described]:
        """What is deployed on an endpoint, by name."""
        return {one["name"]: one for one in self._arm.pages(f"{self.path(endpoint)}/deployments")}

    def settled(self, endpoint: str, deployment: str = "", seconds: float = 0.0) -> Described | None:
        """What Azure says of an endpoint, or of a deployment, once nothing about it goes on.

        Args:
            endpoint: whose.
            deployment: which of its, or the endpoint itself where empty.
            seconds: how long a change that goes on may take; it is not waited for any less than by who began it.

        Raises:
            TargetUnavailableError: it goes on for longer.
        """
        limit = max(seconds, ADOPTED_SECONDS) if deployment else CHANGE_SECONDS
        what = f"the deployment of {deployment} on {endpoint}" if deployment else f"a change of the endpoint {endpoint}"
        return poll(
            lambda: _tidy(self._arm.find(self.path(endpoint, deployment))),
            lambda found: state_of(found) not in _GOING_ON, limit, f"{what}, which was begun before,",
        )  # fmt: skip

    def ensure(self, endpoint: str) -> Described:
        """An endpoint, made where there is none.

        Raises:
            TargetError: it is there, and not ours.
        """
        described = self.settled(endpoint)
        if described is not None and state_of(described) == "Failed":
            ours(described, endpoint)
            self.remove(endpoint)
            described = None
        if described is None:
            self._make(endpoint)
            described = self.described(endpoint)
        if described is None:
            raise TargetUnavailableError(f"Azure made the endpoint {endpoint} and does not show it")
        return ours(described, endpoint)

    def environment(self, endpoint: str) -> str:
        """The id of the environment whose versions are the endpoint's images, and whose tags keep its fence."""
        return f"{self._arm.workspace}/environments/{names.environment(endpoint)}"

    def claimed(self, endpoint: str, fence: int | None) -> Described | None:
        """What Azure says of an endpoint, once nothing about it goes on and it is known which lease is to change it.

        Raises:
            LeaseLostError: a later lease is known.
            TargetError: the endpoint is not ours.
        """
        described = self.settled(endpoint)
        if described is None or fence is None:
            return described
        ours(described, endpoint)
        is_new = self._fences.announce(self.environment(endpoint), endpoint, fence)
        return self.settled(endpoint) if is_new else described

    def change(
        self, endpoint: str, described: Mapping[str, Any], fence: int | None, **changed: Mapping[str, Any]
    ) -> None:
        """Write an endpoint back with other `tags`, `traffic` or `mirrorTraffic`.

        Args:
            endpoint: which.
            described: as `claimed` has it.
            fence: of the lease that was claimed; None where there is none.
            changed: what is to be different.

        Raises:
            LeaseLostError: a later lease changed it meanwhile; its fence is there again.
            TargetUnavailableError: the change does not show.
        """
        self._put(endpoint, described, dict(changed))
        now = self.described(endpoint) or {"tags": {}, "properties": {}}
        if fence is not None:
            self._see_that_nobody_was_overwritten(endpoint, now, fence)
        written, shares = changed.pop("tags", described["tags"]), now["properties"]
        if now["tags"] != written or any(
            names.shares_in(shares.get(key)) != names.shares_in(value) for key, value in changed.items()
        ):
            raise TargetUnavailableError(f"Azure took the change of {endpoint} and does not show it")

    def _see_that_nobody_was_overwritten(self, endpoint: str, now: Mapping[str, Any], fence: int) -> None:
        """Put a higher fence back that a change has written over.

        Raises:
            LeaseLostError: there was one.
        """
        shown = fence_of(now["tags"].get(FENCE), "Azure ML", endpoint)
        highest = max(shown, self._fences.highest(self.environment(endpoint), endpoint))
        if highest <= fence:
            return
        if shown < highest:
            self._put(endpoint, now, {"tags": {**now["tags"], FENCE: str(highest)}})
        raise lost(endpoint, highest, fence)

    def _put(self, endpoint: str, described: Mapping[str, Any], changed: dict[str, Mapping[str, Any]]) -> None:
        kept = {key: value for key, value in described["properties"].items() if key in _WRITABLE and value is not None}
        tags = changed.pop("tags", described["tags"])
        body = {
            "location": described["location"], "kind": described.get("kind", "Managed"), "tags": dict(tags),
            "identity": _identity(described.get("identity", {})), "properties": {**kept, **changed},
        }  # fmt: skip
        self._see_that_it_ended(
            self._arm.change("PUT", self.path(endpoint), body, CHANGE_SECONDS), f"changing {endpoint}"
        )

    def remove(self, endpoint: str, deployment: str = "") -> None:
        """Remove an endpoint with all that is on it, or one deployment; nothing happens where it is gone."""
        if self.settled(endpoint, deployment) is None:
            return
        path, named = self.path(endpoint, deployment), deployment or endpoint
        self._see_that_it_ended(self._arm.change("DELETE", path, None, CHANGE_SECONDS), f"removing {named}")
        if self._arm.find(path) is not None:
            raise TargetUnavailableError(f"Azure removed {named} and still shows it")

    def _make(self, endpoint: str) -> None:
        settings, arm = self._settings, self._arm
        identity: dict[str, Any] = {"type": "SystemAssigned"}
        if settings.identity:
            identity = {"type": "UserAssigned", "userAssignedIdentities": {settings.identity: {}}}
        body = {
            "location": arm.location, "kind": "Managed", "identity": identity,
            "tags": {**settings.tags, OURS: endpoint},
            "properties": {
                "authMode": "AADToken", "publicNetworkAccess": "Disabled" if settings.private else "Enabled",
                "traffic": {}, "mirrorTraffic": {},
            },
        }  # fmt: skip
        error = arm.change("PUT", self.path(endpoint), body, CHANGE_SECONDS)
        if error:
            self.remove(endpoint)
        self._see_that_it_ended(error, f"making {endpoint}")

    def _see_that_it_ended(self, error: Mapping[str, Any], what: str) -> None:
        if error:
            raise TargetUnavailableError(f"{what} failed: {error.get('message', error)}", fix="try again")


def _tidy(found: Described | None) -> Described | None:
    """Azure may leave out tags that are none, or say null."""
    return None if found is None else {**found, "tags": found.get("tags") or {}}


def state_of(described: Mapping[str, Any] | None) -> str:
    """`provisioningState`; empty where there is nothing."""
    return str((described or {}).get("properties", {}).get("provisioningState", ""))


def ours(described: Described, endpoint: str) -> Described:
    """The same.

    Raises:
        TargetError: somebody else made it.
    """
    see_that_it_is_ours(described["tags"].get(OURS), endpoint, "Azure", described["name"])
    return described


def _identity(found: Mapping[str, Any]) -> dict[str, Any]:
    """An identity as it may be written: what Azure gave it is not."""
    users = found.get("userAssignedIdentities")
    written: dict[str, Any] = {"type": found.get("type", "SystemAssigned")}
    return written | ({"userAssignedIdentities": {name: {} for name in users}} if users else {})
