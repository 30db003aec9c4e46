"""Approvals: the run is suspended, so no process waits, and a form in the Prefect UI shows the evidence and asks.

What is asked and what is answered are rows of the journal. An answer is bound to the image's digest and the release
file's hash: the run's key holds both, so an answer to other content is not found.
"""

from __future__ import annotations

import hashlib
import json
import math
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal
from uuid import UUID

import httpx
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound, Pause, PrefectException
from prefect.flow_runs import asuspend_flow_run
from prefect.input import RunInput
from prefect.settings import get_current_settings
from prefect.states import Cancelled
from pydantic import Field, ValidationError

from headgate import clock
from headgate.errors import NotApprovedError, RegistryUnavailableError
from headgate.phases import Phase
from headgate.records import Record
from headgate.units import format_duration
from registry import Entry, Kind, history
from tasks.step import flow_run_id

if TYPE_CHECKING:
    from registry import Journal
    from tasks.job import ReleaseJob

_GRACE_SECONDS = 5.0
_DONE = {"approve": "approved it", "reject": "rejected it"}


class Answer(RunInput):
    """What the form asks."""

    decision: Literal["approve", "reject"] = "reject"
    approver: str = Field(min_length=2, max_length=200)
    reason: str = Field(default="", max_length=2000)


class Request(Record):
    """An approval that is being waited for.

    Attributes:
        key: of this very content; an answer names it.
        before: the step that waits: deploy, shift or promote.
        digest: the image's.
        spec_hash: sha256 of the release file.
        expires_at: when everything is put back without an answer.
        flow_run: the suspended run.
        url: its page in the Prefect UI.
    """

    endpoint: str
    release_id: str
    key: str
    before: str
    digest: str
    spec_hash: str
    expires_at: datetime
    flow_run: str
    url: str


async def approve(job: ReleaseJob, before: str) -> None:
    """Go on only when someone has agreed to this very content.

    Raises:
        NotApprovedError: they have not.
        Pause: the run is suspended now; it is started again from its beginning once there is an answer.
    """
    wanted = next((approval for approval in job.spec.approvals if approval.before == before), None)
    if wanted is None:
        return
    digest, spec_hash = _digest(job), hash_of(job.spec.model_dump(mode="json"))
    key = hashlib.sha256(f"{job.release_id} {before} {digest} {spec_hash}".encode()).hexdigest()[:24]
    answered = _answer(job, key)
    if answered is None:
        request = _requested(job, key) or _request(job, key, before, digest, spec_hash, wanted.expires)
        answered = await _ask(job, request)
    if answered.evidence["decision"] != "approve":
        raise NotApprovedError(f"{answered.actor} {answered.reason}")


def open_requests(journal: Journal) -> list[Request]:
    """Every approval that is being waited for, the first to expire first."""
    found = [request for endpoint in journal.endpoints() for request in history.open_approvals(journal, endpoint)]
    return sorted(map(Request.model_validate, found), key=lambda request: request.expires_at)


def answer(request: Request, *, approved: bool, approver: str, reason: str) -> str:
    """Answer a request in the place of the form.

    Returns:
        Why the server did not take it; empty where it did.
    """
    try:
        content = Answer(decision="approve" if approved else "reject", approver=approver, reason=reason)
    except ValidationError as error:
        problem = error.errors()[0]
        return f"{problem['loc'][0]}: {problem['msg']}"
    try:
        with get_client(sync_client=True) as client:
            response = client.resume_flow_run(UUID(request.flow_run), run_input=content.model_dump())
    except (PrefectException, httpx.HTTPError) as error:
        return f"{type(error).__name__}: {error}"
    return "" if response.status.value == "ACCEPT" else str(getattr(response.details, "reason", response.status.value))


