"""The workspace's own container registry: its password is a token that Azure exchanges ours for."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from deploy_targets.clouds import image_name
from deploy_targets.protocol import ImageRepository
from headgate.errors import TargetError

if TYPE_CHECKING:
    from deploy_targets.azure_ml.arm import Arm

_HOST = re.compile(r"^[a-z0-9]+\.azurecr\.(io|cn|us)$")
_USER = "00000000-0000-0000-0000-000000000000"
"""What the registry calls whoever has a token."""


def repository(arm: Arm, model: str, named: str) -> ImageRepository:
    """Where a model's images are pushed to.

    Args:
        arm: the workspace.
        model: the registered name; the image's, where none is named.
        named: by the release file, or empty.

    Raises:
        TargetError: the workspace has none, or it does not allow it.
    """
    host, _, path = named.partition("/")
    if named and not _HOST.fullmatch(host):
        return ImageRepository(named)
    if not named:
        host, path = registry_of(arm), f"headgate/{image_name(model)}"
    return ImageRepository(f"{host}/{path}", _USER, arm.exchange(host))


def registry_of(arm: Arm) -> str:
    """The host of the workspace's registry.

    Raises:
        TargetError: it has none.
    """
    registry = arm.call("GET", arm.workspace)["properties"].get("containerRegistry")
    if not registry:
        name = arm.workspace.rpartition("/")[2]
        raise TargetError(
            f"the workspace {name} has no container registry",
            fix=f"az acr create, then az ml workspace update --name {name} --container-registry ID",
        )
    return str(arm.call("GET", registry)["properties"]["loginServer"])
