"""What Prometheus is told of releases, the judge, checks and labels, and where it finds the rest.

All is read from the journal when Prometheus asks. docs/metrics.md lists the metrics.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from deploy_targets.envoy import Gateway
from headgate.errors import TargetUnavailableError
from headgate.health import HealthReport, QualityReport
from headgate.phases import Phase
from headgate.stack import Ports
from headgate.stack.ports import HOST
from headgate.units import BASIS_POINTS
from headgate.verdicts import Look
from registry import Kind, history
from registry.history import QUALITY
from tasks.upkeep import checks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client import Metric

    from headgate.home import Home
    from registry import Journal
    from tasks.upkeep import PrefectState, Seen

_SCRAPE_SECONDS = 5.0
"""Half of the time that Prometheus waits by default."""
_COUNTED = (Kind.PHASE, Kind.DECISION, Kind.CHECK)


def render(journal: Journal, seen: Seen) -> bytes:
    """The metrics, in Prometheus' text format.

    Args:
        journal: which is read now.
        seen: of the servers; asking them takes too long for Prometheus.
    """
    registry = CollectorRegistry()
    registry.register(_Journal(journal))
    registry.register(_Upkeep(journal, seen))
    return generate_latest(registry)


class _Gauges:
    """Gauges by name, made when the first value comes."""

    def __init__(self) -> None:
        self._found: dict[str, GaugeMetricFamily] = {}

    def set(self, name: str, says: str, value: float, **labels: str) -> None:
        known = self._found.setdefault(name, GaugeMetricFamily(f"headgate_{name}", says, labels=list(labels)))
        known.add_metric(list(labels.values()), value)

    def __iter__(self) -> Iterator[Metric]:
        return iter(self._found.values())


class _Journal(Collector):
    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def collect(self) -> Iterator[Metric]:
        rows = CounterMetricFamily("headgate_history_rows", "Rows of the history.", labels=["endpoint", "kind", "what"])
        for (endpoint, kind, what), count in self._journal.counts(_COUNTED).items():
            rows.add_metric([endpoint, kind, what], count)
        yield rows
        gauges = _Gauges()
        self._live(gauges)
        self._in_flight(gauges)
        for row in self._journal.newest_of_each(Kind.CHECK):
            _check(gauges, HealthReport.model_validate(row.evidence), row.at.timestamp())
        yield from gauges

    def _live(self, gauges: _Gauges) -> None:
        prices = self._prices()
        for row in self._journal.newest_of_each(Kind.LIVE):
            revision = row.evidence["revision"]
            labels = {"endpoint": row.endpoint, "revision": revision["name"]}
            gauges.set("champion_version", "The version that is live.", revision["version"]["version"], **labels)
            gauges.set("champion_since_seconds", "Since when, as Unix time.", row.at.timestamp(), endpoint=row.endpoint)
            if row.endpoint in prices:
                gauges.set("price_per_hour", "What the endpoint's replicas cost, as the release file says.",
                           prices[row.endpoint], endpoint=row.endpoint)  # fmt: skip
        for row in self._journal.newest_of_each(Kind.NOTE, QUALITY):
            _quality(gauges, row.endpoint, QualityReport.model_validate(row.evidence))

    def _prices(self) -> dict[str, float]:
        """By endpoint, as its newest release's file has it; only of those that have one."""
        started = self._journal.newest_of_each(Kind.PHASE, Phase.STARTED)
        runtimes = {row.endpoint: row.evidence["spec"].get("runtime", {}) for row in started}
        return {
            endpoint: runtime["price_per_hour"] * runtime.get("replicas", {}).get("max", 1)
            for endpoint, runtime in runtimes.items() if runtime.get("price_per_hour")
        }  # fmt: skip

    def _in_flight(self, gauges: _Gauges) -> None:
        for endpoint, flight in history.all_in_flight(self._journal).items():
            gauges.set("release_in_flight_since_seconds", "When the release entered its phase, as Unix time.",
                       flight.since.timestamp(), endpoint=endpoint, phase=flight.phase)  # fmt: skip
            looks = self._journal.read(endpoint, kinds=(Kind.LOOK,), release_id=flight.release_id, newest=1)
            if looks:
                _look(gauges, endpoint, Look.model_validate(looks[-1].evidence))


class _Upkeep(Collector):
    """What should run by itself: checks, schedules, workers, the servers' services."""

    def __init__(self, journal: Journal, seen: Seen) -> None:
        self._journal, self._seen = journal, seen

    def collect(self) -> Iterator[Metric]:
        gauges = _Gauges()
        for one in checks(self._journal):
            gauges.set("checks_missed", "Due checks that were not made since the last one, or since the endpoint was "
                       "watched.", one.missed, endpoint=one.endpoint)  # fmt: skip
        for name, (count, _) in self._seen.errors.items():
            gauges.set("logged_errors", "Errors in a program's log of the last 15 minutes.", count, program=name)
        if self._seen.prefect is not None:
            _prefect(gauges, self._seen.prefect)
        yield from gauges


