"""The judge beside the documented rules of others, on the same simulated traffic; all seeds are printed.

Everything here is simulated; `headgate replay` does the same for one fault and one release file.
"""

from __future__ import annotations

import math
import sys
import time
from dataclasses import replace

import numpy as np
from scipy.stats import beta

from monitoring.judge import Disagreement, ErrorRate, JudgeBatch, Latency, Policy, PredictionShift
from monitoring.judge.batch import PROMOTE, ROLLBACK
from monitoring.replay import OTHERS, Headgate, Outcome, Rule, World, simulate
from monitoring.replay.traffic import BOUNDS

SEED = 7
HARM = Headgate.default(latency=False, promotes=False)
HARM_LATENCY = Headgate.default(latency=True, promotes=False)
RAMP = Headgate.default(latency=False, name="headgate, evidence ramp")
BURSTS, MANY_BURSTS, STICKY = World(bursts=0.005), World(bursts=0.02), World(sticky=8)
"""By a test that trusts its numbers, the first take back 99 % of good canaries in half an hour; the second are four
times as many."""
WANDER, WANDER_LONG = World(wander=0.15), World(wander=0.15, wander_seconds=300)


def main() -> None:
    """Print every table; `quick` as argument makes them small."""
    number = 60 if "quick" in sys.argv else 400
    print(f"seed {SEED}; {number} replications a cell unless said; alpha 1%, alpha_promote 5%")
    faults(number)
    false_rollbacks(number)
    latency(number)
    promotion(number)
    weak_spots(number)
    cost()


def row(name: str, *cells: str) -> None:
    """One line of a table."""
    print(f"  {name:34}" + "".join(f"{cell:>22}" for cell in cells), flush=True)


def run(rule: Rule, world: World, number: int, **options: object) -> Outcome:
    """One cell."""
    return simulate(rule, world, replications=number, seed=SEED, **options)  # type: ignore[arg-type]


def found(outcome: Outcome, what: str = "bad") -> str:
    """The share that was taken back, the median cost, and the median time."""
    share = f"{100 * outcome.rolled_back:.0f}% " if outcome.rolled_back < 1 else ""
    cost, seconds = (outcome.median(name, ROLLBACK) for name in (what, "seconds"))
    return f"{share}{cost:.0f}, {seconds:.0f}s" if outcome.rolled_back else "0%"


def interval(count: int, number: int) -> str:
    """A share with its exact 95 % interval."""
    low = beta.ppf(0.025, count, number - count + 1) if count else 0.0
    high = beta.ppf(0.975, count + 1, number - count) if count < number else 1.0
    return f"{100 * count / number:.1f}% [{100 * low:.1f}, {100 * high:.1f}]"


def taken_back(outcome: Outcome) -> str:
    """How many were taken back, with an interval."""
    return interval(int((outcome.phase == ROLLBACK).sum()), len(outcome.phase))


def faults(number: int) -> None:
    """Bad requests until a rule takes the canary back, without dispersion."""
    for stable in (0.001, 0.01):
        print(f"\n200 requests/s, stable {stable:.1%}: failed canary requests (median), time; 5, 25, 50 % of traffic")
        names = ("no fault", "+0.5 pp", "x2", "x5", "20% broken")
        row("", *names)
        rates = (stable, stable + 0.005, 2 * stable, 5 * stable, 0.2)
        for rule in (HARM, *OTHERS):
            outcomes = [run(rule, World(stable=stable, canary=rate), number) for rate in rates]
            row(rule.name, taken_back(outcomes[0]), *(found(outcome) for outcome in outcomes[1:]))


