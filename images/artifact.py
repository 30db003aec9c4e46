"""Finding a trained model and reading what MLflow wrote beside it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml

from headgate.errors import ArtifactError
from headgate.records import Artifact, Payload

_EXAMPLES = ("serving_input_example.json", "serving_input_payload.json")


def fetch_artifact(uri: str, folder: Path) -> Artifact:
    """Bring a model to this machine and read its metadata.

    Args:
        uri: `runs:/<run_id>/<name>`, `models:/<name>/<version or @alias>`, an object-store URI or a folder.
        folder: where a remote model is downloaded to.

    Raises:
        ArtifactError: there is nothing at `uri`, it cannot be read, or it is not an MLflow model.
    """
    path = _download(uri, folder) if ":/" in uri else Path(uri).expanduser().resolve()
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


def input_example(model: Path) -> Payload | None:
    """The request body that was logged with a model, ready to send, or None."""
    for name in _EXAMPLES:
        if (model / name).exists():
            return Payload(body=(model / name).read_bytes())
    return None


def _download(uri: str, folder: Path) -> Path:
    import mlflow  # noqa: PLC0415 - seconds to import, and a folder needs none of it
    from mlflow.exceptions import MlflowException  # noqa: PLC0415

    folder.mkdir(parents=True, exist_ok=True)
    try:
        return Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(folder)))
    except (MlflowException, OSError, ImportError) as error:
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
    """The model's requirements; MLflow itself is added where they leave it out, as the server needs it."""
    file = path / "requirements.txt"
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    wanted = [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]
    if not any(line.replace("-", "=").split("=")[0].split("[")[0].strip() == "mlflow" for line in wanted):
        wanted.append(f"mlflow=={mlflow_version}" if mlflow_version else "mlflow")
    return tuple(wanted)
