"""Online endpoints as Azure has them: made, changed and removed, each change awaited and read again.

A change is a PUT of the whole endpoint, and Azure compares no version of it: what was read just before is written back
with the difference. An endpoint and a deployment can be changed only once what is going on has ended, which a caller
that died leaves going on; so whoever comes next waits for that first.
https://learn.microsoft.com/rest/api/azureml/online-endpoints
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deploy_targets.clouds import OURS, poll, see_that_it_is_ours
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
        self._arm, self._settings = arm, settings

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

    def settled(self, endpoint: str, deployment: str = "") -> Described | None:
        """What Azure says of an endpoint, or of a deployment, once nothing about it goes on."""
        return poll(
            lambda: _tidy(self._arm.find(self.path(endpoint, deployment))),
            lambda found: state_of(found) not in _GOING_ON, CHANGE_SECONDS, f"a change of {deployment or endpoint}",
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

    def change(self, endpoint: str, described: Mapping[str, Any], **changed: Mapping[str, Any]) -> None:
        """Write an endpoint back with other `tags`, `traffic` or `mirrorTraffic`."""
        kept = {key: value for key, value in described["properties"].items() if key in _WRITABLE and value is not None}
        tags = changed.pop("tags", described["tags"])
        body = {
            "location": described["location"], "kind": described.get("kind", "Managed"), "tags": dict(tags),
            "identity": _identity(described.get("identity", {})), "properties": {**kept, **changed},
        }  # fmt: skip
        self._see_that_it_ended(
            self._arm.change("PUT", self.path(endpoint), body, CHANGE_SECONDS), f"changing {endpoint}"
        )
        now = self.described(endpoint) or {"tags": {}}
        shown = {key: _shares(now.get("properties", {}).get(key)) for key in changed}
        if now["tags"] != dict(tags) or shown != {key: _shares(value) for key, value in changed.items()}:
            raise TargetUnavailableError(f"Azure took the change of {endpoint} and does not show it")

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


def _shares(written: Mapping[str, int] | None) -> dict[str, int]:
    """Those that are any: Azure lists deployments with none too."""
    return {name: share for name, share in (written or {}).items() if share}


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
