"""The guard notes each of its looks, so that a probe sees one that hangs."""

from __future__ import annotations

import logging
import os
import threading
from types import SimpleNamespace

import pytest

from headgate.errors import RegistryUnavailableError
from registry.journal import open_journal
from tasks.guard import LOOKED, Guard


class Rounds(threading.Event):
    """Tells a loop to stop after some rounds, in place of waiting between them."""

    def __init__(self, rounds, between):
        super().__init__()
        self._rounds, self._between = rounds, between

    def wait(self, timeout=None):
        self._between()
        self._rounds -= 1
        if not self._rounds:
            self.set()
        return self.is_set()


@pytest.fixture
def journal(tmp_path):
    with open_journal(f"sqlite:///{tmp_path / 'journal.db'}") as found:
        yield found


def looked(guard, file, rounds=3):
    """The file's times after each look; before the next one it is set back to the year 1970."""
    times = []

    def between():
        times.append(file.stat().st_mtime)
        os.utime(file, (0, 0))

    guard.run(Rounds(rounds, between))
    return times


def test_each_look_is_noted(tmp_path, journal):
    times = looked(Guard(SimpleNamespace(root=tmp_path), journal), tmp_path / LOOKED)
    assert len(times) == 3
    assert min(times) > 0


def test_a_look_that_hangs_is_not_noted(tmp_path, journal, monkeypatch):
    guard, file, during = Guard(SimpleNamespace(root=tmp_path), journal), tmp_path / LOOKED, []
    monkeypatch.setattr(guard, "look", lambda: during.append(file.exists() and file.stat().st_mtime))
    looked(guard, file)
    assert during == [False, 0.0, 0.0]


def test_a_look_that_the_journal_does_not_answer_is_one(tmp_path, journal, monkeypatch):
    def away():
        raise RegistryUnavailableError("the journal does not answer")

    guard = Guard(SimpleNamespace(root=tmp_path), journal)
    monkeypatch.setattr(guard, "look", away)
    assert min(looked(guard, tmp_path / LOOKED)) > 0


def test_a_disk_that_takes_no_note_is_said_once_and_keeps_nobody_from_looking(tmp_path, journal, monkeypatch, caplog):
    caplog.set_level(logging.INFO, logger="headgate")
    guard, looks = Guard(SimpleNamespace(root=tmp_path / "nowhere"), journal), []
    monkeypatch.setattr(guard, "look", lambda: looks.append(1))
    guard.run(Rounds(3, lambda: None))
    said = [one.message for one in caplog.records if "cannot be touched" in one.message]
    assert len(looks) == 3
    (one,) = said
    assert one.startswith(f"{tmp_path / 'nowhere' / LOOKED} cannot be touched,")
    assert one.endswith("No such file or directory")
