"""Which version an alarm is of: the one that had clients when it began, unless another was being tried."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from headgate.errors import TargetUnavailableError
from headgate.phases import Phase
from headgate.records import Alarm, Image, ModelVersion, Revision
from headgate.release_file import parse_release
from registry import Entry, Journal, Kind
from tasks.alarms import UNREAD, check_alarms

ENDPOINT = "wine"
START = datetime.now(UTC) - timedelta(hours=10)


def at(hours: float) -> datetime:
    return START + timedelta(hours=hours)


class Told:
    """A job as the check needs it: two versions were promoted, at hours 1 and 3, and a third was tried in hour 5."""

    def __init__(self, folder) -> None:
        self.journal, self.endpoint = Journal(f"sqlite:///{folder}/journal.db"), ENDPOINT
        self.spec = parse_release(f"model: {ENDPOINT}\nartifact: nowhere\ntarget: {{kind: local}}\nmonitor: {{}}\n")
        self.ringing: list[Alarm] = []
        self.target = SimpleNamespace(alarms=lambda: self.ringing)
        self.notes: list[str] = []
        image = Image(
            digest="sha256:" + "1" * 64, lock_digest="sha256:" + "2" * 64, path=folder, interpreter=None, size=1
        )
        for number, hour in ((1, 1.0), (2, 3.0)):
            version = ModelVersion(name=ENDPOINT, version=number, digest="sha256:" + str(number) * 64)
            revision = Revision.of(version, image, env={}, workers=1, ready_timeout=60)
            release = f"r{number}"
            self.row(release, Kind.PHASE, Phase.STARTED, hour - 0.5)
            self.row(release, Kind.PHASE, Phase.SHIFTING, hour - 0.25)
            self.row(release, Kind.LIVE, revision.name, hour, {"revision": revision.model_dump(mode="json")})
            self.row(release, Kind.PHASE, Phase.PROMOTED, hour)
        for what, hour in ((Phase.STARTED, 5.0), (Phase.UNDOING, 5.4), (Phase.UNDONE, 5.5)):
            self.row("r3", Kind.PHASE, what, hour)

    def row(self, release: str, kind: Kind, what: str, hour: float, evidence: dict | None = None) -> None:
        evidence = json.loads(json.dumps(evidence or {}))
        self.journal.append(Entry(
            endpoint=ENDPOINT, release_id=release, kind=kind, what=what, actor="test", evidence=evidence, at=at(hour)
        ))  # fmt: skip

    def write(self, _kind: Kind, what: str, _reason: str) -> None:
        self.notes.append(what)


@pytest.fixture
def job(tmp_path):
    made = Told(tmp_path)
    yield made
    made.journal.close()


@pytest.mark.parametrize(("hour", "acts"), [
    (2.5, False), (2.8, True), (4.0, True), (5.2, False), (5.55, False), (5.6, True), (9.0, True),
])  # fmt: skip
def test_an_alarm_is_of_the_version_that_had_clients_and_of_no_other(job, hour, acts):
    job.ringing = [Alarm(name="failures", since=at(hour), reason="5 of 4")]
    report = check_alarms.fn(job)
    assert (report is not None) is acts
    if report is not None:
        assert report.causes == ("alarms",)
        assert (report.version, report.triggered) == (2, True)
        assert "failures rings since" in report.reason
        assert "5 of 4" in report.reason


def test_alarms_of_others_are_passed_over_beside_one_that_counts(job):
    job.ringing = [Alarm(name="old", since=at(1.5), reason=""), Alarm(name="new", since=at(8), reason="")]
    report = check_alarms.fn(job)
    assert "new rings" in report.reason
    assert "old" not in report.reason


def test_a_platform_that_does_not_say_is_written_down_and_takes_nothing_back(job):
    def away():
        raise TargetUnavailableError("CloudWatch does not answer")

    job.target.alarms = away
    assert check_alarms.fn(job) is None
    assert job.notes == [UNREAD]
