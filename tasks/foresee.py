"""What a release would find, looked at before it begins: the artifact, its scan, what is new in it, how long it takes.

The same code finds, reads and scans the artifact as in a release. What cannot be looked at, as a server is away, is
said; it makes nothing else fail.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, cast

import httpx

from deploy_targets import open_target
from headgate.actor import whoami
from headgate.errors import BadInputError, HeadgateError, PackageError, TargetUnavailableError
from headgate.findings import Finding
from headgate.home import Home
from headgate.operating import frozen_until
from headgate.plan import Changes, Content, Plan
from headgate.servers import PATIENT
from headgate.target_settings import TARGETS_GROUP, installed
from headgate.traffic import BY_TRAFFIC, unmet_at
from headgate.units import BASIS_POINTS, roughly
from registry.durations import durations
from registry.journal import open_journal
from registry.traffic import seen
from tasks.foresee_decision import decision
from tasks.job import ReleaseJob, tracking_uri
from tasks.package import plan_with

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from deploy_targets import DeployTarget
    from headgate.records import Artifact, EndpointState, Revision
    from headgate.spec import ReleaseSpec

_COUNTED = 5
"""Of the newest releases, for the estimate."""


@contextmanager
def open_plan(spec: ReleaseSpec) -> Iterator[ReleaseJob]:
    """A release in hand, to look at only; also where its target cannot be opened, as its stack was never started."""
    home = Home.from_env().ensure()
    with open_journal(home.journal_url) as journal:
        yield ReleaseJob(home, journal, spec, "", whoami(), target=_target(spec))


def _target(spec: ReleaseSpec) -> DeployTarget:
    try:
        return open_target(spec.target)
    except TargetUnavailableError as error:
        return cast("DeployTarget", _Away(spec.target.kind, error))


class _Away:
    """What is known of a target that cannot be opened: what its class says, and why it cannot.

    Args:
        kind: the target's.
        error: why.
    """

    def __init__(self, kind: str, error: HeadgateError) -> None:
        (point,) = installed(TARGETS_GROUP).select(name=kind)
        known = point.load()
        for name in filter(str.isupper, dir(known)):
            setattr(self, name, getattr(known, name))
        self._why = _finding(kind, error)

    def preflight(self) -> list[Finding]:
        return [self._why]

    def observe(self, _endpoint: str) -> None:
        """Nothing is known."""


def foresee(job: ReleaseJob, warnings: Sequence[Finding] = ()) -> Plan:
    """Make a plan of a release, with the artifact as it is; changes nothing.

    Args:
        job: from `open_plan`.
        warnings: what is known of the release file by itself.
    """
    problems, state = _of_target(job)
    away = _mlflow_away(job)
    content, found = _look(job, away)
    unmet, counted = _at_its_traffic(job) if job.champion else ([], set())
    found += [*(one for one in warnings if one.subject not in counted), *unmet, *_frozen(job)]
    plan = plan_with(job, state, [*problems, *([away] if away else []), *found])
    return plan.model_copy(update={"content": content, "estimate": _estimate(job)})


def _at_its_traffic(job: ReleaseJob) -> tuple[list[Finding], set[str]]:
    """What the endpoint's own traffic cannot meet, how long a decision takes, and which warnings that replaces."""
    traffic, look_seconds = seen(job.journal, job.endpoint), job.target.LOOK_SECONDS
    unmet = unmet_at(job.spec, traffic, look_seconds, job.target.LOG_DELAY)
    replaced = {one.subject for one in unmet} | (BY_TRAFFIC if traffic is not None else set())
    return [*unmet, *decision(job.spec, traffic, look_seconds, job.target.MIRROR_LIMIT / BASIS_POINTS)], replaced


