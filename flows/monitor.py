"""Check what is live, by labels and for drift; roll back where the release file says so and it would help."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prefect import flow

from flows.rollback import rollback
from headgate.actor import whoami
from headgate.health import Attribution, HealthReport
from registry import Kind, history
from registry.lease import holder
from tasks.alarms import check_alarms
from tasks.attribution import ask_the_version_before
from tasks.inspect import inspect, report_of_labels, show
from tasks.job import new_id, open_release
from tasks.step import run
from tasks.truth import check_quality
from tasks.undo import expired, retire_expired
from tasks.watched import Described, resolve

if TYPE_CHECKING:
    from headgate.spec import ReleaseSpec
    from tasks.inspect import Inspection
    from tasks.job import ReleaseJob


@flow(name="monitor", flow_run_name="monitor")
async def monitor(spec: Described, actor: str = "") -> HealthReport:
    """Check an endpoint's answers against the labels that have arrived, then the last window of its requests.

    Args:
        spec: the release file: its full path on the worker, watched:NAME for that of a watched endpoint, or its text.
        actor: in whose name a rollback is made; empty for the check itself.

    Raises:
        MonitorError: the check itself could not be made; nothing was changed.
    """
    return await check(resolve(spec), actor)


async def check(described: ReleaseSpec, actor: str = "", *, alone: bool = True) -> HealthReport:
    """Check an endpoint, and roll it back where that is due.

    Args:
        described: its release file.
        actor: in whose name a rollback is made; `monitor` by default.
        alone: whether it is the only one: then a check that found nothing has a page too, and versions that are not
            kept warm any more are ended, which `reconcile` does as well.

    Raises:
        MonitorError: the check could not be made; nothing was changed.
    """
    found: Inspection | None = None
    with open_release(described, new_id(described.endpoint, "monitor"), actor or f"monitor ({whoami()})") as job:
        quality = run(check_quality, job)
        if quality is not None and quality.verdict == "worse" and "quality" in described.rollback.on and _is_free(job):
            report, why = report_of_labels(job, quality), f"quality: {quality.reason}"
        elif "alarms" in described.rollback.on and _is_free(job) and (ringing := run(check_alarms, job)) is not None:
            report, why = ringing, f"alarms: {ringing.reason}"
        else:
            found = run(inspect, job)
            report = found.report.model_copy(update={"quality": quality})
            report, why = _consider(job, found, report)
        name = job.actor
        try:
            if why:
                await rollback(described.endpoint, why, actor=name, of=report.revision)
            elif alone:
                _tidy(job)
        finally:
            if alone or report.violation:
                run(show, job, report, found)
    return report


def _consider(job: ReleaseJob, found: Inspection, report: HealthReport) -> tuple[HealthReport, str]:
    """The report, with whose doing a violation is; and why to roll back, empty where not."""
    acts = report.triggered and bool(set(report.causes) & set(job.spec.rollback.on))
    if not acts:
        return report, ""
    champion = job.champion
    attribution: Attribution | None = None
    if not _is_free(job) or champion is None or champion.name != report.revision:
        why_not = "a release is in flight"
    elif history.predecessor(job.journal, job.endpoint) is None:
        why_not = "there is no earlier version"
    else:
        attribution = run(ask_the_version_before, job, found)
        report = report.model_copy(update={"attribution": attribution})
        why_not = _would_not_help(attribution)
    if why_not:
        evidence = {"cause": attribution.cause} if attribution else {}
        job.write(Kind.NOTE, history.NOT_ROLLED_BACK, f"{report.reason}; but {why_not}", evidence)
        return report, ""
    because = f"; {attribution.reason}" if attribution else ""
    return report, f"{' and '.join(report.causes)}: {report.reason}{because}"


def _tidy(job: ReleaseJob) -> None:
    if _is_free(job) and expired(job, job.spec.rollback.keep_warm):
        with job.hold():
            run(retire_expired, job, job.spec.rollback.keep_warm)


def _is_free(job: ReleaseJob) -> bool:
    return holder(job.journal, job.endpoint) is None and history.in_flight(job.journal, job.endpoint) is None


def _would_not_help(attribution: Attribution) -> str:
    """Why there is no rollback, by what the version before answers; empty where it would help."""
    return {
        "version": "",
        "inputs": f"the version before would do no better: {attribution.reason}",
        "unknown": f"whether the version before would do better is not known: {attribution.reason}",
    }[attribution.cause]
