"""What the simulated flows act on: a target, MLflow and a journal in memory, each change of which passes the gate."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from headgate.counts import Counts
from headgate.errors import HeadgateError, LeaseLostError, RegistryUnavailableError, TargetError, TargetUnavailableError
from headgate.records import (
    Artifact,
    EndpointState,
    Image,
    ModelVersion,
    Revision,
    RevisionState,
    Traffic,
)
from registry import Journal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import sqlalchemy as sa

    from headgate.records import Alarm
    from support.simulated import Simulation

ENDPOINT = "sim"
COUNTS = Counts(requests=10, failures=0)


class KilledError(BaseException):
    """What happens to a process that dies: nothing that it does after this has any effect."""


@dataclass(frozen=True)
class Fault:
    """What happens at one gate.

    Attributes:
        kind: fail, die, between (somebody else acts), or what a platform says yes to: it does nothing, or does it late.
        after: whether the change was made by then.
        who: who acts.
        stalled: whether the lease of the process has run out meanwhile.
        lasting: whether it happens to the next changes too.
    """

    kind: str
    after: bool = False
    who: str = ""
    stalled: bool = False
    lasting: bool = False


@dataclass
class Process:
    """Somebody at work."""

    number: int
    plan: list[Fault | None] = field(default_factory=list)
    dead: bool = False


class Platform:
    """A target in memory, with a fence as the protocol asks for."""

    UNSUPPORTED: ClassVar[dict[Any, str]] = {}
    SUBSTITUTED: ClassVar[dict[Any, str]] = {}
    LATENCY_BOUNDS: ClassVar[tuple[float, ...]] = ()
    CALLS: ClassVar[dict[str, tuple[str, ...]]] = {}
    LOOK_SECONDS: ClassVar[float] = 1.0
    LOG_DELAY: ClassVar[float] = 5.0
    WEIGHT_STEP: ClassVar[int] = 1
    MIRROR_LIMIT: ClassVar[int] = 10_000
    RUNS_CONTAINERS: ClassVar[bool] = True
    CHANGES: ClassVar[set[str]] = {"route", "deploy", "retire", "delete"}

    def __init__(self, world: Simulation) -> None:
        self._world = world
        self.revisions: dict[str, Revision] = {}
        self.traffic: Traffic | None = None
        self.seen_fence = 0
        self.late: list[Callable[[], None]] = []

    def preflight(self) -> list[Any]:
        return []

    def endpoints(self) -> list[str]:
        return [ENDPOINT]

    def observe(self, endpoint: str) -> EndpointState | None:
        self._world.alive()
        while self.late:
            with suppress(HeadgateError):
                self.late.pop(0)()
        if not self.revisions and self.traffic is None:
            return None
        states = {
            name: RevisionState(name=name, ready=True, version=one.version) for name, one in self.revisions.items()
        }
        return EndpointState(endpoint=endpoint, url="", revisions=states, traffic=self.traffic)

    def alarms(self) -> list[Alarm]:
        return []

    def counts(self, _endpoint: str) -> dict[str, Counts]:
        return dict.fromkeys(self.revisions, COUNTS)

    def fence(self, _endpoint: str, fence: int) -> None:
        self._world.gate("fence", TargetUnavailableError, lambda: self._pass(fence))

    def deploy(self, _endpoint: str, revision: Revision) -> None:
        self._world.gate("deploy", TargetUnavailableError, lambda: self.revisions.update({revision.name: revision}))

    def route(self, _endpoint: str, traffic: Traffic, *, fence: int | None = None) -> None:
        def change() -> None:
            self._pass(fence)
            for name in traffic.weights:
                if name not in self.revisions:
                    raise TargetError(f"{name} is not deployed")
            self.traffic = traffic

        self._world.gate("route", TargetUnavailableError, change)

    def retire(self, _endpoint: str, revision: str, *, fence: int | None = None) -> None:
        def change() -> None:
            self._pass(fence)
            if self.traffic is not None and self.traffic.uses(revision):
                raise TargetError(f"{revision} still has traffic")
            self.revisions.pop(revision, None)

        self._world.gate("retire", TargetUnavailableError, change)

    def delete(self, _endpoint: str, *, fence: int | None = None) -> None:
        def change() -> None:
            self._pass(fence)
            self.traffic = None
            self.revisions.clear()

        self._world.gate("delete", TargetUnavailableError, change)

    def _pass(self, fence: int | None) -> None:
        assert fence is not None, "a flow changes nothing without its lease's number"
        if fence < self.seen_fence:
            raise LeaseLostError(f"fence {fence}, seen {self.seen_fence}")
        self.seen_fence = fence


class Aliases:
    """MLflow in memory."""

    def __init__(self, world: Simulation) -> None:
        self._world, self.known, self.numbers = world, {}, {}

    def register(self, _artifact: Artifact, image: Image) -> ModelVersion:
        def make() -> ModelVersion:
            number = self.numbers.setdefault(image.digest, len(self.numbers) + 1)
            return ModelVersion(name=ENDPOINT, version=number, digest=image.digest)

        return self._world.gate("register", RegistryUnavailableError, make)

    def attach(self, *_: object) -> None:
        return None

    def aliases(self) -> dict[str, int]:
        return dict(self.known)

    def set_challenger(self, version: int) -> None:
        self._change(lambda: self.known.update(challenger=version))

    def set_champion(self, version: int) -> None:
        self._change(lambda: self.known.update(champion=version))

    def clear_challenger(self) -> None:
        self._change(lambda: self.known.pop("challenger", None))

    def _change(self, change: Callable[[], Any]) -> None:
        self._world.gate("alias", RegistryUnavailableError, change)


class GatedJournal(Journal):
    """A journal whose writers can die, or find it away."""

    world: Simulation

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        if hasattr(self, "world"):
            self.world.alive()
        with super().writing() as connection:
            yield connection

    def append(self, entry: Any, *, fence: int | None = None) -> Any:
        write = super().append
        return self.world.gate(f"row {entry.what}", RegistryUnavailableError, lambda: write(entry, fence=fence))
