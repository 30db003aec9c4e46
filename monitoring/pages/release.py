"""The page of a release: how it ended, the canary, the shadow comparison, what was checked meanwhile, the history."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from headgate.health import HealthReport
from headgate.records import Event, Look, Record, ReleaseResult, ShadowReport
from monitoring.pages.plots import latency_plot, quantiles_of, rollout_plot
from monitoring.pages.render import write

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
        _Arm(name, counts.requests, counts.failures, quantiles_of(counts.latency, evidence.bounds, QUANTILES))
        for name, counts in (("stable", last.stable), ("canary", last.canary))
    ]
