"""A release in hand: its file, its target, its lease, and the one way to write its history."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from prefect.context import FlowRunContext

from deploy_targets import DeployTarget, open_target
from headgate import clock
from headgate.actor import whoami
from headgate.credentials import separate_credentials
from headgate.errors import BadInputError, EndpointBusyError, HeadgateError, RegistryError, RolledBackError
from headgate.home import Home
from headgate.phases import ENDED, Phase, is_behind, may_enter
from headgate.records import Traffic
from headgate.sealed import require_unsealed
from headgate.stack import Ports
from registry import Entry, Journal, Kind, Lease, Versions, history
from registry.journal import open_journal
from registry.orders import ABORT, PAUSE, RESUME
from tasks.effect import see_to
from tasks.events import announce
from tasks.notify import Notices
from tasks.step import flow_run_id, log

if TYPE_CHECKING:
    from headgate.records import Revision
    from headgate.spec import ReleaseSpec
    from registry.lease import Holder

Listener = Callable[[Entry], None]
listeners: list[Listener] = [announce]
"""Called with every row that this process writes; the command line shows progress with it."""


def tell(entry: Entry) -> None:
    """Tell the listeners of a row."""
    for listener in listeners:
        listener(entry)


OBEY_SECONDS = 0.2
"""How often a release that waits for something asks what was asked of it."""


def new_id(endpoint: str, what: str = "") -> str:
    """A name for a release or a rollback, that sorts by time."""
    now = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    # The journal has room for 64 characters.
    return "-".join(part for part in (what, endpoint[:32], now, secrets.token_hex(2)) if part)


def release_id_of_run(endpoint: str) -> str:
    """The name of the release that the present flow run carries out: the same when the run is started again."""
    context = FlowRunContext.get()
    run = context.flow_run if context is not None else None
    if run is None or run.created is None:
        return new_id(endpoint)
    return f"{endpoint}-{run.created:%Y%m%d-%H%M%S}-{run.id.hex[:4]}"


def tracking_uri(home: Home) -> str:
    """The MLflow server: MLFLOW_TRACKING_URI, or that of the local stack."""
    ports = Ports.remembered(home)
    uri = os.environ.get("MLFLOW_TRACKING_URI") or (ports.mlflow_url if ports else "")
    if not uri:
        raise BadInputError("no MLflow server is known", fix="headgate up, or set MLFLOW_TRACKING_URI")
    return uri


class Job:
    """What the steps of a release, a rollback or a check share.

    Args:
        home: this machine's state.
        journal: where history is written.
        target: where the endpoint is.
        endpoint: what is being changed.
        release_id: on whose behalf rows are written.
        actor: who asked.
    """

    def __init__(
        self, home: Home, journal: Journal, target: DeployTarget, endpoint: str, release_id: str, actor: str
    ) -> None:
        separate_credentials()
        self.home = home
        self.journal = journal
        self.target = target
        self.endpoint = endpoint
        self.release_id = release_id
        self.actor = actor
        self.lease: Lease | None = None
        self._seen = 0
        self._paused = False

    @contextmanager
    def hold(self, *, unpark: bool = False) -> Iterator[None]:
        """Hold the endpoint; only then may anything be changed.

        Args:
            unpark: also take an endpoint that is kept for another release's suspended run.
        """
        with Lease(self.journal, self.endpoint, self.release_id, unpark=unpark, in_run=flow_run_id()) as lease:
            self.lease = lease
            try:
                if lease.taken_from is not None:
                    self._shut_out(lease.taken_from, lease.fence)
                yield
            finally:
                self.lease = None

    def _shut_out(self, before: Holder, fence: int) -> None:
        """See that whoever held the endpoint, and may only stand still, changes nothing when it goes on."""
        self.target.fence(self.endpoint, fence)
        self.write(
            Kind.NOTE, history.TAKEN_OVER, f"{before.name}, which held it for {before.release_id}, does not answer",
            {"for": before.release_id, **({"run": before.in_run} if before.in_run else {})},
        )  # fmt: skip

    @property
    def champion(self) -> Revision | None:
        """The revision that is live, as the history knows it."""
        reign = history.champion(self.journal, self.endpoint)
        return reign.revision if reign else None

    def write(
        self,
        kind: Kind,
        what: str,
        reason: str = "",
        evidence: Mapping[str, Any] | None = None,
        *,
        actor: str = "",
    ) -> Entry:
        """Write a row, on the lease where one is held, and tell who listens."""
        entry = Entry(
            endpoint=self.endpoint, release_id=self.release_id, kind=kind, what=what,
            actor=actor or self.actor, reason=reason, evidence=dict(evidence or {}),
        )  # fmt: skip
        written = self.journal.append(entry, fence=self.lease.fence if self.lease else None)
        tell(written)
        if kind not in {Kind.LOOK, Kind.STATE}:
            log(f"{what}: {reason}" if reason else what)
        return written

    def enter(self, phase: Phase, reason: str = "", evidence: Mapping[str, Any] | None = None) -> None:
        """Enter a phase; a resumed release passes by those that it had reached.

        Raises:
            RegistryError: a release does not go from where it is to there.
        """
        current = self.phase()
        if current is phase or not is_behind(current, phase):
            return
        if not may_enter(current, phase):
            raise RegistryError(f"release {self.release_id} is {current} and cannot become {phase}")
        self.write(Kind.PHASE, phase, reason, evidence)

    def phase(self) -> Phase | None:
        """The last phase entered."""
        return history.phase_of(self.journal, self.endpoint, self.release_id)

    def phase_was(self, phase: Phase) -> bool:
        """Whether this release ever entered a phase."""
        rows = self.journal.read(self.endpoint, kinds=(Kind.PHASE,), release_id=self.release_id)
        return any(row.what == phase for row in rows)

    def route(self, traffic: Traffic) -> None:
        """Change traffic, if the endpoint is still ours; it is in effect when this returns."""
        see_to(
            lambda: self.target.route(self.endpoint, traffic, fence=self._fence()),
            lambda: self._missing_traffic(traffic),
        )

    def protect(self, revision: Revision) -> None:
        """Put all clients on a revision while the journal does not answer.

        Nobody else can take the endpoint over without the journal, and the target refuses us where somebody has.
        """
        self.target.route(self.endpoint, Traffic.all_to(revision.name), fence=self.lease.fence if self.lease else None)

    def deploy(self, revision: Revision) -> None:
        """Make a revision ready at 0 %, if the endpoint is still ours.

        Raises:
            BadInputError: values of its `runtime.env` were sealed with a key that this machine does not have.
        """
        require_unsealed(revision.env, f"{revision.name} of {self.endpoint}")

        def change() -> None:
            self._fence()
            self.target.deploy(self.endpoint, revision)

        see_to(change, lambda: self._missing_revision(revision.name))

    def retire(self, name: str) -> None:
        """Remove a revision, if the endpoint is still ours."""

        def left() -> str:
            state = self.target.observe(self.endpoint)
            return f"{name} is still there" if state is not None and name in state.revisions else ""

        see_to(lambda: self.target.retire(self.endpoint, name, fence=self._fence()), left)

    def delete(self) -> None:
        """Remove the endpoint from its target, if it is still ours."""
        see_to(
            lambda: self.target.delete(self.endpoint, fence=self._fence()),
            lambda: f"{self.endpoint} is still there" if self.target.observe(self.endpoint) is not None else "",
        )

    def _missing_traffic(self, traffic: Traffic) -> str:
        state = self.target.observe(self.endpoint)
        shown = state.traffic if state is not None else None
        return "" if shown == traffic else f"traffic is {shown}, and was to be {traffic}"

    def _missing_revision(self, name: str) -> str:
        state = self.target.observe(self.endpoint)
        seen = state.revisions.get(name) if state is not None else None
        if seen is None:
            return f"{name} is not there"
        return "" if seen.ready else f"{name} {seen.detail or 'is not ready'}"

    def _fence(self) -> int | None:
        if self.lease is None:
            return None
        self.lease.check()
        return self.lease.fence

    @property
    def is_paused(self) -> bool:
        """Whether someone has asked the release to stay where it is."""
        return self._paused

    def obey(self) -> None:
        """Read what was asked of this release since the last time.

        Raises:
            RolledBackError: to take it back.
        """
        rows = self.journal.read(self.endpoint, kinds=(Kind.DECISION,), release_id=self.release_id, after=self._seen)
        for row in rows:
            self._seen = row.seq
            if row.what in {ABORT, PAUSE, RESUME}:
                # Whoever asked may be far from here, and from Prefect.
                tell(row)
            if row.what == ABORT:
                raise RolledBackError(f"{row.actor} took it back: {row.reason}")
            if row.what in {PAUSE, RESUME}:
                self._paused = row.what == PAUSE

    def wait_until(self, moment: float) -> None:
        """Wait, and obey while waiting.

        Args:
            moment: on the monotonic clock.

        Raises:
            RolledBackError: someone took the release back.
        """
        self.obey()
        while (remaining := moment - clock.monotonic()) > 0:
            clock.sleep(min(remaining, OBEY_SECONDS))
            self.obey()

    def stay_while_paused(self) -> None:
        """Between two steps: go on only when nobody wants the release to stay where it is."""
        self.obey()
        while self.is_paused:
            self.wait_until(clock.monotonic() + OBEY_SECONDS)


class ReleaseJob(Job):
    """A release in hand, with its file; its target is opened where none is given."""

    def __init__(
        self, home: Home, journal: Journal, spec: ReleaseSpec, release_id: str, actor: str,
        target: DeployTarget | None = None,
    ) -> None:  # fmt: skip
        super().__init__(home, journal, target or open_target(spec.target), spec.endpoint, release_id, actor)
        self.spec = spec
        self.waited = 0.0
        self.notices = Notices(spec.notify)
        self.report_file = home.root / "reports" / spec.endpoint / f"{release_id}.html"
        self._versions: Versions | None = None

    @property
    def versions(self) -> Versions:
        """The model's versions in MLflow."""
        if self._versions is None:
            self._versions = Versions(tracking_uri(self.home), self.spec.model, self.spec.endpoint)
        return self._versions

    def write(
        self, kind: Kind, what: str, reason: str = "", evidence: Mapping[str, Any] | None = None, *, actor: str = ""
    ) -> Entry:
        """Write a row, and tell those whom the release file names."""
        written = super().write(kind, what, reason, evidence, actor=actor)
        self.notices.tell(written)
        return written

    def retire(self, name: str) -> None:
        """Remove a revision, after what clients asked of it is kept, where the endpoint is monitored."""
        was_live = any(reign.revision.name == name for reign in history.reigns(self.journal, self.endpoint))
        if self.spec.monitor is not None and was_live:
            from tasks.predictions import keep_log  # noqa: PLC0415 - heavy, and needed here alone

            try:
                keep_log(self, name)
            except HeadgateError as error:
                self.write(Kind.NOTE, "log not kept", f"{name}: {error.message}")
        super().retire(name)

    def finish_telling(self) -> None:
        """Wait for messages that are being sent, and note those that could not be."""
        for problem in self.notices.problems():
            super().write(Kind.NOTE, "not told", problem)

    def begin(self) -> None:
        """Start, or resume, where nothing else is in flight.

        Raises:
            EndpointBusyError: another release has not ended.
            BadInputError: this id was used with another release file, or has ended.
        """
        other = history.in_flight(self.journal, self.endpoint)
        if other is not None and other.release_id != self.release_id:
            raise EndpointBusyError(
                f"release {other.release_id} of {self.endpoint} is {other.phase} since {other.since:%F %T} UTC "
                f"(by {other.actor})",
                fix="end it first: headgate promote, or headgate rollback",
            )
        if self.phase() in ENDED:
            raise BadInputError(
                f"release {self.release_id} has ended: it is {self.phase()}",
                fix="leave --release-id out to start a new release",
            )
        require_unsealed(self.spec.runtime.env, f"a release of {self.endpoint}")
        started = self.journal.read(self.endpoint, kinds=(Kind.PHASE,), release_id=self.release_id)
        # As files, not as text: a later Headgate knows entries that an earlier one did not write down.
        before = type(self.spec).model_validate(started[0].evidence.get("spec")) if started else self.spec
        require_unsealed(before.runtime.env, f"release {self.release_id}")
        if before != self.spec:
            raise BadInputError(
                f"release {self.release_id} was started with another release file",
                fix="leave --release-id out to start a new release",
            )
        if started:
            self.write(Kind.NOTE, "resumed", f"it was {self.phase()}", {"flow_run": flow_run_id()})
        self.enter(Phase.STARTED, evidence={"spec": self.spec.model_dump(mode="json"), "flow_run": flow_run_id()})


@contextmanager
def open_release(spec: ReleaseSpec, release_id: str, actor: str) -> Iterator[ReleaseJob]:
    """A release in hand; nothing is held yet."""
    home = Home.from_env().ensure()
    with open_journal(home.journal_url) as journal:
        yield ReleaseJob(home, journal, spec, release_id or release_id_of_run(spec.endpoint), actor or whoami())
