"""What rules would have done, as pictures."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

from monitoring.judge.batch import ROLLBACK

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from monitoring.replay.recorded import Trace, Verdict
    from monitoring.replay.simulate import Trial

_COLOURS = ("#7b2d8b", "#2a6f97", "#e07a1f", "#c1121f", "#588157", "#8d99ae")


def trial_picture(trials: Sequence[Trial], path: Path) -> None:
    """How many faulty canaries were taken back by when, and how many good ones; one line a rule."""
    figure = _figure()
    faulty, good = figure.subplots(1, 2, sharey=True)
    for axes, which, title in ((faulty, "faulty", "faulty canaries"), (good, "good", "good canaries")):
        for trial, colour in zip(trials, _COLOURS, strict=False):
            outcome = getattr(trial, which)
            times = np.sort(outcome.seconds[outcome.phase == ROLLBACK])
            shares = np.arange(1, len(times) + 1) / len(outcome.phase) * 100
            line = [0, *times, 3600], [0, *shares, shares[-1] if len(shares) else 0]
            axes.step(*line, where="post", color=colour, label=trial.rule)
        axes.set(
            title=f"{title} taken back, %", xlabel="seconds since the shift began", xscale="symlog", ylim=(-3, 103)
        )
    faulty.legend(loc="best", frameon=False, fontsize=8)
    _save(figure, path, (faulty, good))


def trace_picture(trace: Trace, verdicts: Sequence[Verdict], path: Path) -> None:
    """Failures of both versions as they were recorded, and when each rule would have ended the shift."""
    figure = _figure()
    axes = figure.subplots()
    for arm, colour in (("stable", "#2a6f97"), ("canary", "#e07a1f")):
        counts = getattr(trace, arm)["failures"]
        axes.plot(trace.seconds, counts[:, 1] / np.maximum(counts[:, 0], 1) * 100, color=colour, label=arm)
    for verdict, colour in zip(verdicts, _COLOURS, strict=False):
        if np.isfinite(verdict.seconds):
            axes.axvline(verdict.seconds, color=colour, linestyle="--", label=f"{verdict.rule}: {verdict.phase}")
    axes.set(xlabel="seconds since the shift began", ylabel="failed, % so far")
    axes.legend(loc="best", frameon=False, fontsize=8)
    _save(figure, path, (axes,))


def _figure() -> Any:  # noqa: ANN401 - matplotlib is imported for pictures only
    from matplotlib.figure import Figure  # noqa: PLC0415 - 0.5 s to import

    return Figure(figsize=(10, 4.2), layout="constrained")


def _save(figure: Any, path: Path, drawn: Sequence[Axes]) -> None:  # noqa: ANN401 - as above
    for axes in drawn:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.2)
    buffer = BytesIO()
    figure.savefig(buffer, format=path.suffix.removeprefix(".") or "png", dpi=140)
    path.write_bytes(buffer.getvalue())
