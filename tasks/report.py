"""The end of a release: its result, its report, and its run in MLflow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headgate import clock
from headgate.credentials import redact
from headgate.errors import HeadgateError, RegistryError, RejectedError, RolledBackError, TargetError, TimedOutError
from headgate.health import HealthReport
from headgate.phases import Outcome, Phase
from headgate.records import Event, ReleaseResult
from headgate.verdicts import ShadowReport
from registry import Entry, Journal, Kind, history
from registry.history import OUTCOME
from registry.release_run import ReleaseRun
from tasks import artifacts
from tasks.job import ReleaseJob, tracking_uri
from tasks.step import step

if TYPE_CHECKING:
    from collections.abc import Sequence

    from monitoring.pages import Evidence

REPORT_LATE, REPORT_BROUGHT = "report late", "report brought"
_LATE_NOTES = 60


def outcome_of(error: BaseException | None) -> Outcome:
    """How a release ended, by what ended it."""
    if error is None:
        return Outcome.PROMOTED
    if isinstance(error, RejectedError):
        return Outcome.REJECTED
    if isinstance(error, RolledBackError):
        return Outcome.ROLLED_BACK
    return Outcome.HELD if isinstance(error, TimedOutError) else Outcome.FAILED


def error_of(job: ReleaseJob) -> HeadgateError | None:
    """What a release ended with, or is ending with, as its undoing wrote down; None for one that is not undone."""
    rows = job.journal.read(job.endpoint, kinds=(Kind.PHASE,), release_id=job.release_id)
    undoing = next((row for row in rows if row.what == Phase.UNDOING), None)
    if undoing is None:
        return None
    kinds = {Outcome.REJECTED: RejectedError, Outcome.ROLLED_BACK: RolledBackError}
    return kinds.get(undoing.evidence.get("outcome", Outcome.ROLLED_BACK), HeadgateError)(undoing.reason)


@step
def conclude(job: ReleaseJob, error: BaseException | None, began: float) -> ReleaseResult:
    """Write the result and the report, and bring MLflow's run up to date as far as MLflow answers."""
    rows = job.journal.read(job.endpoint, release_id=job.release_id)
    try:
        state = job.target.observe(job.endpoint)
    except TargetError:
        # The release's own error is what counts; the address is only for convenience.
        state = None
    champion = job.champion
    outcome = outcome_of(error)
    reason = error.message if isinstance(error, HeadgateError) else (redact(repr(error)) if error else _promoted(rows))
    result = ReleaseResult(
        release_id=job.release_id, endpoint=job.endpoint, outcome=outcome, reason=reason,
        version=_version(rows), champion=champion.version.version if champion else None,
        url=state.url if state else "", report=str(job.report_file), seconds=clock.monotonic() - began,
        waited=job.waited,
    )  # fmt: skip
    job.write(Kind.DECISION, OUTCOME, f"{outcome}: {reason}", {"result": result.model_dump(mode="json")})
    job.finish_telling()
    rows = job.journal.read(job.endpoint, release_id=job.release_id)
    try:
        link = _store(job, result, rows)
        artifacts.show_report(job.endpoint, link)
        bring_reports(job)
    except (RegistryError, OSError) as problem:
        # However the release ended is what counts; the next one brings this report to MLflow.
        job.write(Kind.NOTE, REPORT_LATE, str(problem))
    return result


def interim_report(job: ReleaseJob) -> str:
    """The report so far, for someone who has to decide.

    Returns:
        Where it can be read in MLflow's pages.

    Raises:
        RegistryError: MLflow does not answer.
    """
    rows = job.journal.read(job.endpoint, release_id=job.release_id)
    champion = job.champion
    result = ReleaseResult(
        release_id=job.release_id, endpoint=job.endpoint, outcome=Outcome.HELD, reason="it waits for an approval",
        version=_version(rows), champion=champion.version.version if champion else None, waited=job.waited,
    )  # fmt: skip
    return _store(job, result, rows)


def _store(job: ReleaseJob, result: ReleaseResult, rows: Sequence[Entry]) -> str:
    from monitoring.pages import write_release  # noqa: PLC0415 - heavy; the run is seen to run before it

    written = write_release(_evidence(job, result, rows), job.report_file)
    run = ReleaseRun(tracking_uri(job.home), job.journal, job.endpoint, job.release_id)
    page, *more = written
    for file in more:
        run.attach(file)
    return run.attach(page)


def late_reports(job: ReleaseJob) -> list[str]:
    """The releases of the endpoint whose reports MLflow was away for, and that are on this machine."""
    rows = job.journal.read(job.endpoint, kinds=(Kind.NOTE,), newest=_LATE_NOTES)
    brought = {row.evidence["of"] for row in rows if row.what == REPORT_BROUGHT}
    late = dict.fromkeys(row.release_id for row in rows if row.what == REPORT_LATE)
    return [name for name in late if name not in brought and job.report_file.with_name(f"{name}.html").exists()]


def bring_reports(job: ReleaseJob) -> None:
    """Bring the reports and histories of earlier releases to MLflow.

    Raises:
        RegistryError: MLflow does not answer.
    """
    for name in late_reports(job):
        if name != job.release_id:
            run = ReleaseRun(tracking_uri(job.home), job.journal, job.endpoint, name)
            for file in sorted(job.report_file.parent.glob(f"{name}.*")):
                run.attach(file)
            job.write(Kind.NOTE, REPORT_BROUGHT, name, {"of": name})


def result_of(journal: Journal, release_id: str) -> ReleaseResult | None:
    """The result of a release that has ended or is held."""
    for row in reversed(journal.find_release(release_id)):
        if row.what == OUTCOME:
            return ReleaseResult.model_validate(row.evidence["result"])
    return None


def _evidence(job: ReleaseJob, result: ReleaseResult, rows: Sequence[Entry]) -> Evidence:
    from monitoring.pages import Evidence  # noqa: PLC0415 - heavy; the run is seen to run before it

    shadow = next((row.evidence["report"] for row in reversed(rows) if "report" in row.evidence), None)
    checks = job.journal.read(job.endpoint, kinds=(Kind.CHECK,), newest=1)
    first = rows[0].at
    shift = history.shift_of(job.journal, job.release_id, job.endpoint)
    version = f" v{result.version}" if result.version else ""
    return Evidence(
        result=result,
        title=f"{job.endpoint}: {job.spec.model}{version} {result.outcome}",
        looks=shift.looks if shift else (),
        bounds=shift.bounds if shift else (),
        shadow=ShadowReport.model_validate(shadow) if shadow else None,
        health=next((HealthReport.model_validate(row.evidence) for row in checks if row.at > first), None),
        events=tuple(
            Event(at=row.at, what=row.what, actor=row.actor, reason=row.reason) for row in history.narrative(list(rows))
        ),
    )


def _version(rows: Sequence[Entry]) -> int | None:
    return next((row.evidence["version"]["version"] for row in rows if "version" in row.evidence), None)


def _promoted(rows: Sequence[Entry]) -> str:
    decided = [f"{row.actor}: {row.reason}" for row in rows if row.what == history.PROMOTE]
    judged = [row.reason for row in rows if row.kind is Kind.DECISION and row.what == "judge"]
    live = [row.reason for row in rows if row.kind is Kind.LIVE]
    reached = [row.reason for row in rows if row.kind is Kind.PHASE and row.what == Phase.PROMOTED]
    return (decided or judged or live or reached or ["promoted"])[-1]
