"""Plan, package, register, deploy: what happens before any request reaches the new version."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploy_targets import Declares, unsupported_problems
from headgate.errors import BadInputError, PackageError, UnsupportedError
from headgate.phases import Phase
from headgate.plan import Plan, make_plan
from headgate.records import Artifact, Image, ModelVersion, Revision, Traffic
from headgate.sealed import require_unsealed
from headgate.units import format_bytes
from registry import Kind, Versions
from tasks import artifacts
from tasks.job import Job, ReleaseJob, tracking_uri
from tasks.step import step

if TYPE_CHECKING:
    from headgate.findings import Finding
    from headgate.records import EndpointState


def plan_release(job: ReleaseJob) -> Plan:
    """What a release would do, and what stands in its way; changes nothing."""
    return plan_with(job, job.target.observe(job.endpoint), job.target.preflight())


def plan_with(job: ReleaseJob, state: EndpointState | None, found: list[Finding]) -> Plan:
    """A plan, where the target was asked already.

    Args:
        job: the release.
        state: what the target says about the endpoint.
        found: what stands in the way, beside what the target cannot do.
    """
    problems = [*unsupported_problems(job.target, job.spec), *found]
    return make_plan(job.spec, job.champion, state, problems, mirrors=job.target.MIRROR_LIMIT, calls=job.target.CALLS)


@step
def check(job: ReleaseJob) -> None:
    """Refuse a release that the target cannot do, before any work."""
    plan = plan_release(job)
    artifacts.show_plan(plan)
    if not plan.is_possible:
        errors = [problem for problem in plan.problems if problem.severity == "error"]
        raise UnsupportedError(
            "; ".join(f"{problem.subject}: {problem.problem}" for problem in errors),
            fix="; ".join(problem.fix for problem in errors if problem.fix),
        )


@step
def package(job: ReleaseJob) -> tuple[Artifact, Image]:
    """Make the image.

    Raises:
        BadInputError: the release is resumed, and the artifact, or the server that is packaged with it, is another one.
        RequirementsError: a file of the model's has an address with a password.
    """
    from images import fetch_artifact, refuse_passwords, scan_artifact  # noqa: PLC0415 - heavy; the run is seen to run before it

    with tempfile.TemporaryDirectory(dir=job.home.root, prefix=".artifact-") as folder:
        artifact = fetch_artifact(job.spec.artifact, Path(folder))
        refuse_passwords(artifact.path)
        settings = job.spec.image
        for found in scan_artifact(artifact.path, settings.scan, allow=settings.allow, code=settings.code):
            job.write(Kind.NOTE, "scan", found)
        image = _build(job, artifact)
        if artifact.is_download:
            # Registering uploads the model's files; they are with the image now, under the same names.
            artifact = artifact.model_copy(update={"path": image.path / "model"})
    rows = job.journal.read(job.endpoint, kinds=(Kind.PHASE,), release_id=job.release_id)
    before = next((row.evidence["image"]["digest"] for row in rows if row.what == Phase.PACKAGED), image.digest)
    if before != image.digest:
        raise BadInputError(
            f"{job.spec.artifact} has changed since {job.release_id} began, or Headgate was upgraded: its image is "
            f"{image.digest[:19]}, and was {before[:19]}",
            fix="start a new release: the gates that this one passed were passed by other content",
        )
    job.enter(
        Phase.PACKAGED,
        f"{image.digest[:19]} ({format_bytes(image.size)})",
        {"image": image.model_dump(mode="json")},
    )
    return artifact, image


def _build(job: ReleaseJob, artifact: Artifact) -> Image:
    from images import build_container, build_image  # noqa: PLC0415 - heavy; the run is seen to run before it

    if job.target.RUNS_CONTAINERS:
        into = job.target.repository(job.spec.model, job.spec.image.repository)
        settings = job.spec.image.model_copy(update={"repository": into.name})
        user = (into.user, into.password) if into.user else None
        return build_container(job.home, artifact, job.spec.model, settings, user)
    return build_image(job.home, artifact)


@step
def register(job: ReleaseJob, artifact: Artifact, image: Image) -> ModelVersion:
    """Make the version in MLflow and name it challenger."""
    from images import bill_of_materials  # noqa: PLC0415 - heavy; the run is seen to run before it

    version = job.versions.register(artifact, image)
    job.versions.attach(version, "sbom.cdx.json", bill_of_materials(image, version.name, version.version))
    job.versions.set_challenger(version.version)
    job.enter(Phase.REGISTERED, f"{version} is challenger", {"version": version.model_dump(mode="json")})
    return version


@step
def deploy(job: ReleaseJob, version: ModelVersion, image: Image) -> Revision:
    """Bring the champion in order where it is not, then make the challenger ready at 0 %."""
    revision = _revision(job, version, image)
    _restore_champion(job)
    # Written before anything exists, so that whoever cleans up after a crash knows what to look for.
    job.write(Kind.NOTE, "deploying", revision.name, {"revision": revision.model_dump(mode="json")})
    job.deploy(revision)
    job.enter(Phase.DEPLOYED, f"{revision.name} is ready at 0%", {"revision": revision.model_dump(mode="json")})
    return revision


def _revision(job: ReleaseJob, version: ModelVersion, image: Image) -> Revision:
    runtime = job.spec.runtime
    require_unsealed(runtime.env, f"a release of {job.endpoint}")
    made = Revision.of(
        version, image, env={**job.spec.capture.env, **job.spec.gateway.env, **runtime.env}, secrets=runtime.secrets,
        workers=runtime.replicas.min, ready_timeout=runtime.ready_timeout, resources=runtime.resources,
        keep_image=not job.spec.image.remove_retired, most_workers=runtime.replicas.max,
    )  # fmt: skip
    return made.model_copy(update={"limits": job.spec.gateway.record})


def plan_manifests(job: ReleaseJob) -> list[dict[str, Any]]:
    """What a release would apply, where its platform takes manifests: the image is made for it, and nothing else.

    Raises:
        UnsupportedError: the platform takes none.
    """
    from images import fetch_artifact, refuse_passwords  # noqa: PLC0415 - heavy, and needed here alone

    if not isinstance(job.target, Declares):
        raise UnsupportedError(
            f"the {job.spec.target.kind} target takes no manifests",
            fix="leave --manifests out, or release to Kubernetes",
        )
    with tempfile.TemporaryDirectory(dir=job.home.root, prefix=".artifact-") as folder:
        artifact = fetch_artifact(job.spec.artifact, Path(folder))
        refuse_passwords(artifact.path)
        image = _build(job, artifact)
    number = job.versions.find(image.digest) or job.versions.next()
    version = ModelVersion(name=job.spec.model, version=number, digest=image.digest)
    return job.target.manifests(job.endpoint, _revision(job, version, image))


def with_image(job: Job, revision: Revision) -> Revision:
    """A revision whose bundle and environment are on this machine: made again from MLflow where they are not.

    That is so where files were removed by hand, or where the history came from another machine.

    Raises:
        PackageError: MLflow has no version with this content, or it has changed.
        RegistryError: MLflow does not answer.
    """
    image = revision.image
    is_here = image.path.exists() and image.interpreter is not None and image.interpreter.exists()
    if job.target.RUNS_CONTAINERS or is_here:
        return revision
    from images import build_image, fetch_artifact  # noqa: PLC0415 - heavy; the run is seen to run before it

    version, name = revision.version, revision.version.name
    versions = Versions(tracking_uri(job.home), name, job.endpoint)
    number = versions.find(version.digest)
    if number is None:
        raise PackageError(
            f"the files of {revision.name} are gone, and MLflow has no version of {name} with that content",
            fix="release the model again",
        )
    for source in versions.sources(number):
        with tempfile.TemporaryDirectory(dir=job.home.root, prefix=".artifact-") as folder:
            made = build_image(job.home, fetch_artifact(source, Path(folder)))
        if made.digest == image.digest:
            job.write(Kind.NOTE, "packaged again", f"the files of {revision.name} were gone")
            return revision.model_copy(update={"image": made})
    raise PackageError(
        f"MLflow's v{number} of {name} is {made.digest[:19]} now, and {revision.name} was {image.digest[:19]}",
        fix="release the model again",
    )


def _restore_champion(job: ReleaseJob) -> None:
    """A release starts from the champion with all traffic; where something else was found, say so."""
    champion = job.champion
    if champion is None or job.phase() not in {Phase.STARTED, Phase.PACKAGED, Phase.REGISTERED}:
        return
    state = job.target.observe(job.endpoint)
    traffic = state.traffic if state else None
    known = state.revisions.get(champion.name) if state else None
    if known is None or not known.ready:
        job.write(Kind.NOTE, "champion restored", f"{champion.name} was {known.detail if known else 'gone'}")
        job.deploy(with_image(job, champion))
    if traffic != Traffic.all_to(champion.name):
        job.write(
            Kind.NOTE,
            "traffic restored",
            f"it was {traffic.weights if traffic else 'nowhere'}, not on {champion.name}",
        )
        job.route(Traffic.all_to(champion.name))
