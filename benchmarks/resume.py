"""A shift that is resumed: from all looks that the journal holds, and from the judge's last state."""

from __future__ import annotations

import tempfile
import time
from typing import TYPE_CHECKING

import numpy as np

from deploy_targets.envoy_config import LATENCY_SECONDS
from headgate.counts import LATENCY, Counts, latencies
from headgate.release_file import parse_release
from monitoring.rollout import STATE_FORMAT, RolloutJudge
from registry import Entry, Journal, Kind, history
from tasks.shift import LOOKS_BETWEEN_STATES

if TYPE_CHECKING:
    from headgate.verdicts import Look

LOOKS = 50 * LOOKS_BETWEEN_STATES - 1
"""The worst moment: the next look would have been followed by a state."""
STABLE, CANARY, FAILURES, SEED = 950, 50, 0.002, 1
SPEC = parse_release(
    "model: m\nartifact: a\ntarget: {kind: local}\n"
    "strategy: {min_duration: 20h, max_duration: 24h}\njudge: {error_rate: {margin_points: 1%}}\n"
)
NOTHING = Counts(requests=0, failures=0)


def main() -> None:
    """Print how long a resumed shift takes to its next look, and whether that look is the same."""
    traffic = Traffic()
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(f"sqlite:///{folder}/journal.db")
        judge = written(journal, traffic)
        stable, canary = traffic.counts()
        following = traffic.next()
        expected = judge.look(LOOKS + 1.0, *following)
        took = {}
        for name, state_format in (("all looks", None), ("the last state", STATE_FORMAT)):
            began = time.perf_counter()
            shift = history.shift_of(journal, "r1", "m", state_format=state_format)
            assert shift is not None
            resumed = RolloutJudge(SPEC, "m@v2", shift.before, NOTHING, shift.bounds)
            resumed.resume(shift.looks, stable, canary, shift.state)
            took[name] = time.perf_counter() - began
            same = resumed.look(LOOKS + 1.0, *following) == expected
            print(
                f"{LOOKS} looks, resumed from {name} ({len(shift.looks)} looks read): {took[name]:.2f} s, the next "
                f"look is {'the same' if same else 'DIFFERENT'}"
            )
        print(f"ratio: {took['all looks'] / took['the last state']:.0f}")
        journal.close()


class Traffic:
    """Counts of a good canary, a second after the other."""

    def __init__(self) -> None:
        self._dice = np.random.default_rng(SEED)
        self._counts = {STABLE: NOTHING, CANARY: NOTHING}

    def counts(self) -> tuple[Counts, Counts]:
        """The counts by now, of the stable version and of the canary."""
        return self._counts[STABLE], self._counts[CANARY]

    def next(self) -> tuple[Counts, Counts]:
        """The counts a second later."""
        for asked, so_far in self._counts.items():
            buckets = [int(one) for one in so_far.buckets(LATENCY)] or [0] * (len(LATENCY_SECONDS) + 1)
            drawn = self._dice.multinomial(asked, [1 / len(buckets)] * len(buckets))
            self._counts[asked] = Counts(
                requests=so_far.requests + asked,
                failures=so_far.failures + int(self._dice.binomial(asked, FAILURES)),
                histograms=latencies(one + int(more) for one, more in zip(buckets, drawn, strict=True)),
            )
        return self.counts()


def written(journal: Journal, traffic: Traffic) -> RolloutJudge:
    """Write the looks and states of a shift as a release does; return its judge."""

    def write(kind: Kind, what: str, evidence: object) -> None:
        journal.append(Entry(endpoint="m", release_id="r1", kind=kind, what=what, actor="a", evidence=evidence))

    write(Kind.PHASE, "started", {"spec": SPEC.model_dump(mode="json")})
    before = NOTHING.model_dump(mode="json")
    write(Kind.NOTE, history.SHIFT_BEGAN, {"stable": before, "bounds": list(LATENCY_SECONDS), "dispersions": {}})
    judge = RolloutJudge(SPEC, "m@v2", NOTHING, NOTHING, LATENCY_SECONDS)
    for number in range(1, LOOKS + 1):
        look: Look = judge.look(float(number), *traffic.next())
        write(Kind.LOOK, look.verdict, look.model_dump(mode="json"))
        if number % LOOKS_BETWEEN_STATES == 0:
            write(Kind.STATE, "judge", judge.to_dict())
    return judge


if __name__ == "__main__":
    main()
