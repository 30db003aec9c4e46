"""Versions and aliases in MLflow's model registry."""

from __future__ import annotations

import functools
import os
from http import HTTPStatus
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from headgate.errors import RegistryError, RegistryUnavailableError
from headgate.records import Artifact, Image, ModelVersion

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion as MlflowVersion

_P = ParamSpec("_P")
_R = TypeVar("_R")

DIGEST_TAG = "headgate.digest"
ENDPOINT_TAG = "headgate.endpoint"
_ARTIFACT_FOLDER = "model"


def mapped(call: Callable[_P, _R]) -> Callable[_P, _R]:
    """Turn MLflow's errors into ours, at the boundary."""

    @functools.wraps(call)
    def wrapper(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        from mlflow.exceptions import MlflowException, RestException  # noqa: PLC0415 - seconds to import

        try:
            return call(*args, **kwargs)
        except RestException as error:
            raise RegistryError(f"MLflow refused: {error.message}") from error
        except MlflowException as error:
            if error.get_http_status_code() in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
                raise RegistryError(
                    f"MLflow does not accept the sign-in: {error.message}", fix="headgate doctor says what to set"
                ) from error
            # The client raises this, without a status, when the server does not answer.
            raise RegistryUnavailableError(
                f"MLflow does not answer: {error.message}", fix="headgate status; headgate up"
            ) from error

    return wrapper


def connect(tracking_uri: str) -> MlflowClient:
    """A client that gives up after seconds, not minutes."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    from mlflow import MlflowClient  # noqa: PLC0415 - seconds to import

    return MlflowClient(tracking_uri)


class Versions:
    """A registered model's versions and the aliases of an endpoint.

    Args:
        tracking_uri: the MLflow server.
        model: the registered model's name.
        endpoint: whose champion and challenger the aliases name.
    """

    def __init__(self, tracking_uri: str, model: str, endpoint: str) -> None:
        self._client = connect(tracking_uri)
        self._uri = tracking_uri
        self._model = model
        # One model can serve several endpoints, and each has a champion of its own.
        own = endpoint == model.lower().replace("_", "-").replace(" ", "-")
        suffix = "" if own else f"-{endpoint}"
        self.champion_alias = f"champion{suffix}"
        self.challenger_alias = f"challenger{suffix}"
        self._endpoint = endpoint

    @mapped
    def register(self, artifact: Artifact, image: Image) -> ModelVersion:
        """The version of this image; made once, and found again by its digest."""
        version = self._find(image.digest) or self._adopt(artifact, image) or self._create(artifact, image)
        return ModelVersion(name=self._model, version=int(version.version), digest=image.digest, run_id=artifact.run_id)

    @mapped
    def find(self, digest: str) -> int | None:
        """The number of the version with this image; None where there is none."""
        found = self._find(digest)
        return int(found.version) if found else None

    @mapped
    def next(self) -> int:
        """The number that the next new version gets."""
        found = self._client.search_model_versions(f"name = '{self._model}'")
        return max((int(version.version) for version in found), default=0) + 1

    @mapped
    def sources(self, version: int) -> list[str]:
        """Where a version's files can be had: as they were stored, and as MLflow gives them, with a file of its own."""
        stored = self._client.get_model_version(self._model, str(version)).source
        return [*([str(stored)] if stored else []), f"models:/{self._model}/{version}"]

    @mapped
    def attach(self, version: ModelVersion, name: str, content: str) -> None:
        """Store a document with a version, and say on the version where it is.

        Args:
            version: whose.
            name: the file, such as sbom.cdx.json; the tag `headgate.<name before the first dot>` names it.
            content: what is in it.
        """
        found = self._client.get_model_version(self._model, str(version.version))
        tag, path = f"headgate.{name.partition('.')[0]}", f"headgate/v{version.version}/{name}"
        if found.run_id and tag not in found.tags:
            self._client.log_text(found.run_id, content, path)
            self._client.set_model_version_tag(self._model, found.version, tag, f"runs:/{found.run_id}/{path}")

    @mapped
    def set_challenger(self, version: int) -> None:
        """Name the version that is being released."""
        self._client.set_registered_model_alias(self._model, self.challenger_alias, str(version))

    @mapped
    def clear_challenger(self) -> None:
        """No release is in flight."""
        self._client.delete_registered_model_alias(self._model, self.challenger_alias)

    @mapped
    def set_champion(self, version: int) -> None:
        """Name the version that has all traffic."""
        self._client.set_registered_model_alias(self._model, self.champion_alias, str(version))

    @mapped
    def aliases(self) -> dict[str, int]:
        """The version that each of the endpoint's two aliases names, where it is set."""
        known = self._client.get_registered_model(self._model).aliases
        return {
            role: int(known[alias])
            for role, alias in (("champion", self.champion_alias), ("challenger", self.challenger_alias))
            if alias in known
        }

    def _find(self, digest: str) -> MlflowVersion | None:
        found = self._client.search_model_versions(f"name = '{self._model}' and tags.`{DIGEST_TAG}` = '{digest}'")
        return max(found, key=lambda version: int(version.version), default=None)

    def _adopt(self, artifact: Artifact, image: Image) -> MlflowVersion | None:
        """A version of this very model that the release file named, `models:/<model>/<version or @alias>`."""
        name, _, version = artifact.uri.removeprefix("models:/").partition("/")
        if not artifact.uri.startswith("models:/") or name.partition("@")[0] != self._model:
            return None
        alias = name.partition("@")[2]
        if alias:
            found = self._client.get_model_version_by_alias(self._model, alias)
        elif version.isdigit():
            found = self._client.get_model_version(self._model, version)
        else:
            return None
        self._client.set_model_version_tag(self._model, found.version, DIGEST_TAG, image.digest)
        return found

    def _create(self, artifact: Artifact, image: Image) -> MlflowVersion:
        from mlflow.exceptions import RestException  # noqa: PLC0415 - seconds to import

        try:
            self._client.create_registered_model(self._model)
        except RestException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        run_id, source = self._upload(artifact)
        return self._client.create_model_version(
            self._model, source, run_id=run_id, await_creation_for=None,
            tags={DIGEST_TAG: image.digest, ENDPOINT_TAG: self._endpoint},
        )  # fmt: skip

    def _upload(self, artifact: Artifact) -> tuple[str, str]:
        """Keep the model's files with MLflow, whatever they came from, so that they outlive their source."""
        experiment = self._client.get_experiment_by_name(f"models/{self._model}")
        experiment_id = (
            experiment.experiment_id if experiment else self._client.create_experiment(f"models/{self._model}")
        )
        run = self._client.create_run(
            experiment_id, run_name=artifact.path.name, tags={"headgate.source": artifact.uri}
        )
        self._client.log_artifacts(run.info.run_id, str(artifact.path), _ARTIFACT_FOLDER)
        self._client.set_terminated(run.info.run_id)
        return run.info.run_id, f"{run.info.artifact_uri}/{_ARTIFACT_FOLDER}"
