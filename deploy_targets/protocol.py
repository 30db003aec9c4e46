"""What every target does. `tests/contract/` holds the suite that each of them passes."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import pyarrow as pa

    from headgate.counts import Counts
    from headgate.findings import Finding
    from headgate.records import (
        Alarm,
        EndpointState,
        Payload,
        Prediction,
        Revision,
        Traffic,
        Usage,
        Window,
    )
    from headgate.spec import ReleaseSpec
    from headgate.target_settings import Target


class Feature(StrEnum):
    """What a release file can ask of a target."""

    SHADOW = "gates.shadow"
    """Live requests to a revision that no client sees: copies by the platform, or asked again from its log."""
    MIRROR = "strategy.kind"
    """Copies of live requests by the platform."""
    SPLIT = "strategy.steps"
    """Two revisions sharing live traffic."""
    AUTOSCALING = "runtime.replicas"
    """A number of replicas that follows the load."""
    SCALE_TO_ZERO = "runtime.replicas.min: 0"
    """No machine while nobody asks."""
    CPU_LIMIT = "runtime.cpu"
    MEMORY_LIMIT = "runtime.memory"
    GPU = "runtime.gpu"
    IMAGE = "image"
    """A base, or a repository to push to."""
    LIMITS = "gateway.limits"
    """Sizes and numbers of requests that the gateway refuses; the platform's own gateway may have other limits."""
    TIMEOUTS = "gateway.timeouts"
    REDACT = "capture.redact"
    """Fields that are left out before anything is written."""
    SECRETS = "runtime.secrets"
    """Variables of the server whose values the platform, or the server's start, reads from where a reference says."""
    ALARMS = "rollback.on: alarms"
    """Alarms of the platform, after a promotion."""


class ImageRepository(NamedTuple):
    """Where images are pushed, and whom to be there: without a user, whom `docker login` says."""

    name: str
    user: str = ""
    password: str = ""


class DeployTarget(Protocol):
    """A platform that serves revisions behind endpoints.

    Targets keep no state: everything is read from the platform. Each method may be called again after a
    crash and then does only what is missing. Errors are `headgate.errors.TargetError` and below.

    What changes an endpoint takes the `fence` of the caller's lease. The platform keeps the highest that it has seen,
    and refuses a lower one with LeaseLostError: a process that stood still while another took over changes nothing
    when it goes on. None, for a person or a test, is not compared.
    """

    UNSUPPORTED: ClassVar[Mapping[Feature, str]]
    """What the platform cannot do, and why; `plan` refuses a release that asks for it."""

    SUBSTITUTED: ClassVar[Mapping[Feature, str]]
    """What the platform cannot do and Headgate does in its place, and how."""

    CALLS: ClassVar[Mapping[str, tuple[str, ...]]]
    """What each step of a plan asks of the platform's API, besides reading; empty where nothing is paid for it."""

    LATENCY_BOUNDS: ClassVar[tuple[float, ...]]
    """Upper bounds of the latency buckets in `counts`, in seconds; empty where it has no histograms."""

    WEIGHT_STEP: ClassVar[int]
    """Basis points of which weights are multiples."""

    MIRROR_LIMIT: ClassVar[int]
    """Basis points of the live requests of which the platform makes copies at most."""

    LOOK_SECONDS: ClassVar[float]
    """How often there is something new in `counts`; the judge looks as often."""

    LOG_DELAY: ClassVar[float]
    """Seconds after which a row is in `captured` at the latest."""

    RUNS_CONTAINERS: ClassVar[bool]
    """Whether revisions are containers of an image, or processes of this machine."""

    @classmethod
    def of(cls, settings: Target) -> DeployTarget:
        """The target that a release file describes; nothing is contacted yet."""
        ...

    def preflight(self) -> list[Finding]:
        """What is missing before a release can start: each problem with its exact fix."""
        ...

    def permissions(self) -> str:
        """What whoever releases needs at least, in the platform's own form; empty where that is nothing."""
        ...

    def repository(self, model: str, named: str) -> ImageRepository:
        """Where a model's images are pushed to, made in the platform's own registry where that has to be.

        Args:
            model: the registered name.
            named: the repository that the release file names; empty where it names none.

        Returns:
            No name where images stay in this machine's daemon.
        """
        ...

    def endpoints(self) -> list[str]:
        """Every endpoint of Headgate's that the platform has, or of which it still has a revision."""
        ...

    def observe(self, endpoint: str) -> EndpointState | None:
        """What the platform says now, or None where the endpoint does not exist."""
        ...

    def deploy(self, endpoint: str, revision: Revision) -> None:
        """Make a revision ready, with no traffic; returns when it is.

        Raises:
            RevisionFailedError: it cannot start or is not ready within `revision.ready_timeout`.
        """
        ...

    def route(self, endpoint: str, traffic: Traffic, *, fence: int | None = None) -> None:
        """Set weights and mirror; returns when they are in effect, read back from the platform.

        A revision that has no traffic any more may give its machines up; `deploy` makes it ready again.

        Raises:
            TargetError: a revision with weight is not ready, or the platform did not take it over.
            LeaseLostError: the platform has seen a higher fence.
        """
        ...

    def fence(self, endpoint: str, fence: int) -> None:
        """Have the platform refuse lower fences from now on; nothing else changes.

        Raises:
            LeaseLostError: the platform has seen a higher fence.
        """
        ...

    def counts(self, endpoint: str) -> Mapping[str, Counts]:
        """Raw cumulative counters of each revision."""
        ...

    def alarms(self) -> list[Alarm]:
        """Those alarms of the platform that the release file names and that ring now."""
        ...

    def captured(self, endpoint: str, window: Window) -> Iterator[pa.RecordBatch]:
        """The prediction log within a window, in batches of `deploy_targets.prediction_log.SCHEMA`."""
        ...

    def invoke(self, endpoint: str, payload: Payload, revision: str | None = None) -> Prediction:
        """Ask the endpoint, or one of its revisions, for an answer."""
        ...

    def retire(self, endpoint: str, revision: str, *, fence: int | None = None) -> None:
        """Remove a revision and what it wrote; nothing happens when it is gone.

        Raises:
            TargetError: it still has live or mirrored traffic.
            LeaseLostError: the platform has seen a higher fence.
        """
        ...

    def delete(self, endpoint: str, *, fence: int | None = None) -> None:
        """Remove an endpoint and all its revisions; nothing happens when it is gone.

        Raises:
            LeaseLostError: the platform has seen a higher fence.
        """
        ...


@runtime_checkable
class CountsLate(Protocol):
    """A platform that counts requests by itself, and shows the numbers later."""

    @property
    def counts_delay(self) -> float:
        """Seconds after which a request is in `counts` at the latest."""
        ...


@runtime_checkable
class Declares(Protocol):
    """A platform that is told what is to be there, and not what to do."""

    def manifests(self, endpoint: str, revision: Revision) -> list[dict[str, Any]]:
        """What `deploy` would apply; nothing is changed."""
        ...


@runtime_checkable
class Measures(Protocol):
    """A platform that says what servers use of their machines."""

    def usage(self, endpoint: str) -> Mapping[str, Usage]:
        """What each revision that runs uses now, by its name.

        Raises:
            TargetUnavailableError: the platform does not answer.
        """
        ...


@runtime_checkable
class Fits(Protocol):
    """A platform to which a release file may not fit for reasons of its own."""

    def misfits(self, spec: ReleaseSpec) -> list[Finding]:
        """Return what a release would find out late, each with its fix, without a call to the platform."""
        ...
