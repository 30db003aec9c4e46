"""The time from which a version's answers are in question, when the monitor asks whether going back would help."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from headgate.health import HealthReport
from headgate.records import Image, ModelVersion, Revision, Window
from headgate.release_file import parse_release
from registry import Entry, Journal, Kind, history
from tasks.attribution import windows_of_norms

ENDPOINT = "wine"
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)


@pytest.fixture
def job(tmp_path):
    """Version 1 was live for a day; version 2 is live since `BEGAN`, and its checks have windows of an hour."""
    text = f"model: {ENDPOINT}\nartifact: nowhere\ntarget: {{kind: local}}\nmonitor: {{window: 1h}}\n"
    job = SimpleNamespace(
        endpoint=ENDPOINT, spec=parse_release(text), journal=Journal(f"sqlite:///{tmp_path}/journal.db"), names={}
    )
    for number, at in ((1, BEGAN - timedelta(days=1)), (2, BEGAN)):
        image = Image(digest="sha256:" + "1" * 64, lock_digest="", path=tmp_path, interpreter=None, size=1)
        version = ModelVersion(name=ENDPOINT, version=number, digest="sha256:" + str(number) * 64)
        revision = Revision.of(version, image, env={}, workers=1, ready_timeout=60)
        job.names[number] = revision.name
        write(job, Kind.LIVE, revision.name, {"revision": revision.model_dump(mode="json")}, at)
    yield job
    job.journal.close()


def write(job, kind: Kind, what: str, evidence: dict, at: datetime) -> None:
    job.journal.append(
        Entry(endpoint=ENDPOINT, release_id="r", kind=kind, what=what, reason="", actor="a", evidence=evidence, at=at)
    )


def check(job, end: datetime, *, violation: bool = True, number: int = 2) -> HealthReport:
    """Write a check of a version, whose window ends at a time, and return its report."""
    report = HealthReport(
        endpoint=ENDPOINT, revision=job.names[number], version=number,
        window=Window(start=max(end - HOUR, BEGAN), end=end), rows=500, drifted_columns=(), share=0.0, limit=0.5,
        violation=violation, triggered=violation, reason="",
    )  # fmt: skip
    write(job, Kind.CHECK, "drift", report.model_dump(mode="json"), end)
    return report


def norms(job, report: HealthReport) -> tuple[Window, Window]:
    champion = history.champion(job.journal, ENDPOINT)
    earlier = history.predecessor(job.journal, ENDPOINT)
    return windows_of_norms(job, champion, earlier, report)


def test_the_first_window_of_the_one_and_the_last_of_the_other(job):
    for hours in (1, 2):
        check(job, BEGAN + hours * HOUR, violation=False)
    ours, theirs = norms(job, check(job, BEGAN + 5 * HOUR))
    assert (ours.start, ours.end) == (BEGAN, BEGAN + HOUR)
    assert (theirs.start, theirs.end) == (BEGAN - HOUR, BEGAN)


def test_answers_of_an_earlier_violation_are_no_norm(job):
    check(job, BEGAN + 80 * MINUTE)
    check(job, BEGAN + 90 * MINUTE, violation=False)
    ours, _ = norms(job, check(job, BEGAN + 5 * HOUR))
    assert (ours.start, ours.end) == (BEGAN, BEGAN + 20 * MINUTE)


def test_a_version_that_never_was_in_order_has_no_norm(job):
    check(job, BEGAN + 20 * MINUTE)
    ours, _ = norms(job, check(job, BEGAN + 80 * MINUTE))
    assert ours.start == ours.end == BEGAN


def test_violations_of_its_earlier_time_and_of_others_are_not_its_own(job):
    check(job, BEGAN + 20 * MINUTE, number=1)
    check(job, BEGAN + 10 * MINUTE)
    for at, entry in zip((BEGAN + HOUR / 2, BEGAN + HOUR), job.journal.read(ENDPOINT, kinds=(Kind.LIVE,)), strict=True):
        write(job, Kind.LIVE, entry.what, entry.evidence, at)
    ours, _ = norms(job, check(job, BEGAN + 4 * HOUR))
    assert (ours.start, ours.end) == (BEGAN + HOUR, BEGAN + 2 * HOUR)
