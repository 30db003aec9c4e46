"""Check what is live for drift; roll back where the release file says so."""

from __future__ import annotations

from prefect import flow

from flows.rollback import rollback
from headgate.actor import whoami
from headgate.health import HealthReport
from headgate.spec import ReleaseSpec
from registry import Kind, history
from registry.lease import holder
from tasks.inspect import inspect, show
from tasks.job import new_id, open_release
from tasks.step import run
from tasks.undo import expired, retire_expired
from tasks.watched import resolve


@flow(name="monitor", flow_run_name="monitor")
async def monitor(spec: ReleaseSpec | str, actor: str = "") -> HealthReport:
    """Check the last window of an endpoint's requests.

    Args:
        spec: the release file's content, or the path of one that the worker can read.
        actor: in whose name a rollback is made; `monitor` by default.

    Raises:
        MonitorError: the check itself could not be made; nothing was changed.
    """
    described = resolve(spec)
    with open_release(described, new_id(described.endpoint, "monitor"), actor or f"monitor ({whoami()})") as job:
        found = run(inspect, job)
        report = found.report
        acts = report.triggered and bool(set(report.causes) & set(described.rollback.on))
        can_go_back = history.predecessor(job.journal, job.endpoint) is not None
        is_free = holder(job.journal, job.endpoint) is None and history.in_flight(job.journal, job.endpoint) is None
        if is_free and not acts and expired(job, described.rollback.keep_warm):
            with job.hold():
                run(retire_expired, job, described.rollback.keep_warm)
        champion = job.champion
        is_same = champion is not None and champion.name == report.revision
        acts_now = acts and can_go_back and is_free and is_same
        if acts and not acts_now:
            why = "a release is in flight" if not (is_free and is_same) else "there is no earlier version"
            job.write(Kind.NOTE, "not rolled back", f"{report.reason}; but {why}")
        actor_name = job.actor
    try:
        if acts_now:
            await rollback(described.endpoint, f"{' and '.join(report.causes)}: {report.reason}", actor=actor_name)
    finally:
        run(show, found)
    return report
