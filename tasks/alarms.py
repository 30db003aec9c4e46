"""The platform's own alarms, and what they say of the version that is live."""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from headgate.errors import HeadgateError
from headgate.health import HealthReport
from headgate.phases import Phase
from headgate.records import Window
from registry import Kind, history
from tasks.job import ReleaseJob
from tasks.step import step

if TYPE_CHECKING:
    from headgate.records import Alarm

UNREAD = "alarms not read"
"""The note that the platform did not say which alarms ring."""


_LATE = timedelta(minutes=5)
"""How long after a version is gone an alarm may begin to ring for what it did."""


@step
def check_alarms(job: ReleaseJob) -> HealthReport | None:
    """Whether an alarm that the release file names began to ring under the live version, which has one to go back to.

    One that rang before is of the version before, or of neither; and one that began while another version was tried is
    of that one.

    Returns:
        None where none does, or the platform does not say, which is written down: other checks are due all the same.
    """
    reign, monitor = history.champion(job.journal, job.endpoint), job.spec.monitor
    if reign is None or monitor is None or history.predecessor(job.journal, job.endpoint) is None:
        return None
    try:
        ringing = [one for one in job.target.alarms() if _is_of(job, reign, one)]
    except HeadgateError as error:
        job.write(Kind.NOTE, UNREAD, error.message)
        return None
    if not ringing:
        return None
    end = datetime.now(UTC)
    return HealthReport(
        endpoint=job.endpoint, revision=reign.revision.name, version=reign.revision.version.version,
        window=Window(start=end - timedelta(seconds=monitor.window), end=end), rows=0, drifted_columns=(), share=0.0,
        limit=monitor.drift.share, violation=True, triggered=True, causes=("alarms",),
        reason="; ".join(f"{one.name} rings since {one.since:%H:%M:%S}: {one.reason}" for one in ringing),
    )  # fmt: skip


def _is_of(job: ReleaseJob, reign: history.Reign, alarm: Alarm) -> bool:
    """Whether an alarm began to ring when the version had clients, and no other one was being tried."""
    times: dict[str, list[datetime]] = defaultdict(list)
    began = reign.since
    for row in job.journal.read(job.endpoint, kinds=(Kind.PHASE,)):
        if row.release_id != reign.release_id:
            times[row.release_id].append(row.at)
        elif row.what == Phase.SHIFTING:
            began = min(began, row.at)
    tried = any(min(moments) <= alarm.since <= max(moments) + _LATE for moments in times.values())
    return alarm.since > began and not tried
