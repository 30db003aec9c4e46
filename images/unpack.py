"""Taking the model's files out of an image of ours."""

from __future__ import annotations

import tarfile
from http import HTTPStatus
from typing import TYPE_CHECKING

from docker.errors import APIError, DockerException, ImageNotFound

from headgate.errors import ArtifactError
from images.daemon import Daemon
from images.layers import ROOT

if TYPE_CHECKING:
    from pathlib import Path


def model_in_image(name: str, folder: Path) -> Path:
    """The folder with an image's model; nothing of the image is run.

    Args:
        name: of an image in this machine's daemon.
        folder: where the files are put.

    Raises:
        ArtifactError: there is no such image, or it has no model.
    """
    archive = folder / "model.tar"
    with Daemon() as daemon:
        try:
            made = daemon.client.containers.create(name, network_disabled=True)
        except APIError as error:
            # A name that no image can have is a bad request.
            if not isinstance(error, ImageNotFound) and error.status_code != HTTPStatus.BAD_REQUEST:
                raise
            raise ArtifactError(
                f"{name} is neither a folder nor an image of this machine's daemon",
                fix="name a model's folder, runs:/…, models:/…, or pull the image first",
            ) from error
        try:
            stream, _ = made.get_archive(f"/{ROOT}/model")
            with archive.open("wb") as file:
                file.writelines(stream)
        except DockerException as error:
            raise ArtifactError(
                f"{name} has no model at /{ROOT}/model", fix="name an image that Headgate made"
            ) from error
        finally:
            made.remove()
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    archive.unlink()
    return folder / "model"
