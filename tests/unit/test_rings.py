"""Which tests a command runs: the ring, a share of the rest, or everything."""

from __future__ import annotations

import re
from collections import Counter
from fnmatch import fnmatchcase
from pathlib import Path
from types import SimpleNamespace

import pytest
from support import rings
from support.suite import scope_of, shuffle

TESTS = Path(__file__).parents[1]


@pytest.mark.parametrize("pattern", rings.named())
def test_a_line_of_the_ring_names_tests_that_are_there(pattern):
    """A test that was renamed would silently be in no ring."""
    file, _, name = pattern.removeprefix(rings.LEFT_OUT).partition("::")
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


def test_a_line_that_begins_with_an_exclamation_mark_leaves_unit_tests_to_the_rest():
    patterns = ["!tests/unit/test_a.py::test_b[[]x]"]
    tests = ["tests/unit/test_a.py::test_b[x]", "tests/unit/test_a.py::test_b[y]", "tests/flows/test_a.py::test_b[y]"]
    assert [rings.is_quick(one, patterns) for one in tests] == [False, True, False]


@pytest.mark.parametrize("pattern", rings.named())
def test_only_unit_tests_are_left_out_of_the_ring_by_a_line(pattern):
    """Others are not in it where no line names them."""
    assert pattern.startswith(rings.LEFT_OUT) == pattern.removeprefix(rings.LEFT_OUT).startswith("tests/unit/")


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


@pytest.mark.parametrize(("test", "scope"), [
    ("tests/flows/test_life.py::test_a", "flows"),
    ("tests/flows/test_chaos.py::test_b[x]", "flows"),
    ("tests/flows/test_docker_releases.py::test_c", "tests/flows/test_docker_releases.py"),
    ("tests/contract/test_targets.py::test_d[docker]", "contract/docker"),
    ("tests/unit/test_rings.py::test_e", "tests/unit/test_rings.py"),
])  # fmt: skip
def test_what_ends_servers_of_the_one_stack_stays_in_one_process(test, scope):
    assert scope_of(test, one_stack=True) == scope


def test_where_each_process_has_a_stack_files_are_spread():
    assert scope_of("tests/flows/test_life.py::test_a") == "tests/flows/test_life.py"


def test_the_tests_of_a_file_run_in_an_order_that_its_seed_gives_again():
    def order(seed: str, files: str = "ab") -> list[str]:
        items = [SimpleNamespace(nodeid=f"tests/unit/test_{file}.py::test_{n}") for file in files for n in range(9)]
        shuffle(items, seed)
        return [item.nodeid for item in items]

    first = order("1")
    assert first == order("1") != order("2")
    assert [one.partition("::")[0] for one in first] == ["tests/unit/test_a.py"] * 9 + ["tests/unit/test_b.py"] * 9
    assert sorted(first) == sorted(order("2"))
    assert order("1", "b") == first[9:], "which other files run makes no difference"


def test_the_makefiles_options_are_pytests(pytestconfig):
    options = re.findall(r"\$\(PYTEST\) --([a-z]+)", (TESTS.parent / "Makefile").read_text())
    assert set(options) == {"ring", "share", "changed"}
    for option in options:
        pytestconfig.getoption(option)


@pytest.mark.parametrize(("options", "kept"), [
    ({"changed": "HEAD"}, ["tests/unit/test_a.py::test_1[x]"]),
    ({"ring": True}, ["tests/unit/test_a.py::test_1[x]", "tests/unit/test_b.py::test_2"]),
    ({}, ["tests/unit/test_a.py::test_1[x]", "tests/unit/test_b.py::test_2", "tests/flows/test_none.py::test_3"]),
])  # fmt: skip
def test_only_what_was_asked_for_is_run(monkeypatch, options, kept):
    monkeypatch.setattr(rings, "_concerned", lambda since: ["tests/unit/test_a.py"] if since == "HEAD" else [])
    left = []
    config = SimpleNamespace(
        getoption={"ring": False, "share": None, "changed": None, **options}.__getitem__,
        hook=SimpleNamespace(pytest_deselected=lambda *, items: left.extend(items)),
    )
    ids = ["tests/unit/test_a.py::test_1[x]", "tests/unit/test_b.py::test_2", "tests/flows/test_none.py::test_3"]
    items = [SimpleNamespace(nodeid=one, add_marker=lambda _: None) for one in ids]
    rings.choose(config, items)
    assert [item.nodeid for item in items] == kept
    assert len(items) + len(left) == 3
