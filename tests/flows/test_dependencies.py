"""What a release rests on, failing under it: the platform, Prefect, MLflow, memory, the disk."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess

import psutil
import pytest
from conftest import LONG, QUICK, in_background
from support.chaos import problems_of
from support.stack import wait_for
from support.unreliable import FAULTS, Unreliable
from support.watched_logs import PREFECT_AWAY

from flows.reconcile import reconcile
from headgate.phases import Outcome
from headgate.stack import Supervisor
from registry import Journal, Kind

QUIET = "gates: {shadow: off}\n" + QUICK.partition("\n")[2]
LONGER = QUIET.replace("min_duration: 2s", "min_duration: 12s")


def notes(world):
    return [row.what for row in world.journal.read(world.endpoint, kinds=(Kind.NOTE,))]


def family(world, program):
    """A program of the stack and its children."""
    parent = psutil.Process(Supervisor(world.stack.home).states()[program].pid)
    return [*parent.children(recursive=True), parent]


def test_changes_are_made_however_the_platforms_api_answers(world, models, monkeypatch):
    unreliable = Unreliable(world.target)
    monkeypatch.setattr("tasks.job.open_target", lambda _: unreliable)
    world.release(models("pyfunc", does="double"), QUIET)
    with world.traffic() as client:
        assert world.release(models("pyfunc", does="negative"), QUIET).outcome is Outcome.PROMOTED
        world.assert_only(2)
        assert world.rollback("the API has a bad day").outcome is Outcome.ROLLED_BACK
    world.assert_only(1)
    assert {fault for _, fault in unreliable.seen} == set(FAULTS)
    assert not any(counter["failed"] or counter["wrong"] for counter in client.by_revision.values())


@pytest.mark.expects_errors(PREFECT_AWAY)
def test_a_release_goes_on_when_prefect_is_started_again(world, models, background):
    world.release(models("pyfunc", does="double"), QUIET)
    with world.traffic():
        process = background(models("pyfunc", does="negative"), LONGER)
        wait_for(lambda: world.share(2) > 0, 120)
        for one in family(world, "prefect-server"):
            one.kill()
        assert world.ended(2).outcome is Outcome.PROMOTED
    process.communicate(timeout=90)
    assert process.returncode == 0
    world.assert_only(2)


@pytest.mark.usefixtures("unguarded", "workerless")
def test_an_mlflow_that_hangs_holds_up_neither_a_promotion_nor_a_rollback(world, models, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    world.release(models("pyfunc", does="double"), QUIET)
    frozen = []
    try:
        with world.traffic(), in_background(world.release, models("pyfunc", does="negative"), QUIET) as release:
            wait_for(lambda: world.share(2) > 0, 120)
            frozen = family(world, "mlflow-server")
            for one in frozen:
                one.send_signal(signal.SIGSTOP)
            assert release.result(90).outcome is Outcome.PROMOTED
            assert world.rollback("and back").outcome is Outcome.ROLLED_BACK
            assert world.state.traffic.holder.startswith("v1-")
        assert {"aliases late", "report late"} <= set(notes(world))
    finally:
        for one in frozen:
            one.send_signal(signal.SIGCONT)
    asyncio.run(reconcile.fn(world.endpoint))
    assert problems_of(world) == []


@pytest.fixture
def small_disk(tmp_path, monkeypatch):
    """A disk of four megabytes that holds the journal; gives a call that fills it, and one that frees it."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(tmp_path)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr.strip()}")
    monkeypatch.setenv("HEADGATE_JOURNAL_URL", f"sqlite:///{tmp_path / 'journal.db'}")
    ballast = tmp_path / "ballast"

    def fill() -> None:
        with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
            while file.write(b"x" * 4096):
                pass

    yield fill, ballast.unlink
    subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_canary_has_no_clients_while_the_journals_disk_is_full(small_disk, stack, world, models):
    fill, free = small_disk
    world.journal.close()
    world.journal = Journal(os.environ["HEADGATE_JOURNAL_URL"])
    world.release(models("pyfunc", does="double"), QUIET)
    with world.traffic() as client, in_background(world.release, models("pyfunc", does="negative"), LONG) as release:
        wait_for(lambda: world.share(2) > 0, 120)
        fill()
        # Nothing that the judge finds could be written down, and nobody could take the release over.
        wait_for(lambda: world.share(2) == 0, 15)
        assert release.exception(120) is not None
        assert world.share(2) == 0
        free()
        asyncio.run(reconcile.fn(world.endpoint))
    assert problems_of(world) == []
    assert world.live == 1
    assert not any(counter["failed"] or counter["wrong"] for counter in client.by_revision.values())