def _prefect(gauges: _Gauges, state: PrefectState) -> None:
    gauges.set("prefect_up", "Whether the Prefect server answers.", not state.problem)
    for one in state.schedules:
        gauges.set("schedule_has_runs", "Whether the Prefect server makes runs of a deployment's schedules.",
                   one.next_run is not None, deployment=one.name)  # fmt: skip
        gauges.set("schedule_late_seconds", "How late the oldest run of a deployment's schedules is.",
                   one.late.total_seconds(), deployment=one.name)  # fmt: skip
    for pool, online in state.workers.items():
        gauges.set("workers_online", "Workers of a work pool that are online.", online, work_pool=pool)


def _look(gauges: _Gauges, endpoint: str, look: Look) -> None:
    gauges.set("canary_share", "The canary's share of traffic.", look.share / BASIS_POINTS, endpoint=endpoint)
    gauges.set("judge_e_value", "Evidence of harm.", look.e_value, endpoint=endpoint)
    gauges.set("judge_e_value_needed", "The evidence that takes the canary back.", look.needed, endpoint=endpoint)


def _check(gauges: _Gauges, report: HealthReport, at: float) -> None:
    endpoint = report.endpoint
    gauges.set("check_time_seconds", "When the endpoint was last checked, as Unix time.", at, endpoint=endpoint)
    gauges.set("check_rows", "Rows of the window that was checked.", report.rows, endpoint=endpoint)
    gauges.set("check_violation", "Whether that window was a violation.", report.violation, endpoint=endpoint)
    gauges.set("check_too_quiet", "Whether monitor.quiet_checks of the last checks had too few rows.", report.too_quiet,
               endpoint=endpoint)  # fmt: skip
    gauges.set("check_triggered", "Whether enough of the last ones were.", report.triggered, endpoint=endpoint)
    gauges.set("drifted_share", "The share of columns that drifted.", report.share, endpoint=endpoint)
    gauges.set("data_problems", "Columns with bad values.", len(report.problems), endpoint=endpoint)
    for column in report.columns:
        labels = {"endpoint": endpoint, "column": column.column}
        gauges.set("column_drift", "How far a column is from the reference.", column.score, **labels)
        limit = max(column.threshold, column.chance)
        gauges.set("column_drift_limit", "From where on it has drifted.", limit, **labels)


def _quality(gauges: _Gauges, endpoint: str, report: QualityReport) -> None:
    for one in (report.champion, report.before):
        if one is not None:
            labels = {"endpoint": endpoint, "revision": one.revision}
            gauges.set("labelled_answers", "Answers that have a label.", one.labels, **labels)
            gauges.set("wrong_ratio", "The share of them that is wrong.", one.rate, **labels)
            gauges.set("wrong_ratio_low", "Where it is at least, with 95 %.", one.low, **labels)
            gauges.set("wrong_ratio_high", "Where it is at most, with 95 %.", one.high, **labels)
    worse = report.verdict == "worse"
    gauges.set("worse_by_labels", "Whether labels show the live version to be worse.", worse, endpoint=endpoint)


def scraped(home: Home, receiver: str) -> list[dict[str, Any]]:
    """Where Prometheus finds metrics, as its `http_sd_configs` takes it: this program, the gateway, and each server.

    Prometheus cannot ask a Unix socket, so the receiver asks those servers in its place (`server_metrics`). A cloud's
    servers are not among them, as they cannot be reached.

    Args:
        home: of the local stack.
        receiver: `host:port` at which Prometheus has reached this program.
    """
    ports = Ports.remembered(home)
    if ports is None:
        return []
    return [
        _scraped("headgate", receiver),
        _scraped("headgate-gateway", f"{HOST}:{ports.gateway_metrics}", __metrics_path__="/stats/prometheus"),
        *(
            _scraped("headgate-server", f"{HOST}:{address.port}", endpoint=endpoint, revision=revision)
            if address.port
            else _scraped(
                "headgate-server", receiver, endpoint=endpoint, revision=revision,
                __metrics_path__=f"/servers/{endpoint}/{revision}/metrics",
            )
            for endpoint, revision, address in Gateway(home.gateway, ports).addresses()
        ),
    ]  # fmt: skip


def server_metrics(home: Home, endpoint: str, revision: str) -> tuple[bytes, str] | None:
    """Ask a server of this machine for its metrics.

    Args:
        home: of the local stack.
        endpoint: that the server belongs to.
        revision: of it.

    Returns:
        The metrics, in Prometheus' text format, and their content type; None where the gateway knows no such revision.

    Raises:
        TargetUnavailableError: the server does not answer.
    """
    ports = Ports.remembered(home)
    address = Gateway(home.gateway, ports).address(endpoint, revision) if ports else None
    if address is None:
        return None
    try:
        with address.client(_SCRAPE_SECONDS) as client:
            reply = client.get("/metrics").raise_for_status()
    except httpx.HTTPError as error:
        raise TargetUnavailableError(
            f"the server of {revision} of {endpoint} does not answer: {error}", fix="headgate status"
        ) from error
    return reply.content, reply.headers["content-type"]


def _scraped(job: str, address: str, **labels: str) -> dict[str, Any]:
    return {"targets": [address], "labels": {"job": job, **labels}}
