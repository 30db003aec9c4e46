"""Who routes an endpoint's traffic in a cluster: what each of them can be asked."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Protocol

from headgate.counts import Counts

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from deploy_targets.kubernetes.endpoint import Form, Known
    from headgate.findings import Finding
    from headgate.records import Payload, Prediction, Traffic

_NOTHING = Counts(requests=0, failures=0)


class Routing(Protocol):
    """Headgate's own Envoys (gateways.py), or what else the cluster has, by Gateway API (gateway_api.py).

    Who routes reads the endpoint's object, whose form is theirs; to change that is all that a change of traffic is.
    """

    @property
    def form(self) -> Form:
        """The kind of object that an endpoint is."""
        ...

    @property
    def latency_bounds(self) -> tuple[float, ...]:
        """Upper bounds of the latency buckets in `counts`, in seconds."""
        ...

    def url(self, endpoint: str) -> str:
        """What clients call."""
        ...

    def problems(self) -> Iterator[Finding]:
        """What is missing before a release can start."""
        ...

    def traffic(self, endpoint: str) -> list[Traffic | None]:
        """What is in effect, in each place where it may be another.

        Raises:
            NobodyRoutesError: nobody routes anything.
            TargetUnavailableError: one of them does not answer.
        """
        ...

    def limited(self, endpoint: str, wanted: Known) -> bool:
        """Whether the limits that are wanted are in effect everywhere; true where none are kept."""
        ...

    def why_not(self, endpoint: str) -> str:
        """Why a change does not come into effect, or where that is said."""
        ...

    def are_reached(self, endpoint: str, revision: str, pods: int) -> bool:
        """Whether requests to a revision would reach so many of its servers."""
        ...

    def active(self, endpoint: str, revision: str) -> int:
        """Requests that a revision is answering."""
        ...

    def counts(self, endpoint: str, revisions: Iterable[str]) -> dict[str, Counts]:
        """Cumulative counters of some revisions."""
        ...

    def ask(self, endpoint: str, payload: Payload, revision: str | None, request_id: str) -> Prediction:
        """A prediction: by whoever has the traffic, or by one revision."""
        ...


class Tally:
    """Counters that are read in many places, each of which may begin anew or be gone."""

    def __init__(self) -> None:
        self._told: dict[str, dict[tuple[str, str], Mapping[str, Counts]]] = defaultdict(dict)
        # A place may count for many endpoints, and be missed when one of them is read.
        self._before: dict[tuple[str, tuple[str, str]], Mapping[str, Counts]] = {}
        self._missed: set[tuple[str, tuple[str, str]]] = set()

    def take(self, endpoint: str, source: tuple[str, str], told: Mapping[str, Counts]) -> None:
        """What a place says now.

        Args:
            endpoint: whose.
            source: its name, and what changes when it begins anew.
            told: by revision.
        """
        known = self._told[endpoint].get(source, {})
        if (endpoint, source) in self._missed:
            # What it had counted when it could not be asked is nobody's evidence.
            self._missed.discard((endpoint, source))
            self._before[endpoint, source] = told
        # It has begun anew under its old name: the next reading has the new one. Or it was read while it refused a
        # request, which is taken off a moment after it was counted.
        if not any(told[name].fell(counts) for name, counts in known.items() if name in told):
            self._told[endpoint][source] = {**known, **told}

    def miss(self, endpoint: str, source: tuple[str, str]) -> None:
        """A place could not be asked: what it said last is late, and not wrong."""
        if source not in self._told[endpoint]:
            self._missed.add((endpoint, source))

    def total(self, endpoint: str, revisions: Iterable[str]) -> dict[str, Counts]:
        """The sum over all places, also those that are gone."""
        places = self._told[endpoint].items()
        return {
            name: Counts.total(
                [
                    told[name].since(self._before.get((endpoint, source), {}).get(name, _NOTHING))
                    for source, told in places
                    if name in told
                ]
            )
            for name in revisions
        }
