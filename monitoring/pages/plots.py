"""Plots of a shift, of its latencies, of columns beside the reference, and of wrong answers."""

from __future__ import annotations

from contextlib import contextmanager
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np

from headgate.counts import LATENCY
from headgate.units import BASIS_POINTS
from monitoring.drift.profile import WIDTHS, Categories, Numbers

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from headgate.health import ColumnDrift, QualityReport
    from headgate.verdicts import Look
    from monitoring.drift.profile import Profile

_LOWEST, _HIGHEST = 0.1, 1e6
_STABLE, _CANARY, _EVIDENCE, _HARMLESS, _LIMIT = "#2a6f97", "#e07a1f", "#7b2d8b", "#588157", "#c1121f"
_POINTS = 400
"""Looks that are drawn; a day has 86,400, and a line of more points looks the same."""
_BINS = 24
_VALUES = 10
"""Categories that have a bar of their own."""
_IN_A_ROW = 3
_DOTS = 140


def rollout_plot(looks: Sequence[Look], title: str, *, kind: str = "svg") -> bytes:
    """Draw a shift: traffic, evidence and failures over time.

    Args:
        looks: in the order of their time.
        title: above the picture.
        kind: svg or png.
    """
    looks = _thinned(looks)
    with _figure(9, 6.2) as figure:
        traffic, evidence, failures = figure.subplots(3, 1, sharex=True, height_ratios=[2, 3, 2])
        seconds = [look.seconds for look in looks]
        shares = [look.share / BASIS_POINTS * 100 for look in looks]
        traffic.step([0, *seconds], [shares[0], *shares], where="pre", color=_CANARY)
        traffic.fill_between([0, *seconds], [shares[0], *shares], step="pre", color=_CANARY, alpha=0.2)
        traffic.set(ylabel="canary traffic, %", ylim=(0, 105), title=title)
        _draw_evidence(evidence, looks, seconds)
        for arm, color in (("stable", _STABLE), ("canary", _CANARY)):
            counts = [getattr(look, arm) for look in looks]
            shown = [count.failures / max(count.requests, 1) * 100 for count in counts]
            failures.plot(seconds, shown, color=color, label=arm, marker=".")
        failures.set(ylabel="failed, % so far", xlabel="seconds since the shift began")
        failures.set_ylim(0, max(1.0, failures.get_ylim()[1]))
        failures.legend(loc="upper left", frameon=False)
        return _saved(figure, kind)


def _draw_evidence(axes: Axes, looks: Sequence[Look], seconds: list[float]) -> None:
    needed = looks[-1].needed
    axes.plot([0, *seconds], [1.0, *(max(look.e_value, _LOWEST) for look in looks)], color=_EVIDENCE, marker=".",
              label="harm")  # fmt: skip
    harmless = [min(look.harmless.values(), default=_LOWEST) for look in looks]
    axes.plot(seconds, np.clip(harmless, _LOWEST, _HIGHEST), color=_HARMLESS, linewidth=1, label="no harm")
    axes.legend(loc="upper center", frameon=False, fontsize=8, ncols=2)
    axes.axhline(needed, color=_LIMIT, linestyle="--", linewidth=1)
    axes.text(0, needed * 1.25, f"roll back at {needed:g}", color=_LIMIT, fontsize=8)
    axes.set(yscale="log", ylabel="e-value", ylim=(_LOWEST, min(max(1e3, looks[-1].e_value * 10), _HIGHEST)))


def latency_plot(looks: Sequence[Look], bounds: Sequence[float], *, kind: str = "svg") -> bytes:
    """Draw both versions' median and slowest hundredth over time, of all requests so far.

    Args:
        looks: in the order of their time.
        bounds: the upper ends of the histograms' buckets, in seconds.
        kind: svg or png.

    Returns:
        The picture; empty where the looks have no latencies.
    """
    looks = [look for look in _thinned(looks) if all(sum(arm.buckets(LATENCY)) for arm in (look.canary, look.stable))]
    if not looks or not bounds:
        return b""
    with _figure(9, 2.6) as figure:
        axes = figure.subplots()
        for arm, color in (("stable", _STABLE), ("canary", _CANARY)):
            at = [quantiles_of(getattr(look, arm).buckets(LATENCY), bounds, (0.5, 0.99)) for look in looks]
            seconds = [look.seconds for look in looks]
            axes.plot(seconds, [slow for _, slow in at], color=color, linestyle="--", linewidth=1, label=f"{arm} p99")
            axes.plot(seconds, [median for median, _ in at], color=color, label=f"{arm} p50")
        axes.set(yscale="log", ylabel="latency so far, ms", xlabel="seconds since the shift began")
        axes.legend(loc="upper left", frameon=False, fontsize=8, ncols=4)
        return _saved(figure, kind)


def quantiles_of(latency: Sequence[int], bounds: Sequence[float], levels: Sequence[float]) -> tuple[float, ...]:
    """Quantiles in milliseconds, evenly spread within the bucket that holds each; those above the last are its bound.

    Args:
        latency: answers by bucket, one number more than there are bounds.
        bounds: upper ends, in seconds.
        levels: between 0 and 1.

    Returns:
        One number a level; none where there are no answers.
    """
    if not sum(latency) or not bounds:
        return ()
    reached = np.concatenate([[0.0], np.cumsum(latency[:-1])])
    ends = np.concatenate([[0.0], np.asarray(bounds)]) * 1000
    return tuple(float(np.interp(level * sum(latency), reached, ends)) for level in levels)


