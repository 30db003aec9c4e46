"""Worlds in which evidence is not clean: how traffic fails there, and how a platform hands over its counters.

Each is one that was seen, or that a platform's documentation allows. `headgate replay --world NAME` and
benchmarks/judge_worlds.py use them, with these seeds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from monitoring.replay.reading import DIRECT, Reading
from monitoring.replay.traffic import World

_CLOUD = Reading(point=60.0, late=60.5)
"""One number a minute, a minute late. CloudWatch's come two minutes late, Cloud Monitoring's up to four."""

SETTLE_SECONDS = 150.0
"""How long after its end the targets of clouds read a minute; see docs/targets.md."""


@dataclass(frozen=True)
class Case:
    """A world in which a good and a broken version are released.

    Attributes:
        name: for tables and the command line.
        seed: of all chance in it.
        good: a world whose canary is as good as the stable version.
        broken: the same world with a broken canary.
        reading: how the platform hands over the counters.
    """

    name: str
    seed: int
    good: World
    broken: World
    reading: Reading = DIRECT

    @property
    def settled(self) -> Reading:
        """How Headgate's targets read such a platform: minutes once all their series are there."""
        return replace(self.reading, settle=SETTLE_SECONDS) if self.reading.point else self.reading


def _case(name: str, seed: int, world: World, reading: Reading = DIRECT, *, broken: float = 0.2) -> Case:
    """A world with a canary as good as the stable version, and one of which `broken` of the requests fail."""
    return Case(name, seed, replace(world, canary=world.stable), replace(world, canary=broken), reading)


def _torn() -> list[Case]:
    return [
        _case(f"torn-{torn}s-{stable:.1%}", 300 + 10 * number + torn, World(stable=stable), replace(_CLOUD, torn=torn))
        for number, stable in enumerate((0.001, 0.01))
        for torn in (1, 3, 10, 30)
    ]


_BURSTS, _RETRY, _REPEAT = World(bursts=0.005), World(sticky=2), World(sticky=8)
_SECOND = Reading(failures_late=1.0)

CASES: tuple[Case, ...] = (
    _case("clean-0.1%", 201, World()),
    _case("clean-1%", 202, World(stable=0.01)),
    _case("clean-20-a-second", 203, World(rate=20.0)),
    _case("clean-2000-a-second", 204, World(rate=2000.0)),
    *_torn(),
    _case("failures-a-look-late", 401, World(stable=0.01), _SECOND),
    _case("other-looks", 402, World(), Reading(alternate=True)),
    _case("other-looks-1%", 403, World(stable=0.01), Reading(alternate=True)),
    _case("pods-bursts", 501, _BURSTS),
    _case("pods-one-retry", 502, _RETRY),
    _case("pods-users-repeat", 503, _REPEAT),
    _case("one-replica-bursts", 504, replace(_BURSTS, replicas=1)),
    _case("one-replica-one-retry", 505, replace(_RETRY, replicas=1)),
    _case("one-replica-users-repeat", 506, replace(_REPEAT, replicas=1)),
    Case(
        "client-errors", 601, World(refused=0.05, stable=0.0, canary=0.0), World(refused=0.05, stable=0.0, canary=0.005)
    ),
    _case("probes", 602, World(probes=1.0)),
    _case("slow-1-a-minute", 701, World(rate=1 / 60), broken=0.999),
    _case("slow-0.2-a-second", 702, World(rate=0.2), broken=0.5),
    _case("slow-1-a-second", 703, World(rate=1.0)),
    _case("counted-twice", 801, World(stable=0.01), Reading(copies=2)),
    _case("counted-three-times", 802, World(stable=0.01), Reading(copies=3)),
    _case("cold-minute", 901, World(cold=(60.0, 0.02))),
    _case("cold-ten-seconds", 902, World(cold=(10.0, 0.2))),
    _case("outage-1s-earlier", 903, World(outage=(300.0, 1.0))),
    _case("outage-3s-earlier", 904, World(outage=(300.0, 3.0))),
)
"""Fixed before the judge was changed for any of them."""

KEPT_APART: tuple[Case, ...] = (
    _case("kept-apart-torn", 1201, World(rate=70.0, stable=0.004), Reading(point=60.0, late=47.5, torn=20.0)),
    _case("kept-apart-bursts", 1202, World(rate=450.0, stable=0.002, replicas=7, bursts=0.01, sticky=2)),
    _case("kept-apart-slow", 1203, World(rate=0.5, stable=0.02), Reading(alternate=True), broken=0.35),
)
"""Three with other parameters. Nothing is tuned to them; they are run once, at the end, and shown whatever they say."""


def case(name: str) -> Case:
    """The world of this name.

    Raises:
        KeyError: there is none.
    """
    return {one.name: one for one in (*CASES, *KEPT_APART)}[name]
