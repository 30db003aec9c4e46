"""Three hundred mutated release files; tests/e2e/test_five_thousand_files.py reads more."""

from __future__ import annotations

from support.mutated_files import check


def test_each_is_read_or_refused_as_a_file_and_none_hangs():
    read, refused = check(range(300))
    # Else the faults would not be worth their name, or the files no release files.
    assert read > 10
    assert refused > 100
