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


@pytest.mark.parametrize("asks", ["asking", "without asking"])
def test_a_process_that_stood_still_changes_neither_traffic_nor_history(harness, settled, tmp_path, asks):
    endpoint, first, second = settled
    url = f"sqlite:///{tmp_path / 'journal.db'}"
    journal, (ours, its) = Journal(url), multiprocessing.Pipe()
    target = harness.target
    process = multiprocessing.get_context("spawn").Process(
        target=hold_and_route, args=(type(target), target._home, url, endpoint, (first.name, second.name), its)
    )
    process.start()
    try:
        ours.send(asks)
        assert ours.recv() == "begun"
        wait_for(lambda: target.observe(endpoint).traffic.weight(second.name) > 0)
        # Not in the middle of a write, where it would hold the gateway's lock.
        with target._gateway._locked():
            os.kill(process.pid, signal.SIGSTOP)
        held = holder(journal, endpoint)
        assert held is not None, "a process that stands still has not ended"
        wait_for(lambda: holder(journal, endpoint) is None, SECONDS + 5)

        job = Job(target._home, journal, target, endpoint, "quick", "test")
        with job.hold():
            job.route(Traffic.all_to(first.name))
            os.kill(process.pid, signal.SIGCONT)
            assert "fence" in ours.recv()
            assert ours.recv() == "no row"
            job.write(Kind.NOTE, "still here")
        process.join(30)
        assert target.observe(endpoint).traffic == Traffic.all_to(first.name)
        rows = journal.read(endpoint)
        assert [row.what for row in rows] == ["lease taken over", "still here"]
        assert f":{process.pid}," in rows[0].reason
    finally:
        process.kill()
        process.join()
        journal.close()


def test_a_killed_process_is_known_to_be_dead_at_once(harness, settled, tmp_path):
    endpoint, first, second = settled
    url = f"sqlite:///{tmp_path / 'journal.db'}"
    journal, (ours, its) = Journal(url), multiprocessing.Pipe()
    target = harness.target
    process = multiprocessing.get_context("spawn").Process(
        target=hold_and_route, args=(type(target), target._home, url, endpoint, (first.name, second.name), its)
    )
    process.start()
    ours.send("asking")
    assert ours.recv() == "begun"
    process.kill()
    # It stays a zombie until it is asked how it ended.
    wait_for(lambda: holder(journal, endpoint) is None, 1.0)
    process.join()
    with Lease(journal, endpoint, "next") as lease:
        assert lease.taken_from.release_id == "slow"
    journal.close()
