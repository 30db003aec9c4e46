"""The gates before clients see anything: smoke and shadow."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from deploy_targets import Feature
from headgate.errors import RejectedError, TargetUnavailableError
from headgate.phases import Phase, is_behind
from headgate.records import Mirror, Payload, Revision, ShadowReport, Traffic, Window
from headgate.units import BASIS_POINTS, basis_points, format_duration
from registry import Kind
from tasks import artifacts
from tasks.asking import Replay
from tasks.job import ReleaseJob
from tasks.step import step

if TYPE_CHECKING:
    from headgate.spec import Shadow

_DEAD_LOOKS = 3

_OK = 200


@step
def smoke(job: ReleaseJob, revision: Revision) -> None:
    """Send the examples to the new revision itself; every answer must be good and quick.

    Raises:
        RejectedError: one was not.
    """
    if not is_behind(job.phase(), Phase.SMOKED):
        return
    gate = job.spec.gates.smoke
    payloads = _examples(gate.examples, revision)
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
            reason = f"smoke: example {number} of {len(payloads)} {problem}"
            job.write(Kind.DECISION, "smoke", reason, {"passed": False}, actor="smoke gate")
            raise RejectedError(reason, fix="see the revision's log, under HEADGATE_HOME/logs")
    reason = f"{len(payloads)} example(s) answered, the slowest in {slowest * 1000:.0f} ms"
    if not payloads:
        reason = "the model has no input example: only its readiness was checked"
    job.write(Kind.DECISION, "smoke", reason, {"passed": True}, actor="smoke gate")
    job.enter(Phase.SMOKED, reason)


@step
def shadow(job: ReleaseJob, champion: Revision, challenger: Revision) -> ShadowReport | None:
    """Have the challenger answer live requests too until the paired comparison can decide.

    The platform mirrors them; where it cannot, they are asked again from its log.

    Raises:
        RejectedError: the answers differ too much, or too few requests came in time.
    """
    gate = _gate(job)
    if not is_behind(job.phase(), Phase.SHADOWED):
        return None
    if gate is None:
        job.enter(Phase.SHADOWED, "no shadow comparison: gates.shadow is off")
        return None
    began = time.monotonic()
    try:
        if Feature.SHADOW not in job.target.SUBSTITUTED:
            mirror = Mirror(revision=challenger.name, share=basis_points(gate.percent))
            job.route(Traffic.all_to(champion.name, mirror))
        report = _compare(job, champion, challenger, began + gate.max_duration)
    finally:
        job.waited += time.monotonic() - began
    job.route(Traffic.all_to(champion.name))
    artifacts.show_shadow(job.endpoint, report)
    content = report.model_dump(mode="json")
    job.write(
        Kind.DECISION,
        "shadow",
        report.reason,
        {"passed": report.passed, "report": content},
        actor="shadow gate",
    )
    if not report.passed:
        raise RejectedError(f"shadow: {report.reason}", fix="the report shows requests that were answered differently")
    job.enter(Phase.SHADOWED, report.reason)
    return report


def _gate(job: ReleaseJob) -> Shadow | None:
    """As the release file has it, with as many copies as the platform makes."""
    gate, most = job.spec.gates.shadow, job.target.MIRROR_LIMIT / BASIS_POINTS
    # Without any, requests are asked again, which has no limit.
    return gate.model_copy(update={"percent": min(gate.percent, most)}) if gate is not None and most else gate


def _compare(job: ReleaseJob, champion: Revision, challenger: Revision, deadline: float) -> ShadowReport:
    gate = _gate(job)
    assert gate is not None  # noqa: S101 - shadow() asked
    from monitoring.shadow import ShadowComparison  # noqa: PLC0415 - heavy; the run is seen to run before it

    replays = Feature.SHADOW in job.target.SUBSTITUTED
    comparison = ShadowComparison(
        gate, job.spec.judge.false_rollback, champion.name, challenger.name, timed=not replays
    )  # fmt: skip
    read = Replay(job, champion, challenger, gate.percent).pairs if replays else partial(
        job.target.captured, job.endpoint
    )  # fmt: skip
    # Rows come late; each reading goes back as far.
    read_from, dead_looks, overlap = datetime.now(UTC), 0, timedelta(seconds=job.target.LOG_DELAY)
    while True:
        now = datetime.now(UTC)
        comparison.add(read(Window(start=read_from, end=now)))
        read_from = max(read_from, now - overlap)
        report = comparison.report(final=time.monotonic() >= deadline)
        if report is not None:
            return report
        dead_looks = dead_looks + 1 if _problem(job, challenger) else 0
        if dead_looks > _DEAD_LOOKS:
            _refuse_dead(job, challenger)
        job.wait_until(time.monotonic() + job.target.LOOK_SECONDS / 2)


def _problem(job: ReleaseJob, challenger: Revision) -> str:
    """Why the challenger is not ready; nothing where the platform itself does not answer."""
    try:
        state = job.target.observe(job.endpoint)
    except TargetUnavailableError:
        return ""
    seen = state.revisions.get(challenger.name) if state else None
    return "" if seen and seen.ready else (seen.detail if seen else "is gone")


def _refuse_dead(job: ReleaseJob, challenger: Revision) -> None:
    reason = f"shadow: {challenger.name} {_problem(job, challenger) or 'was not ready'} under mirrored requests"
    job.write(Kind.DECISION, "shadow", reason, {"passed": False}, actor="shadow gate")
    raise RejectedError(reason, fix="see the revision's log, under HEADGATE_HOME/logs")


def _examples(where: str, revision: Revision) -> list[Payload]:
    if where == "input_example":
        from images import input_example  # noqa: PLC0415 - heavy; the run is seen to run before it

        logged = input_example(revision.image.path / "model")
        return [logged] if logged else []
    try:
        lines = Path(where).read_bytes().splitlines()
    except OSError as error:
        raise RejectedError(
            f"gates.smoke.examples: {where} cannot be read: {error.strerror}",
            fix="name a file with one body a line",
        ) from error
    return [Payload(body=line) for line in lines if line.strip()]
