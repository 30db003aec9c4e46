"""The gates before clients see anything: smoke and shadow."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from deploy_targets import Feature
from headgate import clock
from headgate.errors import RejectedError, TargetUnavailableError, TimedOutError
from headgate.gateway_limits import widest
from headgate.phases import Phase, is_behind
from headgate.records import Mirror, Payload, Revision, Traffic, Window
from headgate.units import BASIS_POINTS, basis_points, format_duration
from headgate.verdicts import ShadowReport
from registry import Kind
from tasks import artifacts
from tasks.asking import Replay
from tasks.job import ReleaseJob
from tasks.step import step
from tasks.waiting import Waiting

if TYPE_CHECKING:
    from headgate.spec import Shadow

_DEAD_LOOKS = 3

_OK = 200
_EXAMPLE, _MADE = "example", "request from the signature"
_SEE_LOG = "see the revision's log, under HEADGATE_HOME/logs"
_FIXES = {_MADE: f"log the model with an input_example, or release it with gates: {{smoke: off}}; {_SEE_LOG}"}
_NOTHING_TO_ASK = "log the model with an input_example or a signature, or release it with gates: {smoke: off}"


@step
def smoke(job: ReleaseJob, revision: Revision) -> None:
    """Send the examples to the new revision itself; every answer must be good and quick.

    A model without an example is asked a request that its signature allows. One that no gate could ask anything needs
    `gates.smoke: off`.

    Raises:
        RejectedError: an answer was not good, or there is nothing to ask.
    """
    if not is_behind(job.phase(), Phase.SMOKED):
        return
    gate = job.spec.gates.smoke
    if gate is None:
        job.enter(Phase.SMOKED, "no request was sent: gates.smoke is off")
        return
    payloads, what = _examples(gate.examples, revision)
    slowest = 0.0
    for number, payload in enumerate(payloads, start=1):
        answer = job.target.invoke(job.endpoint, payload, revision.name)
        slowest = max(slowest, answer.seconds)
        problem = ""
        if answer.status != _OK:
            problem = f"was answered {answer.status}: {answer.body[:500].decode(errors='replace')}"
        elif answer.seconds > gate.max_latency:
            problem = f"took {answer.seconds:.2f} s, and at most {format_duration(gate.max_latency)} may pass"
        if problem:
            _reject(job, f"smoke: {what} {number} of {len(payloads)} {problem}", _FIXES.get(what, _SEE_LOG))
    reason = f"{len(payloads)} {what}(s) answered, the slowest in {slowest * 1000:.0f} ms"
    if not payloads:
        reason = "the model has neither an input example nor a signature: only its readiness was checked"
        if job.champion is None or job.spec.gates.shadow is None:
            _reject(job, f"smoke: {reason}, and no other gate asks it anything", _NOTHING_TO_ASK)
    job.write(Kind.DECISION, "smoke", reason, {"passed": True}, actor="smoke gate")
    job.enter(Phase.SMOKED, reason)


def _reject(job: ReleaseJob, reason: str, fix: str) -> NoReturn:
    job.write(Kind.DECISION, "smoke", reason, {"passed": False}, actor="smoke gate")
    raise RejectedError(reason, fix=fix)


@step
def shadow(job: ReleaseJob, champion: Revision, challenger: Revision) -> ShadowReport | None:
    """Have the challenger answer live requests too until the paired comparison can decide.

    The platform mirrors them; where it cannot, they are asked again from its log.

    Raises:
        RejectedError: the answers are shown to differ too much; or nothing was shown in time, and the file says
            `on_inconclusive: rollback`.
        TimedOutError: nothing was shown in time, and the file says to hold.
    """
    gate = _gate(job)
    if job.phase() is Phase.HELD and not job.phase_was(Phase.SHADOWED):
        # Back to before the comparison, so that a process that dies during it is not taken for a person's hold.
        job.write(Kind.PHASE, Phase.SMOKED, "it was held by the shadow gate, and is compared again")
    if not is_behind(job.phase(), Phase.SHADOWED):
        return None
    if gate is None:
        job.enter(Phase.SHADOWED, "no shadow comparison: gates.shadow is off")
        return None
    began = clock.monotonic()
    try:
        if Feature.SHADOW not in job.target.SUBSTITUTED:
            mirror = Mirror(revision=challenger.name, share=basis_points(gate.percent))
            job.route(Traffic.all_to(champion.name, mirror))
        report = _compare(job, champion, challenger, began)
    finally:
        job.waited += clock.monotonic() - began
    job.route(Traffic.all_to(champion.name))
    artifacts.show_shadow(job.endpoint, report)
    reason = report.reason
    if report.undecided:
        reason = f"undecided {challenger.version} at 0% after {format_duration(gate.max_duration)}: {reason}"
    content = report.model_dump(mode="json")
    job.write(Kind.DECISION, "shadow", reason, {"passed": report.passed, "report": content}, actor="shadow gate")
    if report.undecided and job.spec.strategy.on_inconclusive == "hold":
        _hold(job, reason)
    if not report.passed:
        raise RejectedError(f"shadow: {reason}", fix="the report shows requests that were answered differently")
    job.enter(Phase.SHADOWED, reason)
    return report


def _hold(job: ReleaseJob, reason: str) -> NoReturn:
    held = f"shadow: {reason}; it gets no live requests until a person decides"
    job.enter(Phase.HELD, held)
    endpoint = job.endpoint
    fix = (
        f"headgate release --release-id {job.release_id} compares again; headgate promote {endpoint} --reason WHY "
        f"gives it all requests; headgate rollback {endpoint} --reason WHY removes it"
    )
    raise TimedOutError(held, fix=fix)


def _gate(job: ReleaseJob) -> Shadow | None:
    """As the release file has it, with as many copies as the platform makes."""
    gate, most = job.spec.gates.shadow, job.target.MIRROR_LIMIT / BASIS_POINTS
    # Without any, requests are asked again, which has no limit.
    return gate.model_copy(update={"percent": min(gate.percent, most)}) if gate is not None and most else gate


def _compare(job: ReleaseJob, champion: Revision, challenger: Revision, began: float) -> ShadowReport:
    gate = _gate(job)
    assert gate is not None  # noqa: S101 - shadow() asked
    deadline, waiting = began + gate.max_duration, Waiting(job, "shadow gate")
    from monitoring.shadow import ShadowComparison  # noqa: PLC0415 - heavy; the run is seen to run before it
    from monitoring.shadow_rule import rule_of  # noqa: PLC0415

    replays, begun = Feature.SHADOW in job.target.SUBSTITUTED, datetime.now(UTC)
    comparison = ShadowComparison(
        gate, rule_of(job.spec, gate), champion.name, challenger.name, timed=not replays, since=begun.timestamp(),
        longest=widest([champion.limits, challenger.limits]).request,
    )  # fmt: skip
    read = Replay(job, champion, challenger, gate.percent).pairs if replays else partial(
        job.target.captured, job.endpoint
    )  # fmt: skip
    # Rows come late; each reading goes back as far.
    read_from, dead_looks, overlap = begun, 0, timedelta(seconds=job.target.LOG_DELAY)
    while True:
        now = datetime.now(UTC)
        comparison.add(read(Window(start=read_from, end=now)))
        read_from = max(read_from, now - overlap)
        report = comparison.report(final=clock.monotonic() >= deadline)
        if report is not None:
            return report
        dead_looks = dead_looks + 1 if _problem(job, champion, challenger) else 0
        if dead_looks > _DEAD_LOOKS:
            _refuse_dead(job, champion, challenger)
        at = clock.monotonic()
        waiting.tell(partial(comparison.waits_for, at - began, deadline - at))
        job.wait_until(clock.monotonic() + job.target.LOOK_SECONDS / 2)


def _problem(job: ReleaseJob, champion: Revision, challenger: Revision) -> str:
    """Why the challenger is not ready; nothing where the champion is not either, or the platform does not answer."""
    try:
        state = job.target.observe(job.endpoint)
    except TargetUnavailableError:
        return ""
    seen, steady = (state.revisions.get(one.name) if state else None for one in (challenger, champion))
    if steady is None or not steady.ready:
        # What affects both, such as a machine that stands still, is not the challenger's fault.
        return ""
    return "" if seen and seen.ready else (seen.detail if seen else "is gone")


def _refuse_dead(job: ReleaseJob, champion: Revision, challenger: Revision) -> None:
    why = _problem(job, champion, challenger) or "was not ready"
    reason = f"shadow: {challenger.name} {why} under mirrored requests"
    job.write(Kind.DECISION, "shadow", reason, {"passed": False}, actor="shadow gate")
    raise RejectedError(reason, fix="see the revision's log, under HEADGATE_HOME/logs")


def _examples(where: str, revision: Revision) -> tuple[list[Payload], str]:
    """Return the requests to send, and what they are."""
    if where == "input_example":
        from images import input_example, signature_request  # noqa: PLC0415 - heavy; the run is seen to run before it

        model = revision.image.path / "model"
        if (logged := input_example(model)) is not None:
            return [logged], _EXAMPLE
        made = signature_request(model)
        return ([made] if made else []), _MADE
    try:
        lines = Path(where).read_bytes().splitlines()
    except OSError as error:
        raise RejectedError(
            f"gates.smoke.examples: {where} cannot be read: {error.strerror}",
            fix="name a file with one body a line",
        ) from error
    return [Payload(body=line) for line in lines if line.strip()], _EXAMPLE
