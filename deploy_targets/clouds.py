"""What the targets of clouds have in common."""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING, TypeVar

from headgate.errors import LeaseLostError, RevisionFailedError, TargetError, TargetUnavailableError
from headgate.findings import Finding
from headgate.records import ModelVersion
from headgate.units import BASIS_POINTS, format_percent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from headgate.records import EndpointState, Revision, Traffic

OURS = "headgate-endpoint"
"""The label, or tag, of what is ours; its value is the endpoint's name."""
FENCE = "headgate-fence"
PERCENT = 100
"""Basis points; most clouds split by whole ones."""

_READY_SECONDS = 1.0
_POLL_SECONDS = (0.25, 10.0)

T = TypeVar("T")


def image_name(model: str) -> str:
    """What a model's images are called in a cloud's own registry."""
    return re.sub(r"[^a-z0-9]+", "-", model.lower()).strip("-")


def description_of(revision: Revision) -> str:
    """A revision's version as a text, for a description: labels and tags are too short for it."""
    return json.dumps(revision.version.model_dump(), sort_keys=True)


def version_of(description: str) -> ModelVersion | None:
    """A version from such a text; None where it is not ours."""
    try:
        return ModelVersion.model_validate_json(description)
    except ValueError:
        return None


def percents(traffic: Traffic, cloud: str) -> dict[str, int]:
    """Weights as a cloud takes them that splits by whole percents.

    Raises:
        TargetError: one is none.
    """
    odd = [weight for weight in traffic.weights.values() if weight % PERCENT]
    if odd:
        raise TargetError(f"{cloud} splits by whole percents, not {format_percent(min(odd) / BASIS_POINTS)}")
    return {name: weight // PERCENT for name, weight in traffic.weights.items()}


def above(labels: Mapping[str, str], fence: int | None, cloud: str) -> dict[str, str]:
    """An endpoint's labels with the fence, if that is higher.

    Raises:
        LeaseLostError: the endpoint has seen a higher one.
    """
    if fence is None or is_kept(labels.get(FENCE), fence, cloud, labels.get(OURS, "")):
        return dict(labels)
    return {**labels, FENCE: str(fence)}


def is_kept(seen: str | None, fence: int, cloud: str, endpoint: str) -> bool:
    """Whether an endpoint has seen this very fence, as its label or tag says.

    Raises:
        LeaseLostError: it has seen a higher one.
    """
    highest = int(seen or 0)
    if fence < highest:
        raise LeaseLostError(
            f"{cloud} has seen a later lease of {endpoint} than that of this change "
            f"(fence {highest}, ours was {fence})",
            fix="see headgate status; this process must not go on",
        )
    return fence == highest


def see_that_it_is_ours(owner: str | None, endpoint: str, cloud: str, named: str) -> None:
    """Raises TargetError where somebody else made what is `named` there.

    Args:
        owner: the endpoint of ours that its label or tag says.
        endpoint: that it is to be.
        cloud: who has it.
        named: what it is called there.
    """
    if owner != endpoint:
        raise TargetError(
            f"{cloud} has an endpoint {named} that Headgate did not make",
            fix="choose another `endpoint:` in the release file",
        )


def look_for_problems(subject: str, looks: Iterable[Iterator[Finding]]) -> list[Finding]:
    """What each look finds, up to the first that nobody answers.

    Args:
        subject: of a problem with the cloud itself.
        looks: at what a release needs; they are run here.
    """
    found: list[Finding] = []
    for look in looks:
        try:
            found += look
        except TargetUnavailableError as error:
            return [*found, problem(subject, error.message, error.fix)]
        except TargetError as error:
            # Who may not look may still be allowed to release.
            found.append(Finding(severity="warning", subject=subject, problem=error.message, fix=error.fix))
    return found


def problem(subject: str, said: str, fix: str) -> Finding:
    """Something without which a release cannot start."""
    return Finding(severity="error", subject=subject, problem=said, fix=fix)


def poll(look: Callable[[], T], is_done: Callable[[T], bool], seconds: float, what: str) -> T:
    """Look until it is done, ever less often; what was seen then.

    Raises:
        TargetUnavailableError: `what` goes on for longer than `seconds`.
    """
    deadline, pause = time.monotonic() + seconds, _POLL_SECONDS[0]
    while not is_done(found := look()):
        if time.monotonic() > deadline:
            raise TargetUnavailableError(
                f"{what} goes on for longer than {seconds:g} s",
                fix="see the endpoint in the cloud's console, then go on",
            )
        time.sleep(pause)
        pause = min(pause * 1.5, _POLL_SECONDS[1])
    return found


def wait_until_ready(observe: Callable[[str], EndpointState | None], endpoint: str, revision: Revision) -> None:
    """Return once the platform says that a revision is ready.

    Args:
        observe: the target's own.
        endpoint: where.
        revision: which.

    Raises:
        RevisionFailedError: it does not within `revision.ready_timeout`.
    """
    deadline = time.monotonic() + revision.ready_timeout
    while True:
        state = observe(endpoint)
        seen = state.revisions.get(revision.name) if state else None
        if seen is not None and seen.ready:
            return
        if time.monotonic() > deadline:
            why = seen.detail if seen else "is gone"
            raise RevisionFailedError(
                f"{revision.name} is not ready after {revision.ready_timeout:g} s: it {why}", fix="headgate status"
            )
        time.sleep(_READY_SECONDS)
