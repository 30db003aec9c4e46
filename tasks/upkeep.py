"""Find what should run by itself and does not: checks of watched endpoints, schedules, workers, background services.

The Prefect server is asked over HTTP, as its client takes seconds to import. What a server's background services fail
to do shows in its answers: a schedule without runs, a run that is past its time and not marked late.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import httpx
from croniter import croniter

from headgate.findings import Finding
from headgate.servers import PREFECT, how_to_sign_in, signed_in
from headgate.sign_in import PrefectSignIn, refuses
from headgate.stack import Ports, Supervisor
from headgate.stack.logs import recent_errors
from headgate.stack.programs import STACK
from headgate.units import roughly
from registry import Kind
from registry.watches import watches

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from headgate.home import Home
    from registry import Journal
    from registry.watches import Watch

MISSED = 2
"""So many due times without a check, and an endpoint counts as not checked: twice its interval."""
LOG_WINDOW = timedelta(minutes=15)
"""How far back a program's log is read for errors."""

_COUNTED_UP_TO = 100
_WITHOUT_SCHEDULE = "0 * * * *"
"""What is expected of endpoints that `monitor --all` checks, whenever that is run: a check an hour."""
_FIRST_RUNS = timedelta(seconds=90)
"""Prefect's scheduler visits all schedules every 60 s, and new ones every 5 s."""
_LATE = timedelta(minutes=2)
_ASK_SECONDS = 2.0


@dataclass(frozen=True)
class Checks:
    """How far the checks of a watched endpoint are behind.

    Attributes:
        missed: due times since `since`, at most 100.
        since: the last check, or, before the first one, when the endpoint was watched.
        ever: whether there was a check since the endpoint is watched.
    """

    endpoint: str
    schedule: str
    missed: int
    since: datetime
    ever: bool


@dataclass
class Scheduled:
    """A deployment that has an active schedule.

    Attributes:
        next_run: when its next run is due; None where the server has made none.
        late: how long its oldest run is past its time, in a state that says whether the server has noticed.
    """

    name: str
    next_run: datetime | None
    late: timedelta
    late_state: str


@dataclass
class PrefectState:
    """What a Prefect server says of Headgate's deployments.

    Attributes:
        problem: why it could not be asked; empty where it was.
        refuses: whether that is the sign-in.
        deployed: whether it has Headgate's flows.
        schedules: the deployments with an active schedule.
        workers: by work pool, the workers that are online; pools whose runs need no worker are left out.
    """

    url: str
    problem: str = ""
    refuses: bool = False
    deployed: bool = False
    schedules: list[Scheduled] = field(default_factory=list)
    workers: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Seen:
    """What was last seen of the servers.

    Attributes:
        prefect: what the Prefect server said; None where there is none.
        errors: by program of the local stack, how many errors it logged in the last 15 minutes, and the newest one.
    """

    prefect: PrefectState | None
    errors: dict[str, tuple[int, str]]


def look(home: Home) -> Seen:
    """Ask the Prefect server, and read the stack's logs; takes as long as they take."""
    url = prefect_address(home)
    return Seen(ask_prefect(url, env=signed_in(home)) if url else None, logged_errors(home))


def checks(journal: Journal, now: datetime | None = None) -> list[Checks]:
    """Return how far the checks of each watched endpoint with a monitor are behind, in the order of their names."""
    now = now or datetime.now(UTC)
    last = {row.endpoint: row.at for row in journal.newest_of_each(Kind.CHECK)}
    known = sorted(watches(journal).items())
    return [_checks(name, watch, last.get(name), now) for name, watch in known if watch.spec.monitor is not None]


