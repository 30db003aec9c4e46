"""Counters as platforms hand them over, and the worlds of docs/judge.md."""

from __future__ import annotations

import numpy as np
import pytest

from monitoring.replay import CASES, KEPT_APART, Reading, World
from monitoring.replay.reading import Reader
from monitoring.replay.traffic import Traffic


def counted(*looks):
    """Cumulative counters of one replication, as `Reader.read` takes them: stable and canary (requests, failures)."""
    return [[{"errors": np.array([stable], float)}, {"errors": np.array([canary], float)}] for stable, canary in looks]


def shown(reading, looks, seconds=60.0):
    reader = Reader(reading, np.random.default_rng(0))
    read = [reader.read(seconds * at, totals) for at, totals in enumerate(counted(*looks), start=1)]
    return [[tuple(arm["errors"][0]) for arm in arms] for arms in read]


LOOKS = [((100, 1), (10, 0)), ((200, 2), (20, 1)), ((300, 3), (30, 1)), ((400, 4), (40, 2))]


def test_a_platform_that_is_read_directly_changes_nothing():
    assert shown(Reading(), LOOKS) == [list(look) for look in LOOKS]


def test_a_late_platform_shows_points_that_have_ended_and_loses_none():
    assert shown(Reading(point=60, late=60), LOOKS) == [[(0, 0), (0, 0)], *(list(look) for look in LOOKS[:3])]


def test_torn_series_show_requests_without_their_failures():
    read = shown(Reading(point=60, late=0, failures_late=60), LOOKS)
    assert read[1] == [(200, 1), (20, 0)]
    assert read[3] == [(400, 3), (40, 1)]
    torn = shown(Reading(point=60, late=1, torn=100), LOOKS)
    assert any(stable[0] / 100 != stable[1] for stable, _ in torn), "in none of the looks are the series together"
    assert shown(Reading(point=60, late=1, torn=50, settle=60), LOOKS)[1:] == [list(look) for look in LOOKS[:3]]


def test_arms_in_other_looks_and_requests_that_are_counted_twice():
    assert shown(Reading(alternate=True), LOOKS) == [
        [(100, 1), (0, 0)], [(100, 1), (20, 1)], [(300, 3), (20, 1)], [(300, 3), (40, 2)],
    ]  # fmt: skip
    assert shown(Reading(copies=2), LOOKS)[0] == [(200, 2), (20, 0)]


def test_worlds_have_names_and_seeds_of_their_own_and_their_good_canary_is_good():
    cases = [*CASES, *KEPT_APART]
    assert len({one.name for one in cases}) == len({one.seed for one in cases}) == len(cases)
    assert all(one.good.is_good and not one.broken.is_good for one in cases)


def test_what_is_wrong_with_a_world_is_in_its_counts():
    def counts(world, at, share=0.5):
        traffic = Traffic(world, np.random.default_rng(0), 50, latency=False)
        stable, canary = traffic.look(at, 60.0, np.full(50, share))
        return [{name: cells.sum(axis=0) for name, cells in arm.items()} for arm in (stable, canary)]

    refused = counts(World(refused=0.05, stable=0.0, canary=0.005), 60.0)
    for arm, rate in zip(refused, (0.0, 0.005), strict=True):
        assert arm["client_errors"][1] == pytest.approx(0.05 * arm["errors"][0], rel=0.02)
        assert arm["errors"][1] == pytest.approx(rate * arm["errors"][0], rel=0.1)
        assert arm["failures"][1] == arm["client_errors"][1] + arm["errors"][1]
    stable, canary = counts(World(probes=1.0, stable=0.0, canary=0.0), 60.0)
    assert not stable["client_errors"][1]
    assert canary["client_errors"][1] == pytest.approx(50 * 60, rel=0.1)
    for at, rate in ((10.0, 0.2), (20.0, 0.001)):
        assert counts(World(cold=(10.0, 0.2)), at)[1]["errors"][1] == pytest.approx(rate * 300_000, rel=0.2)
    outage = World(outage=(300.0, 3.0))
    assert [arm["errors"][1] > 10_000 for arm in counts(outage, 298.0)] == [False, True]
    assert [arm["errors"][1] > 10_000 for arm in counts(outage, 359.0)] == [True, False]
    assert [arm["errors"][1] > 10_000 for arm in counts(outage, 330.0)] == [True, True]
