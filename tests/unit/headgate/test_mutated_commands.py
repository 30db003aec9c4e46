"""Command lines with odd words: a documented exit code and words; the long run is in `make hostile`."""

from __future__ import annotations

import pytest
from support.mutated_commands import Line, called, check, prepare

LINES = 400


def test_each_ends_with_a_documented_code_in_words_and_starts_nothing(tmp_path):
    found = check(range(LINES), tmp_path)
    assert found.wrong == []
    assert set(found.codes) >= {0, 1, 2}


@pytest.mark.parametrize(("words", "environment", "said"), [
    (["scan", "x" * 5000], {}, "headgate: "),
    (["init", "x" * 5000, "--file", "new.yaml"], {}, "is not a folder here"),
    (["init", "runs:/1/model", "--file", "nowhere/file"], {}, "cannot be written"),
    (["init", "runs:/1/model", "--file", "x" * 5000], {}, "cannot be written"),
    (["status"], {"HEADGATE_HOME": "~nobody-of-that-name"}, "knows no home folder of that user"),
    (["history", "wine"], {"HEADGATE_HOME": "~nobody-of-that-name"}, "knows no home folder of that user"),
    (["validate", "a", "--\x1b[31m"], {}, "\\x1b[31m"),
    (["history", "\x1b[31m"], {}, "\\x1b[31m"),
    (["completion", "bash"], {}, "install bash"),
    (["export", "\udcc3("], {}, "no UTF-8"),
    (["doctor"], {"HEADGATE_ACTOR": "\udcff"}, "no UTF-8"),
    (["doctor"], {"HEADGATE_HOME": "file"}, "journal"),
])  # fmt: skip
def test_a_line_that_ended_with_a_traceback_or_with_control_letters(tmp_path, words, environment, said):
    code, output, _ = called(Line(words, environment), prepare(tmp_path))
    assert code in {1, 2}
    assert said in output
    assert "\x1b" not in output
    assert "Traceback" not in output
