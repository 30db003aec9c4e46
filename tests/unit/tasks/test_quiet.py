"""Checks of a window with too few rows: no failure, and said to people once there were so many in a row."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest

from headgate.records import Image, ModelVersion, Revision
from headgate.release_file import parse_release
from monitoring.drift import Reference
from registry import Entry, Journal, Kind, history
from tasks import inspect
from tasks.events import names_of
from tasks.notify import message_of

ENDPOINT = "wine"
MONITOR = "monitor: {min_rows: 50, quiet_checks: 3, trigger: {violations: 2, of: 2}}\nrollback: {on: [drift]}\n"

if TYPE_CHECKING:
    from headgate.health import HealthReport


def revision(number: int, folder) -> Revision:
    image = Image(digest="sha256:" + "1" * 64, lock_digest="", path=folder, interpreter=None, size=1)
    version = ModelVersion(name=ENDPOINT, version=number, digest="sha256:" + str(number) * 64)
    return Revision.of(version, image, env={}, workers=1, ready_timeout=60)


class Checked:
    """An endpoint whose window has as many rows, with as large a shift, as the test says."""

    def __init__(self, folder, patch) -> None:
        self.journal, self.endpoint, self.folder = Journal(f"sqlite:///{folder}/journal.db"), ENDPOINT, folder
        self.spec = parse_release(f"model: {ENDPOINT}\nartifact: nowhere\ntarget: {{kind: local}}\n{MONITOR}")
        self.rows, self.shift, self.unreadable = 0, 0.0, 0
        patch.setattr(inspect, "predictions", lambda *_: self._predictions())
        reference = pa.table({"x": np.random.default_rng(0).normal(size=1000)})
        patch.setattr(inspect, "_reference", lambda *_: Reference.of(reference))
        patch.setattr(inspect.artifacts, "show_health", lambda _: None)

    def goes_live(self, number: int) -> None:
        made = revision(number, self.folder)
        self.write(Kind.LIVE, made.name, "", {"revision": made.model_dump(mode="json")})

    def write(self, kind, what, reason="", evidence=None, *, actor="monitor") -> None:
        evidence = json.loads(json.dumps(evidence or {}))
        at = datetime.now(UTC) - timedelta(hours=1)
        self.journal.append(Entry(
            endpoint=ENDPOINT, release_id="r", kind=kind, what=what, reason=reason, actor=actor, evidence=evidence,
            at=at,
        ))  # fmt: skip

    def check(self, rows: int, shift: float = 0.0) -> HealthReport:
        self.rows, self.shift = rows, shift
        return inspect.inspect.fn(self).report

    def _predictions(self) -> SimpleNamespace:
        table = pa.table({"x": np.random.default_rng(1).normal(loc=self.shift, size=self.rows)})
        return SimpleNamespace(
            num_rows=self.rows,
            column_names=table.column_names,
            column=table.column,
            repeated=0,
            unreadable={},
            unreadable_requests=self.unreadable,
            whole=lambda work: work(),
        )

    @property
    def notes(self) -> list[Entry]:
        return self.journal.read(ENDPOINT, kinds=(Kind.NOTE,))


@pytest.fixture
def checked(tmp_path, monkeypatch):
    made = Checked(tmp_path, monkeypatch)
    made.goes_live(1)
    yield made
    made.journal.close()


@pytest.mark.parametrize("rows", [0, 49])
def test_a_quiet_endpoint_is_no_failure(checked, rows):
    report = checked.check(rows)
    assert (report.state, report.rows, report.quiet, report.too_quiet) == ("not enough data", rows, 1, False)
    assert report.reason == f"not enough data: the window has {rows} rows, and monitor.min_rows is 50"
    assert [row.kind for row in checked.journal.read(ENDPOINT)] == [Kind.LIVE, Kind.CHECK]


def test_requests_that_cannot_be_read_are_said(checked):
    checked.unreadable = 7
    assert checked.check(3).reason.endswith("monitor.min_rows is 50; 7 requests cannot be read")


def test_people_are_told_once_of_so_many_in_a_row(checked):
    assert [checked.check(0).too_quiet for _ in range(5)] == [False, False, True, True, True]
    (note,) = checked.notes
    assert (note.what, note.reason[:17]) == (history.QUIET, "3 checks in a row")
    assert message_of(note).startswith("too few requests to check: 3 checks in a row; the last one: not enough data")
    assert names_of(note) == ["headgate.endpoint.quiet"]
    assert checked.check(50).quiet == 0
    assert [checked.check(0).too_quiet for _ in range(3)] == [False, False, True]
    assert len(checked.notes) == 2


def test_another_version_begins_anew(checked):
    checked.check(0)
    checked.check(0)
    checked.goes_live(2)
    assert checked.check(0).quiet == 1
    assert checked.notes == []


def test_a_quiet_check_between_two_violations_counts_for_neither(checked):
    first = checked.check(500, shift=3.0)
    assert (first.violation, first.triggered) == (True, False)
    assert checked.check(0).state == "not enough data"
    assert checked.check(500, shift=3.0).triggered
    assert checked.check(500).state == "in order"