def cancel_run(run: str) -> str:
    """End a suspended run whose release has been ended by somebody else.

    Returns:
        Why it could not be ended; empty where it was. The run finds its release ended when it is started again.
    """
    try:
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(UUID(run), Cancelled(message="the release was ended"), force=True)
    except (PrefectException, httpx.HTTPError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def run_is_over(run: str) -> bool:
    """Whether a flow run has ended, which a suspended one does when it expires or is cancelled.

    One that this server does not know may be another server's, and waits until its time is over.

    Raises:
        RegistryUnavailableError: the Prefect server does not answer.
    """
    try:
        with get_client(sync_client=True) as client:
            state = client.read_flow_run(UUID(run)).state
    except ObjectNotFound:
        return False
    except (PrefectException, httpx.HTTPError) as error:
        raise RegistryUnavailableError(
            f"the Prefect server does not say what became of flow run {run}: {error}", fix="headgate up"
        ) from error
    return state is None or state.is_final()


def hash_of(spec: dict[str, Any]) -> str:
    """The sha256 of a release file's content."""
    return hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()


async def _ask(job: ReleaseJob, request: Request) -> Entry:
    """Suspend the run until there is an answer; in the run that finds it, write it down."""
    from tasks.evidence import evidence  # noqa: PLC0415 - heavy; the run is seen to run before it

    remaining = max(math.ceil(request.expires_at.timestamp() - clock.now()), 1)
    form = Answer.with_initial_data(description=evidence(job, request.before, request.spec_hash), decision="reject")
    job.finish_telling()
    try:
        given: Answer = await asuspend_flow_run(wait_for_input=form, timeout=remaining, key=request.key)
    except Pause:
        if job.lease is not None:
            # The server lets a run expire some seconds late; until then it may come back.
            job.lease.park(request.flow_run, request.expires_at.timestamp() + _GRACE_SECONDS)
        raise
    said = f"{_DONE[given.decision]} before {request.before}" + (f": {given.reason}" if given.reason else "")
    return job.write(
        Kind.DECISION, history.APPROVAL, said,
        {"decision": given.decision, "reason": given.reason, "key": request.key, "before": request.before,
         "digest": request.digest, "spec_hash": request.spec_hash},
        actor=given.approver,
    )  # fmt: skip


def _request(
    job: ReleaseJob, key: str, before: str, digest: str, spec_hash: str, expires: float
) -> Request:  # fmt: skip
    run = flow_run_id()
    settings = get_current_settings()
    base = settings.ui_url or str(settings.api.url or "").removesuffix("/api")
    request = Request(
        endpoint=job.endpoint, release_id=job.release_id, key=key, before=before, digest=digest, spec_hash=spec_hash,
        expires_at=datetime.fromtimestamp(clock.now() + expires).astimezone(), flow_run=run,
        url=f"{base}/runs/flow-run/{run}",
    )  # fmt: skip
    job.write(
        Kind.NOTE, history.APPROVAL_REQUESTED, f"before {before}, within {format_duration(expires)}: {request.url}",
        request.model_dump(mode="json"),
    )  # fmt: skip
    return request


def _requested(job: ReleaseJob, key: str) -> Request | None:
    rows = job.journal.read(job.endpoint, kinds=(Kind.NOTE,), release_id=job.release_id)
    asked = [Request.model_validate(row.evidence) for row in rows if row.what == history.APPROVAL_REQUESTED]
    # Another run of this release asks anew: the answer has to find the run that waits.
    return next((one for one in asked if one.key == key and one.flow_run == flow_run_id()), None)


def _answer(job: ReleaseJob, key: str) -> Entry | None:
    rows = job.journal.read(job.endpoint, kinds=(Kind.DECISION,), release_id=job.release_id)
    return next((row for row in rows if row.what == history.APPROVAL and row.evidence["key"] == key), None)


def _digest(job: ReleaseJob) -> str:
    rows = job.journal.read(job.endpoint, kinds=(Kind.PHASE,), release_id=job.release_id)
    return next(str(row.evidence["image"]["digest"]) for row in rows if row.what == Phase.PACKAGED)
