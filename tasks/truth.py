"""Labels: taken in for an endpoint, and what they say of the version that is live."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from headgate.errors import BadInputError, HeadgateError
from headgate.health import QualityReport
from headgate.records import Window
from headgate.spec import ReleaseSpec
from monitoring.truth import Labels, judge_quality, labels_from_query
from registry import Kind, history
from registry.endpoints import require_release_file
from registry.history import CONFIRMED, QUALITY
from tasks.job import ReleaseJob
from tasks.predictions import predictions, store_of
from tasks.step import step

if TYPE_CHECKING:
    import pyarrow as pa

    from headgate.home import Home
    from headgate.monitor import LabelTable, Quality
    from headgate.records import Revision
    from registry import Journal


def add_labels(home: Home, journal: Journal, endpoint: str, labels: pa.Table) -> int:
    """Keep labels of an endpoint's requests, with its predictions.

    Args:
        home: this machine's state.
        journal: where the endpoint's release file is.
        endpoint: whose requests.
        labels: from monitoring.truth.

    Returns:
        How many are new.

    Raises:
        BadInputError: nothing was ever released to that endpoint.
        MonitorError: the store cannot be written to.
    """
    store = store_of(home, ReleaseSpec.model_validate(require_release_file(journal, endpoint)))
    return Labels(store).add(labels, datetime.now(UTC))


@step
def check_quality(job: ReleaseJob) -> QualityReport | None:
    """Hold what the live version and the one before answered against the labels that have arrived.

    Returns:
        None where there are no labels of the live version's answers, or they cannot be used, which is written down: a
        check for drift is due all the same.
    """
    monitor, champion = job.spec.monitor, job.champion
    if monitor is None or champion is None:
        return None
    try:
        found = _judge(job, monitor.quality, champion)
    except HeadgateError as error:
        job.write(Kind.NOTE, "labels not used", error.message + (f"; {error.fix}" if error.fix else ""))
        return None
    if found is not None:
        evidence = found.model_dump(mode="json")
        job.write(Kind.NOTE, QUALITY, f"{found.verdict}: {found.reason}", evidence, actor="monitor")
        if found.verdict == "no worse" and not _is_confirmed(job, champion.name):
            evidence = {"revision": champion.model_dump(mode="json")}
            job.write(Kind.NOTE, CONFIRMED, champion.name, evidence, actor="monitor")
    return found


def _judge(job: ReleaseJob, limits: Quality, champion: Revision) -> QualityReport | None:
    kept, end = Labels(store_of(job.home, job.spec)), datetime.now(UTC)
    window = Window(start=end - timedelta(seconds=limits.lookback), end=end)
    if limits.labels is not None:
        kept.update(_asked(limits.labels, window.start), end)
    labels = kept.read()
    for path, why in kept.unreadable.items():
        job.write(Kind.NOTE, "labels not used", f"unreadable: {path}: {why}; restore the file, or remove it")
    if labels.empty:
        return None
    earlier = history.predecessor(job.journal, job.endpoint)
    ours = predictions(job, champion, window, copies=True)
    theirs = predictions(job, earlier.revision, window, copies=True) if earlier else None
    return judge_quality(ours, theirs, labels, limits)


def _asked(table: LabelTable, since: datetime) -> pa.Table:
    url = os.environ.get(table.database_env)
    if not url:
        raise BadInputError(
            f"monitor.quality.labels.database_env is {table.database_env}, which is not set where the check runs",
            fix="set it for the worker, from a secret",
        )
    return labels_from_query(url, table.query, since)


def _is_confirmed(job: ReleaseJob, revision: str) -> bool:
    return any(row.reason == revision for row in job.journal.read(job.endpoint, kinds=(Kind.NOTE,), what=CONFIRMED))