def _checks(endpoint: str, watch: Watch, last: datetime | None, now: datetime) -> Checks:
    monitor = watch.spec.monitor
    assert monitor is not None  # noqa: S101 - `checks` has left out those without
    cron, zone = (monitor.schedule, monitor.timezone) if watch.scheduled else (_WITHOUT_SCHEDULE, "UTC")
    if last is not None and watch.unwatched is not None and last < watch.unwatched:
        last = None
    since = last or watch.since
    times = croniter(cron, since.astimezone(ZoneInfo(zone)))
    missed = 0
    while missed < _COUNTED_UP_TO and times.get_next(datetime) <= now:
        missed += 1
    return Checks(endpoint, cron, missed, since, last is not None)


def prefect_address(home: Home) -> str:
    """Return the API of the Prefect server that is used: PREFECT_API_URL, or the local stack's; empty without one."""
    ports = Ports.remembered(home)
    return os.environ.get("PREFECT_API_URL") or (f"{ports.prefect_url}/api" if ports else "")


def ask_prefect(url: str, now: datetime | None = None, env: Mapping[str, str] = os.environ) -> PrefectState:
    """Return what a Prefect server says of Headgate's schedules and workers.

    Args:
        url: its API.
        now: the time.
        env: has PREFECT_API_AUTH_STRING or PREFECT_API_KEY, which sign in.
    """
    state = PrefectState(url)
    with httpx.Client(base_url=url, timeout=_ASK_SECONDS, auth=PrefectSignIn.of(url, env)) as client:
        try:
            _ask(client, state, now or datetime.now(UTC))
        except httpx.HTTPStatusError as error:
            state.refuses = refuses(error.response)
            state.problem = "does not accept the sign-in" if state.refuses else (
                f"answers {error.response.status_code} to {error.request.url.path}"
            )  # fmt: skip
        except (httpx.HTTPError, ValueError) as error:
            state.problem = f"does not answer: {error or type(error).__name__}"
        except (KeyError, TypeError) as error:
            state.problem = f"answers in another form than Prefect's: {error!r}"
    return state


def _ask(client: httpx.Client, state: PrefectState, now: datetime) -> None:
    deployments = _post(client, "/deployments/filter", {"deployments": {"tags": {"all_": ["headgate"]}}})
    state.deployed = bool(deployments)
    for deployment in deployments:
        active = [one for one in deployment["schedules"] if one["active"]]
        settled = [one for one in active if now - _time(one["updated"] or one["created"]) > _FIRST_RUNS]
        if settled and not deployment["paused"]:
            state.schedules.append(_scheduled(client, deployment, now))
    for pool in sorted({one["work_pool_name"] for one in deployments if one["work_pool_name"]}):
        kind = _answer(client.get(f"/work_pools/{pool}"))["type"]
        if not kind.endswith((":push", ":managed")):
            workers = _post(client, f"/work_pools/{pool}/workers/filter", {})
            state.workers[pool] = sum(one["status"] == "ONLINE" for one in workers)


def _scheduled(client: httpx.Client, deployment: dict[str, Any], now: datetime) -> Scheduled:
    name = f"{deployment['entrypoint'].rpartition('.')[2]}/{deployment['name']}"

    def first(**expected: str) -> dict[str, Any] | None:
        runs: list[dict[str, Any]] = _post(client, "/flow_runs/filter", {
            "deployments": {"id": {"any_": [deployment["id"]]}}, "sort": "EXPECTED_START_TIME_ASC", "limit": 1,
            "flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}, "expected_start_time": expected},
        })  # fmt: skip
        return runs[0] if runs else None

    coming, oldest = first(after_=now.isoformat()), first(before_=now.isoformat())
    return Scheduled(
        name,
        next_run=_time(coming["expected_start_time"]) if coming else None,
        late=now - _time(oldest["expected_start_time"]) if oldest else timedelta(0),
        late_state=oldest["state"]["name"] if oldest else "",
    )


def _post(client: httpx.Client, path: str, body: dict[str, Any]) -> Any:  # noqa: ANN401 - Prefect's JSON
    return _answer(client.post(path, json=body))


