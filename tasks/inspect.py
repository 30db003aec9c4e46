"""Checking what is live for drift."""

from __future__ import annotations

import shutil
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from headgate.errors import MonitorError, NothingToRollBackError
from headgate.records import HealthReport, Revision, Window
from monitoring.drift import check_drift, is_triggered
from monitoring.predictions import table
from registry import Kind
from tasks import artifacts
from tasks.job import ReleaseJob
from tasks.step import step

if TYPE_CHECKING:
    from headgate.spec import Monitor

REFERENCE = "reference.parquet"
"""The training sample, as an artifact of the run that logged the model."""


@step
def inspect(job: ReleaseJob) -> HealthReport:
    """Compare the last window of live requests with the reference, and decide whether to act.

    Raises:
        MonitorError: the check cannot be made.
    """
    monitor = job.spec.monitor
    if monitor is None:
        raise MonitorError("the release file has no monitor entry", fix="add `monitor: {}` to check with the defaults")
    champion = job.champion
    if champion is None:
        raise NothingToRollBackError(f"nothing of {job.endpoint} is live", fix="release a version first")
    end = datetime.now(UTC)
    window = Window(start=end - timedelta(seconds=monitor.window), end=end)
    current = table(job.target.captured(job.endpoint, window), champion.name)
    page = job.home.root / "reports" / job.endpoint / f"{job.release_id}-drift.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    check = check_drift(current, _reference(job, monitor, champion), monitor, page)
    earlier = [
        bool(row.evidence["violation"])
        for row in job.journal.read(job.endpoint, kinds=(Kind.CHECK,), newest=monitor.trigger.of - 1 or 1)
        # A check of an earlier champion says nothing about this one.
        if row.evidence["revision"] == champion.name
    ]
    history = [*earlier[-(monitor.trigger.of - 1) :], check.violation] if monitor.trigger.of > 1 else [check.violation]
    report = HealthReport(
        endpoint=job.endpoint, revision=champion.name, version=champion.version.version, window=window,
        rows=check.rows, drifted_columns=check.drifted, share=check.share, limit=monitor.drift.share,
        violation=check.violation, triggered=is_triggered(history, monitor.trigger),
        reason=f"{check.reason}; {sum(history)} of the last {len(history)} checks are violations, "
        f"{monitor.trigger.violations} of {monitor.trigger.of} trigger",
    )  # fmt: skip
    job.write(Kind.CHECK, "drift", report.reason, report.model_dump(mode="json"), actor="monitor")
    artifacts.show_health(report)
    return report


def _reference(job: ReleaseJob, monitor: Monitor, champion: Revision) -> pd.DataFrame:
    """The training sample: a file that the release file names, or the one that the model's run logged."""
    path = _download(job, champion) if monitor.reference == "training" else Path(monitor.reference)
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise MonitorError(f"the reference {path} cannot be read: {error}", fix="name a Parquet file") from error


def _download(job: ReleaseJob, champion: Revision) -> Path:
    import mlflow  # noqa: PLC0415 - seconds to import

    folder = job.home.root / "references" / champion.version.digest.removeprefix("sha256:")
    if (folder / REFERENCE).exists():
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
