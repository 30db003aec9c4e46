"""Release a model: package, register, deploy, smoke, shadow, shift, promote; or put everything back."""

from __future__ import annotations

import time
from pathlib import Path

from prefect import flow
from prefect.runtime import flow_run

from headgate.errors import TimedOutError
from headgate.records import ReleaseResult
from headgate.release_file import load_release
from headgate.spec import ReleaseSpec
from tasks.gates import shadow, smoke
from tasks.job import ReleaseJob, open_release
from tasks.package import check, deploy, package, register
from tasks.report import conclude
from tasks.shift import promote, shift
from tasks.step import run
from tasks.undo import retire_expired, undo


def _run_name() -> str:
    """The endpoint where the file's content was given, or the file's name."""
    spec = flow_run.parameters["spec"]
    return f"release {Path(spec).stem if isinstance(spec, str) else spec.endpoint}"


@flow(name="release", flow_run_name=_run_name)
async def release(spec: ReleaseSpec | str, release_id: str = "", actor: str = "") -> ReleaseResult:
    """Release the model that a file describes.

    Args:
        spec: the release file's content, or the path of one that the worker can read.
        release_id: resume this release; a new one by default.
        actor: who asked; by default the user who runs this.

    Raises:
        HeadgateError: it was rejected, rolled back, held or failed; the subclass says which. Except when held,
            the champion has all traffic and nothing of the candidate is left.
    """
    described = load_release(Path(spec)) if isinstance(spec, str) else spec
    began = time.monotonic()
    with open_release(described, release_id, actor) as job, job.hold():
        job.begin()
        try:
            _carry_out(job)
        except TimedOutError as held:
            run(conclude, job, held, began)
            raise
        except BaseException as error:
            run(undo, job, str(error).splitlines()[0] if str(error) else repr(error))
            run(conclude, job, error, began)
            raise
        return run(conclude, job, None, began)


def _carry_out(job: ReleaseJob) -> None:
    run(check, job)
    artifact, image = run(package, job)
    version = run(register, job, artifact, image)
    revision = run(deploy, job, version, image)
    champion = job.champion
    reason = "the judge found it no worse"
    if champion is not None and champion.name == revision.name:
        reason = "its content is live already"
    else:
        run(smoke, job, revision)
        if champion is None:
            reason = "the first version"
        else:
            run(shadow, job, champion, revision)
            reason = run(shift, job, champion, revision).reason
    run(promote, job, revision, reason)
    retire_expired(job, job.spec.rollback.keep_warm)
