"""The shift of live traffic, one look a second, and the promotion."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

from pyarrow import ArrowException

from deploy_targets import CountsLate, Feature, Measures
from headgate import clock
from headgate.counts import Counts
from headgate.errors import (
    RegistryError,
    RegistryUnavailableError,
    RolledBackError,
    TargetError,
    TargetUnavailableError,
    TimedOutError,
)
from headgate.limits import BLIND, seconds_of
from headgate.phases import Phase
from headgate.records import Mirror, Revision, Traffic
from headgate.units import BASIS_POINTS, format_percent
from headgate.verdicts import Look, Rollout, Verdict
from registry import Kind, history
from tasks import artifacts
from tasks.asking import Replay
from tasks.effect import attempts
from tasks.job import ReleaseJob
from tasks.step import step
from tasks.undo import ALIASES_LATE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from headgate.records import Usage
    from monitoring.past import Past
    from monitoring.rollout import RolloutJudge

NOT_COMPARED_SECONDS = 600.0
"""How long the old version may take to be ready to be asked again before it is said."""
LOOKS_BETWEEN_STATES = 100
"""Looks from one state to the next. Replaying so many takes less than a second; a state has the size of 20 looks."""
_ZERO = Counts(requests=0, failures=0)


@step
def shift(job: ReleaseJob, stable: Revision, canary: Revision) -> Rollout:
    """Give the canary its steps of live traffic while the judge looks.

    Raises:
        RolledBackError: the judge took it back; all traffic is on the stable revision again.
        TimedOutError: the judge could not decide in time, and the file says to hold.
    """
    if (judged := _judged(job)) is not None:
        # What was waited for since is somebody's approval.
        return judged
    job.enter(Phase.SHIFTING, f"{canary.name} against {stable.name}")
    began = clock.monotonic()
    try:
        look, looks = _look_until_decided(job, stable, canary)
    except RegistryUnavailableError:
        # Nothing can be decided that is not written down, and no guard sees what we leave: no canary without a judge.
        job.protect(stable)
        raise
    finally:
        job.waited += clock.monotonic() - began
    rollout = Rollout(
        verdict=look.verdict, reason=look.reason, stable=stable.name, canary=canary.name, looks=looks,
        requests=look.canary.requests, failures=look.canary.failures, seconds=look.seconds,
    )  # fmt: skip
    job.write(Kind.DECISION, "judge", look.reason, {"rollout": rollout.model_dump(mode="json")}, actor="judge")
    if look.verdict is Verdict.ROLLBACK:
        raise RolledBackError(look.reason, fix="the report shows when it failed; its log shows why")
    if look.verdict is Verdict.INCONCLUSIVE:
        if job.spec.strategy.on_inconclusive == "rollback":
            raise RolledBackError(look.reason)
        keeps = format_percent(look.share / BASIS_POINTS)
        job.enter(Phase.HELD, f"{look.reason}; it keeps {keeps} of the requests until a person decides")
        raise TimedOutError(
            f"{look.reason}; it keeps {keeps} of the requests until a person decides",
            fix=f"headgate promote {job.endpoint} --reason WHY, or headgate rollback {job.endpoint} --reason WHY",
        )
    return rollout


def _judged(job: ReleaseJob) -> Rollout | None:
    """The shift, where this release was already found fit to be promoted."""
    for row in job.journal.read(job.endpoint, kinds=(Kind.DECISION,), release_id=job.release_id):
        if row.what == "judge" and row.evidence["rollout"]["verdict"] == Verdict.PROMOTE:
            return Rollout.model_validate(row.evidence["rollout"])
    return None


def _look_until_decided(job: ReleaseJob, stable: Revision, canary: Revision) -> tuple[Look, int]:
    judge, before = _judge(job, stable, canary)
    copies = _Copies(job, stable, canary) if _is_asked_again(job) else None
    progress = artifacts.Progress(job.endpoint)
    job.route(_traffic(job, stable, canary, judge.share))
    # From now on: a platform may take its time.
    began = clock.monotonic() - before
    # What failed to come in time while nobody looked is not looked for now.
    looks, last_look = math.ceil(before / job.target.LOOK_SECONDS), clock.monotonic()
    while True:
        looks += 1
        job.wait_until(began + looks * job.target.LOOK_SECONDS)
        try:
            if copies is not None:
                copies.keep_up()
            look = _one_look(job, judge, clock.monotonic() - began, stable, canary)
        except TargetUnavailableError:
            # A gateway that is being started again says nothing about the canary.
            if clock.monotonic() - last_look > seconds_of(BLIND):
                raise
            continue
        last_look = clock.monotonic()
        if look.verdict is Verdict.ROLLBACK:
            _put_back(job, stable)
        elif look.verdict is Verdict.ADVANCE:
            job.route(_traffic(job, stable, canary, judge.share))
            progress.update(judge.share / BASIS_POINTS * 100)
        job.write(Kind.LOOK, look.verdict, look.reason, look.model_dump(mode="json"), actor="judge")
        if looks % LOOKS_BETWEEN_STATES == 0:
            job.write(Kind.STATE, "judge", evidence=judge.to_dict(), actor="judge")
        if look.verdict in {Verdict.ROLLBACK, Verdict.PROMOTE, Verdict.INCONCLUSIVE}:
            return look, looks


def _put_back(job: ReleaseJob, stable: Revision) -> None:
    """First the clients, then the books; a verdict is not lost because the platform does not answer."""
    try:
        job.route(Traffic.all_to(stable.name))
    except TargetUnavailableError as error:
        # Undoing tries on, for longer.
        job.write(Kind.NOTE, "clients not put back yet", error.message)


def _judge(job: ReleaseJob, stable: Revision, canary: Revision) -> tuple[RolloutJudge, float]:
    """The judge, with the evidence of looks that an earlier run of this release has written down.

    Returns:
        The judge, and the seconds of the shift that have passed for it.
    """
    from monitoring.rollout import STATE_FORMAT, RolloutJudge  # noqa: PLC0415 - heavy; the run is seen to run before it

    counts, bounds = attempts()(lambda: job.target.counts(job.endpoint)), job.target.LATENCY_BOUNDS
    late = job.target.counts_delay if isinstance(job.target, CountsLate) else 0.0
    now = counts.get(stable.name, _ZERO), counts.get(canary.name, _ZERO)
    cut_short = history.shift_of(job.journal, job.release_id, job.endpoint, state_format=STATE_FORMAT)
    if cut_short is None:
        judge = RolloutJudge(job.spec, f"{canary.version}", *now, bounds, late=late, past=_past(job, stable, bounds))
        evidence = {
            "stable": now[0].model_dump(mode="json"), "bounds": list(bounds), "dispersions": judge.dispersions,
        }  # fmt: skip
        job.write(Kind.NOTE, history.SHIFT_BEGAN, f"{canary.name} against {stable.name}", evidence)
        return judge, 0.0
    judge = RolloutJudge(
        job.spec, f"{canary.version}", cut_short.before, _ZERO, cut_short.bounds, late=late,
        dispersions=cut_short.dispersions,
    )  # fmt: skip
    return judge, judge.resume(cut_short.looks, *now, cut_short.state)


def _past(job: ReleaseJob, stable: Revision, bounds: Sequence[float]) -> Past | None:
    """What the stable version's servers logged; nothing where the log cannot be read: the verdict says so."""
    from monitoring.past import read_past  # noqa: PLC0415 - heavy, as the judge is

    end = datetime.now(UTC) - timedelta(seconds=job.target.LOG_DELAY)
    try:
        return read_past(partial(job.target.captured, job.endpoint), stable.name, end, bounds)
    except (TargetError, ArrowException, OSError) as error:
        job.write(Kind.NOTE, "log not read", f"how much the counts of {stable.name} vary is not known: {error}")
        return None


