"""What is missing in a workspace before a release can start, each with the command that mends it; and the role."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from deploy_targets.answers import reading
from deploy_targets.azure_ml.container_registry import registry_of
from deploy_targets.clouds import look_for_problems, problem
from headgate.errors import TargetError, TargetUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deploy_targets.azure_ml.arm import Arm
    from deploy_targets.azure_ml.settings import AzureMlSettings
    from headgate.findings import Finding

_ML = "Microsoft.MachineLearningServices/workspaces"
ACTIONS = (
    "Microsoft.ContainerRegistry/registries/pull/read", "Microsoft.ContainerRegistry/registries/push/write",
    "Microsoft.ContainerRegistry/registries/read", "Microsoft.Insights/autoscaleSettings/delete",
    "Microsoft.Insights/autoscaleSettings/read", "Microsoft.Insights/autoscaleSettings/write",
    "Microsoft.Insights/metrics/read", "Microsoft.MachineLearningServices/locations/usages/read",
    "Microsoft.MachineLearningServices/locations/vmSizes/read", f"{_ML}/datastores/read", f"{_ML}/environments/delete",
    f"{_ML}/environments/read", f"{_ML}/environments/write",
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
    found = look_for_problems("azure", [_workspace(arm, settings)])
    # Without a workspace there is nothing else to look at.
    return found or look_for_problems("azure", [_permissions(arm), _registry(arm), _room(arm, settings)])


def role(arm: Arm) -> dict[str, Any]:
    """The least that whoever releases needs, as `az role definition create --role-definition` takes it."""
    return {
        "Name": "Headgate", "Description": "Releases models with Headgate.", "Actions": list(ACTIONS),
        "DataActions": list(DATA_ACTIONS), "AssignableScopes": [arm.group],
    }  # fmt: skip


def _workspace(arm: Arm, settings: AzureMlSettings) -> Iterator[Finding]:
    if arm.find(arm.workspace) is None:
        fix = f"az ml workspace create --name {settings.workspace} --resource-group {settings.group}"
        yield problem("target.workspace", f"there is no workspace {settings.workspace} in {settings.group}", fix)


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
        yield problem("permissions", f"the caller may not {', '.join(missing)}", fix)


def _registry(arm: Arm) -> Iterator[Finding]:
    try:
        registry_of(arm)
    except TargetUnavailableError:
        raise
    except TargetError as error:
        yield problem("image.repository", error.message, error.fix)


def _room(arm: Arm, settings: AzureMlSettings) -> Iterator[Finding]:
    """Whether the size is known there, and one more machine of it is within the quota."""
    subscription, _, _ = arm.group.partition("/resourceGroups/")
    place = f"{subscription}/providers/Microsoft.MachineLearningServices/locations/{arm.location}"
    sizes = {one["name"]: one for one in arm.pages(f"{place}/vmSizes")}
    size = sizes.get(settings.machine)
    if size is None:
        fix = f"az ml compute list-sizes --location {arm.location}"
        yield problem("target.machine", f"{arm.location} has no machines of size {settings.machine}", fix)
        return
    for usage in arm.pages(f"{place}/usages"):
        with reading("Azure's usages.get", usage):
            free = usage["limit"] - usage["currentValue"]
            short = usage["name"]["value"].lower() == size["family"].lower() and free < size["vCPUs"]
        if short:
            cores = f"{free} of {usage['limit']} cores of {size['family']}"
            said = f"{cores} are free, and a {settings.machine} has {size['vCPUs']}"
            yield problem("target.machine", said, "ask for more under Quota in Azure ML studio")


def _allows(given: dict[str, Any], action: str) -> bool:
    """By Azure's own rule: allowed by an action, which may have wildcards, and by no exception from it."""
    named = action.lower()
    return any(fnmatchcase(named, one.lower()) for one in given.get("actions", [])) and not any(
        fnmatchcase(named, one.lower()) for one in given.get("notActions", [])
    )
