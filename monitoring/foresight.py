"""What the judge of a release file would do at an endpoint's own traffic, found out before a release.

The judge itself is run on simulated counts: of a version that fails as often as the stable one, and of one that fails a
fifth of its requests. Chance is seeded by nothing that changes, so that a plan says the same twice. Latencies are left
out, as what they will be is not known; they can only make a promotion later.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from monitoring.judge import JudgeBatch
from monitoring.judge.batch import PROMOTE, ROLLBACK
from monitoring.rollout import CLIENT_ERRORS, ERRORS, policy_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headgate.spec import ReleaseSpec

Array = np.ndarray[Any, np.dtype[np.float64]]

BROKEN = 0.2
"""The share of its requests that the broken version fails."""

_SIZE = 60
_LOOKS = 120
_LONGER = (4, 64)
"""For how many times `max_duration` a good version is followed, where it is not promoted before."""
_RATES = np.geomspace(0.01, 10_000, 61)
_HISTORY_SECONDS = 1800.0
_SEED = 26


class Clients(NamedTuple):
    """What clients do.

    Attributes:
        per_second: requests.
        failing: the share of them that the stable version answers with 5xx, or not.
        refused: the share that it answers with 4xx.
    """

    per_second: float
    failing: float = 0.001
    refused: float = 0.0


class Foresight(NamedTuple):
    """What would become of a version.

    Attributes:
        promoted: of good versions, the share that is promoted within `max_duration`.
        promoted_after: seconds until half of the good ones are; None where it takes more than 64 times `max_duration`.
        found: of broken versions, the share that is taken back within `max_duration`.
        found_after: seconds until half of the broken ones are; None where fewer are.
        bad: requests that a broken version fails until then, the median; None where fewer than half are found.
    """

    promoted: float
    promoted_after: float | None
    found: float
    found_after: float | None
    bad: float | None


def foresee(spec: ReleaseSpec, clients: Clients, look_seconds: float) -> Foresight:
    """Run the judge of a release file on simulated requests.

    Args:
        spec: the release file.
        clients: the endpoint's traffic.
        look_seconds: how often the judge looks.
    """
    rng, ends = np.random.default_rng(_SEED), spec.strategy.max_duration
    rates = np.full(_SIZE, clients.per_second)
    good = _Run(spec, clients, rates, clients.failing, rng)
    good.go(max(look_seconds, ends / _LOOKS), ends)
    promoted = float((good.phase == PROMOTE).mean())
    after = _median(good.seconds[good.phase == PROMOTE], _SIZE)
    if after is None:
        after = _typically(spec, clients, look_seconds)
    broken = _Run(spec, clients, rates, max(BROKEN, clients.failing), rng)
    # Two requests of the first step in a look: no more is seen of a fault by looking more often.
    few = 2 / max(clients.per_second * min(broken.shares), 1e-9)
    broken.go(max(look_seconds, min(few, ends / _LOOKS)), ends)
    found = broken.phase == ROLLBACK
    return Foresight(
        promoted, after, float(found.mean()), _median(broken.seconds[found], _SIZE), _median(broken.bad[found], _SIZE)
    )


def rate_needed(spec: ReleaseSpec, clients: Clients, look_seconds: float) -> float | None:
    """Return the least requests a second at which a good version is promoted within `max_duration`.

    Args:
        spec: the release file.
        clients: the stable version's failure rates; their number of requests is not looked at.
        look_seconds: how often the judge looks.

    Returns:
        None where 10,000 are not enough.
    """
    ends = spec.strategy.max_duration
    run = _Run(spec, clients, _RATES, clients.failing, None)
    run.go(max(look_seconds, ends / _LOOKS), ends)
    enough = _RATES[run.phase == PROMOTE]
    return float(enough[0]) if len(enough) else None


def _typically(spec: ReleaseSpec, clients: Clients, look_seconds: float) -> float | None:
    """Seconds until a good version is promoted where each look counts what is to be expected."""
    for longer in _LONGER:
        longest = longer * spec.strategy.max_duration
        run = _Run(spec, clients, np.full(1, clients.per_second), clients.failing, None, longest)
        run.go(max(look_seconds, longest / _LOOKS), longest)
        if run.phase[0] == PROMOTE:
            return float(run.seconds[0])
    return None


def _median(ended: Array, size: int) -> float | None:
    """The median over all, of which those that did not end so are larger."""
    return float(np.sort(ended)[size // 2 - 1]) if len(ended) >= size / 2 else None


class _Run:
    """Judges that each see their own traffic.

    Args:
        spec: the release file.
        clients: the stable version's failure rates.
        rates: requests a second, for each judge.
        failing: the share of its requests that the canary fails.
        rng: chance; None counts what is to be expected.
        longest: seconds, in place of the file's `max_duration`.
    """

    def __init__(
        self, spec: ReleaseSpec, clients: Clients, rates: Array, failing: float, rng: np.random.Generator | None,
        longest: float | None = None,
    ) -> None:  # fmt: skip
        policy = policy_of(spec, ())
        self._judges = JudgeBatch(replace(policy, max_duration=longest or policy.max_duration), len(rates))
        self.shares, self._copies = policy.shares, spec.strategy.kind == "blue-green"
        self._clients, self._rates, self._failing, self._rng = clients, rates, failing, rng
        seen = clients.per_second * _HISTORY_SECONDS
        history = {ERRORS: [[[seen, seen * clients.failing]]], CLIENT_ERRORS: [[[seen, seen * clients.refused]]]}
        self._judges.warm_up({name: np.array(cells) for name, cells in history.items() if seen})
        self.seconds, self.bad = np.full(len(rates), math.inf), np.zeros(len(rates))
        self.phase = self._judges.phase

    def go(self, look: float, ends: float) -> None:
        """Look until every judge has decided, or the time is over.

        Args:
            look: seconds between looks.
            ends: seconds.
        """
        counted = [{name: np.zeros((len(self._rates), 2)) for name in (ERRORS, CLIENT_ERRORS)} for _ in range(2)]
        shares = np.array(self.shares)
        for number in range(1, math.ceil(ends / look) + 1):
            share = shares[self._judges.step]
            # Blue-green asks the stable version what the canary is asked.
            parts = (share if self._copies else 1 - share), share
            for arm, part, failing in zip(counted, parts, (self._clients.failing, self._failing), strict=True):
                self._count(arm, self._rates * part * look, failing)
            going = np.isinf(self.seconds)
            self.phase = self._judges.observe(number * look, *counted)
            self.bad = np.where(going, counted[1][ERRORS][:, 1], self.bad)
            decided = (self.phase == PROMOTE) | (self.phase == ROLLBACK)
            self.seconds = np.where(going & decided, number * look, self.seconds)
            if decided.all():
                break

    def _count(self, arm: Mapping[str, Array], expected: Array, failing: float) -> None:
        """Add the requests of one look to an arm's counters."""
        refused, counts = self._clients.refused * (1 - failing), list[tuple[Any, Any]]()
        if self._rng is None:
            counts = [(expected, expected * failing), (expected, expected * refused)]
        else:
            requests = self._rng.poisson(expected)
            failures = self._rng.binomial(requests, failing)
            denied = self._rng.binomial(requests - failures, self._clients.refused)
            counts = [(requests, failures), (requests, denied)]
        for name, cells in zip((ERRORS, CLIENT_ERRORS), counts, strict=True):
            arm[name][:] += np.stack(cells, axis=-1)
