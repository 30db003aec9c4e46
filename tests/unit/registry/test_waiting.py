"""The line before an endpoint, and endpoints that are kept for a suspended run."""

from __future__ import annotations

import time

import pytest
import sqlalchemy as sa
from support.journals import PROCESSES

from headgate.errors import EndpointBusyError, LeaseLostError
from registry import Journal, Lease
from registry.journal import tickets
from registry.lease import holder
from registry.queue import TICKET_SECONDS, Place, waiting


def test_places_are_taken_in_turn_and_given_up(journal):
    places = [Place(journal, "wine", f"r{number}") for number in range(3)]
    elsewhere = Place(journal, "beer", "b")
    assert [[ticket.release_id for ticket in place.ahead()] for place in places] == [[], ["r0"], ["r0", "r1"]]
    assert elsewhere.ahead() == []
    places[0].leave()
    assert places[1].ahead() == []
    assert [ticket.release_id for ticket in waiting(journal, "wine")] == ["r1", "r2"]


def test_one_that_stood_still_for_too_long_goes_to_the_end(journal, waitless):
    first = Place(journal, "wine", "slow")
    waitless.skip(TICKET_SECONDS + 0.1)
    second = Place(journal, "wine", "quick")
    assert second.ahead() == []
    assert [ticket.release_id for ticket in first.ahead()] == ["quick"]


def _join(url: str, number: int) -> None:
    opened = Journal(url)
    Place(opened, "wine", f"r{number}")
    opened.close()


def test_many_processes_get_different_places(url, journal):
    processes = [PROCESSES.Process(target=_join, args=(url, n)) for n in range(6)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    with journal.engine.connect() as connection:
        numbers = connection.execute(sa.select(tickets.c.number).order_by(tickets.c.number)).scalars().all()
    assert numbers == [1, 2, 3, 4, 5, 6]
    assert waiting(journal, "wine") == [], "processes that have ended wait for nothing"


def park(journal, until: float) -> int:
    with Lease(journal, "wine", "r1") as lease:
        lease.park("run-1", until)
        return lease.fence


def test_a_parked_endpoint_is_kept_for_its_release(journal):
    fence = park(journal, time.time() + 60)
    kept = holder(journal, "wine")
    assert (kept.flow_run, kept.release_id) == ("run-1", "r1")
    with pytest.raises(EndpointBusyError, match="held by flow run run-1"), Lease(journal, "wine", "r2"):
        pass
    with Lease(journal, "wine", "r1") as lease:
        assert lease.fence == fence + 1
        assert holder(journal, "wine").flow_run == ""
    assert holder(journal, "wine") is None


def test_who_ends_a_release_may_take_its_parked_endpoint_and_nobody_takes_a_held_one(journal):
    park(journal, time.time() + 60)
    with Lease(journal, "wine", "rollback", unpark=True) as taken:
        with pytest.raises(EndpointBusyError), Lease(journal, "wine", "r1"):
            pass
        with pytest.raises(EndpointBusyError), Lease(journal, "wine", "r3", unpark=True):
            pass
        taken.check()


def test_a_parked_endpoint_is_free_when_its_time_is_over(journal, waitless):
    park(journal, waitless.time() + 60)
    waitless.skip(59)
    assert holder(journal, "wine").flow_run == "run-1"
    waitless.skip(2)
    assert holder(journal, "wine") is None
    with Lease(journal, "wine", "r2") as lease:
        lease.check()


def test_a_lost_lease_is_not_parked_over_its_new_holder(journal, waitless):
    with Lease(journal, "wine", "r1", seconds=60) as lease:
        lease._stop.set()
        waitless.skip(61)
        with Lease(journal, "wine", "r2") as other:
            lease.park("run-1", time.time() + 60)
            with pytest.raises(LeaseLostError):
                lease.check()
            lease._release()
            other.check()
            assert holder(journal, "wine").flow_run == ""
