"""Checking what is live for drift."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from headgate.errors import MonitorError, NothingToRollBackError
from headgate.health import HealthReport, QualityReport
from headgate.records import Revision, Window
from monitoring.drift import ParquetColumns, Reference, check_drift, is_triggered, write_evidently
from monitoring.pages import Checked, write_check
from registry import Kind, history
from tasks import artifacts
from tasks.job import ReleaseJob
from tasks.predictions import predictions
from tasks.step import log, step

if TYPE_CHECKING:
    from headgate.monitor import Monitor
    from headgate.spec import ReleaseSpec
    from monitoring.drift import DriftCheck
    from monitoring.predictions import Predictions

REFERENCE = "reference.parquet"
"""The training sample, as an artifact of the run that logged the model."""
_EARLIER_SHOWN = 20
_QUIET_PASSED_OVER = 200
"""How many checks with too few rows may lie between those that count together."""
_REFERENCES_IN_MEMORY = 16
"""Some megabytes each, by their columns."""


class Inspection(NamedTuple):
    """What a check found, and what it looked at; `check` and `reference` are None where there were too few rows."""

    report: HealthReport
    current: Predictions
    check: DriftCheck | None = None
    reference: Reference | None = None


@step
def inspect(job: ReleaseJob) -> Inspection:
    """Compare the last window of live requests with the reference, and decide whether to act.

    A window with fewer rows than `monitor.min_rows` is written down, and is no violation.

    Raises:
        MonitorError: the check cannot be made.
    """
    monitor = job.spec.monitor
    if monitor is None:
        raise MonitorError("the release file has no monitor entry", fix="add `monitor: {}` to check with the defaults")
    reign = history.champion(job.journal, job.endpoint)
    if reign is None:
        raise NothingToRollBackError(f"nothing of {job.endpoint} is live", fix="release a version first")
    champion, end = reign.revision, datetime.now(UTC)
    # What it was asked before it was live was asked by us: the smoke gate, a replay, the question of who is to blame.
    window = Window(start=max(end - timedelta(seconds=monitor.window), reign.since), end=end)
    current = predictions(job, champion, window)
    # Without a reference no check can ever be made, however many rows there are.
    reference = _reference(job, monitor, champion)
    limits = _without_redacted(monitor, job.spec.capture.redact)

    def look() -> DriftCheck | None:
        if current.num_rows + current.unreadable_requests < monitor.min_rows:
            return None
        return check_drift(current, reference, limits, current.repeated, current.unreadable_requests)

    check = current.whole(look)
    if check is None:
        return Inspection(_note_quiet(job, champion, window, current), current)
    counted = [*_earlier(job, champion, monitor), _counts(check.causes, job.spec)]
    report = HealthReport(
        endpoint=job.endpoint, revision=champion.name, version=champion.version.version, window=window,
        rows=check.rows, drifted_columns=check.drifted, share=check.share, limit=monitor.drift.share,
        violation=counted[-1], triggered=is_triggered(counted, monitor.trigger),
        causes=check.causes, columns=check.columns, problems=check.problems,
        passed_over=check.passed_over | _lost(current),
        reason=f"{check.reason}; {sum(counted)} of the last {len(counted)} checks are violations, "
        f"{monitor.trigger.violations} of {monitor.trigger.of} trigger",
    )  # fmt: skip
    job.write(Kind.CHECK, "drift", report.reason, report.model_dump(mode="json"), actor="monitor")
    artifacts.show_health(report)
    return Inspection(report, current, check, reference)


def _note_quiet(job: ReleaseJob, champion: Revision, window: Window, current: Predictions) -> HealthReport:
    """Write down a check that had too few rows; once so many in a row are that people should know, a note of it too."""
    monitor = job.spec.monitor
    assert monitor is not None  # noqa: S101 - `inspect` has refused otherwise
    quiet = 1 + _quiet_before(job, champion)
    rows, unread = current.num_rows, current.unreadable_requests
    reason = f"not enough data: the window has {rows} rows, and monitor.min_rows is {monitor.min_rows}"
    reason += f"; {unread} requests cannot be read" if unread else ""
    report = HealthReport(
        endpoint=job.endpoint, revision=champion.name, version=champion.version.version, window=window, rows=rows,
        drifted_columns=(), share=0.0, limit=monitor.drift.share, violation=False, triggered=False, reason=reason,
        quiet=quiet, too_quiet=quiet >= monitor.quiet_checks, passed_over=_lost(current),
    )  # fmt: skip
    job.write(Kind.CHECK, "drift", reason, report.model_dump(mode="json"), actor="monitor")
    if quiet == monitor.quiet_checks:
        job.write(Kind.NOTE, history.QUIET, f"{quiet} checks in a row; the last one: {reason}", {"rows": rows})
    artifacts.show_health(report)
    return report


def _lost(current: Predictions) -> dict[str, str]:
    """The files of a window that cannot be read, and why; its other rows count."""
    return {path: f"unreadable: {why}" for path, why in current.unreadable.items()}


def _quiet_before(job: ReleaseJob, champion: Revision) -> int:
    """Return how many checks of this champion in a row have had too few rows until now."""
    last = [
        HealthReport.model_validate(row.evidence)
        for row in job.journal.read(job.endpoint, kinds=(Kind.CHECK,), newest=1)
    ]
    return last[0].quiet if last and last[0].revision == champion.name else 0


def report_of_labels(job: ReleaseJob, quality: QualityReport) -> HealthReport:
    """The report of a check that labels decided before its window was looked at."""
    monitor, champion = job.spec.monitor, job.champion
    assert monitor is not None and champion is not None  # noqa: PT018, S101 - it is the one that is worse
    end = datetime.now(UTC)
    return HealthReport(
        endpoint=job.endpoint, revision=champion.name, version=champion.version.version,
        window=Window(start=end - timedelta(seconds=monitor.quality.lookback), end=end),
        rows=quality.champion.labels, drifted_columns=(), share=0.0, limit=monitor.drift.share, violation=True,
        triggered=True, reason=quality.reason, causes=("quality",), quality=quality,
    )  # fmt: skip


def _without_redacted(monitor: Monitor, redacted: tuple[str, ...]) -> Monitor:
    drift = monitor.drift.model_copy(update={"ignore": (*monitor.drift.ignore, *redacted)})
    return monitor.model_copy(update={"drift": drift})


def _counts(causes: tuple[str, ...], spec: ReleaseSpec) -> bool:
    """Whether a check's causes make it a violation: those that the release file acts on, or any where it names none."""
    acts = {"drift", "data_quality"} & set(spec.rollback.on)
    return bool(acts & set(causes) if acts else causes)