def columns_plot(
    columns: Sequence[tuple[ColumnDrift, Profile, Profile]], title: str, *, kind: str = "svg"
) -> bytes:  # fmt: skip
    """Draw columns of a window beside the reference.

    Args:
        columns: each one's drift, its reference's profile and its own.
        title: above the picture.
        kind: svg or png.
    """
    rows = -(-len(columns) // _IN_A_ROW)
    with _figure(9, 0.6 + 2.1 * rows) as figure:
        figure.suptitle(title)
        grid = figure.subplots(rows, _IN_A_ROW, squeeze=False).ravel()
        for axes, (drift, reference, window) in zip(grid, columns, strict=False):
            if isinstance(reference, Numbers) and isinstance(window, Numbers):
                _draw_numbers(axes, reference, window)
            elif isinstance(reference, Categories) and isinstance(window, Categories):
                _draw_categories(axes, reference, window)
            axes.set_title(f"{_short(drift.column, 24)}  {drift.score:.2g}", fontsize=9,
                           color=_LIMIT if drift.drifted else "black")  # fmt: skip
            axes.set_yticks([])
            axes.tick_params(labelsize=7)
        for axes in grid[len(columns) :]:
            axes.set_axis_off()
        handles, labels = grid[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=8)
        return _saved(figure, kind)


def _draw_numbers(axes: Axes, reference: Numbers, window: Numbers) -> None:
    """Histograms from quantile cells; what lies beyond the outermost hundredths of both is in the outermost bins."""
    both = [side.means for side in (reference, window)]
    hundredth = int(np.searchsorted(np.cumsum(WIDTHS), 0.01))
    low, high = min(side[hundredth] for side in both), max(side[-1 - hundredth] for side in both)
    edges = np.linspace(low, high if high > low else low + 1, _BINS + 1)
    for side, color, name in zip(both, (_STABLE, _CANARY), ("reference", "window"), strict=True):
        heights, _ = np.histogram(np.clip(side, edges[0], edges[-1]), edges, weights=WIDTHS)
        axes.stairs(heights, edges, fill=True, alpha=0.45, color=color, label=name)


def _draw_categories(axes: Axes, reference: Categories, window: Categories) -> None:
    """The values that are most frequent in either, and all others together."""
    of = {name: max(side.counts.get(name, 0) / max(side.used, 1) for side in (reference, window))
          for name in {*reference.counts, *window.counts}}  # fmt: skip
    shown = sorted(sorted(of), key=lambda name: -of[name])[:_VALUES]
    places = np.arange(len(shown) + 1)
    for side, color, name, aside in zip(
        (reference, window), (_STABLE, _CANARY), ("reference", "window"), (-0.2, 0.2), strict=True
    ):
        heights = [side.counts.get(value, 0) / max(side.used, 1) for value in shown]
        axes.bar(places + aside, [*heights, max(1 - sum(heights), 0.0)], 0.4, color=color, alpha=0.7, label=name)
    axes.set_xticks(places, [*(_short(value, 9) for value in shown), "others"], rotation=35, ha="right")


def wrong_answers_plot(quality: QualityReport, *, kind: str = "svg") -> bytes:
    """Draw the live version's wrong answers by day, with the span that its rate is in.

    Returns:
        The picture; empty where no day has a label.
    """
    if not quality.over_time:
        return b""
    with _figure(9, 2.4) as figure:
        axes = figure.subplots()
        days = [point.day.strftime("%m-%d") for point in quality.over_time]
        axes.bar(days, [point.wrong / max(point.labels, 1) * 100 for point in quality.over_time], 0.6, color=_STABLE)
        low, high = quality.champion.low * 100, quality.champion.high * 100
        axes.axhspan(low, high, color=_EVIDENCE, alpha=0.12)
        axes.text(0, high, f"its rate is in {low:.2g} to {high:.2g} %", color=_EVIDENCE, fontsize=8, va="bottom")
        axes.set(ylabel="wrong answers, %")
        axes.tick_params(axis="x", labelsize=7, rotation=45)
        return _saved(figure, kind)


@contextmanager
def _figure(width: float, height: float) -> Iterator[Figure]:
    from matplotlib import rc_context  # noqa: PLC0415 - 0.5 s to import, for pages only
    from matplotlib.figure import Figure  # noqa: PLC0415

    # Text stays text, which is small and can be read out; the same content has the same bytes.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": f"{width}x{height}", "font.family": "sans-serif"}):
        yield Figure(figsize=(width, height), layout="constrained")


def _saved(figure: Figure, kind: str) -> bytes:
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
        if axes.get_yscale() == "log" or len(axes.get_yticks()):
            axes.grid(alpha=0.2)
    buffer = BytesIO()
    figure.savefig(buffer, format=kind, dpi=_DOTS, metadata={"Date": None} if kind == "svg" else None)
    return buffer.getvalue()


def _thinned(looks: Sequence[Look]) -> list[Look]:
    """At most so many, evenly, the first and the last among them."""
    kept = np.unique(np.linspace(0, len(looks) - 1, min(len(looks), _POINTS)).round().astype(int))
    return [looks[place] for place in kept]


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}\N{HORIZONTAL ELLIPSIS}"
