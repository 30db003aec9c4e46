"""Killing a release at a named point, or at any moment, and what must be true once somebody has seen to it."""

from __future__ import annotations

import asyncio
import functools
import multiprocessing
import os
import signal
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from headgate.records import Traffic
from registry import history
from registry.lease import holder
from support.stack import prefect_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

PRELOADED = ("mlflow", "flows.release", "flows.rollback", "flows.reconcile", "monitoring.rollout", "monitoring.pages",
             "monitoring.shadow", "images", "support.chaos")  # fmt: skip
"""What every child would import for seconds; the fork server does so once."""


@dataclass(frozen=True)
class Kill:
    """Where a process dies.

    Attributes:
        point: the name of a call, such as `route`, or of a row, such as `row shifting`.
        number: which of its calls, from 1.
        moment: before it is made, or after it has returned.
    """

    point: str
    number: int = 1
    moment: str = "after"

    def __str__(self) -> str:
        return f"{self.moment} {self.point} #{self.number}"


def _watched() -> list[tuple[Any, str, str]]:
    """Every call that changes something outside of the process: where it is, its name, and what it is called here."""
    from deploy_targets.envoy import Gateway
    from deploy_targets.local import LocalTarget
    from headgate.stack import Supervisor
    from registry.lease import Lease
    from registry.release_run import ReleaseRun
    from registry.versions import Versions

    return [
        (Lease, "_take", "take lease"), (Lease, "_release", "let go of lease"),
        (LocalTarget, "deploy", "deploy"), (LocalTarget, "route", "route"), (LocalTarget, "retire", "retire"),
        (Supervisor, "ensure", "start process"), (Supervisor, "remove", "end process"),
        (Gateway, "_write", "write gateway file"), (Gateway, "add", "tell gateway"),
        (Versions, "register", "register"), (Versions, "attach", "attach"),
        (Versions, "set_challenger", "set challenger"), (Versions, "clear_challenger", "clear challenger"),
        (Versions, "set_champion", "set champion"), (ReleaseRun, "attach", "store report"),
    ]  # fmt: skip


def die_at(kill: Kill | None, watched: Sequence[tuple[Any, str, Any]], trail: Path | None = None) -> Watch:
    """Have this process die at one of some calls.

    Args:
        kill: where; None to live.
        watched: each call: where it is, its name, and what it is called here, or what says so from its arguments.
        trail: a file that every point passed is written to.
    """
    watch = Watch(kill, trail)
    for where, attribute, called in watched:
        name = called if callable(called) else (lambda *_, called=called, **__: called)
        setattr(where, attribute, watch.over(getattr(where, attribute), name))
    return watch


class Watch:
    """Counts the points that this process passes, and has it die at one of them."""

    def __init__(self, kill: Kill | None, trail: Path | None) -> None:
        self._kill, self._trail = kill, trail
        self._passed: Counter[str] = Counter()

    def over(self, call: Callable[..., Any], name: Callable[..., str]) -> Callable[..., Any]:
        """The same call, watched; `name` says from its arguments which point it is."""

        @functools.wraps(call)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            point = name(*args, **kwargs)
            self._passed[point] += 1
            number = self._passed[point]
            self._pass(Kill(point, number, "before"))
            result = call(*args, **kwargs)
            self._pass(Kill(point, number, "after"))
            return result

        return wrapper

    def _pass(self, here: Kill) -> None:
        if self._trail is not None:
            with self._trail.open("a") as file:
                file.write(f"{here.moment}|{here.point}|{here.number}\n")
        if here == self._kill:
            os.kill(os.getpid(), signal.SIGKILL)


def trip(kill: Kill | None, trail: Path) -> None:
    """Have this process write down every point that a release or a rollback passes, and die at one of them."""
    from tasks.job import Job

    watch = die_at(kill, _watched(), trail)
    # A subclass calls this one too.
    Job.write = watch.over(
        Job.write, lambda _, kind, what, *__, **___: f"row {kind if kind in {'look', 'wait', 'live'} else what}"
    )


def trail_of(file: Path) -> list[Kill]:
    """The points that a process passed, in order."""
    lines = [line.split("|") for line in file.read_text().splitlines()] if file.exists() else []
    return [Kill(point, int(number), moment) for moment, point, number in lines]


def release_in_child(env: Mapping[str, str], text: str, release_id: str, kill: Kill | None, trail: Path) -> None:
    """What a child does: a whole release, as a user's Python would make it."""
    os.environ.update(env)
    os.setsid()
    trip(kill, trail)
    from prefect.settings import PREFECT_LOGGING_LEVEL, temporary_settings

    from flows.release import release
    from headgate.release_file import parse_release

    with prefect_settings(env), temporary_settings({PREFECT_LOGGING_LEVEL: "CRITICAL"}):
        asyncio.run(release(parse_release(text), release_id, "chaos"))


