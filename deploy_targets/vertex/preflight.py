"""What is missing in a project before a release can start, each with the command that mends it; and the role."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deploy_targets.answers import reading
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
    "serviceusage.quotas.get",
)  # fmt: skip
"""What a release asks of a project."""


def findings(google: Google, settings: VertexSettings) -> list[Finding]:
    """Every problem; nothing where a release can start."""
    try:
        project = google.project
    except HeadgateError as error:
        return [problem("google", error.message, error.fix)]
    looks = (
        _permissions(google, project), _service(google), _dataset(google, settings), _quota(google, project, settings)
    )  # fmt: skip
    return look_for_problems("google", looks)


def misfits(settings: VertexSettings) -> list[Finding]:
    """Return what a release would find out late, without a call to Google Cloud.

    A private endpoint answers only at an address in the caller's network, which a forwarding rule to its service
    attachment makes (`endpoint_override` of `PrivateEndpoint` in google-cloud-aiplatform 2.7.0). Each revision is asked
    on an endpoint of its own. The release makes that endpoint, so no rule for it can exist before.
    """
    if not settings.private_to:
        return []
    told = (
        f"private_to names {', '.join(settings.private_to)}: an endpoint behind Private Service Connect is asked at an "
        "address in that project's network, and a release asks each version on an endpoint that it makes itself, for "
        "which there is no such address"
    )
    fix = "leave private_to out; for an endpoint with a name and network of its own, set target.dedicated: true"
    return [problem("target.private_to", told, fix)]


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


def _quota(google: Google, project: str, settings: VertexSettings) -> Iterator[Finding]:
    """Whether the region's quota is for two versions, the champion and the candidate, each on two endpoints.

    By https://cloud.google.com/vertex-ai/docs/quotas (a quota for each family of machines and each accelerator, N1 and
    E2 together) and `services.consumerQuotaMetrics.list` of serviceusage v1beta1, whose buckets go from the least
    specific to the most. A family whose quota is not listed is passed over.
    """
    family, *_, cpus = settings.machine.split("-")
    needed = {} if not cpus.isdigit() else {"cpus" if family in {"n1", "e2"} else f"{family}_cpus": 4 * int(cpus)}
    if settings.accelerator:
        kind = settings.accelerator.lower().replace("nvidia_tesla_", "nvidia_")
        needed[f"{kind}_gpus"] = 4 * settings.accelerators
    wanted = {f"aiplatform.googleapis.com/custom_model_serving_{name}": number for name, number in needed.items()}
    where = f"projects/{project}/services/aiplatform.googleapis.com"
    for found in google.pages("serviceusage", "services.consumerQuotaMetrics.list", "metrics", parent=where):
        if found["metric"] not in wanted:
            continue
        for limit in found.get("consumerQuotaLimits", []):
            here = [one for one in limit.get("quotaBuckets", [])
                    if one.get("dimensions", {}).get("region", settings.location) == settings.location]  # fmt: skip
            # -1 is no limit.
            with reading("Google's consumerQuotaMetrics.list", here):
                may = int(here[-1].get("effectiveLimit", 0)) if here else -1
            if 0 <= may < wanted[found["metric"]]:
                yield problem(
                    "target.machine", f"the project may have {may} of {found['metric']} in {settings.location}, and a "
                    f"release of one replica needs {wanted[found['metric']]}",
                    "ask for more in the console, under IAM & Admin, Quotas",
                )  # fmt: skip


def _dataset(google: Google, settings: VertexSettings) -> Iterator[Finding]:
    project, dataset, _ = settings.captures.removeprefix("bq://").split(".")
    if google.find("bigquery", "datasets.get", projectId=project, datasetId=dataset) is None:
        yield problem("target.captures", f"there is no dataset {dataset} in {project}", f"bq mk -d {project}:{dataset}")
