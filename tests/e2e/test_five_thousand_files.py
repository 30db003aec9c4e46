"""The long run of tests/unit/headgate/test_mutated_files.py, from a seed that is printed; each day has its own."""

from __future__ import annotations

import os
import time

from support.mutated_files import check

FILES = 5000
DAY = 24 * 60 * 60


def test_each_is_read_or_refused_as_a_file_and_none_hangs():
    first = int(os.environ.get("HEADGATE_TEST_SEED") or int(time.time() // DAY) * FILES)
    print(f"seeds {first} to {first + FILES - 1}; HEADGATE_TEST_SEED={first} reads the same files")  # noqa: T201
    read, refused = check(range(first, first + FILES))
    assert read > FILES // 50
    assert refused > FILES // 3
