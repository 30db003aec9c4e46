"""Releases without a clock, a network or a process: the real flows, on a platform in memory that fails as it is told.

Every change that a flow makes (of the target, of MLflow, of a row) passes one gate. There a plan may have it fail
before or after it was made, have the process die before or after, or have somebody else act in between: a person, the
guard, or another release; also after the process's lease has run out, as if it had stood still.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from tenacity import Retrying, retry_if_exception_type, stop_after_attempt

from headgate.errors import (
    HeadgateError,
    RegistryUnavailableError,
    TargetUnavailableError,
)
from headgate.phases import Phase
from headgate.records import Artifact, Image, Traffic
from headgate.release_file import parse_release
from headgate.verdicts import Look, Verdict
from registry import Journal, Kind, history
from registry.journal import leases
from registry.lease import holder
from support.simulated_platform import COUNTS, ENDPOINT, Aliases, Fault, GatedJournal, KilledError, Platform, Process

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    import pytest


LASTS = 3
"""How often more a lasting fault comes: as often as a change is tried."""


def _attempts() -> Retrying:
    return Retrying(retry=retry_if_exception_type(TargetUnavailableError), stop=stop_after_attempt(LASTS), reraise=True)


class Simulation:
    """An endpoint, and all who act on it.

    Args:
        folder: for the journal.
        patch: takes the real world away.
    """

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.processes: list[Process] = [Process(0)]
        self.current = self.processes[0]
        self.journal = GatedJournal(f"sqlite:///{folder / 'journal.db'}")
        self.journal.world = self
        self.target, self.mlflow = Platform(self), Aliases(self)
        self.verdicts: list[Verdict] = []
        self.releases: dict[str, str] = {}
        self.only_the_platform_fails = False
        self.gates = "{smoke: off, shadow: off}"
        self.went_wrong = 0
        self._patch(patch, folder)

    # What happens at a gate.

    def alive(self) -> None:
        if self.current.dead:
            raise KilledError

    def gate(self, name: str, error: type[HeadgateError], change: Callable[[], Any]) -> Any:
        self.alive()
        fault = self.current.plan.pop(0) if self.current.plan else None
        if fault is None or (self.only_the_platform_fails and name not in Platform.CHANGES):
            return change()
        self.went_wrong += 1
        if fault.lasting:
            self.current.plan[:0] = [replace(fault, lasting=False)] * LASTS
        if fault.kind in {"nothing", "late"} and name in Platform.CHANGES:
            if fault.kind == "late":
                self.target.late.append(change)
            return None
        if not fault.after:
            self._happen(fault, name, error)
        result = change()
        if fault.after:
            self._happen(fault, name, error)
        return result

    def _happen(self, fault: Fault, name: str, error: type[HeadgateError]) -> None:
        if fault.kind == "fail":
            raise error(f"{name} failed {'after' if fault.after else 'before'} it was done")
        if fault.kind in {"nothing", "late"}:
            return
        if fault.kind == "die":
            self.current.dead = True
            raise KilledError
        if fault.stalled:
            self._let_leases_run_out()
        self.act(fault.who)

    def _let_leases_run_out(self) -> None:
        with self.journal.engine.connect() as connection, connection.begin():
            connection.execute(leases.update().where(leases.c.expires > 0).values(expires=time.time() - 1))

    # Who acts.

    def act(self, who: str, plan: list[Fault | None] | None = None) -> None:
        """Let somebody act to their end, or their death; what they are told as errors is theirs."""
        before, self.current = self.current, Process(len(self.processes), list(plan or []))
        self.processes.append(self.current)
        try:
            getattr(self, f"_{who.replace(' ', '_')}")()
        except (HeadgateError, KilledError):
            pass
        finally:
            self.current = before

    def _release(self) -> None:
        name = f"release-{len(self.releases)}"
        champion = history.champion(self.journal, ENDPOINT)
        self.releases[name] = "b" if champion and champion.revision.image.digest == "sha256:a" else "a"
        self._carry_out(name)

    def _the_same_again(self) -> None:
        flight = history.in_flight(self.journal, ENDPOINT)
        if flight is not None and flight.release_id in self.releases:
            self._carry_out(flight.release_id)

    def _carry_out(self, name: str) -> None:
        from flows.release import release

        _run(release.fn(self._spec(), name, f"process {self.current.number}"))

    def _rollback(self) -> None:
        from flows.rollback import rollback

        _run(rollback.fn(ENDPOINT, "it feels wrong", actor="dana"))

    def _abort(self) -> None:
        from flows.abort import abort

        _run(abort.fn(ENDPOINT, "customers first", actor="dana"))

    def _promote(self) -> None:
        from flows.promote import promote

        _run(promote.fn(ENDPOINT, "it is fine", "dana"))

    def _reconcile(self) -> None:
        from flows.reconcile import reconcile

        _run(reconcile.fn(ENDPOINT))

    def _guard(self) -> None:
        from tasks.guard import Guard

        guard = Guard(SimpleNamespace(root=Path("/nowhere")), self.journal)
        try:
            guard.look()
            guard.finish()
        finally:
            guard.close()

    # What is checked.

    def problems(self) -> list[str]:
        """What is wrong at any time."""
        self.journal.verify(ENDPOINT)
        target = self.target
        names = (
            [*target.traffic.weights, *([target.traffic.mirror.revision] if target.traffic.mirror else [])]
            if target.traffic
            else []
        )
        return [f"traffic to {name}, which is gone" for name in names if name not in target.revisions]

    def disorder(self) -> list[str]:
        """What is wrong once the guard and reconcile have seen to it."""
        found, flight = self.problems() + self._untold(), history.in_flight(self.journal, ENDPOINT)
        champion, traffic = history.champion(self.journal, ENDPOINT), self.target.traffic
        if holder(self.journal, ENDPOINT) is not None:
            found.append("it is held")
        if history.unfinished_rollback(self.journal, ENDPOINT) or history.unconcluded(self.journal, ENDPOINT):
            found.append("something was not finished")
        if flight is not None:
            if flight.phase is not Phase.HELD:
                found.append(f"{flight.release_id} is {flight.phase}")
            return found
        live = champion.revision.name if champion else None
        if (traffic is None) != (live is None) or (traffic and traffic != Traffic.all_to(str(live))):
            found.append(f"{live} is live, and traffic is {traffic}")
        if champion and self.mlflow.known != {"champion": champion.revision.version.version}:
            found.append(f"{live} is live, and aliases are {self.mlflow.known}")
        warm = history.predecessor(self.journal, ENDPOINT)
        if extra := set(self.target.revisions) - {live, warm.revision.name if warm else None}:
            found.append(f"left behind: {sorted(extra)}")
        return found

    def _untold(self) -> list[str]:
        """Releases that ended otherwise than the history says, and changes that nobody decided."""
        rows = self.journal.read(ENDPOINT)
        lived = {row.release_id for row in rows if row.kind is Kind.LIVE}
        ended = {row.release_id: row.evidence["result"]["outcome"] for row in rows if row.what == history.OUTCOME}
        found = [f"{name} is told to be {end}" for name, end in ended.items() if (end == "promoted") != (name in lived)]
        # Nobody changes anything by hand here.
        by_hand = [row.reason for row in rows if row.what == history.FOUND_CHANGED]
        return found + [reason for reason in by_hand if not reason.startswith("aliases")]

    # The real world is taken away.

    def _spec(self) -> Any:
        text = f"model: {ENDPOINT}\nartifact: /a\ntarget: {{kind: local}}\ngates: {self.gates}\n"
        return parse_release(text)

    def _look(self, _job: Any, judge: Any, seconds: float, *_: Any) -> Look:
        self.alive()
        verdict = self.verdicts.pop(0) if self.verdicts else Verdict.PROMOTE
        if verdict is Verdict.ADVANCE:
            judge.share = 5000
        return Look(seconds=seconds, share=judge.share, stable=COUNTS, canary=COUNTS, e_value=1.0, needed=100.0,
                    verdict=verdict, reason=f"{verdict}")  # fmt: skip

    def _package(self, job: Any) -> tuple[Artifact, Image]:
        self.alive()
        digest = f"sha256:{self.releases[job.release_id]}"
        image = Image(digest=digest, lock_digest="", path=Path("/a"), interpreter=None, size=1)
        job.enter(Phase.PACKAGED, digest, {"image": image.model_dump(mode="json")})
        artifact = Artifact(uri="/a", path=Path("/a"), run_id=None, flavors=(), requirements=(), python="3.11",
                            has_example=False)  # fmt: skip
        return artifact, image

    def _patch(self, patch: pytest.MonkeyPatch, folder: Path) -> None:
        import flows.abort
        import flows.promote
        import flows.reconcile
        import flows.release
        import flows.rollback
        import images
        import tasks.entry
        import tasks.gates
        import tasks.job
        import tasks.report
        import tasks.shift
        import tasks.strangers
        import tasks.undo

        @contextmanager
        def journal(_url: str) -> Iterator[Journal]:
            yield self.journal

        for module in (flows.abort, flows.promote, flows.reconcile, flows.rollback, tasks.job):
            patch.setattr(module, "open_journal", journal)
        patch.setenv("HEADGATE_HOME", str(folder / "home"))
        patch.setattr(tasks.job, "open_target", lambda _: self.target)
        patch.setattr(tasks.job.ReleaseJob, "versions", property(lambda _: self.mlflow))
        patch.setattr("tasks.rollback.Versions", lambda *_: self.mlflow)
        patch.setattr("tasks.rollback.tracking_uri", lambda _: "")
        patch.setattr(tasks.job.Job, "wait_until", lambda job, _: job.obey())
        patch.setattr(images, "bill_of_materials", lambda *_: "")
        patch.setattr(flows.release, "package", SimpleNamespace(fn=self._package))
        patch.setattr(tasks.shift, "_judge", lambda *_: (SimpleNamespace(share=2000), 0.0))
        patch.setattr(tasks.shift, "_one_look", self._look)
        patch.setattr(tasks.report, "_store", lambda *_: self.gate("report", RegistryUnavailableError, lambda: ""))
        patch.setattr(tasks.entry, "_HOUSEKEEPING_SECONDS", 0.0)
        patch.setattr("registry.orders._END_SECONDS", 0.0)
        patch.setattr("tasks.disorder.lease_seconds", lambda: 0.0)
        for retried in (tasks.undo.give_all_traffic.retry, flows.rollback._go_back.retry):
            patch.setattr(retried, "sleep", lambda _: None)
            patch.setattr(retried, "stop", stop_after_attempt(2))
        patch.setattr("tasks.effect.attempts", _attempts)
        # The names of leases' holders, of which this real process is none.
        patch.setattr("registry.lease.this_process", lambda: f"sim:{self.current.number}#here.1")
        patch.setattr("registry.lease.is_known_dead", self._is_known_dead)
        patch.setattr("registry.lease.Lease._renew", lambda _: None)

    def _is_known_dead(self, name: str) -> bool:
        number = name.partition("#")[0].rpartition(":")[2]
        return number.isdigit() and self.processes[int(number)].dead


def _run(flow: Coroutine[Any, Any, Any]) -> None:
    """A flow's body, from within another's too: it waits for nothing, so it needs no loop."""
    try:
        flow.send(None)
    except StopIteration:
        return
    raise AssertionError("a flow waits")


def recover(world: Simulation) -> None:
    """The guard, and then reconcile, with nothing failing any more."""
    for who in ("guard", "reconcile", "guard", "reconcile"):
        world.act(who)
