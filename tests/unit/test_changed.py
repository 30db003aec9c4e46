"""Which unit tests a change may concern."""

from __future__ import annotations

import subprocess

import pytest
from support.changed import UnitTests, changed_files

TESTS = UnitTests()
TESTS.files.remove("tests/unit/test_changed.py")  # It names what follows.


@pytest.mark.parametrize(("changed", "concerned", "not_concerned"), [
    # What a test imports, and what that imports.
    ("headgate_server/app.py", "headgate_server/test_app.py", "registry/test_journal.py"),
    ("monitoring/judge/confidence.py", "monitoring/judge/test_judge.py", "images/test_scan.py"),
    ("headgate/errors.py", "registry/test_journal.py", "headgate_server/test_scikit_learn.py"),
    # What it patches by name.
    ("tasks/job.py", "tasks/test_interleavings.py", "images/test_layers.py"),
    # Itself, and what tests share.
    ("tests/unit/test_notify.py", "test_notify.py", "test_chart.py"),
    ("tests/support/simulated.py", "tasks/test_interleavings.py", "images/test_scan.py"),
    # What is not imported, by its name.
    ("docs/events.md", "test_docs.py", "registry/test_journal.py"),
    ("ops/helm/headgate/values.yaml", "test_chart.py", "monitoring/test_truth.py"),
])  # fmt: skip
def test_a_change_concerns_what_uses_it(changed, concerned, not_concerned):
    found = TESTS.concerned([changed])
    assert f"tests/unit/{concerned}" in found
    assert f"tests/unit/{not_concerned}" not in found


@pytest.mark.parametrize("changed", ["pyproject.toml", "requirements.lock", "tests/conftest.py"])
def test_what_every_test_runs_with_concerns_them_all(changed):
    assert TESTS.concerned([changed]) == TESTS.files
    assert len(TESTS.files) > 50


def test_what_no_test_knows_concerns_none():
    assert TESTS.concerned(["xyzzy/xyzzy.bin"]) == []


def test_changes_are_those_that_are_not_committed_with_new_files(tmp_path):
    def git(*arguments: str) -> None:
        who = ("-c", "user.name=a", "-c", "user.email=a@example.com")
        subprocess.run(["git", "-C", str(tmp_path), *who, *arguments], check=True, capture_output=True)

    git("init", "-q")
    (tmp_path / ".gitignore").write_text("ignored\n")
    (tmp_path / "one").write_text("1")
    (tmp_path / "two").write_text("2")
    git("add", ".")
    git("commit", "-qm", "first")
    assert changed_files("HEAD", tmp_path) == []
    (tmp_path / "one").write_text("changed")
    (tmp_path / "new").write_text("new")
    (tmp_path / "ignored").write_text("ignored")
    assert changed_files("HEAD", tmp_path) == ["one", "new"]
    with pytest.raises(ValueError, match=r"--changed no-such: .*no-such"):
        changed_files("no-such", tmp_path)
