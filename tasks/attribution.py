"""Before a rollback by the monitor: is the version to blame, or would the one before do no better?"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headgate.errors import HeadgateError
from headgate.health import Attribution, HealthReport
from headgate.records import Window
from monitoring.attribution import Answers, attribute
from monitoring.predictions.typed import typed
from registry import Kind, history
from tasks.asking import ask_again
from tasks.inspect import Inspection
from tasks.job import ReleaseJob
from tasks.predictions import predictions
from tasks.rollback import bring_up
from tasks.step import run, step
from tasks.undo import retire

if TYPE_CHECKING:
    from collections.abc import Iterator

    from registry.history import Reign

_ASKED = 400
"""Requests of the window that the version before is asked; a failure rate of 1 % shows in them, and a small drift."""
_ASK_SECONDS = 30.0
"""At most, as nobody is back on a good version meanwhile; those that were answered by then must do."""


class _Arms(NamedTuple):
    champion: Reign
    earlier: Reign


@step
def ask_the_version_before(job: ReleaseJob, found: Inspection) -> Attribution:
    """Ask the version before what the champion was asked, and say whether going back to it would help.

    A version that is no longer warm is brought up for this without traffic; the rollback would do the same, and
    without one it is retired again.
    """
    arms = _arms(job)
    asked = _sample(job, arms.champion.revision.name, found.report.window)
    if job.spec.capture.redact:
        told = _unknown(0, "what was asked is not known, as capture.redact leaves fields out")
    elif asked is None:
        told = _unknown(0, "the log no longer has what was asked")
    else:
        told = _ask(job, found, arms, asked)
    evidence = told.model_dump(mode="json")
    job.write(Kind.NOTE, "attributed", f"{told.cause}: {told.reason}", evidence, actor="monitor")
    return told


def _ask(job: ReleaseJob, found: Inspection, arms: _Arms, asked: pa.RecordBatch) -> Attribution:
    name = arms.earlier.revision.name
    try:
        if _is_up(job, arms.earlier):
            # Asking changes nothing, so a release need not wait for it.
            return _compare(job, found, arms, asked)
        with job.hold():
            told = None
            try:
                run(bring_up, job, arms.earlier.revision)
                told = _compare(job, found, arms, asked)
            finally:
                if told is None or told.cause != "version":
                    retire(job, name, "was asked only to compare")
            return told
    except HeadgateError as error:
        return _unknown(asked.num_rows, f"{name} cannot be asked: {error.message}")


def _compare(job: ReleaseJob, found: Inspection, arms: _Arms, asked: pa.RecordBatch) -> Attribution:
    monitor = job.spec.monitor
    assert monitor is not None  # noqa: S101 - it has found something
    champion, earlier = arms
    windows = windows_of_norms(job, champion, earlier, found.report)
    theirs = ask_again(job, earlier.revision.name, asked, _ASK_SECONDS)
    ours = asked.slice(0, theirs.num_rows)
    usual = [_usual(job, reign, window, monitor.min_rows) for reign, window in zip(arms, windows, strict=True)]
    return attribute(
        Answers(champion.revision.name, typed([ours]), usual[0]),
        Answers(earlier.revision.name, typed([theirs]), usual[1]),
        monitor.drift,
    )


def windows_of_norms(job: ReleaseJob, champion: Reign, earlier: Reign, report: HealthReport) -> tuple[Window, Window]:
    """Return the windows whose answers are the norm of each version; one that ends where it starts has no answers.

    The champion's is its first, until the first window in which a check found a violation of it: later answers are in
    question, also where an earlier check than the one that triggers found it. The other's is the last in which it was
    relied on.

    Args:
        job: the check.
        champion: the version that is live.
        earlier: the version before.
        report: of the check.
    """
    monitor = job.spec.monitor
    assert monitor is not None  # noqa: S101 - it has found something
    span = timedelta(seconds=monitor.window)
    (live,) = job.journal.read(job.endpoint, kinds=(Kind.LIVE,), newest=1)
    rows = job.journal.read(job.endpoint, kinds=(Kind.CHECK,), what="drift", after=live.seq)
    found = [HealthReport.model_validate(row.evidence) for row in rows if row.evidence.get("violation")]
    name = champion.revision.name
    violations = [check.window.start for check in (report, *found) if check.violation and check.revision == name]
    end = max(min([champion.since + span, report.window.start, *violations]), champion.since)
    left = earlier.until or champion.since
    return Window(start=champion.since, end=end), Window(start=max(left - span, earlier.since), end=left)


def _usual(job: ReleaseJob, reign: Reign, window: Window, least: int) -> dict[str, pa.ChunkedArray]:
    if window.start >= window.end:
        return {}
    rows = predictions(job, reign.revision, window)
    return rows.whole(lambda: rows.answers if rows.num_rows >= least else {})


def _sample(job: ReleaseJob, revision: str, window: Window) -> pa.RecordBatch | None:
    """Some requests that clients sent to a revision, drawn from the whole window."""
    count = sum(batch.num_rows for batch in _asked(job, revision, window))
    if not count:
        return None
    dice = np.random.default_rng(0)
    drawn = np.sort(dice.choice(count, min(count, _ASKED), replace=False))
    parts, at = [], 0
    for batch in _asked(job, revision, window):
        here = drawn[(drawn >= at) & (drawn < at + batch.num_rows)] - at
        parts.append(batch.take(pa.array(here)))
        at += batch.num_rows
    sample = pa.Table.from_batches(parts).combine_chunks().to_batches()[0]
    # Those that can be asked in time are still from the whole window.
    return sample.take(pa.array(dice.permutation(sample.num_rows)))


def _asked(job: ReleaseJob, revision: str, window: Window) -> Iterator[pa.RecordBatch]:
    for batch in job.target.captured(job.endpoint, window):
        theirs = pc.and_(pc.equal(batch["revision"], revision), pc.invert(batch["mirrored"]))
        yield batch.filter(theirs)


def _arms(job: ReleaseJob) -> _Arms:
    champion, earlier = history.champion(job.journal, job.endpoint), history.predecessor(job.journal, job.endpoint)
    assert champion is not None and earlier is not None  # noqa: PT018, S101 - the monitor looked before it asked
    return _Arms(champion, earlier)


def _is_up(job: ReleaseJob, reign: Reign) -> bool:
    state = job.target.observe(job.endpoint)
    known = state.revisions.get(reign.revision.name) if state else None
    return known is not None and known.ready


def _unknown(asked: int, why: str) -> Attribution:
    return Attribution(cause="unknown", asked=asked, reason=why)