def rollback_in_child(env: Mapping[str, str], endpoint: str, kill: Kill | None, trail: Path) -> None:
    """What a child does: a rollback, without Prefect, as `headgate rollback` makes it while that is down."""
    os.environ.update(env)
    trip(kill, trail)
    from flows.rollback import rollback

    asyncio.run(rollback.fn(endpoint, "chaos", actor="chaos"))


class Children:
    """Starts children that have everything imported already."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(list(PRELOADED))

    def start(self, target: Callable[..., None], *arguments: Any) -> multiprocessing.process.BaseProcess:
        child = self._context.Process(target=target, args=arguments)
        child.start()
        return child


def problems_of(world: Any, rows_before: int = 0, head_before: str = "") -> list[str]:
    """Every invariant that does not hold for an endpoint which nobody is at work on.

    Args:
        world: the endpoint, as tests/flows/conftest.py has it.
        rows_before: how many rows its history had earlier.
        head_before: the hash of the last one of these.
    """
    journal, endpoint, found = world.journal, world.endpoint, []
    if (flight := history.in_flight(journal, endpoint)) is not None:
        found.append(f"{flight.release_id} is still {flight.phase}")
    if (held := holder(journal, endpoint)) is not None:
        found.append(f"{held.name} still holds the lease")
    if (decided := history.unfinished_rollback(journal, endpoint)) is not None:
        found.append(f"{decided.release_id} was not finished")
    if unconcluded := history.unconcluded(journal, endpoint):
        found.append(f"nobody wrote down how {unconcluded} ended")
    if rows_before and (len(journal.read(endpoint)) < rows_before or head_of(world, rows_before) != head_before):
        found.append(f"of {rows_before} rows some are lost")
    journal.verify(endpoint)
    return found + _disagreements(world)


def _disagreements(world: Any) -> list[str]:
    """What traffic, revisions and aliases say, and the history does not."""
    champion, state, found = history.champion(world.journal, world.endpoint), world.state, []
    revisions = state.revisions if state else {}
    traffic = state.traffic if state else None
    if champion is None:
        return [f"nothing is live in the history, and there are {traffic} and {list(revisions)}"] if revisions else []
    live = champion.revision
    if traffic != Traffic.all_to(live.name):
        found.append(f"{live.name} is live in the history, and traffic is {traffic}")
    if live.name not in revisions or not revisions[live.name].ready:
        found.append(f"{live.name} is live and not ready")
    if world.aliases != {"champion": live.version.version}:
        found.append(f"v{live.version.version} is live, and aliases are {world.aliases}")
    warm = history.predecessor(world.journal, world.endpoint)
    if extra := set(revisions) - {live.name, warm.revision.name if warm else live.name}:
        found.append(f"left behind: {sorted(extra)}")
    return found


def is_back(world: Any) -> bool:
    """Whether every client is where the history says, whoever may be at work."""
    champion, state = history.champion(world.journal, world.endpoint), world.state
    traffic = state.traffic if state else None
    return champion is not None and traffic == Traffic.all_to(champion.revision.name)


def head_of(world: Any, rows: int) -> str:
    """The hash of an endpoint's row of that number."""
    import sqlalchemy as sa

    from registry.journal import entries

    query = sa.select(entries.c.hash).where(entries.c.endpoint == world.endpoint, entries.c.seq == rows)
    with world.journal.engine.connect() as connection:
        return str(connection.execute(query).scalar())


def settle(world: Any, seconds: float, **known: Any) -> tuple[float, list[str]]:
    """Wait until every invariant holds.

    Returns:
        The seconds that it took, and what still does not hold after the time given.
    """
    began = time.monotonic()
    while (found := problems_of(world, **known)) and time.monotonic() - began < seconds:
        time.sleep(0.05)
    return time.monotonic() - began, found


_DIES_WITHIN_SECONDS = 300
"""On a cluster a version before that is slow to end, and one after it that is slow to begin, take minutes."""


def die(harness: Any, kill: Kill, act: Callable[[Any], None]) -> None:
    """Do something in a process that dies in the middle."""

    def carry_out() -> None:
        target = harness.again()
        die_at(kill, harness.points())
        act(target)

    child = multiprocessing.get_context("fork").Process(target=carry_out)
    child.start()
    child.join(_DIES_WITHIN_SECONDS)
    if child.is_alive():
        child.kill()
        child.join()
        raise AssertionError(f"it was to die {kill}, and is at work still after {_DIES_WITHIN_SECONDS} s")
    assert child.exitcode == -signal.SIGKILL, f"it was to die {kill}"
