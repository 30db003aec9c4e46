"""What the targets of clouds have in common."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, TypeVar

from headgate import clock
from headgate.errors import LeaseLostError, RevisionFailedError, TargetError, TargetUnavailableError
from headgate.findings import Finding
from headgate.limits import SETTLE, seconds_of
from headgate.records import ModelVersion, Usage
from headgate.units import BASIS_POINTS, format_percent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from headgate.records import EndpointState, Revision, Traffic

OURS = "headgate-endpoint"
"""The label, or tag, of what is ours; its value is the endpoint's name."""
FENCE = "headgate-fence"
PERCENT = 100
"""Basis points; most clouds split by whole ones."""
ADOPTED_SECONDS = 7200.0
"""How long a deployment that somebody else began is waited for: what it runs, and how long that may load, is not known
then. Vertex AI itself ends one after two hours (`deploymentTimeout` of GoogleCloudAiplatformV1ModelContainerSpec)."""

MINUTE = timedelta(minutes=1)
"""Clouds have one number a minute of what servers use."""
_READ_BACK = 15 * MINUTE
"""What is older says nothing of what servers use now. Vertex AI's is the latest, by up to six minutes."""

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
        TargetError: somebody wrote something else there.
    """
    highest = fence_of(seen, cloud, endpoint)
    if fence < highest:
        raise LeaseLostError(
            f"{cloud} has seen a later lease of {endpoint} than that of this change "
            f"(fence {highest}, ours was {fence})",
            fix="see headgate status; this process must not go on",
        )
    return fence == highest


def fence_of(seen: str | None, cloud: str, endpoint: str) -> int:
    """The fence that an endpoint's label or tag says; 0 where there is none.

    Raises:
        TargetError: it says something else.
    """
    if seen and not re.fullmatch("[0-9]+", seen):
        raise TargetError(
            f"{cloud} has {seen!r} as the fence of {endpoint}, and it is to be a whole number",
            fix="remove that label or tag (its name ends in `fence`) once no release of the endpoint goes on",
        )
    return int(seen or 0)


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


def settle_seconds(own: float) -> float:
    """Return how long after its end a minute is read: what HEADGATE_SETTLE_SECONDS sets, else the cloud's own.

    Raises:
        BadInputError: HEADGATE_SETTLE_SECONDS is not a number, or out of bounds.
    """
    return seconds_of(SETTLE, own)


def settled(seconds: float) -> datetime:
    """Return the moment up to which all series of requests are complete: the end of a minute, so many seconds ago.

    Requests and failures of each version are series of their own, and a cloud shows the numbers of one minute at
    different times. Numbers that are read together have to be of the same requests.

    Args:
        seconds: that a cloud takes at most; 0 includes the minute that is not over yet, as far as it is there.
    """
    now = datetime.now(UTC)
    if not seconds:
        return now.replace(second=0, microsecond=0) + MINUTE
    return (now - timedelta(seconds=seconds)).replace(second=0, microsecond=0)


def last_minutes() -> tuple[datetime, datetime]:
    """The span in which readings of what servers use are looked for: whole minutes, without the one that goes on."""
    now = datetime.now(UTC).replace(second=0, microsecond=0)
    return now - _READ_BACK, now


def newest(readings: Iterable[tuple[datetime, float]], *, are_percents: bool) -> Usage | None:
    """What the server with most memory used in the newest minute that has a reading; None where none has.

    Neither CPU seconds nor restarts are known: what clouds say of the CPU is a percentage of a minute.

    Args:
        readings: when they were taken, in UTC or with their zone, and bytes or percents of what a server was given.
        are_percents: which of the two.

    Raises:
        ValueError: a reading is no such number, or its moment has no zone.
    """
    most: defaultdict[datetime, float] = defaultdict(float)
    for moment, number in readings:
        if moment.tzinfo is None or not 0 <= number < float("inf"):
            raise ValueError(f"{number} at {moment} is no reading of memory")
        minute = moment.astimezone(UTC).replace(second=0, microsecond=0)
        most[minute] = max(most[minute], number)
    if not most:
        return None
    at = max(most)
    memory, part = (None, most[at] / 100) if are_percents else (round(most[at]), None)
    return Usage(memory=memory, memory_part=part, cpu=None, servers=(), at=at)


def poll(look: Callable[[], T], is_done: Callable[[T], bool], seconds: float, what: str) -> T:
    """Look until it is done, ever less often; what was seen then.

    Raises:
        TargetUnavailableError: `what` goes on for longer than `seconds`.
    """
    deadline, pause = clock.monotonic() + seconds, _POLL_SECONDS[0]
    while not is_done(found := look()):
        if clock.monotonic() > deadline:
            raise TargetUnavailableError(
                f"{what} goes on for longer than {seconds:g} s",
                fix="see the endpoint in the cloud's console, then go on",
            )
        clock.sleep(pause)
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
    deadline = clock.monotonic() + revision.ready_timeout
    while True:
        state = observe(endpoint)
        seen = state.revisions.get(revision.name) if state else None
        if seen is not None and seen.ready:
            return
        if clock.monotonic() > deadline:
            why = seen.detail if seen else "is gone"
            raise RevisionFailedError(
                f"{revision.name} is not ready after {revision.ready_timeout:g} s: it {why}", fix="headgate status"
            )
        clock.sleep(_READY_SECONDS)
