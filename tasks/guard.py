"""The dead man's switch: an endpoint whose release has lost its process is put back on its champion at once.

Between a process's death and the next scheduled `reconcile` nobody would judge the canary. The guard looks twice a
second at the leases, and ends what nobody holds any more, as the release file's `when_abandoned` says. It needs the
journal and the target, and neither Prefect nor MLflow. Any number may run: each takes the lease before it acts, so one
of them is first and the others find nothing to do.

After each look it touches HEADGATE_HOME/guard.looked, so that a probe can see that it looks: a guard that hangs
is as bad as none, and says nothing. The chart's probes read the file's age (ops/helm).
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from pydantic import ValidationError

from headgate import clock
from headgate.actor import whoami
from headgate.errors import EndpointBusyError, HeadgateError, LeaseLostError
from headgate.spec import ReleaseSpec
from registry import Kind, Lease, history
from registry.lease import holders
from tasks.ending import settle_release, settle_result, settle_rollback, why_abandoned
from tasks.job import ReleaseJob
from tasks.step import log

if TYPE_CHECKING:
    import threading

    from headgate.home import Home
    from registry import Journal
    from registry.history import InFlight

LOOK_SECONDS = 0.5
LOOKED = "guard.looked"
"""The file in HEADGATE_HOME whose time is that of the last look, also of one that the journal did not answer."""
_FIRST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS = 1.0, 60.0
_ENDPOINTS_AT_ONCE = 8


class Guard:
    """Looks at every endpoint of a journal.

    Args:
        home: this machine's state.
        journal: whose leases are watched.
        actor: in whose name; `guard` by default.
    """

    def __init__(self, home: Home, journal: Journal, actor: str = "") -> None:
        self._home, self._journal = home, journal
        self._actor = actor or f"guard ({whoami()})"
        self._pool = ThreadPoolExecutor(_ENDPOINTS_AT_ONCE, thread_name_prefix="guard")
        self._busy: dict[str, Future[None]] = {}
        self._failures: dict[str, tuple[int, float]] = {}
        self._untouched = ""

    def run(self, stop: threading.Event) -> None:
        """Look until told to stop. A journal that does not answer is asked again at the next look."""
        log(f"{self._actor} watches {self._journal.engine.url.render_as_string()}")
        try:
            while not stop.is_set():
                try:
                    self.look()
                except HeadgateError as error:
                    log(f"cannot look: {error.message}")
                self._touch()
                stop.wait(LOOK_SECONDS)
        finally:
            self.close()

    def look(self) -> list[str]:
        """Begin to settle what has been abandoned since the last look.

        Returns:
            The endpoints concerned.
        """
        self._busy = {name: future for name, future in self._busy.items() if not future.done()}
        begun = []
        for endpoint, release_id in self._abandoned().items():
            _, not_before = self._failures.get(release_id, (0, 0.0))
            if endpoint not in self._busy and clock.monotonic() >= not_before:
                self._busy[endpoint] = self._pool.submit(self._settle, endpoint, release_id)
                begun.append(endpoint)
        return begun

    def finish(self) -> None:
        """Wait until what was begun has been settled, or has failed."""
        for future in self._busy.values():
            future.result()

    def close(self) -> None:
        """Finish, and begin nothing more."""
        self._pool.shutdown()

    def _touch(self) -> None:
        """Note the time of a look. The guard goes on without the note if the disk refuses it, and logs that once."""
        file, problem = self._home.root / LOOKED, ""
        try:
            file.touch()
        except OSError as error:
            problem = str(error.strerror or error)
        if problem and problem != self._untouched:
            log(f"{file} cannot be touched, so the probe will report the guard as dead: {problem}")
        self._untouched = problem

    def _abandoned(self) -> dict[str, str]:
        """The release or rollback of each endpoint that nobody carries out, or that its process did not let go of."""
        held = holders(self._journal)
        flights = history.all_in_flight(self._journal)
        found = {
            name: holder.release_id
            for name, holder in held.items()
            if not holder.is_live and not holder.flow_run and name not in flights
        }
        for name, flight in flights.items():
            holder = held.get(name)
            # One that is kept for a suspended run is so for some seconds longer than its approval may take.
            if (holder is None or not holder.is_live) and self._why(name, flight) is not None:
                found[name] = flight.release_id
        return found

    def _why(self, endpoint: str, flight: InFlight) -> HeadgateError | None:
        return why_abandoned(self._journal, flight, endpoint)

    def _settle(self, endpoint: str, release_id: str) -> None:
        job: ReleaseJob | None = None
        try:
            known = history.spec_of(self._journal, endpoint)
            if known is None:
                # Its process died before it wrote a first row, so nothing was done; only the lease is in the way.
                with Lease(self._journal, endpoint, release_id):
                    return
            spec = ReleaseSpec.model_validate(known)
            job = ReleaseJob(self._home, self._journal, spec, release_id, self._actor)
            self._end(job)
            self._failures.pop(release_id, None)
        except (EndpointBusyError, LeaseLostError):
            # Another guard, a person, or the release itself was faster.
            return
        except (HeadgateError, ValidationError) as error:
            self._put_off(endpoint, release_id, str(error).splitlines()[0], job)

    def _end(self, job: ReleaseJob) -> None:
        flight = history.in_flight(self._journal, job.endpoint)
        if flight is not None and flight.release_id == job.release_id:
            error = self._why(job.endpoint, flight)
            if error is not None:
                settle_release(job, flight, error)
            return
        decided = history.unfinished_rollback(self._journal, job.endpoint)
        if decided is not None and decided.release_id == job.release_id:
            settle_rollback(job, decided)
        elif settle_result(job) is None:
            log(f"{job.release_id} had done what it was to do, and only not let go of {job.endpoint}")

    def _put_off(self, endpoint: str, release_id: str, problem: str, job: ReleaseJob | None) -> None:
        """Try again ever later; what cannot be mended from here is said once to those who can."""
        failures, _ = self._failures.get(release_id, (0, 0.0))
        wait = min(_FIRST_WAIT_SECONDS * 2**failures, _LONGEST_WAIT_SECONDS)
        self._failures[release_id] = failures + 1, clock.monotonic() + wait
        log(f"{endpoint} is not in order, next try in {wait:g} s: {problem}")
        if job is None or failures == 0:
            return
        try:
            rows = self._journal.read(endpoint, kinds=(Kind.NOTE,), release_id=release_id)
            if not any(row.what == history.STUCK for row in rows):
                job.write(Kind.NOTE, history.STUCK, f"{release_id} could not be ended: {problem}")
                job.finish_telling()
        except HeadgateError as error:
            log(f"and that could not be written down: {error.message}")