def _answer(reply: httpx.Response) -> Any:  # noqa: ANN401 - Prefect's JSON
    return reply.raise_for_status().json()


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def logged_errors(home: Home) -> dict[str, tuple[int, str]]:
    """Return the errors that the stack's programs logged in the last 15 minutes: how many, and the newest one."""
    supervisor, since = Supervisor(home), datetime.now(UTC) - LOG_WINDOW
    found = {name: recent_errors(supervisor.log_file(name), since) for name in STACK}
    return {name: (len(errors), errors[-1].summary) for name, errors in found.items() if errors}


def findings(home: Home, journal: Journal) -> list[Finding]:
    """Return what should run by itself, good findings too."""
    seen = look(home)
    made = [*_of_checks(checks(journal)), *_of_logs(home, seen.errors)]
    return [*made, *of_prefect(seen.prefect)] if seen.prefect else made


def _of_checks(known: list[Checks]) -> Iterator[Finding]:
    for one in known:
        if one.missed >= MISSED:
            ago = roughly((datetime.now(UTC) - one.since).total_seconds())
            last = f"the last check was {ago} ago" if one.ever else f"no check since it was watched, {ago} ago"
            yield Finding(
                severity="error", subject=one.endpoint,
                problem=f"is not checked: {last}; {one.missed} checks are missed (schedule {one.schedule})",
                fix="read the runs of the flow monitor in the Prefect UI, or check now: headgate monitor release.yaml",
            )  # fmt: skip
    if known and all(one.missed < MISSED for one in known):
        yield Finding(severity="ok", subject="checks", problem=f"{len(known)} watched endpoints are checked in time")


def _of_logs(home: Home, errors: dict[str, tuple[int, str]]) -> Iterator[Finding]:
    for name, (count, newest) in errors.items():
        yield Finding(
            severity="warning", subject=name,
            problem=f"logged {count} errors in the last 15 minutes; the newest: {newest[:300]}",
            fix=f"read {Supervisor(home).log_file(name)}",
        )  # fmt: skip


def of_prefect(state: PrefectState) -> Iterator[Finding]:
    """Yield what a server's answers mean."""
    if state.problem:
        fix = "headgate up"
        if state.refuses:
            fix = f"{how_to_sign_in(PREFECT, own=False)}; for a server of your own: {how_to_sign_in(PREFECT)}"
        yield Finding(severity="error", subject="prefect", problem=f"{state.url} {state.problem}", fix=fix)
        return
    if not state.deployed:
        yield Finding(severity="error", subject="prefect", problem=f"{state.url} does not have Headgate's flows",
                      fix="headgate up, or, for a server of your own, headgate connect")  # fmt: skip
    for one in state.schedules:
        yield _of_schedule(one)
    for pool, online in state.workers.items():
        yield Finding(
            severity="ok" if online else "error", subject=f"work pool {pool}", problem=f"workers online: {online}",
            fix="" if online else f"headgate up, or, on a server of your own: prefect worker start --pool {pool}",
        )  # fmt: skip


def _of_schedule(one: Scheduled) -> Finding:
    subject = f"schedule of {one.name}"
    if one.next_run is None:
        return Finding(
            severity="error", subject=subject, problem="the Prefect server makes no runs for it: its scheduler fails",
            fix="read the server's log for errors of schedule_deployments; its SQLAlchemy has to be older than 2.1",
        )  # fmt: skip
    if one.late > _LATE:
        late = roughly(one.late.total_seconds())
        noticed = one.late_state != "Scheduled"
        return Finding(
            severity="error", subject=subject,
            problem=f"its oldest run is {late} late ({one.late_state})"
            + ("" if noticed else ", and the Prefect server did not mark it: its background services fail"),
            fix="start a worker of its work pool, or end the run that holds its place" if noticed
            else "read the server's log, and start the server again",
        )  # fmt: skip
    return Finding(severity="ok", subject=subject, problem=f"the next run is due at {one.next_run:%F %H:%M} UTC")