def _of_target(job: ReleaseJob) -> tuple[list[Finding], EndpointState | None]:
    """What the target says: why it cannot be released to, and where the endpoint stands."""
    kind, problems = job.spec.target.kind, []
    try:
        problems = job.target.preflight()
        return problems, job.target.observe(job.endpoint)
    except HeadgateError as error:
        return [*problems, _finding(kind, error, "traffic was not looked at: ")], None


def _mlflow_away(job: ReleaseJob) -> Finding | None:
    """Say that MLflow does not answer; a release registers its version there."""
    try:
        uri = tracking_uri(job.home)
    except BadInputError as error:
        return _finding("mlflow", error)
    if not uri.startswith("http"):
        return None
    try:
        httpx.get(uri.rstrip("/") + "/health", timeout=PATIENT)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return Finding(
            severity="error", subject="mlflow",
            problem=f"{uri} does not answer ({type(error).__name__}), and a release registers its version there",
            fix="headgate up" if "MLFLOW_TRACKING_URI" not in os.environ else "check MLFLOW_TRACKING_URI",
        )  # fmt: skip
    return None


def _look(job: ReleaseJob, away: Finding | None) -> tuple[Content | None, list[Finding]]:
    """Fetch, read and scan the artifact."""
    from images import fetch_artifact  # noqa: PLC0415 - heavy, and needed here alone
    from images.artifact import IN_MLFLOW  # noqa: PLC0415

    uri = job.spec.artifact
    if away is not None and uri.startswith(IN_MLFLOW):
        problem = f"{uri} was not looked at, nor scanned: it is in MLflow, which does not answer"
        return None, [Finding(severity="warning", subject="artifact", problem=problem, fix=away.fix)]
    with tempfile.TemporaryDirectory(dir=job.home.root, prefix=".artifact-") as folder:
        try:
            artifact = fetch_artifact(uri, Path(folder))
            content = _content(job, artifact)
        except PackageError as error:
            return None, [_finding("artifact", error)]
        return content, [*_scanned(job, artifact), *_about(job, artifact, content)]


def _content(job: ReleaseJob, artifact: Artifact) -> Content:
    from images import signature_of  # noqa: PLC0415 - heavy, and needed here alone
    from images.bundle import model_files  # noqa: PLC0415
    from images.pip_file import PipFile  # noqa: PLC0415

    asked = PipFile(artifact.requirements, artifact.path)
    sizes = [path.stat().st_size for path in model_files(artifact.path).values()]
    changes, unlike = _changes(job.champion, artifact)
    return Content(
        size=sum(sizes), files=len(sizes), flavors=artifact.flavors, python=artifact.python,
        inputs=signature_of(artifact.path)["inputs"], requirements=tuple(asked.shown()),
        sources=tuple(asked.sources()), changes=changes, unlike=unlike,
    )  # fmt: skip


def _changes(champion: Revision | None, artifact: Artifact) -> tuple[Changes | None, str]:
    from images import compare, fetch_artifact  # noqa: PLC0415 - heavy, and needed here alone

    if champion is None:
        return None, "nothing is live"
    folder = champion.image.path / "model"
    try:
        live = fetch_artifact(str(folder), folder)
        return compare(artifact, live, champion.image.size), ""
    except PackageError:
        return None, f"the files of {champion.version} are not on this machine"


def _scanned(job: ReleaseJob, artifact: Artifact) -> list[Finding]:
    from images import refuse_passwords, scan_artifact  # noqa: PLC0415 - heavy, and needed here alone

    image = job.spec.image
    policy = image.scan
    try:
        refuse_passwords(artifact.path)
        notes = scan_artifact(artifact.path, policy, allow=image.allow, code=image.code)
    except PackageError as error:
        return [_finding("artifact", error)]
    off = Finding(severity="warning", subject="scan", problem="image.scan is off: the artifact was not scanned")
    return [
        *([off] if policy == "off" else []),
        *(Finding(severity="warning", subject="scan", problem=note, fix="know who made the model") for note in notes),
    ]


