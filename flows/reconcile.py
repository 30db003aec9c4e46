"""Put in order what nobody is at work on: abandoned releases, changes by hand, and what was left behind."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prefect import flow
from pydantic import ValidationError

from headgate.actor import whoami
from headgate.errors import HeadgateError
from headgate.home import Home
from headgate.spec import ReleaseSpec
from registry import history
from registry.endpoints import require_endpoint
from registry.journal import open_journal
from tasks.disorder import Disorder, cases_of, release_to_settle, settle_all
from tasks.job import ReleaseJob
from tasks.leftovers import cases_of_files
from tasks.step import log
from tasks.strangers import cases_of_strangers

if TYPE_CHECKING:
    from registry import Journal


@flow(name="reconcile", flow_run_name="reconcile")
async def reconcile(endpoint: str = "", actor: str = "", dry_run: bool = False) -> list[Disorder]:  # noqa: FBT001, FBT002 - a flow's parameters are given by name
    """Find what is not as the history says, and put it in order.

    Releases, promotions and rollbacks whose process died are ended, or go on by the release file's `when_abandoned`.
    Clients are put on the champion where traffic was changed by hand; that is written down first. Aliases and reports
    that MLflow was away for are brought there. What is no longer kept warm, and files that nothing needs, are removed.
    A held release stays: it waits for a person. So do an endpoint that the history does not know, and one that is gone
    from its target altogether, unless it is named.

    Args:
        endpoint: only this one; empty for all of them, and this machine's files.
        actor: in whose name; empty for this flow itself.
        dry_run: only say what would be done.

    Raises:
        BadInputError: there is no such endpoint.
        HeadgateError: something could not be put in order; the rest was.
    """
    home = Home.from_env().ensure()
    found: list[Disorder] = []
    problems: list[str] = []
    with open_journal(home.journal_url) as journal:
        if endpoint:
            require_endpoint(journal, endpoint)
        for name in [endpoint] if endpoint else journal.endpoints():
            try:
                job = _job(home, journal, name, actor or f"reconcile ({whoami()})")
                settled = settle_all(cases_of(job, named=bool(endpoint)), dry_run=dry_run) if job else ([], [])
            except (HeadgateError, ValidationError) as error:
                # The others are not to wait for this one.
                settled = [], [f"{name}: {str(error).splitlines()[0]}"]
            found += settled[0]
            problems += settled[1]
        if not endpoint:
            found += settle_all(cases_of_strangers(journal), dry_run=dry_run)[0]
            found += settle_all(cases_of_files(home, journal), dry_run=dry_run)[0]
    for one in found:
        log(f"{one.endpoint or 'this machine'}: {one.problem} - {one.remedy or 'for a person to decide'}")
    if problems:
        raise HeadgateError(f"not everything is in order: {'; '.join(problems)}", fix="headgate status")
    return found


def _job(home: Home, journal: Journal, endpoint: str, actor: str) -> ReleaseJob | None:
    """The release in flight, or one in the endpoint's name."""
    spec = history.spec_of(journal, endpoint)
    if spec is None:
        return None
    release_id = release_to_settle(journal, endpoint)
    return ReleaseJob(home, journal, ReleaseSpec.model_validate(spec), release_id, actor)