def _one_look(job: ReleaseJob, judge: RolloutJudge, seconds: float, stable: Revision, canary: Revision) -> Look:
    counts: Mapping[str, Counts] = job.target.counts(job.endpoint)
    state = job.target.observe(job.endpoint)
    seen, steady = (state.revisions.get(name) if state else None for name in (canary.name, stable.name))
    problem = "" if seen and seen.ready else (seen.detail if seen else "is gone")
    if not _is_asked_again(job) and (steady is None or not steady.ready):
        # Traffic is not given back to a version that cannot take it, and what ails both is not the canary's fault.
        problem = ""
    return judge.look(
        seconds, counts.get(stable.name, _ZERO), counts.get(canary.name, _ZERO),
        canary_problem=problem, paused=job.is_paused, usage=_usage(job, stable, canary),
    )  # fmt: skip


def _usage(job: ReleaseJob, stable: Revision, canary: Revision) -> dict[str, Usage]:
    """What the servers of both use; nothing where the target does not say, or not now: counts decide without it."""
    if not isinstance(job.target, Measures):
        return {}
    try:
        found = job.target.usage(job.endpoint)
    except TargetError:
        return {}
    return {arm: found[one.name] for arm, one in (("stable", stable), ("canary", canary)) if one.name in found}


def _traffic(job: ReleaseJob, stable: Revision, canary: Revision, share: int) -> Traffic:
    """Blue-green: the new version has everything, and the old one gets copies to be compared with."""
    if job.spec.strategy.kind == "blue-green":
        if _is_asked_again(job):
            return Traffic.all_to(canary.name)
        return Traffic.all_to(canary.name, Mirror(revision=stable.name, share=job.target.MIRROR_LIMIT))
    return Traffic.split(stable.name, canary.name, share)


class _Copies:
    """The old version is asked what the new one is asked, by us; that it cannot be is noted once."""

    def __init__(self, job: ReleaseJob, stable: Revision, canary: Revision) -> None:
        self._job, self._stable, self._replay = job, stable, Replay(job, canary, stable, 1.0)
        self._waits_since: float | None = clock.monotonic()

    def keep_up(self) -> None:
        """Ask what was asked since."""
        if self._replay.keep_up():
            self._waits_since = None
        elif self._waits_since is not None and clock.monotonic() - self._waits_since > NOT_COMPARED_SECONDS:
            self._waits_since = None
            self._job.write(
                Kind.NOTE, "not compared",
                f"{self._stable.name} is not ready to be asked again after {NOT_COMPARED_SECONDS:g} s",
            )  # fmt: skip


def _is_asked_again(job: ReleaseJob) -> bool:
    """Whether the old version is asked by us, on a platform that makes no copies."""
    return job.spec.strategy.kind == "blue-green" and Feature.MIRROR in job.target.SUBSTITUTED


@step
def promote(job: ReleaseJob, revision: Revision, reason: str) -> None:
    """Give the revision all traffic, and make its version champion.

    Raises:
        TargetError: the target did not take it over.
    """
    job.route(Traffic.all_to(revision.name))
    champion = job.champion
    if champion is None or (champion.name, champion.limits) != (revision.name, revision.limits):
        job.write(Kind.LIVE, revision.name, reason, {"revision": revision.model_dump(mode="json")})
    try:
        job.versions.set_champion(revision.version.version)
        job.versions.clear_challenger()
    except RegistryError as error:
        # The version is live, which MLflow cannot change; its aliases follow with the next release or rollback.
        job.write(Kind.NOTE, ALIASES_LATE, error.message)
    job.enter(Phase.PROMOTED, f"{revision.version} is champion")