def false_rollbacks(number: int) -> None:
    """Good canaries that were taken back: an hour, a day, and replicas that fail together."""
    print("\nFalse rollbacks of good canaries, looks each second")
    row("", "alone", "dispersion measured")
    for name, world, options in (
        ("20 requests/s, 60 min", World(rate=20), {}),
        ("200 requests/s, 60 min", World(), {}),
        ("2,000 requests/s, 60 min", World(rate=2000), {}),
        ("200 requests/s, 24 h (200 runs)", World(), {"minutes": 1440.0, "number": 200}),
        ("replicas fail in 10 s bursts", BURSTS, {"both": True}),
        ("four times as many bursts", MANY_BURSTS, {"both": True}),
        ("users repeat what fails 8 times", STICKY, {"both": True}),
        ("bursts, 24 h (200 runs)", BURSTS, {"minutes": 1440.0, "number": 200, "measured": True}),
        ("users repeat, 24 h (200 runs)", STICKY, {"minutes": 1440.0, "number": 200, "measured": True}),
    ):
        size = int(options.pop("number", number))
        both, measured = options.pop("both", False), options.pop("measured", False)
        rule = Unending(replace(HARM, policy=replace(HARM.policy, max_duration=math.inf)))
        cells = ["" if measured else taken_back(run(rule, world, size, **options))]
        if both or measured:
            cells.append(taken_back(run(rule, world, size, is_dispersed=True, **options)))
        row(name, *cells)
    for name, world in (("latency AR(1) 15 %, 30 s", WANDER), ("latency AR(1) 15 %, 5 min", WANDER_LONG)):
        few = max(number // 4, 40)
        plain = run(HARM_LATENCY, world, few, latency=True, look=5.0)
        known = run(HARM_LATENCY, world, few, latency=True, look=5.0, is_dispersed=True)
        row(f"{name} ({few} runs)", taken_back(plain), taken_back(known))
    rule = Unending(replace(HARM_LATENCY, policy=replace(HARM_LATENCY.policy, max_duration=math.inf)))
    days = min(48, max(number // 8, 4))
    for what, judge, minutes in (("60 min", HARM_LATENCY, 60.0), ("24 h", rule, 1440.0)):
        known = run(judge, WANDER, days, latency=True, is_dispersed=True, minutes=minutes)
        row(f"AR(1), looks each second, {what} ({days} runs)", "", taken_back(known))


class Unending:
    """Our rule without the end of the hour, at which rules with a schedule promote."""

    def __init__(self, rule: Headgate) -> None:
        self.name, self._rule = rule.name, rule

    def start(self, size: int, history: object = None) -> object:
        """Begin."""
        running = self._rule.start(size, history)  # type: ignore[arg-type]
        running.end = math.inf  # type: ignore[attr-defined]
        return running


def latency(number: int) -> None:
    """Slower canaries."""
    few = max(number // 2, 40)
    print(f"\nLatency, p50 60 ms, p99 250 ms, 200 requests/s, looks each 5 s: exposed requests, time ({few} runs)")
    row("", "no fault", "+10%", "+50%", "slowest 1.5% x3")
    worlds = (World(), World(slower=1.1), World(slower=1.5), World(tail=(0.015, 3.0)))
    outcomes = [run(HARM_LATENCY, world, few, latency=True, look=5.0) for world in worlds]
    row("headgate", taken_back(outcomes[0]), *(found(outcome, "exposed") for outcome in outcomes[1:]))
    known = [run(HARM_LATENCY, replace(world, wander=0.15), few, latency=True, look=5.0, is_dispersed=True)
             for world in worlds]  # fmt: skip
    row("headgate, AR(1) 15 %, measured", taken_back(known[0]), *(found(outcome, "exposed") for outcome in known[1:]))


def promotion(number: int) -> None:
    """Good canaries until they are promoted, and canaries at the margin that are promoted all the same."""
    print("\nPromotion with the evidence ramp: share promoted, median time")
    row("", "stable 0.1%", "stable 1%")
    for rate in (20.0, 200.0, 2000.0):
        cells = []
        for stable in (0.001, 0.01):
            outcome = run(RAMP, World(rate=rate, stable=stable, canary=stable), number)
            cells.append(f"{outcome.promoted:.0%}, {outcome.median('seconds', PROMOTE):.0f}s")
        row(f"{rate:g} requests/s, errors", *cells)
    few = max(number // 4, 40)
    both = run(Headgate.default(latency=True), World(), few, latency=True)
    row(f"200, errors and latency ({few})", f"{both.promoted:.0%}, {both.median('seconds', PROMOTE):.0f}s")
    print("\nFalse promotion exactly at the margin (1.25 p + 0.1 pp)")
    row("", "alone", "dispersion measured")
    for name, world, edge in (
        ("stable 0.1%", World(), 1.25 * 0.001 + 0.001),
        ("stable 1%", World(stable=0.01), 1.25 * 0.01 + 0.001),
        ("replicas fail in 10 s bursts", BURSTS, at_the_margin(BURSTS)),
        ("four times as many bursts", MANY_BURSTS, at_the_margin(MANY_BURSTS)),
        ("users repeat what fails 8 times", STICKY, 1.25 * 0.001 + 0.001),
    ):
        cells = []
        for dispersion in (False, True):
            outcome = run(RAMP, replace(world, canary=edge), number, is_dispersed=dispersion)
            cells.append(interval(int((outcome.phase == PROMOTE).sum()), number))
        row(name, *cells)
    print("\nThe price of dispersion: 20% broken, failed requests and time; a good canary's promotion")
    row("", "20% broken", "good")
    worlds = {"independent": World(), "bursts": BURSTS, "four times as many": MANY_BURSTS, "sticky users": STICKY}
    for name, world in worlds.items():
        broken = run(HARM, replace(world, canary=0.2), number, is_dispersed=True)
        good = run(RAMP, world, number, is_dispersed=True)
        row(name, found(broken), f"{good.promoted:.0%}, {good.median('seconds', PROMOTE):.0f}s")


def at_the_margin(world: World) -> float:
    """A canary's rate between bursts, with which its rate in all is the most that may be promoted."""
    in_bursts = 0.3 * world.bursts
    usual = 1 - world.bursts
    return (1.25 * (usual * world.stable + in_bursts) + 0.001 - in_bursts) / usual


def weak_spots(number: int) -> None:
    """Where little traffic meets little harm, in an hour."""
    print("\nWhere an hour is hardly enough, 20 requests/s: share found (false rollbacks of good canaries)")
    tuned = replace(OTHERS[0], name="flagger, tuned to p + 0.5 pp")
    row("", "x2 at 0.1%", "+0.5 pp at 1%")
    cases = (World(rate=20, canary=0.002), World(rate=20, stable=0.01, canary=0.015))
    for rule in (HARM, tuned, OTHERS[2]):
        cells = []
        for world in cases:
            fitted = replace(rule, success=1 - world.stable - 0.005) if rule is tuned else rule  # type: ignore[type-var]
            outcome = run(fitted, world, number)
            good = run(fitted, replace(world, canary=world.stable), number)
            cells.append(f"{outcome.rolled_back:.0%} ({good.rolled_back:.1%})")
        row(rule.name, *cells)
    slow = run(HARM_LATENCY, World(rate=20, tail=(0.015, 3.0)), max(number // 2, 40), latency=True, look=5.0)
    row("slow tail: exposed requests, time", found(slow, "exposed"))


def cost() -> None:
    """Microseconds a look."""
    print("\nA look of a judge with four metrics: errors, latency (180 buckets), five classes, disagreement")
    metrics = (ErrorRate(), Latency(BOUNDS), PredictionShift(5), Disagreement())
    rng = np.random.default_rng(SEED)
    for size, looks in ((1, 2000), (100, 100)):
        for rate in (20, 20_000):
            batch = JudgeBatch(Policy(metrics, max_duration=math.inf), size)
            history = np.full((1, 1, len(BOUNDS) + 1), 10.0)
            batch.warm_up({"latency": history})
            arms = []
            for _ in range(2):
                slow = rng.multinomial(rate, np.full(len(BOUNDS) + 1, 1 / (len(BOUNDS) + 1)), (looks, size)).cumsum(
                    axis=0
                )
                classes = rng.multinomial(rate, np.full(5, 0.2), (looks, size)).cumsum(axis=0)
                few = np.stack([slow.sum(axis=2), rng.binomial(rate, 0.001, (looks, size)).cumsum(axis=0)], axis=-1)
                arms.append({"errors": few, "latency": slow, "predictions": classes, "disagreement": few})
            began = time.perf_counter()
            for look in range(looks):
                batch.observe(look + 1.0, *({name: cells[look] for name, cells in arm.items()} for arm in arms))
            each = (time.perf_counter() - began) / looks / size
            row(f"{size} at a time, {rate} requests/look", f"{each * 1e6:.0f} us", f"{1 / each:,.0f} looks/s")


if __name__ == "__main__":
    main()
