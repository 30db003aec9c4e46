"""What is missing in a project before a release can start, each with the command that mends it; and the role."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deploy_targets.clouds import look_for_problems, problem
from headgate.errors import HeadgateError, TargetError, TargetUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deploy_targets.vertex.google import Google
    from deploy_targets.vertex.settings import VertexSettings
    from headgate.findings import Finding

PERMISSIONS = (
    "aiplatform.endpoints.create", "aiplatform.endpoints.delete", "aiplatform.endpoints.deploy",
    "aiplatform.endpoints.get", "aiplatform.endpoints.list", "aiplatform.endpoints.predict",
    "aiplatform.endpoints.undeploy", "aiplatform.endpoints.update", "aiplatform.models.delete",
    "aiplatform.models.get", "aiplatform.models.list", "aiplatform.models.upload", "aiplatform.operations.list",
    "artifactregistry.repositories.create", "artifactregistry.repositories.downloadArtifacts",
    "artifactregistry.repositories.get", "artifactregistry.repositories.uploadArtifacts", "bigquery.jobs.create",
    "bigquery.datasets.get", "bigquery.tables.getData", "logging.logEntries.list", "monitoring.timeSeries.list",
)  # fmt: skip
"""What a release asks of a project."""


def findings(google: Google, settings: VertexSettings) -> list[Finding]:
    """Every problem; nothing where a release can start."""
    try:
        project = google.project
    except HeadgateError as error:
        return [problem("google", error.message, error.fix)]
    return look_for_problems("google", (_permissions(google, project), _service(google), _dataset(google, settings)))


def role(settings: VertexSettings) -> str:
    """The least that whoever releases needs, as `gcloud iam roles create --file` takes it."""
    listed = sorted({*PERMISSIONS, *(["iam.serviceAccounts.actAs"] if settings.service_account else [])})
    return "title: Headgate\nstage: GA\nincludedPermissions:\n" + "".join(f"- {name}\n" for name in listed)


def _permissions(google: Google, project: str) -> Iterator[Finding]:
    reply = google.call(
        "cloudresourcemanager", "projects.testIamPermissions", resource=project, body={"permissions": list(PERMISSIONS)}
    )
    if missing := sorted(set(PERMISSIONS) - set(reply.get("permissions", []))):
        fix = (
            "headgate doctor --policy release.yaml > role.yaml; gcloud iam roles create headgate "
            f"--project {project} --file role.yaml; then give it to the caller"
        )
        yield problem("permissions", f"the caller may not {', '.join(missing)}", fix)


def _service(google: Google) -> Iterator[Finding]:
    """A project that never used Vertex AI refuses, and the refusal says what to do."""
    try:
        google.call("aiplatform", "projects.locations.endpoints.list", parent=google.parent, pageSize=1)
    except TargetUnavailableError:
        raise
    except TargetError as error:
        yield problem("vertex", error.message, error.fix)


def _dataset(google: Google, settings: VertexSettings) -> Iterator[Finding]:
    project, dataset, _ = settings.captures.removeprefix("bq://").split(".")
    if google.find("bigquery", "datasets.get", projectId=project, datasetId=dataset) is None:
        yield problem("target.captures", f"there is no dataset {dataset} in {project}", f"bq mk -d {project}:{dataset}")