def _earlier(job: ReleaseJob, champion: Revision, monitor: Monitor) -> list[bool]:
    """Whether the checks before this one were violations, as far as they count; newest last."""
    wanted = monitor.trigger.of - 1
    rows = job.journal.read(job.endpoint, kinds=(Kind.CHECK,), newest=wanted + _QUIET_PASSED_OVER) if wanted else []
    # A check of an earlier champion says nothing about this one, nor does one that had too few rows.
    told = [row.evidence for row in rows if row.evidence["revision"] == champion.name and not row.evidence.get("quiet")]
    return [bool(evidence["violation"]) for evidence in told[-wanted:]] if wanted else []


@step
def show(job: ReleaseJob, report: HealthReport, found: Inspection | None) -> None:
    """Write the pages of a check, once nobody waits for it any more; it counts without them too.

    Args:
        job: whose reports it belongs to.
        report: the check's.
        found: what it looked at; None where labels had decided before.
    """
    page = job.report_file.with_name(f"{job.release_id}-drift.html")
    evidently = page.with_name(f"{job.release_id}-evidently.html")
    page.parent.mkdir(parents=True, exist_ok=True)
    rows = job.journal.read(job.endpoint, kinds=(Kind.CHECK,), newest=_EARLIER_SHOWN + 1)
    told = (HealthReport.model_validate(row.evidence) for row in reversed(rows))
    checked = Checked(report, {}, {}, [one for one in told if one.window != report.window][:_EARLIER_SHOWN])
    try:
        if found is not None and found.check is not None and found.reference is not None:
            checked = checked._replace(reference=found.reference.profiles, window=found.check.window)
            try:
                write_evidently(found.current, found.reference, found.check, evidently)
                checked = checked._replace(evidently=evidently.name)
            except MonitorError as error:
                log(f"there is no page by Evidently: {error.message}")
        write_check(checked, page)
    except OSError as error:
        log(f"there is no page of the check: {error}")
        return
    log(f"the check is shown in {page}")


def _reference(job: ReleaseJob, monitor: Monitor, champion: Revision) -> Reference:
    """The training sample: a file that the release file names, or the one that the model's run logged.

    It is read once; what is kept of it is small (monitoring/drift/reference.py).
    """
    path = _download(job, champion) if monitor.reference == "training" else Path(monitor.reference)
    try:
        seen = path.stat()
    except OSError as error:
        raise MonitorError(f"the reference {path} cannot be read: {error}", fix="name a Parquet file") from error
    name = hashlib.sha256(f"{path.absolute()} {seen.st_size} {seen.st_mtime_ns}".encode()).hexdigest()[:32]
    folder = job.home.root / "references" / f"profiles-{name}"
    try:
        # What no check reads for a week is removed.
        os.utime(folder)
        return _kept(folder)
    except (LookupError, FileNotFoundError):
        known = Reference.of(ParquetColumns(path))
        known.save(folder)
        return known


@lru_cache(maxsize=_REFERENCES_IN_MEMORY)
def _kept(folder: Path) -> Reference:
    """Read once for all endpoints that share it; the folder's name says what it was made of."""
    known = Reference.load(folder)
    if known is None:
        raise LookupError(folder)
    return known


def _download(job: ReleaseJob, champion: Revision) -> Path:
    import mlflow  # noqa: PLC0415 - seconds to import

    folder = job.home.root / "references" / champion.version.digest.removeprefix("sha256:")
    if (folder / REFERENCE).exists():
        os.utime(folder)
        return folder / REFERENCE
    if champion.version.run_id is None:
        raise MonitorError(
            f"{champion.version} was not logged by a run, so no {REFERENCE} is known",
            fix="name a Parquet file in monitor.reference",
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".downloading-"))
    try:
        mlflow.artifacts.download_artifacts(
            run_id=champion.version.run_id, artifact_path=REFERENCE, dst_path=str(unfinished)
        )
        unfinished.rename(folder)
    except (mlflow.exceptions.MlflowException, OSError) as error:
        raise MonitorError(
            f"{champion.version} has no training reference: {error}",
            fix=f"log it beside the model, mlflow.log_artifact('{REFERENCE}'), or name a file in monitor.reference",
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder / REFERENCE
