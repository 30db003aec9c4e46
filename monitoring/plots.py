"""The canary as a picture: traffic, evidence and failures over time."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np

from headgate.units import BASIS_POINTS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headgate.records import Look

_LOWEST, _HIGHEST = 0.1, 1e6
_STABLE, _CANARY, _EVIDENCE, _HARMLESS = "#2a6f97", "#e07a1f", "#7b2d8b", "#588157"


def rollout_plot(looks: Sequence[Look], title: str, *, kind: str = "svg") -> bytes:
    """Draw a shift.

    Args:
        looks: in the order of their time.
        title: above the picture.
        kind: svg or png.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415 - 0.5 s to import, for reports only

    figure = Figure(figsize=(9, 6.2), layout="constrained")
    traffic, evidence, failures = figure.subplots(3, 1, sharex=True, height_ratios=[2, 3, 2])
    seconds = [look.seconds for look in looks]
    shares = [look.share / BASIS_POINTS * 100 for look in looks]
    traffic.step([0, *seconds], [shares[0], *shares], where="pre", color=_CANARY)
    traffic.fill_between([0, *seconds], [shares[0], *shares], step="pre", color=_CANARY, alpha=0.2)
    traffic.set(ylabel="canary traffic, %", ylim=(0, 105), title=title)
    e_values = [1.0, *(max(look.e_value, _LOWEST) for look in looks)]
    evidence.plot([0, *seconds], e_values, color=_EVIDENCE, marker=".", label="harm")
    harmless = [min(look.harmless.values(), default=_LOWEST) for look in looks]
    evidence.plot(seconds, np.clip(harmless, _LOWEST, _HIGHEST), color=_HARMLESS, linewidth=1, label="no harm")
    evidence.legend(loc="upper center", frameon=False, fontsize=8, ncols=2)
    evidence.axhline(looks[-1].needed, color="#c1121f", linestyle="--", linewidth=1)
    evidence.text(0, looks[-1].needed * 1.25, f"roll back at {looks[-1].needed:g}", color="#c1121f", fontsize=8)
    evidence.set(yscale="log", ylabel="e-value", ylim=(_LOWEST, min(max(1e3, looks[-1].e_value * 10), _HIGHEST)))
    for arm, color in (("stable", _STABLE), ("canary", _CANARY)):
        counts = [getattr(look, arm) for look in looks]
        failures.plot(
            seconds,
            [count.failures / max(count.requests, 1) * 100 for count in counts],
            color=color,
            label=arm,
            marker=".",
        )
    failures.set(ylabel="failed, % so far", xlabel="seconds since the shift began")
    failures.set_ylim(0, max(1.0, failures.get_ylim()[1]))
    failures.legend(loc="upper left", frameon=False)
    for axes in (traffic, evidence, failures):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.2)
    buffer = BytesIO()
    figure.savefig(buffer, format=kind, dpi=140, metadata={"Date": None} if kind == "svg" else None)
    return buffer.getvalue()
