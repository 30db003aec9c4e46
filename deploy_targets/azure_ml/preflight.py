"""What is missing in a workspace before a release can start, each with the command that mends it; and the role."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from deploy_targets.azure_ml.container_registry import registry_of
from headgate.errors import TargetError, TargetUnavailableError
from headgate.findings import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deploy_targets.azure_ml.arm import Arm
    from deploy_targets.azure_ml.settings import AzureMlSettings

_ML = "Microsoft.MachineLearningServices/workspaces"
ACTIONS = (
    "Microsoft.ContainerRegistry/registries/pull/read", "Microsoft.ContainerRegistry/registries/push/write",
    "Microsoft.ContainerRegistry/registries/read", "Microsoft.Insights/autoscaleSettings/delete",
    "Microsoft.Insights/autoscaleSettings/read", "Microsoft.Insights/autoscaleSettings/write",
    "Microsoft.Insights/metrics/read", "Microsoft.MachineLearningServices/locations/usages/read",
    "Microsoft.MachineLearningServices/locations/vmSizes/read", f"{_ML}/datastores/read", f"{_ML}/environments/delete",
    f"{_ML}/environments/versions/delete", f"{_ML}/environments/versions/read", f"{_ML}/environments/versions/write",
    f"{_ML}/onlineEndpoints/delete", f"{_ML}/onlineEndpoints/deployments/delete",
    f"{_ML}/onlineEndpoints/deployments/getLogs/action", f"{_ML}/onlineEndpoints/deployments/read",
    f"{_ML}/onlineEndpoints/deployments/write", f"{_ML}/onlineEndpoints/read", f"{_ML}/onlineEndpoints/score/action",
    f"{_ML}/onlineEndpoints/write", f"{_ML}/read",
)  # fmt: skip
"""What a release asks of a workspace."""
DATA_ACTIONS = (
    "Microsoft.Storage/storageAccounts/blobServices/containers/blobs/delete",
    "Microsoft.Storage/storageAccounts/blobServices/containers/blobs/read",
)
"""And of its storage, for what was collected."""


def findings(arm: Arm, settings: AzureMlSettings) -> list[Finding]:
    """Every problem; nothing where a release can start."""
    found: list[Finding] = []
    for look in (_workspace(arm, settings), _permissions(arm), _registry(arm), _room(arm, settings)):
        try:
            found += look
        except TargetUnavailableError as error:
            found.append(_error("azure", error.message, error.fix))
            return found
        except TargetError as error:
            # Who may not look may still be allowed to release.
            found.append(Finding(severity="warning", subject="azure", problem=error.message, fix=error.fix))
        if any(one.subject == "target.workspace" for one in found):
            return found
    return found


def role(arm: Arm) -> dict[str, Any]:
    """The least that whoever releases needs, as `az role definition create --role-definition` takes it."""
    return {
        "Name": "Headgate", "Description": "Releases models with Headgate.", "Actions": list(ACTIONS),
        "DataActions": list(DATA_ACTIONS), "AssignableScopes": [arm.group],
    }  # fmt: skip


def _workspace(arm: Arm, settings: AzureMlSettings) -> Iterator[Finding]:
    if arm.find(arm.workspace) is None:
        fix = f"az ml workspace create --name {settings.workspace} --resource-group {settings.group}"
        yield _error("target.workspace", f"there is no workspace {settings.workspace} in {settings.group}", fix)


def _permissions(arm: Arm) -> Iterator[Finding]:
    given = list(arm.pages(f"{arm.workspace}/providers/Microsoft.Authorization/permissions"))
    missing = [
        action for action in ACTIONS if action.startswith(_ML) and not any(_allows(one, action) for one in given)
    ]
    if missing:
        fix = (
            "headgate doctor --policy release.yaml > role.json; az role definition create --role-definition role.json; "
            "then assign it to the caller"
        )
        yield _error("permissions", f"the caller may not {', '.join(missing)}", fix)


def _registry(arm: Arm) -> Iterator[Finding]:
    try:
        registry_of(arm)
    except TargetUnavailableError:
        raise
    except TargetError as error:
        yield _error("image.repository", error.message, error.fix)


def _room(arm: Arm, settings: AzureMlSettings) -> Iterator[Finding]:
    """Whether the size is known there, and one more machine of it is within the quota."""
    subscription, _, _ = arm.group.partition("/resourceGroups/")
    place = f"{subscription}/providers/Microsoft.MachineLearningServices/locations/{arm.location}"
    sizes = {one["name"]: one for one in arm.pages(f"{place}/vmSizes")}
    size = sizes.get(settings.machine)
    if size is None:
        fix = f"az ml compute list-sizes --location {arm.location}"
        yield _error("target.machine", f"{arm.location} has no machines of size {settings.machine}", fix)
        return
    for usage in arm.pages(f"{place}/usages"):
        free = usage["limit"] - usage["currentValue"]
        if usage["name"]["value"].lower() == size["family"].lower() and free < size["vCPUs"]:
            cores = f"{free} of {usage['limit']} cores of {size['family']}"
            problem = f"{cores} are free, and a {settings.machine} has {size['vCPUs']}"
            yield _error("target.machine", problem, "ask for more under Quota in Azure ML studio")


def _allows(given: dict[str, Any], action: str) -> bool:
    """By Azure's own rule: allowed by an action, which may have wildcards, and by no exception from it."""
    named = action.lower()
    return any(fnmatchcase(named, one.lower()) for one in given.get("actions", [])) and not any(
        fnmatchcase(named, one.lower()) for one in given.get("notActions", [])
    )


def _error(subject: str, problem: str, fix: str) -> Finding:
    return Finding(severity="error", subject=subject, problem=problem, fix=fix)
