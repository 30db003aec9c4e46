"""The shadow gate passes and refuses by evidence: its chances are added up over all that can happen, not simulated."""

from __future__ import annotations

import itertools
import math
import re
from pathlib import Path

import pytest

from headgate.pairs import least_limit, least_pairs
from headgate.release_file import parse_release
from monitoring.judge.paired import log_shortfall
from monitoring.shadow import ShadowComparison
from monitoring.shadow_rule import ShadowRule, chances, rule_of

FALSE_PASS, FALSE_REFUSAL = 0.05, 0.01


def gate(limit: str, pairs: int):
    """What the gate itself says of a number of differing answers among so many pairs."""
    text = f"model: m\nartifact: a\ntarget: {{kind: local}}\ngates: {{shadow: {{min_requests: {pairs}, "
    spec = parse_release(f"{text}max_disagreement: {limit}}}}}\n")
    asked = ShadowComparison(spec.gates.shadow, rule_of(spec, spec.gates.shadow), "v1", "v2")

    def says(differ: int, compared: int):
        # As if all of them were known for long.
        asked._compared, asked._disagreements = range(compared), differ
        return asked.report(final=True)

    return (
        lambda differ, compared: says(differ, compared).passed,
        lambda differ, compared: not (says(differ, compared).passed or says(differ, compared).undecided),
    )


@pytest.mark.parametrize(("limit", "pairs", "most", "half"), [
    ("20%", 20, 200, 0.8), ("20%", 60, 200, 0.8), ("5%", 88, 600, 0.6), ("50%", 10, 60, 0.7),
])  # fmt: skip
def test_at_the_limit_and_beyond_it_hardly_any_version_passes_and_good_ones_do(limit, pairs, most, half):
    allowed = float(limit.rstrip("%")) / 100
    of = {factor: chances(*gate(limit, pairs), min(factor * allowed, 1.0), most) for factor in (0, 0.5, 1, 1.2, 2)}
    for factor in (1, 1.2, 2):
        assert of[factor].passed[-1] <= FALSE_PASS, factor
    for factor in (0, 0.5, 1):
        assert of[factor].refused[-1] <= FALSE_REFUSAL, factor
    assert of[0].pairs_until(1.0) == max(pairs, least_pairs(allowed, FALSE_PASS))
    assert of[0.5].passed[-1] > half
    assert of[2].refused[-1] > 0.8
    assert of[1].pairs_until(0.5) is None


def test_chances_are_those_of_every_sequence_of_answers():
    rule = ShadowRule(0.4, 6, 0.2, 0.2)
    passed = refused = 0.0
    for answers in itertools.product((0, 1), repeat=12):
        for pairs in range(1, 13):
            differ = sum(answers[:pairs])
            if rule.passes(differ, pairs) or rule.refuses(differ, pairs):
                odds = math.prod(0.3 if one else 0.7 for one in answers)
                passed, refused = (passed + odds, refused) if rule.passes(differ, pairs) else (passed, refused + odds)
                break
    found = chances(rule.passes, rule.refuses, 0.3, 12)
    assert passed > 0.1
    assert refused > 0.01
    assert (found.passed[-1], found.refused[-1]) == pytest.approx((passed, refused))


@pytest.mark.parametrize("limit", [1e-5, 0.001, 0.005, 0.05, 0.2, 0.7])
@pytest.mark.parametrize("chance", [0.5, 0.05, 0.001])
def test_the_closed_form_is_the_evidence_of_answers_that_are_all_alike(limit, chance):
    pairs = least_pairs(limit, chance)
    assert log_shortfall(0, pairs, limit) >= -math.log(chance) > log_shortfall(0, pairs - 1, limit)
    smallest = least_limit(pairs, chance)
    assert least_pairs(smallest, chance) <= pairs
    assert smallest <= limit * 1.1


def test_what_no_number_of_pairs_can_show():
    assert least_pairs(0.0, 0.05) is None
    assert least_pairs(1.0, 0.05) == 1
    assert least_limit(1, 0.001) == 1.0


@pytest.mark.parametrize("differ", [0, 3])
def test_as_many_more_pairs_as_are_said_pass_and_fewer_do_not(differ):
    rule = ShadowRule(0.05, 100, FALSE_PASS, FALSE_REFUSAL)
    rate = differ / 120
    needed = rule.pairs_to_pass(rate, differ, 120)
    assert rule.passes(differ + round(rate * (needed - 120)), needed)
    assert needed == 121 or not rule.passes(differ + round(rate * (needed - 121)), needed - 1)
    assert rule.pairs_to_pass(0.05, 6, 120) is None
    assert ShadowRule(1.0, 10, FALSE_PASS, FALSE_REFUSAL).pairs_to_pass(1.0, 5, 5) == 10


@pytest.mark.parametrize(("heading", "limit", "pairs"), [
    ("5 %, 200", 0.05, 200), ("20 %, 400 (`make demo`)", 0.20, 400),
])  # fmt: skip
def test_the_table_of_the_docs_is_what_adds_up(heading, limit, pairs):
    text = (Path(__file__).parents[3] / "docs" / "judge.md").read_text(encoding="utf-8")
    rows = text[text.index(f"| {heading} |") :].splitlines()[:4]
    rule = ShadowRule(limit, pairs, FALSE_PASS, FALSE_REFUSAL)
    for row, factor in zip(rows, (0, 0.5, 1, 2), strict=True):
        told = [float(share) for share in re.findall(r"([\d.]+) % \|", row)]
        before = chances(lambda k, n: n >= pairs and k <= limit * n, rule.refuses, factor * limit, 10_000)
        found = chances(rule.passes, rule.refuses, factor * limit, 10_000)
        shares = (before.passed[-1], found.passed[-1], found.refused[-1])
        assert told[-3:] == [pytest.approx(100 * share, abs=0.0501) for share in shares]
        if factor < 1:
            assert row.endswith(f"| {found.pairs_until(0.5)}, {found.pairs_until(0.9)} |")
