"""The page of a release: how it ended, the canary, the shadow comparison, what was checked meanwhile, the history."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from headgate.counts import LATENCY
from headgate.health import HealthReport
from headgate.records import Event, Record, ReleaseResult
from headgate.verdicts import Look, ShadowReport
from monitoring.pages.plots import latency_plot, quantiles_of, rollout_plot
from monitoring.pages.render import write
from monitoring.usage import Memory, count_restarts

if TYPE_CHECKING:
    from pathlib import Path

QUANTILES = (0.5, 0.9, 0.95, 0.99)


class Evidence(Record):
    """What is known of a release; `bounds` are those of the latency histograms in the looks, in seconds."""

    result: ReleaseResult
    title: str
    looks: tuple[Look, ...] = ()
    bounds: tuple[float, ...] = ()
    shadow: ShadowReport | None = None
    health: HealthReport | None = None
    events: tuple[Event, ...] = ()


class _Arm(NamedTuple):
    name: str
    requests: int
    failures: int
    milliseconds: tuple[float, ...]
    uses: _Uses | None


class _Uses(NamedTuple):
    """What one version's servers used during the shift; `cpu` is in milliseconds a request; None is unknown."""

    before: str
    after: str
    cpu: float | None
    restarts: int | None


def write_release(evidence: Evidence, file: Path) -> list[Path]:
    """Write the page and, where live traffic was shifted, the canary as a PNG beside it.

    Returns:
        The files.
    """
    looks, written = evidence.looks, [file]
    plots = {}
    if looks:
        plots = {"canary": rollout_plot(looks, evidence.title), "latency": latency_plot(looks, evidence.bounds)}
    write("release.html", file, plots, evidence=evidence, arms=_arms(evidence), quantiles=QUANTILES)
    if looks:
        picture = file.with_suffix(".png")
        picture.write_bytes(rollout_plot(looks, evidence.title, kind="png"))
        written.append(picture)
    return written


def _arms(evidence: Evidence) -> list[_Arm]:
    if not evidence.looks:
        return []
    last = evidence.looks[-1]
    return [
        _Arm(
            name, counts.requests, counts.failures, quantiles_of(counts.buckets(LATENCY), evidence.bounds, QUANTILES),
            _uses(name, evidence.looks),
        )
        for name, counts in (("stable", last.stable), ("canary", last.canary))
    ]  # fmt: skip


def _uses(arm: str, looks: tuple[Look, ...]) -> _Uses | None:
    known = [look for look in looks if arm in look.usage]
    if not known:
        return None
    first, last = known[0], known[-1]
    requests = getattr(last, arm).requests - getattr(first, arm).requests
    servers = [look.usage[arm].servers for look in known]
    restarts = count_restarts(servers) if any(servers) else None
    # The CPU time of a server that was started again begins at 0.
    began, ended, cpu = first.usage[arm], last.usage[arm], None
    if requests > 0 and not restarts and began.cpu is not None and ended.cpu is not None:
        cpu = (ended.cpu - began.cpu) / requests * 1000
    before, after = (str(Memory.of(one) or "unknown") for one in (began, ended))
    return _Uses(before, after, cpu, restarts)
