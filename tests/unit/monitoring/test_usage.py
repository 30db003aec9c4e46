"""Memory, CPU time and restarts as evidence: a leak is found, and what a good new server does is none."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import pytest

from headgate.counts import Counts
from headgate.records import Usage
from headgate.release_file import parse_release
from headgate.verdicts import Verdict
from monitoring.rollout import RolloutJudge
from monitoring.usage import UsageWatch

MIB = 2**20
SEEDS = range(300)


def spec(more: str = ""):
    return parse_release(f"model: m\nartifact: a\ntarget: {{kind: docker}}\n{more}\n")


def usage(mebibytes: float, *servers: str) -> Usage:
    return Usage(memory=round(mebibytes * MIB), cpu=1.0, servers=servers or ("1",))


def watched(canary, *, more: str = "", stable=lambda _n, _random: 190, requests: int = 3000, seed: int = 0):
    """Watch a canary that answers ten requests a look beside a stable version that answers ninety.

    Args:
        canary, stable: MiB after so many requests, with a source of chance.
    """
    watch, chance = UsageWatch(spec(more), "m@v2"), random.Random(seed)
    for number in range(0, requests, 10):
        watch.look(usage(stable(number * 9, chance)), usage(canary(number, chance)), (number * 9, number))
        if watch.problem()[0]:
            break
    return watch


def test_memory_that_grows_with_the_requests_is_found_within_half_of_them():
    watch = watched(lambda n, _: 184 + 820 * n / 1000)
    reason, what = watch.problem()
    assert what == "memory"
    assert "its memory grew from 184 MiB to" in reason
    assert "50% in 1000 is allowed (stable version: 190 MiB to 190 MiB" in reason
    assert watch._canary.requests <= 500


GOOD = {
    "steady": lambda _, chance: 190 + chance.gauss(0, 3),
    "caches that fill": lambda n, _: 190 + 150 * min(n, 200) / 200,
    "an allocator that levels off": lambda n, _: 190 + 120 * (1 - 2 ** (-n / 100)),
    "a saw": lambda n, _: 190 + (n % 400) / 400 * 60,
    "growth below the limit": lambda n, _: 190 * (1 + 0.4 * n / 1000),
}


@pytest.mark.parametrize("world", GOOD)
def test_a_good_version_is_taken_back_in_none_of_300_releases(world):
    reasons = [watched(GOOD[world], seed=seed).problem()[0] for seed in SEEDS[: 300 if world == "steady" else 1]]
    assert not any(reasons)


def second_worker(memory, at: int):
    """What a watch finds where a server has a second worker after `at` requests, of as much memory as the first."""
    watch = UsageWatch(spec(), "m@v2")
    for number in range(0, 3000, 10):
        servers, factor = (("parent", "a"), 1) if number < at else (("parent", "a", "b"), 2)
        watch.look(usage(190, "parent", "c"), usage(memory(number) * factor, *servers), (number * 9, number))
        if watch.problem()[0]:
            break
    return watch


@pytest.mark.parametrize("at", [10, 400, 1500])
def test_a_second_worker_is_no_growth(at):
    saw = lambda number: 190 + (number % 100) * 0.6  # noqa: E731
    watch = second_worker(saw, at)
    assert watch.problem()[0] == ""
    assert watch._canary.grew < 0.5, "memory is compared with that of as many workers"
    assert second_worker(lambda number: 190 + 0.8 * number, at).problem()[1] == "memory"


def test_growth_that_the_stable_version_has_too_is_not_the_canarys_fault():
    def grows(n, _):
        return 190 + 0.8 * n

    assert watched(grows, stable=lambda n, _: 190 + 0.8 * n).problem()[0] == ""
    assert watched(grows).problem()[1] == "memory"


def test_the_check_can_be_switched_off():
    assert watched(lambda n, _: 190 + n, more="judge: {memory: off}").problem() == ("", "")


def test_a_server_that_is_about_to_exceed_its_limit_is_found_at_the_second_look():
    watch = UsageWatch(spec("runtime: {memory: 512Mi}"), "m@v2")
    for look in range(2):
        assert watch.problem() == ("", "")
        watch.look(usage(190), usage(500), (look, look))
    assert watch.problem() == (
        "its memory is 500 MiB of the 512 MiB of runtime.memory (stable version: 190 MiB)",
        "memory",
    )


def test_a_restart_is_an_alarm_and_a_second_one_takes_the_version_back():
    watch = UsageWatch(spec(), "m@v2")
    for look, server in enumerate(["a", "a", "b"]):
        watch.look(usage(190), usage(190, server), (look, look))
    assert watch.problem() == ("", "")
    assert watch.alarms() == ("the server of m@v2 was started again (stable version: 0 times)",)
    watch.look(usage(190), usage(190, "c"), (4, 4))
    assert watch.problem() == ("its server was started again 2 times (stable version: 0)", "restarts")


def test_more_replicas_are_no_restart_and_what_both_suffer_is_nobodys_fault():
    watch = UsageWatch(spec(), "m@v2")
    for look, servers in enumerate([("a",), ("a", "b", "c"), ("b", "c"), ("b",)]):
        watch.look(usage(190), usage(190, *servers), (look, look))
    assert (watch.problem()[0], watch.alarms()) == ("", ())
    watch = UsageWatch(spec(), "m@v2")
    for look in range(5):
        watch.look(usage(190, f"s{look}"), usage(190, f"c{look}"), (look, look))
    assert watch.problem()[0] == ""


NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def part(amount: float, minute: float) -> Usage:
    """A cloud's reading: a part of a machine's memory, in some minute."""
    at = NOON + timedelta(minutes=int(minute))
    return Usage(memory=None, memory_part=amount, cpu=None, servers=(), at=at)


def watched_from_afar(canary, *, stable=lambda _: 0.02, minutes: int = 90, every: int = 1, missing=lambda _: False):
    """Watch at a look every ten seconds what a cloud measures once a minute and says five minutes later.

    The canary answers ten requests a look, and the stable version ninety.

    Args:
        canary, stable: the part of the machine's memory at a minute.
        minutes: of the shift.
        every: so many minutes the stable version's reading is for.
        missing: of which minutes nothing ever comes.
    """
    watch = UsageWatch(spec(), "m@v2")
    for look in range(minutes * 6):
        minute = look // 6 - 5
        while missing(minute):
            minute -= 1
        of_stable = (minute + 5) // every * every - 5
        watch.look(part(stable(of_stable), of_stable), part(canary(minute), minute), (look * 90, look * 10))
        if watch.problem()[0]:
            break
    return watch


def test_a_leak_is_found_in_parts_of_a_machine_that_come_late():
    watch = watched_from_afar(lambda minute: 0.02 * (1 + 0.05 * minute) if minute > 0 else 0.02)
    reason, what = watch.problem()
    assert what == "memory"
    assert reason.startswith("its memory grew from 2% of what it was given to 3.")
    assert "(stable version: 2% of what it was given to 2% of what it was given in " in reason
    gaps = watched_from_afar(lambda minute: 0.02 * (1 + 0.05 * max(minute, 0)), missing=lambda minute: minute % 7 > 3)
    assert gaps.problem()[1] == "memory"


def test_a_reading_that_many_looks_repeat_is_one():
    """Its machine has 96 % of its memory once; and it grows once, which no later look sees again."""
    watch = UsageWatch(spec(), "m@v2")
    for look in range(60):
        watch.look(part(0.4, 1), part(0.96, 1), (look * 900, look * 100))
    assert watch.problem() == ("", "")
    assert watch._blocks == 0, "nothing was measured since the first look"
    watch.look(part(0.4, 1), part(0.961, 2), (60 * 900, 60 * 100))
    assert watch.problem() == (
        "its memory is 96.1% of what it was given (stable version: 40% of what it was given)",
        "memory",
    )
    watch = UsageWatch(spec(), "m@v2")
    for minute in range(40):
        watch.look(part(0.4, 1), part(0.02 * (1 + minute), minute), (minute * 900, minute * 100))
    assert watch._blocks == 0, "of the stable version nothing new is known"


def test_an_earlier_reading_that_comes_again_is_not_taken():
    watch = UsageWatch(spec(), "m@v2")
    for minute, amount in ((3, 0.1), (2, 0.97), (3, 0.97), (1, 0.97)):
        watch.look(part(0.1, minute), part(amount, minute), (minute * 900, minute * 100))
    assert watch._canary.memory.amount == 0.1


@pytest.mark.parametrize("every", [1, 3])
def test_growth_that_both_have_is_no_ones_fault_where_one_is_measured_less_often(every):
    def grows(minute):
        return 0.02 + 0.002 * (minute + 5)

    watch = watched_from_afar(grows, stable=lambda minute: 0.02 + 0.02 * (minute + 5), every=every, minutes=40)
    assert watch.problem() == ("", "")
    assert watch._blocks >= 10
    assert watched_from_afar(grows, every=every, minutes=40).problem()[1] == "memory"


def test_a_good_version_on_a_cloud_is_not_taken_back():
    chance = random.Random(3)
    noise = {minute: chance.gauss(0, 0.0004) for minute in range(-9, 99)}
    assert watched_from_afar(lambda minute: 0.02 + noise[minute]).problem() == ("", "")
    assert watched_from_afar(lambda minute: 0.02 + 0.015 * min(max(minute, 0), 5) / 5).problem() == ("", "")


def test_bytes_are_not_compared_with_parts():
    watch = UsageWatch(spec("runtime: {memory: 512Mi}"), "m@v2")
    for minute in range(60):
        watch.look(usage(190), part(min(0.02 + 0.02 * minute, 1), minute), (minute * 900, minute * 100))
    assert (watch.problem(), watch._blocks) == (("", ""), 0)


def test_a_part_of_nothing_is_no_beginning_and_restarts_that_are_not_known_are_none():
    watch = UsageWatch(spec(), "m@v2")
    for minute, amount in enumerate([0.0, 0.0, 0.3, 0.3, 0.31]):
        watch.look(part(0.3, minute), part(amount, minute), (minute * 900, minute * 100))
    assert str(watch._canary.first) == "30% of what it was given"
    assert watch._canary.grew == pytest.approx(0.31 / 0.3 - 1)
    assert (watch.problem(), watch.alarms()) == (("", ""), ())


def test_the_judge_takes_a_leaking_version_back_and_goes_on_after_a_kill():
    def looks(judge, numbers):
        return [
            judge.look(
                second, Counts(requests=90 * second, failures=0), Counts(requests=10 * second, failures=0),
                usage={"stable": usage(190), "canary": usage(190 + 5 * second)},
            )
            for second in numbers
        ]  # fmt: skip

    def made():
        nothing = Counts(requests=0, failures=0)
        return RolloutJudge(spec(), "m@v2", nothing, nothing)

    whole = looks(made(), range(1, 60))
    ended = next(number for number, look in enumerate(whole) if look.verdict is Verdict.ROLLBACK)
    assert whole[ended].culprits == ("memory",)
    assert whole[ended].reason.startswith("roll back m@v2 at 25%: its memory grew from 195 MiB to 370 MiB in 360")
    again = made()
    again.resume(whole[: ended - 3], Counts(requests=0, failures=0), Counts(requests=0, failures=0))
    resumed = again.look(
        ended + 1, Counts(requests=90, failures=0), Counts(requests=40, failures=0), usage=whole[ended].usage
    )
    assert (resumed.verdict, resumed.culprits) == (Verdict.ROLLBACK, ("memory",))
