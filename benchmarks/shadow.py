"""The shadow gate: what share of versions passes, added up over all that can happen, and in how many pairs.

And versions that fail halfway to a margin: how many are taken back and promoted, beside what `validate` says of them.
"""

from __future__ import annotations

import math

import numpy as np

from headgate.margins import misfit
from headgate.release_file import parse_release
from monitoring.judge import ErrorRate, JudgeBatch, Policy
from monitoring.judge.batch import PROMOTE, ROLLBACK
from monitoring.shadow_rule import Chances, ShadowRule, chances

FALSE_PASS, FALSE_REFUSAL = 0.05, 0.01
MOST = 10_000
RATES = (0.0, 0.5, 1.0, 2.0)
SETTINGS = ((0.005, 1000), (0.01, 500), (0.05, 200), (0.20, 400))
"""Limits and `min_requests`: the defaults, two others, and those of `make demo`."""
HAD_BEFORE = 500
"""The default of `min_requests` while the gate passed by the rate alone."""

MARGINS = (0.001, 0.005, 0.01, 0.02, 0.05, 0.2)
STABLE = (0.001, 0.01)
VERSIONS, LOOKS, SEED = 150, 600, 1


def main() -> None:
    """Print both tables."""
    passing()
    print()
    halfway()


def halfway() -> None:
    """Print a row for each margin and failure rate of the stable version."""
    print(
        f"of {VERSIONS} versions halfway to the margin, taken back / promoted, with tolerance_points 0 and of half the"
    )
    print("margin; and requests until harm and no harm are to be expected, where validate says that harm comes first")
    for rate in STABLE:
        for points in MARGINS:
            judge = f"judge: {{error_rate: {{margin_points: {points:.1%}}}}}"
            spec = parse_release(f"model: m\nartifact: a\ntarget: {{kind: local}}\n{judge}")
            found = misfit(spec, spec.judge.error_rate, rate)
            says = f"harm first: {found.harm:.0f}, {found.harmless:.0f}" if found else ""
            ends = (" / ".join(map(str, ended(rate, points, allowed))) for allowed in (0.0, points / 2))
            shown = (f"{end:>14}" for end in ends)
            print(f"stable {rate:.1%}, margin_points {points:.1%}".ljust(36), *shown, says, flush=True)


def ended(rate: float, points: float, allowed: float) -> tuple[int, int]:
    """How many versions halfway to the margin were taken back, and promoted."""
    limits = (0.10, allowed, 0.25, points)
    metrics = [ErrorRate("errors", *limits), ErrorRate("client_errors", *limits)]
    policy = Policy(metrics=metrics, shares=(0.5,), min_requests=0, min_duration=0, max_duration=math.inf)
    batch = JudgeBatch(policy, VERSIONS)
    nothing = np.zeros((VERSIONS, 2))
    seen = 20_000.0
    batch.warm_up({"errors": np.array([[[seen, seen * rate]]]), "client_errors": np.array([[[seen, 0.0]]])})
    batch.begin(*({"errors": nothing, "client_errors": nothing},) * 2)
    rng, each = np.random.default_rng(SEED), max(10, round(0.3 / (points + rate)))
    arms = [{"errors": nothing.copy(), "client_errors": nothing.copy()} for _ in range(2)]
    phase = batch.phase
    for look in range(1, LOOKS + 1):
        for arm, failing in zip(arms, (rate, rate + (0.25 * rate + points) / 2), strict=True):
            arm["errors"] += np.stack([np.full(VERSIONS, each), rng.binomial(each, failing, VERSIONS)], axis=1)
            arm["client_errors"][:, 0] = arm["errors"][:, 0]
        phase = batch.observe(float(look), *arms)
        if np.isin(phase, (ROLLBACK, PROMOTE)).all():
            break
    return int((phase == ROLLBACK).sum()), int((phase == PROMOTE).sum())


def passing() -> None:
    """Print a row for each setting, rule and rate."""
    print(f"of versions, how many pass and are refused within {MOST} pairs, looked at after each; pairs until half,")
    print("and nine in ten, have passed. By the rate: passes at min_requests pairs or later once the rate is within")
    print(f"the limit. By evidence: as the gate does, false pass {FALSE_PASS:.0%}, false refusal {FALSE_REFUSAL:.0%}")
    print(f"{'limit, min_requests':24}{'true rate':>12}{'by the rate: passed':>22}{'by evidence: passed':>22}", end="")
    print(f"{'refused':>10}{'half':>8}{'nine in ten':>13}")
    for limit, pairs in SETTINGS:
        for factor in RATES:
            row(limit, pairs, factor)


def row(limit: float, pairs: int, factor: float) -> None:
    """One line of the table."""
    rule, rate = ShadowRule(limit, pairs, FALSE_PASS, FALSE_REFUSAL), factor * limit
    found = chances(rule.passes, rule.refuses, rate, MOST)
    before = by_rate(rule, min(pairs, HAD_BEFORE), rate)
    half, most = (found.pairs_until(share) or "never" for share in (0.5, 0.9))
    print(
        f"{f'{limit:.1%}, {pairs}':24}{f'{factor:g} x limit':>12}{before.passed[-1]:>22.1%}{found.passed[-1]:>22.1%}"
        f"{found.refused[-1]:>10.1%}{half:>8}{most:>13}",
        flush=True,
    )


def by_rate(rule: ShadowRule, pairs: int, rate: float) -> Chances:
    """What the gate did that passed by the rate alone."""

    def passes(differ: int, compared: int) -> bool:
        return compared >= pairs and differ <= rule.limit * compared

    return chances(passes, rule.refuses, rate, MOST)


if __name__ == "__main__":
    main()
