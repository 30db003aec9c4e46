"""Planted faults: each can be planted and taken out again, and what found one is known from then on."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
from planted import planting, run
from support import rings

FAULTS = planting.load()
FAULT = planting.Fault("a-sign", "A sum is a sum.", planting.BY_HAND, "product.py", "one + other", "one - other")
PRODUCT = "def add(one, other):\r\n    return one + other\r\n"


@pytest.fixture
def root(tmp_path):
    (tmp_path / "product.py").write_bytes(PRODUCT.encode())
    return tmp_path


def test_there_are_enough_of_each_kind():
    kinds = Counter(fault.source.partition(":")[0] for fault in FAULTS)
    assert len(FAULTS) >= 50
    assert kinds["mutation"] + kinds["fix reverted"] >= 20
    assert min(kinds["mutation"], kinds["fix reverted"]) >= 8
    assert sum(not fault.ring for fault in FAULTS) >= 40


def test_a_fault_that_only_the_ring_finds_names_a_test_of_it():
    for fault in FAULTS:
        file = fault.ring.partition("::")[0]
        patterns = [pattern for pattern in rings.named() if pattern.partition("::")[0] == file]
        named = any(fault.ring == file or fnmatchcase(fault.ring, pattern) for pattern in patterns)
        assert named or not file, fault.name


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_is_planted_once_and_compiles_and_leaves_the_same_bytes(fault, tmp_path):
    assert planting.why_not(fault, planting.ROOT) == ""
    before = (planting.ROOT / fault.file).read_bytes()
    path = tmp_path / fault.file
    path.parent.mkdir(parents=True)
    path.write_bytes(before)
    planting.apply(fault, tmp_path)
    assert path.read_bytes() != before
    compile(path.read_text(encoding="utf-8"), fault.file, "exec")
    planting.revert(fault, tmp_path)
    assert path.read_bytes() == before


def test_line_ends_stay_and_byte_code_is_made_anew(root):
    path = root / "product.py"
    first = int(path.stat().st_mtime)
    planting.apply(FAULT, root)
    assert path.read_bytes() == PRODUCT.replace("+", "-").encode()
    second = int(path.stat().st_mtime)
    planting.revert(FAULT, root)
    assert path.read_bytes() == PRODUCT.encode()
    assert first < second < int(path.stat().st_mtime), "both sources have the same size"


@pytest.mark.parametrize("exchange", [planting.revert, lambda fault, at: planting.apply(replace(fault, find="on"), at)])
def test_what_is_not_there_once_is_not_exchanged(root, exchange):
    with pytest.raises(planting.PlantingError, match=r"product\.py has \d times what is to be exchanged"):
        exchange(FAULT, root)
    assert (root / "product.py").read_bytes() == PRODUCT.encode()


@pytest.mark.parametrize(("change", "says"), [
    ({}, ""), ({"file": "nothing.py"}, "there is no nothing.py"), ({"find": "minus"}, "occurs 0 times"),
    ({"find": "o"}, "occurs 4 times"), ({"put": "one + other"}, "is what `find` is"),
    ({"put": "one"}, "`put` occurs elsewhere"), ({"put": "one -"}, "does not compile with it"),
    ({"name": "A sign"}, "is not written as"), ({"source": "a guess"}, "is not written as"),
    ({"promise": "sums"}, "is not written as"),
])  # fmt: skip
def test_a_fault_that_cannot_be_planted_says_why(root, change, says):
    why = planting.why_not(replace(FAULT, **change), root)
    assert says in why
    assert bool(why) is bool(says)


ENTRY = """\
- {name: a-sign, promise: A sum is a sum., source: by hand, file: product.py, find: one + other, put: one - other}
"""


@pytest.mark.parametrize(("text", "says"), [
    (ENTRY * 2, "a-sign: two faults have this name"),
    (ENTRY.replace("file: product.py", "file: nothing.py"), "a-sign: there is no nothing.py"),
    (ENTRY.replace("put:", "puts:"), "unexpected keyword argument 'puts'"),
])  # fmt: skip
def test_a_file_with_a_mistake_is_refused(root, text, says):
    (root / "faults.yaml").write_text(text)
    with pytest.raises(planting.PlantingError, match=re.escape(says)):
        planting.load(root / "faults.yaml", root)
    (root / "faults.yaml").write_text(ENTRY)
    assert planting.load(root / "faults.yaml", root) == (FAULT,)


@pytest.mark.parametrize(("line", "test"), [
    ("FAILED tests/unit/a/test_b.py::test_c - AssertionError: no", "tests/unit/a/test_b.py::test_c"),
    ("FAILED tests/unit/test_b.py::TestC::test_d[x - y] - assert 1 == 2", "tests/unit/test_b.py::TestC::test_d[x - y]"),
    ("FAILED tests/unit/test_b.py::test_d[[1]-a b]", "tests/unit/test_b.py::test_d[[1]-a b]"),
    ("ERROR tests/unit/test_b.py - ImportError: no", "tests/unit/test_b.py"),
    ("ERROR tests/unit/test_b.py::test_c - Failed: x", "tests/unit/test_b.py::test_c"),
    ("SKIPPED [1] tests/unit/test_b.py:3: no Docker", ""),
    ("the test FAILED tests/unit/test_b.py::test_c", ""),
])  # fmt: skip
def test_the_failed_test_is_read_from_pytests_summary(line, test):
    output = f"..F\nE   AssertionError\n=== short test summary info ===\n{line}\n1 failed, 2 passed in 3.1s\n"
    assert run.failed_test(output) == test


def test_a_test_that_fails_is_told_before_one_that_was_not_set_up():
    output = (
        "ERROR tests/a/test_b.py::test_c - no\nFAILED tests/a/test_b.py::test_d - no\nFAILED tests/a/test_e.py::f\n"
    )
    assert run.failed_test(output) == "tests/a/test_b.py::test_d"


def test_what_is_known_is_not_looked_for_again_until_the_fault_is_another(tmp_path):
    file = tmp_path / "results.jsonl"
    other = replace(FAULT, name="another-sign")
    assert run.unknown([FAULT, other], run.read_results(file)) == [FAULT, other]
    run.write_result(file, run.Result(FAULT.name, FAULT.key, 1, "tests/a.py::b", 2.0))
    run.write_result(file, run.Result(other.name, other.key, 0, "", 3.0))
    known = run.read_results(file)
    assert run.unknown([FAULT, other], known) == []
    assert run.unknown([replace(FAULT, promise="A sum.")], known) == [], "its promise is only said otherwise"
    changed = replace(FAULT, put="one * other")
    assert run.unknown([changed, other], known) == [changed]
    run.forget_survivors(file, [FAULT, other])
    assert [one.name for one in run.read_results(file)] == [FAULT.name]


def test_a_table_names_what_found_each_and_what_nothing_found():
    faults = [FAULT, replace(FAULT, name="b"), replace(FAULT, name="c")]
    found = [run.Result("a-sign", FAULT.key, 2, "tests/a.py::b", 2.4), run.Result("b", faults[1].key, 0, "", 100)]
    assert list(run.table(faults, found))[2:] == [
        "| a-sign | A sum is a sum. | `tests/a.py::b` | 2 |", "| b | A sum is a sum. | **nothing** | 100 |",
    ]  # fmt: skip


class Copy:
    """A copy whose tests end as a test says, one stage after the other."""

    def __init__(self, root, monkeypatch, *ends):
        self.root, self.ends, self.seen = root, list(ends), []
        monkeypatch.setattr(run, "run_tests", self)
        monkeypatch.setattr(run, "mirrored", lambda *_: ["tests/unit/test_a.py"])
        run.passes.cache_clear()

    def __call__(self, _tree, arguments, _seconds):
        self.seen.append(((self.root / "product.py").read_text() != PRODUCT.replace("\r", ""), arguments[-1]))
        end = self.ends.pop(0)
        if isinstance(end, BaseException):
            raise end
        return end


PASSED, FAILED = (0, ""), (1, "FAILED tests/unit/test_a.py::test_b - no")


def test_a_fault_is_looked_for_until_a_test_fails_which_passes_without_it(root, monkeypatch):
    copy = Copy(root, monkeypatch, PASSED, FAILED, PASSED)
    result = run.look_for(FAULT, root)
    assert (result.name, result.key, result.stage, result.test) == (
        "a-sign", FAULT.key, 2, "tests/unit/test_a.py::test_b"
    )  # fmt: skip
    assert copy.seen == [
        (True, "tests/unit/test_a.py"), (True, "tests/unit"), (False, "tests/unit/test_a.py::test_b"),
    ]  # fmt: skip
    assert (root / "product.py").read_bytes() == PRODUCT.encode()


@pytest.mark.parametrize(("ends", "stage", "test"), [
    ([PASSED] * 3, 0, ""),
    ([FAILED, FAILED], 0, "(tests/unit/test_a.py::test_b fails without it too)"),
    ([(None, "")] + [PASSED] * 2, 0, "(stage 1 took longer than 1800 s)"),
    ([PASSED, PASSED, FAILED, PASSED], 0, "(tests/unit/test_a.py::test_b failed, and passed alone)"),
    ([PASSED, PASSED, FAILED, FAILED, PASSED], 3, "tests/unit/test_a.py::test_b"),
    ([(5, "no tests ran"), PASSED, PASSED], 0, ""),
    ([(4, "ImportError while loading conftest")], 1, "(pytest ended with 4)"),
])  # fmt: skip
def test_what_fails_by_chance_or_anyway_has_found_nothing(root, monkeypatch, ends, stage, test):
    copy = Copy(root, monkeypatch, *ends)
    result = run.look_for(FAULT, root)
    assert (result.stage, result.test) == (stage, test)
    assert copy.ends == []


def test_an_argument_that_pytest_refuses_finds_no_fault(root, monkeypatch):
    Copy(root, monkeypatch, PASSED, (4, "ERROR: usage: pytest [options]\nunrecognized arguments: --changed"))
    with pytest.raises(SystemExit, match="which says nothing of the fault:"):
        run.look_for(FAULT, root)
    assert (root / "product.py").read_bytes() == PRODUCT.encode()


def test_a_run_that_is_ended_leaves_no_fault(root, monkeypatch):
    Copy(root, monkeypatch, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        run.look_for(FAULT, root)
    assert (root / "product.py").read_bytes() == PRODUCT.encode()


def test_no_fault_is_begun_after_the_time(root, monkeypatch):
    Copy(root, monkeypatch, FAILED, PASSED)
    other = replace(FAULT, name="another-sign")
    file = root / "results.jsonl"
    assert run.look_for_all([FAULT, other], root, file, deadline=0.0) == 2
    assert not file.exists()
    moments = iter([1.0, 1.0, 1.0, 9.0])
    monkeypatch.setattr(run.time, "monotonic", lambda: next(moments))
    assert run.look_for_all([FAULT, other], root, file, deadline=5.0) == 1
    assert [one.name for one in run.read_results(file)] == ["a-sign"]


def test_the_mirror_of_a_module_comes_first_and_this_test_never():
    def first(file):
        return run.mirrored(file, planting.ROOT)

    leases = first("registry/lease.py")
    assert {Path(one).parent.as_posix() for one in leases} == {"tests/unit/registry"}
    assert "registry.lease" in (planting.ROOT / leases[0]).read_text(encoding="utf-8")
    assert first("deploy_targets/kubernetes/steering/files.py")[0].endswith("kubernetes/test_steering.py")
    assert first("images/scan.py")[0] == "tests/unit/images/test_scan.py"
    for fault in FAULTS:
        for _, arguments in run.stages(fault, planting.ROOT):
            assert run.OWN_TEST not in arguments or arguments[arguments.index(run.OWN_TEST) - 1] == "--ignore"
