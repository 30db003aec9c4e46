"""The judge, and the documented rules of others, where evidence is not clean: monitoring/replay/worlds.py.

`full` makes 2,000 runs of each in place of 60; `apart` runs the three worlds that nothing is tuned to; `unknown` hides
the stable version's past, but for its rates; other arguments name worlds.
"""

from __future__ import annotations

import sys

from monitoring.judge.batch import ROLLBACK
from monitoring.replay import CASES, KEPT_APART, OTHERS, Case, Headgate, Outcome, Rule, simulate

RULES: tuple[Rule, ...] = (Headgate.default(latency=False), *OTHERS)


def main() -> None:
    """Print a row for each world and rule."""
    words = sys.argv[1:]
    number = 2000 if "full" in words else 60
    is_dispersed = "unknown" not in words
    named = [word for word in words if word not in {"full", "apart", "unknown"}]
    cases = KEPT_APART if "apart" in words else [one for one in CASES if not named or one.name in named]
    print(f"{number} runs of a good and a broken version in each world, an hour at most, alpha 1%, alpha_promote 5%")
    print("promoted / taken back / undecided; bad requests (5xx) until a broken one is taken back: median, p95; time")
    print(f"{'world (seed)':36}{'rule':18}{'good':>24}{'broken':>24}{'bad':>16}{'time':>9}")
    for case in cases:
        for rule in RULES:
            row(case, rule, number, is_dispersed=is_dispersed)


def row(case: Case, rule: Rule, number: int, *, is_dispersed: bool) -> None:
    """One line of the table. The other rules read counters as they come; a target of Headgate's waits."""
    reading = case.settled if isinstance(rule, Headgate) else case.reading
    good, broken = (
        simulate(rule, world, replications=number, seed=case.seed, reading=reading, is_dispersed=is_dispersed)
        for world in (case.good, case.broken)
    )
    bad = ", ".join(f"{broken.quantile('bad', ROLLBACK, level):.0f}" for level in (0.5, 0.95))
    print(
        f"{f'{case.name} ({case.seed})':36}{rule.name:18}{ends(good):>24}{ends(broken):>24}{bad:>16}"
        f"{broken.median('seconds', ROLLBACK):>8.0f}s",
        flush=True,
    )


def ends(outcome: Outcome) -> str:
    """How many were promoted, taken back and undecided."""
    counts = [round(len(outcome.phase) * part) for part in (outcome.promoted, outcome.rolled_back, outcome.undecided)]
    return " / ".join(map(str, counts))


if __name__ == "__main__":
    main()
