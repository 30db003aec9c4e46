"""The project's own registry of images: a repository is made before the first push, and its password is a token.

Source: https://cloud.google.com/artifact-registry/docs/docker/authentication#token
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from deploy_targets.clouds import image_name
from deploy_targets.protocol import ImageRepository

if TYPE_CHECKING:
    from deploy_targets.vertex.google import Google

_HOST = re.compile(r"^(?P<location>[a-z0-9-]+)-docker\.pkg\.dev$")
_REPOSITORY = "headgate"
_USER = "oauth2accesstoken"


def repository(google: Google, location: str, model: str, named: str) -> ImageRepository:
    """Where a model's images are pushed to.

    Args:
        google: the project.
        location: the region of the repository, where none is named.
        model: the registered name; the image's, where none is named.
        named: by the release file, or empty.

    Raises:
        TargetError: the project does not allow it.
    """
    host, _, path = named.partition("/")
    if named and not _HOST.fullmatch(host):
        return ImageRepository(named)
    if not named:
        host, path = f"{location}-docker.pkg.dev", f"{google.project}/{_REPOSITORY}/{image_name(model)}"
    project, repository_id, *_ = path.split("/")
    parent = f"projects/{project}/locations/{host.removesuffix('-docker.pkg.dev')}"
    name = f"{parent}/repositories/{repository_id}"
    if google.find("artifactregistry", "projects.locations.repositories.get", name=name) is None:
        google.make(
            "artifactregistry", "projects.locations.repositories.create", parent=parent, repositoryId=repository_id,
            body={"format": "DOCKER"},
        )  # fmt: skip
    return ImageRepository(f"{host}/{path}", _USER, google.token())