def _about(job: ReleaseJob, artifact: Artifact, content: Content) -> list[Finding]:
    """What a release would stumble over, or people should know, of requirements, signature and examples."""
    from images.pip_file import PipFile  # noqa: PLC0415 - heavy, and needed here alone

    found = [
        Finding(
            severity="error", subject="requirements",
            problem=f"requirements.txt names {path.relative_to(artifact.path)}, which the model's folder has not",
            fix="log the file in the model's folder, beside requirements.txt",
        )
        for path in PipFile(artifact.requirements, artifact.path).missing()
    ]  # fmt: skip
    found += [
        Finding(
            severity="warning", subject="requirements",
            problem=f"taken from elsewhere than this machine's index: {line}",
            fix="see that releases may use it; a lock with hashes keeps what it gives today",
        )
        for line in content.sources
    ]  # fmt: skip
    if content.changes is not None and content.changes.signature:
        problem = f"the signature is not that of {job.champion.version}: " if job.champion else ""
        problem += "; ".join(content.changes.signature)
        fix = "tell clients, or give the new signature an endpoint of its own"
        found.append(Finding(severity="warning", subject="signature", problem=problem, fix=fix))
    return [*found, *_smoke(job, artifact)]


def _smoke(job: ReleaseJob, artifact: Artifact) -> list[Finding]:
    """Whether the smoke gate has something to send."""
    from images import signature_request  # noqa: PLC0415 - heavy, and needed here alone

    gate = job.spec.gates.smoke
    if gate is None:
        return []
    subject = "gates.smoke.examples"
    if gate.examples != "input_example":
        try:
            has_any = any(line.strip() for line in Path(gate.examples).read_bytes().splitlines())
        except OSError as error:
            problem, fix = f"{gate.examples} cannot be read: {error.strerror}", "name a file with one body a line"
            return [Finding(severity="error", subject=subject, problem=problem, fix=fix)]
    else:
        has_any = artifact.has_example or signature_request(artifact.path) is not None
    if has_any or (job.champion is not None and job.spec.gates.shadow is not None):
        return []
    problem = "there is nothing to send: the model has neither an input example nor a signature"
    if gate.examples != "input_example":
        problem = f"there is nothing to send: {gate.examples} has no line"
    fix = "log the model with an input_example or a signature, or release it with gates: {smoke: off}"
    return [Finding(severity="error", subject=subject, problem=problem, fix=fix)]


def _estimate(job: ReleaseJob) -> str:
    """How long it takes, from earlier releases that had the same steps."""
    with_shift = job.champion is not None
    all_of_them = durations(job.journal, job.endpoint)
    alike = [took.seconds for took in all_of_them if took.shifted is with_shift][-_COUNTED:]
    if not alike:
        others = f" with a shift; the first took {roughly(all_of_them[0].seconds)}" if all_of_them else ""
        return f"unknown: no earlier release{others}"
    span = f" ({roughly(min(alike))} to {roughly(max(alike))})" if len(alike) > 1 else ""
    counted = f"the last {len(alike)} promoted releases" if len(alike) > 1 else "the one promoted release before"
    waits = ", and the wait for approvals" if job.spec.approvals else ""
    return f"{roughly(statistics.median(alike))}{span}, as {counted} took{waits}"


def _frozen(job: ReleaseJob) -> list[Finding]:
    found = frozen_until(job.spec.freeze, datetime.now(UTC))
    if found is None:
        return []
    window, end = found
    problem = f"a release that begins now is refused, until {end:%F %H:%M %Z}" + (
        f" ({window.reason})" if window.reason else "")  # fmt: skip
    fix = "wait, or headgate release --override-freeze WHY in an emergency"
    return [Finding(severity="warning", subject="freeze", problem=problem, fix=fix)]


def _finding(subject: str, error: HeadgateError, before: str = "") -> Finding:
    message = error.message.removeprefix(f"{subject}: ")
    return Finding(severity="error", subject=subject, problem=before + message, fix=error.fix)
