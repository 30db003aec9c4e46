"""The clock of a shift begins when the platform has shifted, however long that takes."""

from __future__ import annotations

from types import SimpleNamespace

import tasks.shift
from headgate.records import Verdict

ROUTE_SECONDS, LOOK_SECONDS = 1200.0, 10.0


def test_a_platform_that_shifts_for_long_costs_the_judge_none_of_its_time(monkeypatch):
    now, seen, waited = [0.0], [], []

    def route(_traffic):
        now[0] += ROUTE_SECONDS

    def wait_until(moment):
        waited.append(moment - now[0])
        now[0] = max(now[0], moment)

    def one_look(_job, _judge, seconds, *_revisions):
        seen.append(seconds)
        verdict = Verdict.PROMOTE if len(seen) == 3 else Verdict.RUNNING
        return SimpleNamespace(verdict=verdict, reason="", model_dump=lambda **_: {})

    job = SimpleNamespace(
        endpoint="wine", spec=SimpleNamespace(strategy=SimpleNamespace(kind="canary")), route=route,
        target=SimpleNamespace(LOOK_SECONDS=LOOK_SECONDS), wait_until=wait_until, write=lambda *_row, **_more: None,
    )  # fmt: skip
    monkeypatch.setattr(tasks.shift, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(tasks.shift, "_judge", lambda *_: (SimpleNamespace(share=500), 0.0))
    monkeypatch.setattr(tasks.shift, "_traffic", lambda *_: None)
    monkeypatch.setattr(tasks.shift, "_one_look", one_look)
    monkeypatch.setattr(tasks.shift.artifacts, "Progress", lambda _endpoint: None)
    _, looks = tasks.shift._look_until_decided(job, None, None)
    assert looks == 3
    assert seen == [LOOK_SECONDS, 2 * LOOK_SECONDS, 3 * LOOK_SECONDS]
    assert waited == [LOOK_SECONDS] * 3, "looks that could not be made while it shifted are not made up for"
