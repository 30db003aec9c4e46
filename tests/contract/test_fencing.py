"""A process that stands still while its lease runs out, and goes on after another has taken the endpoint over."""

from __future__ import annotations

import multiprocessing
import os
import signal

import pytest
from support.stack import wait_for

from headgate.errors import LeaseLostError
from headgate.records import Traffic
from registry import Entry, Journal, Kind, Lease
from registry.lease import holder
from tasks.job import Job

SECONDS = 2.0


def hold_and_route(kind, home, url, endpoint, names, connection):
    """Shift traffic to and fro, as fast as the target takes it, until the endpoint is lost."""
    target, journal = kind(home), Journal(url)
    with Lease(journal, endpoint, "slow", seconds=SECONDS) as lease:
        job = Job(home, journal, target, endpoint, "slow", "test")
        job.lease = lease
        if connection.recv() == "without asking":
            # The target's own guard has to do, where the last look at the lease was before the pause.
            lease.check = lambda: None
        connection.send("begun")
        for share in range(1000, 10**6):
            try:
                job.route(Traffic.split(*names, share % 5000))
            except LeaseLostError as error:
                connection.send(error.message)
                break
        try:
            journal.append(
                Entry(endpoint=endpoint, release_id="slow", kind=Kind.NOTE, what="late", actor="test"),
                fence=lease.fence,
            )
        except LeaseLostError:
            connection.send("no row")


class Other:
    """A process of its own that holds an endpoint and shifts its traffic, once it is told how."""

    def __init__(self, target, url, endpoint, names):
        self.pipe, its = multiprocessing.Pipe()
        arguments = (type(target), target._home, url, endpoint, names, its)
        self.process = multiprocessing.get_context("spawn").Process(target=hold_and_route, args=arguments)
        self.process.start()

    def begin(self, how):
        self.pipe.send(how)
        assert self.pipe.recv() == "begun"


@pytest.fixture
def held(harness, settled, tmp_path):
    """The pair's endpoint, a journal, and another process that is to hold it."""
    endpoint, first, second = settled
    url = f"sqlite:///{tmp_path / 'journal.db'}"
    journal = Journal(url)
    other = Other(harness.target, url, endpoint, (first.name, second.name))
    yield journal, other
    other.process.kill()
    other.process.join()
    journal.close()


@pytest.mark.parametrize("asks", ["asking", "without asking"])
def test_a_process_that_stood_still_changes_neither_traffic_nor_history(harness, settled, held, asks):
    (endpoint, first, second), (journal, other), target = settled, held, harness.target
    other.begin(asks)
    wait_for(lambda: target.observe(endpoint).traffic.weight(second.name) > 0)
    # Not in the middle of a write, where it would hold the gateway's lock.
    with target._gateway._locked():
        os.kill(other.process.pid, signal.SIGSTOP)
    assert holder(journal, endpoint) is not None, "a process that stands still has not ended"
    wait_for(lambda: holder(journal, endpoint) is None, SECONDS + 5)

    job = Job(target._home, journal, target, endpoint, "quick", "test")
    with job.hold():
        job.route(Traffic.all_to(first.name))
        os.kill(other.process.pid, signal.SIGCONT)
        assert other.pipe.poll(30), "it goes on shifting traffic that is not its own"
        said = other.pipe.recv()
        # The thread that renews the lease may be told before the one that asks; neither may be where nobody asks.
        assert "fence" in said or (asks == "asking" and "was taken over" in said)
        assert other.pipe.recv() == "no row"
        job.write(Kind.NOTE, "still here")
    other.process.join(30)
    assert target.observe(endpoint).traffic == Traffic.all_to(first.name)
    rows = journal.read(endpoint)
    assert [row.what for row in rows] == ["lease taken over", "still here"]
    assert f":{other.process.pid}," in rows[0].reason


def test_a_killed_process_is_known_to_be_dead_at_once(settled, held):
    endpoint, (journal, other) = settled[0], held
    other.begin("asking")
    other.process.kill()
    # It stays a zombie until it is asked how it ended.
    wait_for(lambda: holder(journal, endpoint) is None, 1.0)
    other.process.join()
    with Lease(journal, endpoint, "next") as lease:
        assert lease.taken_from.release_id == "slow"
