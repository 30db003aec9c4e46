"""Finding a trained model and reading what MLflow wrote beside it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml

from headgate.errors import ArtifactError
from headgate.records import EXAMPLE_FILES, Artifact, Payload
from images.bundle import SERVER
from images.pip_file import PipFile

IN_MLFLOW = ("runs:/", "models:/", "mlflow-artifacts:/")
"""How addresses begin that are in MLflow."""
_MODULES = {".py", ".pyc", ".so"}


def fetch_artifact(uri: str, folder: Path) -> Artifact:
    """Bring a model to this machine and read its metadata.

    Args:
        uri: `runs:/<run_id>/<name>`, `models:/<name>/<version or @alias>`, an object-store URI or a folder.
        folder: where a remote model is downloaded to.

    Raises:
        ArtifactError: there is nothing at `uri`, it cannot be read, or it is not an MLflow model.
    """
    path = download(uri, folder) if ":/" in uri else Path(uri).expanduser().resolve()
    if not path.is_dir():
        raise ArtifactError(
            f"artifact: there is no folder {path}",
            fix="name the folder that mlflow.<flavour>.save_model wrote",
        )
    metadata = _read_yaml(path / "MLmodel", uri)
    flavors = metadata.get("flavors")
    if not isinstance(flavors, dict) or "python_function" not in flavors:
        raise ArtifactError(
            f"artifact: {uri} has no python_function flavour, only {sorted(flavors or [])}",
            fix="log the model with one of mlflow's flavours, or as a mlflow.pyfunc.PythonModel",
        )
    _require_free_names(path, flavors)
    environment = path / "python_env.yaml"
    python = str(_read_yaml(environment, uri).get("python", "")) if environment.exists() else ""
    return Artifact(
        uri=uri,
        path=path,
        run_id=metadata.get("run_id"),
        flavors=tuple(sorted(set(flavors) - {"python_function"}) or ["python_function"]),
        requirements=_requirements(path, str(metadata.get("mlflow_version", ""))),
        python=".".join(python.split(".")[:2]) or f"{sys.version_info.major}.{sys.version_info.minor}",
        has_example=input_example(path) is not None,
    )


def _require_free_names(path: Path, flavors: dict[str, Any]) -> None:
    """Refuse a model with a module of the server's name: the server has its own imported before the model is loaded.

    Raises:
        ArtifactError: there is one at the top of a folder of `code_paths`.
    """
    folders = {str(one["code"]) for one in flavors.values() if isinstance(one, dict) and one.get("code")}
    for folder in sorted(folders):
        for found in sorted((path / folder).glob(f"{SERVER}*")):
            if found.name == SERVER or (found.name.partition(".")[0] == SERVER and found.suffix in _MODULES):
                raise ArtifactError(
                    f"artifact: {folder}/{found.name} has the name of the server's own package, so the model could not "
                    "import it", fix=f"rename {SERVER} in the model's code_paths, and log the model again",
                )  # fmt: skip


def input_example(model: Path) -> Payload | None:
    """The request body that was logged with a model, ready to send, or None."""
    for name in EXAMPLE_FILES:
        if (model / name).exists():
            return Payload(body=(model / name).read_bytes())
    return None


def request_files(uri: str, folder: Path) -> Path:
    """Bring what a request is made of to this machine, of a model of any size: its input example and its signature.

    Returns:
        The folder with these files.

    Raises:
        ArtifactError: there is no model at `uri`, or it cannot be read.
    """
    for name in EXAMPLE_FILES:
        try:
            download(f"{uri.rstrip('/')}/{name}", folder)
            break
        except ArtifactError:
            # It may have none.
            continue
    # A store may give a file the folders that it has there.
    return download(f"{uri.rstrip('/')}/MLmodel", folder).parent


def download(uri: str, folder: Path) -> Path:
    """Bring a model's files to this machine.

    Raises:
        ArtifactError: there is nothing at `uri`, or it cannot be read.
    """
    import mlflow  # noqa: PLC0415 - seconds to import, and a folder needs none of it

    folder.mkdir(parents=True, exist_ok=True)
    try:
        return Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(folder)))
    except Exception as error:
        # MLflow lets through what its stores raise, such as SQLAlchemy's errors.
        raise ArtifactError(
            f"artifact: {uri} cannot be fetched from {mlflow.get_tracking_uri()}: {error}",
            fix="check the name, and that MLFLOW_TRACKING_URI is the server it was logged to",
        ) from error


def _read_yaml(path: Path, uri: str) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ArtifactError(
            f"artifact: {uri} is not an MLflow model: it has no {path.name}",
            fix="save it with mlflow.<flavour>.save_model or log_model",
        ) from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ArtifactError(f"artifact: {path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ArtifactError(f"artifact: {path} holds no settings")
    return content


def _requirements(path: Path, mlflow_version: str) -> tuple[str, ...]:
    """Return the model's requirements; MLflow itself is added where they leave it out, as the server needs it."""
    asked = PipFile.read(path)
    if "mlflow" in asked.names():
        return asked.lines
    return (*asked.lines, f"mlflow=={mlflow_version}" if mlflow_version else "mlflow")
