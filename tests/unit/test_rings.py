"""Which tests a command runs: the ring, a share of the rest, or everything."""

from __future__ import annotations

import re
from collections import Counter
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
from support import rings

TESTS = Path(__file__).parents[1]


@pytest.mark.parametrize("pattern", rings.named())
def test_a_line_of_the_ring_names_tests_that_are_there(pattern):
    """A test that was renamed would silently be in no ring."""
    file, _, name = pattern.partition("::")
    tests = re.findall(r"^def (test_\w+)", (TESTS.parent / file).read_text(), re.MULTILINE)
    function = name.partition("[[]")[0]
    assert [test for test in tests if fnmatchcase(test, function)], f"{file} has no test {function}"


def test_unit_tests_and_what_is_named_are_the_ring():
    patterns = ["tests/flows/test_a.py::test_b*", "tests/flows/test_a.py::test_c[[]x]"]
    quick = ["tests/unit/test_z.py::test_q", "tests/flows/test_a.py::test_b[y]", "tests/flows/test_a.py::test_c[x]"]
    others = [
        "tests/flows/test_a.py::test_c[y]",
        "tests/flows/test_b.py::test_b",
        "tests/contract/test_unit.py::test_b",
    ]
    assert [rings.is_quick(one, patterns) for one in [*quick, *others]] == [True] * 3 + [False] * 3


def test_every_test_is_in_one_share_and_shares_are_alike():
    shares = Counter(rings.share_of(f"tests/flows/test_a.py::test_b[{number}]", 6) for number in range(6000))
    assert set(shares) == {1, 2, 3, 4, 5, 6}
    assert all(900 < count < 1100 for count in shares.values())


@pytest.mark.parametrize("text", ["0/4", "5/4", "2", "a/b", "1/0", "1/4/2"])
def test_a_share_that_is_none_is_refused(text):
    with pytest.raises(ValueError, match="has to be K/N with K from 1 to N"):
        rings.parse_share(text)
    assert rings.parse_share("4/4") == (4, 4)


def test_a_group_over_its_budget_by_half_is_named():
    budgets = rings.budgets()
    assert {f"tests/{path.name}" for path in TESTS.iterdir() if path.is_dir() and [*path.rglob("test_*.py")]} == {
        *budgets, "tests/ranges",
    }  # fmt: skip
    seconds = {group: 1.4 * budget for group, budget in budgets.items()}
    assert rings.over_budget(seconds) == []
    seconds["tests/cli"] = 1.6 * budgets["tests/cli"]
    (line,) = rings.over_budget(seconds)
    assert line.startswith("tests/cli took ")


def test_what_the_machine_lacks_is_named_with_its_packages(monkeypatch):
    monkeypatch.setattr(rings.shutil, "which", lambda program: None if program == "chromium" else f"/usr/bin/{program}")
    assert rings.missing_parts() == ["Chromium (apt-get install chromium)"]
