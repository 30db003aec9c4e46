"""What people ask of a release while it runs, and what decides whether one may begin."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from conftest import QUICK
from support.stack import wait_for

from headgate.errors import EndpointBusyError, FrozenError
from headgate.operating import Freeze
from headgate.phases import Outcome, Phase
from registry import Kind, history
from registry.orders import PAUSE, RESUME, ask
from registry.queue import TICKET_SECONDS, Place, waiting


def looks(world):
    return world.journal.read(world.endpoint, kinds=(Kind.LOOK,))


def is_paused(world):
    """Whether the last look was; the order may come before the first."""
    return any(look.evidence["paused"] for look in looks(world)[-1:])


def test_a_paused_release_stays_where_it_is_and_goes_on_when_it_is_resumed(world, models, background):
    world.release(models("pyfunc", does="double"))
    with world.traffic():
        # Long enough for the order to reach it, however busy the machine is.
        more = QUICK.replace("min_duration: 2s, max_duration: 30s", "min_duration: 20s, max_duration: 120s")
        process = background(models("pyfunc", does="negative"), more)
        wait_for(lambda: world.share(2) > 0, 180)
        world.stack.headgate("pause", world.endpoint, "--reason", "let us see")
        wait_for(lambda: is_paused(world))
        at = world.share(2)
        seen = len(looks(world))
        wait_for(lambda: len(looks(world)) > seen + 5)
        assert world.share(2) == at
        assert "someone to resume it" in looks(world)[-1].reason
        assert ", paused since" in world.stack.headgate("status", world.endpoint).stdout
        world.stack.headgate("resume", world.endpoint, "--reason", "seen")
        assert process.wait(180) == 0
    world.assert_only(2)


def test_a_paused_release_is_taken_back_when_it_does_harm(world, shifting):
    world.stack.headgate("pause", world.endpoint, "--reason", "let us see")
    wait_for(lambda: is_paused(world))
    with world.traffic(low=-40.0):
        assert shifting.wait(180) == 4
    assert is_paused(world)
    world.assert_only(1)


def test_releases_wait_in_line_first_come_first_served(world, models, background):
    queued = QUICK + "when_busy: queue\n"
    world.release(models("pyfunc", does="double"))
    with world.traffic():
        first = background(models("pyfunc", does="negative"), queued)
        flight = wait_for(lambda: history.in_flight(world.journal, world.endpoint), 180)
        # It is not to end before the others have come, however busy the machine is.
        ask(world.journal, world.endpoint, flight.release_id, PAUSE, "for the others", "test")
        second = background(models("pyfunc", does="quadruple"), queued)
        wait_for(lambda: len(waiting(world.journal, world.endpoint)) == 1, 180)
        third = background(models("pyfunc", does="triple"), queued)
        wait_for(lambda: len(waiting(world.journal, world.endpoint)) == 2, 180)
        line = [ticket.release_id for ticket in waiting(world.journal, world.endpoint)]
        with pytest.raises(EndpointBusyError):
            world.release(models("pyfunc", does="double"))
        ask(world.journal, world.endpoint, flight.release_id, RESUME, "they are here", "test")
        codes = [process.wait(300) for process in (first, second, third)]
    # The third one's answers differ, so its comparison refuses it.
    assert codes == [0, 0, 3]
    phases = world.journal.read(world.endpoint, kinds=(Kind.PHASE,))
    assert [row.release_id for row in phases if row.what == Phase.STARTED][2:] == line
    order = [row.release_id for row in phases]
    assert order == sorted(order, key=order.index), "no two are in flight at the same time"
    assert waiting(world.journal, world.endpoint) == []


def test_nobody_overtakes_those_who_wait_and_the_dead_hold_nobody_up(world, models, ahead):
    place = Place(world.journal, world.endpoint, "someone-else")
    with pytest.raises(EndpointBusyError, match=r"1 release\(s\) wait for .* the first is someone-else"):
        world.release(models("pyfunc", does="double"))
    assert place.ahead() == []
    ahead.skip(TICKET_SECONDS + 1)
    assert waiting(world.journal, world.endpoint) == []
    assert world.release(models("pyfunc", does="double"), QUICK + "when_busy: queue\n").outcome is Outcome.PROMOTED


def test_a_freeze_window_refuses_and_an_emergency_overrides_it(world, models):
    now = datetime.now(UTC)
    window = f"start: '{now.minute} {now.hour} * * *', end: '0 0 {(now + timedelta(days=2)).day} * *'"
    frozen = QUICK + f"freeze: [{{{window}, reason: quarter end}}]\n"
    with pytest.raises(FrozenError, match=r"is frozen until .* UTC \(quarter end\)"):
        world.release(models("pyfunc", does="double"), frozen)
    assert world.journal.read(world.endpoint) == []
    world.release(models("pyfunc", does="double"), frozen, override_freeze="customers are down")
    decided = [row for row in world.journal.read(world.endpoint) if row.what == "freeze overridden"]
    assert [row.reason for row in decided] == ["customers are down"]
    # What is live may be taken back at any time.
    with world.traffic():
        world.release(models("pyfunc", does="negative"), frozen, override_freeze="still down")
    world.rollback("worse")
    world.assert_only(1)


def test_a_window_that_began_meanwhile_keeps_clients_from_the_new_version(world, models, monkeypatch):
    world.release(models("pyfunc", does="double"))
    always = Freeze(start="* * * * *", end="0 0 1 1 *", reason="it began")
    answers = iter([None, (always, datetime(2030, 1, 1, tzinfo=UTC))])
    monkeypatch.setattr("tasks.entry.frozen_until", lambda *_: next(answers))
    with world.traffic(), pytest.raises(FrozenError, match="it began"):
        world.release(models("pyfunc", does="negative"))
    assert looks(world) == []
    world.assert_only(1)
