"""Release a model: package, register, deploy, smoke, shadow, shift, promote; or put everything back."""

from __future__ import annotations

from pathlib import Path

from prefect import flow
from prefect.exceptions import Pause
from prefect.runtime import flow_run

from headgate import clock
from headgate.credentials import redact
from headgate.errors import RolledBackError, TimedOutError
from headgate.phases import Phase, is_behind
from headgate.records import ReleaseResult
from tasks.approval import approve
from tasks.ending import put_in_order
from tasks.entry import check_freeze, hold_in_turn, require_worker
from tasks.gates import shadow, smoke
from tasks.job import ReleaseJob, open_release
from tasks.package import check, deploy, package, register
from tasks.report import conclude, error_of
from tasks.shift import promote, shift
from tasks.step import run
from tasks.undo import retire_expired
from tasks.watched import Described, endpoint_of, resolve


def _run_name() -> str:
    """The endpoint where the file's content was given, or the file's name."""
    return f"release {Path(endpoint_of(flow_run.parameters['spec'])).stem}".rstrip()


@flow(name="release", flow_run_name=_run_name, persist_result=True)
async def release(
    spec: Described, release_id: str = "", actor: str = "", artifact: str = "", override_freeze: str = ""
) -> ReleaseResult:
    """Release the model that a file describes.

    The descriptions of the parameters are what the form of the Prefect UI says.

    Args:
        spec: the release file: its full path on the worker, watched:NAME for that of a watched endpoint, or its text.
        release_id: resume this release; empty for a new one.
        actor: who asked; empty for the user whose process runs this.
        artifact: release this model instead of the file's, by its URI or full path; empty for the file's.
        override_freeze: why this release may begin in a freeze window, in an emergency; empty to keep to the windows.

    Raises:
        HeadgateError: it was rejected, rolled back, held or failed; the subclass says which. Except when held,
            the champion has all traffic and nothing of the candidate is left.
    """
    described = resolve(spec, artifact)
    require_worker(described)
    began = clock.monotonic()
    with open_release(described, release_id, actor) as job, hold_in_turn(job, override_freeze):
        try:
            await _carry_out(job)
        except Pause:
            raise
        except TimedOutError as held:
            run(conclude, job, held, began)
            raise
        except BaseException as error:
            ended = put_in_order(job, error, redact(str(error).splitlines()[0] if str(error) else repr(error)))
            run(conclude, job, ended, began)
            if ended is None:
                raise
            raise ended from error
        run(retire_expired, job, described.rollback.keep_warm)
        return run(conclude, job, None, began)


async def _carry_out(job: ReleaseJob) -> None:
    if job.phase() is Phase.UNDOING:
        raise error_of(job) or RolledBackError("its undoing was interrupted, and is finished now")
    run(check, job)
    artifact, image = run(package, job)
    version = run(register, job, artifact, image)
    job.stay_while_paused()
    await approve(job, "deploy")
    revision = run(deploy, job, version, image)
    champion = job.champion
    reason = "the judge found it no worse"
    if champion is not None and champion.name == revision.name:
        reason = "its content is live already"
    else:
        job.stay_while_paused()
        run(smoke, job, revision)
        if champion is not None:
            run(shadow, job, champion, revision)
        job.stay_while_paused()
        await approve(job, "shift")
        if is_behind(job.phase(), Phase.SHIFTING):
            check_freeze(job)
        reason = "the first version" if champion is None else run(shift, job, champion, revision).reason
        await approve(job, "promote")
    job.stay_while_paused()
    run(promote, job, revision, reason)
