"""End the release that is in flight; what is live stays live."""

from __future__ import annotations

from prefect import flow

from headgate.actor import whoami
from headgate.errors import NothingToRollBackError
from headgate.home import Home
from headgate.records import ReleaseResult
from headgate.spec import ReleaseSpec
from registry import history
from registry.journal import open_journal
from registry.orders import require_in_flight
from tasks.ending import end_release
from tasks.job import ReleaseJob


@flow(name="abort", flow_run_name="abort {endpoint}")
async def abort(endpoint: str, reason: str, actor: str = "", release_id: str = "") -> ReleaseResult:
    """Take back the release of an endpoint that is in flight, also one that waits for an approval.

    Args:
        endpoint: the name that clients call.
        reason: why; it is written into the history.
        actor: who asked; empty for the user whose process runs this.
        release_id: end only this release; empty for whichever is in flight.

    Raises:
        NothingToRollBackError: none is in flight.
    """
    home = Home.from_env().ensure()
    with open_journal(home.journal_url) as journal:
        started, spec = require_in_flight(journal, endpoint), history.spec_of(journal, endpoint)
        if release_id and started.release_id != release_id:
            raise NothingToRollBackError(
                f"{release_id} is not in flight any more; {started.release_id} is", fix=f"headgate history {endpoint}"
            )
        described = ReleaseSpec.model_validate(spec)
        job = ReleaseJob(home, journal, described, started.release_id, actor or whoami())
        return end_release(job, reason)
