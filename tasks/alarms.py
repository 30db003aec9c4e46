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
    from collections.abc import Sequence

    from headgate.records import Alarm
    from registry import Entry

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
        ringing = job.target.alarms()
    except HeadgateError as error:
        job.write(Kind.NOTE, UNREAD, error.message)
        return None
    if ringing:
        ringing = _of(reign, ringing, job.journal.read(job.endpoint, kinds=(Kind.PHASE,)))
    if not ringing:
        return None
    end = datetime.now(UTC)
    return HealthReport(
        endpoint=job.endpoint, revision=reign.revision.name, version=reign.revision.version.version,
        window=Window(start=end - timedelta(seconds=monitor.window), end=end), rows=0, drifted_columns=(), share=0.0,
        limit=monitor.drift.share, violation=True, triggered=True, causes=("alarms",),
        reason="; ".join(f"{one.name} rings since {one.since:%H:%M:%S}: {one.reason}" for one in ringing),
    )  # fmt: skip


def _of(reign: history.Reign, alarms: Sequence[Alarm], phases: Sequence[Entry]) -> list[Alarm]:
    """Those that began to ring when the version had clients, and no other one was being tried."""
    began, others = reign.since, defaultdict(list)
    for row in phases:
        if row.release_id != reign.release_id:
            others[row.release_id].append(row.at)
        elif row.what == Phase.SHIFTING:
            began = min(began, row.at)
    tried = [(min(moments), max(moments) + _LATE) for moments in others.values()]
    return [
        one for one in alarms
        if one.since > began and not any(start <= one.since <= end for start, end in tried)
    ]  # fmt: skip
