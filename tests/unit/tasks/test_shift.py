"""The clock of a shift begins when the platform has shifted, however long that takes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

import tasks.shift
from headgate.counts import Counts
from headgate.errors import TargetError, TargetUnavailableError
from headgate.records import Usage
from headgate.release_file import parse_release
from headgate.verdicts import Verdict
from registry import Entry, Journal, Kind

ROUTE_SECONDS, LOOK_SECONDS = 1200.0, 10.0


def test_a_platform_that_shifts_for_long_costs_the_judge_none_of_its_time(monkeypatch, waitless):
    seen, waited, written = [], [], []

    def route(_traffic):
        waitless.skip(ROUTE_SECONDS)

    def wait_until(moment):
        waited.append(moment - waitless.monotonic())
        waitless.skip(waited[-1])

    def one_look(_job, _judge, seconds, *_revisions):
        seen.append(seconds)
        verdict = Verdict.PROMOTE if len(seen) == 103 else Verdict.RUNNING
        return SimpleNamespace(verdict=verdict, reason="", model_dump=lambda **_: {})

    job = SimpleNamespace(
        endpoint="wine", spec=SimpleNamespace(strategy=SimpleNamespace(kind="canary")), route=route,
        target=SimpleNamespace(LOOK_SECONDS=LOOK_SECONDS), wait_until=wait_until,
        write=lambda kind, *_row, **more: written.append((kind, more.get("evidence"))),
    )  # fmt: skip
    monkeypatch.setattr(
        tasks.shift, "_judge", lambda *_: (SimpleNamespace(share=500, to_dict=lambda: {"looks": len(seen)}), 0.0)
    )
    monkeypatch.setattr(tasks.shift, "_traffic", lambda *_: None)
    monkeypatch.setattr(tasks.shift, "_one_look", one_look)
    monkeypatch.setattr(tasks.shift.artifacts, "Progress", lambda _endpoint: None)
    _, looks = tasks.shift._look_until_decided(job, None, None)
    assert looks == 103
    assert seen == pytest.approx([look * LOOK_SECONDS for look in range(1, 104)])
    assert waited == pytest.approx([LOOK_SECONDS] * 103), (
        "looks that could not be made while it shifted are not made up for"
    )
    states = [(at, evidence) for at, (kind, evidence) in enumerate(written) if kind is Kind.STATE]
    assert states == [(100, {"looks": 100})], "written once in 100 looks, after the look that it contains"


@pytest.mark.parametrize("fault", [None, TargetError("the cluster refuses it"), TargetUnavailableError("not now")])
def test_a_look_goes_without_what_servers_use_where_that_cannot_be_had(fault):
    used = Usage(memory=1, cpu=1.0, servers=("a",))

    class Target:
        def usage(self, _endpoint):
            if fault is not None:
                raise fault
            return {"v1": used, "v9": used}

    job = SimpleNamespace(endpoint="wine", target=Target())
    stable, canary = SimpleNamespace(name="v1"), SimpleNamespace(name="v2")
    assert tasks.shift._usage(job, stable, canary) == ({} if fault else {"stable": used})
    assert tasks.shift._usage(SimpleNamespace(endpoint="wine", target=object()), stable, canary) == {}


def test_a_shift_that_was_cut_short_goes_on_from_the_judges_state(tmp_path):
    """The looks before the state are not in the journal here: they come from the state or not at all."""
    spec = parse_release("model: wine\nartifact: nowhere\ntarget: {kind: local}\n")
    journal, counts = Journal(f"sqlite:///{tmp_path}/journal.db"), {}

    def write(kind, what, reason="", evidence=None, actor="a"):
        journal.append(
            Entry(
                endpoint="wine",
                release_id="r1",
                kind=kind,
                what=what,
                reason=reason,
                evidence=evidence or {},
                actor=actor,
            )
        )

    def no_log(*_):
        raise TargetError("the log cannot be read")

    target = SimpleNamespace(counts=lambda _endpoint: dict(counts), captured=no_log, LATENCY_BOUNDS=(), LOG_DELAY=0.0)
    job = SimpleNamespace(endpoint="wine", release_id="r1", spec=spec, journal=journal, target=target, write=write)
    stable, canary = SimpleNamespace(name="v1", version="wine@v1"), SimpleNamespace(name="v2", version="wine@v2")
    write(Kind.PHASE, "started", evidence={"spec": spec.model_dump(mode="json")})

    def counted(seconds):
        counts["v1"] = Counts(requests=950 * seconds, failures=9 * seconds)
        counts["v2"] = Counts(requests=50 * seconds, failures=2 * seconds)
        return counts["v1"], counts["v2"]

    counted(0)
    whole, before = tasks.shift._judge(job, stable, canary)
    assert before == 0.0
    for seconds in range(1, 6):
        look = whole.look(float(seconds), *counted(seconds))
        if seconds > 3:
            write(Kind.LOOK, look.verdict, look.reason, look.model_dump(mode="json"))
        if seconds == 3:
            write(Kind.STATE, "judge", evidence=whole.to_dict())
    resumed, before = tasks.shift._judge(job, stable, canary)
    assert before == 5.0
    assert resumed.look(6.0, *counted(6)) == whole.look(6.0, *counted(6))
    journal.close()
