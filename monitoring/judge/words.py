"""What the judge says to the person on call: observed, compared with what, how much evidence, what happens next."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from headgate.units import format_duration, format_percent, rough_percent, roughly
from monitoring.judge.batch import ADVANCE, INCONCLUSIVE, PROMOTE, ROLLBACK, JudgeBatch
from monitoring.judge.metrics import BoundedMean, Disagreement, ErrorRate, Latency, PredictionShift
from monitoring.judge.paired import MAX_LOG

if TYPE_CHECKING:
    from monitoring.judge.engine import Array

_SHOWS_GROWTH = 0.5
_VARIES = 1.05
"""φ that is said."""


def observed(metric: Any, canary: Array, stable: Array) -> str:  # noqa: ANN401 - any metric
    """Both arms' counts of one metric.

    Args:
        metric: which.
        canary: its cells so far, of shape (cells,).
        stable: the same.
    """
    if isinstance(metric, ErrorRate):
        what = "got a 4xx answer" if metric.name == "client_errors" else "failed"
        return f"{canary[1]:.0f} of {canary[0]:.0f} requests {what} against {stable[1]:.0f} of {stable[0]:.0f}"
    if isinstance(metric, Latency):
        return " and ".join(
            f"p{100 * q:g} {_quantile(metric, canary, q)} against {_quantile(metric, stable, q)}"
            for q in (metric.quantiles[0], metric.quantiles[-1])
        )
    if isinstance(metric, Disagreement):
        return f"{canary[1]:.0f} of {canary[0]:.0f} pairs disagree, and {rough_percent(metric.tolerance)} may"
    if isinstance(metric, PredictionShift):
        shares = canary / max(canary.sum(), 1), stable / max(stable.sum(), 1)
        most = int(np.abs(shares[0] - shares[1]).argmax())
        return f"answer {most} in {rough_percent(shares[0][most])} against {rough_percent(shares[1][most])}"
    if isinstance(metric, BoundedMean):
        middles = (np.array(metric.edges[1:]) + np.array(metric.edges[:-1])) / 2
        means = [float(cells @ middles / cells.sum()) if cells.any() else math.nan for cells in (canary, stable)]
        return f"mean {means[0]:.4g} against {means[1]:.4g}"
    raise TypeError(metric)


def message(
    batch: JudgeBatch, subject: str, phase: int, share: float, culprits: tuple[str, ...], alarms: tuple[str, ...],
    *, paused: bool = False,
) -> str:  # fmt: skip
    """One verdict, whole."""
    policy = batch.policy
    at = f"{subject} at {format_percent(share)}"
    evidence = _evidence(batch, culprits)
    if phase == ROLLBACK:
        return f"roll back {at}: {evidence}{_guarantee(batch)}"
    if phase == ADVANCE:
        return f"advance {at} to {format_percent(policy.shares[int(batch.step[0])])}: {evidence}"
    if phase == PROMOTE:
        return f"promote {at}: {evidence}{_guarantee(batch)}"
    lacks = "someone to resume it" if paused else " and ".join(lacking(batch)) or "more time"
    said = f"{evidence}{detectable(batch)}{''.join(f'; {alarm}' for alarm in alarms)}"
    first = ""
    if missing := _missing_traffic(batch):
        first, said = f"{missing}; ", "; ".join(("no evidence yet", *alarms))
    if phase == INCONCLUSIVE:
        return f"undecided {at} after {format_duration(policy.max_duration)}: {first}it still needs {lacks}; {said}"
    left = "" if paused else f", at most {roughly(max(policy.max_duration - float(batch.now[0]), 0.0))} more"
    return f"hold {at}: {first}it needs {lacks}{left}; {said}"


def _missing_traffic(batch: JudgeBatch) -> str:
    """Say that there are no requests, and what to check; nothing where there are some."""
    metric = next((one for one in batch.policy.metrics if isinstance(one, ErrorRate)), None)
    if metric is None:
        return ""
    canary, stable = (float(batch.total[arm][metric.name][0, 0]) for arm in ("canary", "stable"))
    seconds = roughly(float(batch.now[0]))
    if canary:
        return ""
    if stable:
        return f"none of {stable:.0f} requests in {seconds} reached it; check the weights with headgate status"
    return f"no requests in {seconds}; check that clients call the endpoint"


def lacking(batch: JudgeBatch) -> list[str]:
    """What the present step still needs before it ends."""
    policy, step = batch.policy, int(batch.step[0])
    last, shares = step == len(policy.shares) - 1, policy.shares
    requests, seconds = float(batch.requests[0]), float(batch.now[0])
    missing_requests = policy.min_requests - requests if last else 0.0
    missing_seconds = policy.min_duration - seconds if last else 0.0
    if policy.ramp == "schedule":
        part = math.ceil(policy.min_requests * shares[step] / sum(shares))
        missing_requests = max(missing_requests, part - (requests - float(batch.step_requests[0])))
        spent = seconds - float(batch.step_began[0])
        missing_seconds = max(missing_seconds, policy.min_duration / len(shares) - spent)
    parts = []
    if missing_requests > 0:
        came, spent = requests - float(batch.step_requests[0]), seconds - float(batch.step_began[0])
        rate = came / spent if spent > 0 else 0.0
        parts.append(f"{missing_requests:.0f} more requests" + (f" (at {rate:.2g}/s)" if rate else " (none come)"))
    if missing_seconds > 0:
        parts.append(f"{missing_seconds:.0f} s more")
    if policy.ramp == "evidence" or last:
        shown = {name: float(values[0, step]) for name, values in batch.evidence.harmless.items()}
        needed = policy.needed_to_promote
        missing = [
            f"{name} ({_number(value)} of {1 / policy.alpha_promote:g}{_expected(value, needed, seconds)})"
            for name, value in shown.items()
            if value < needed
        ]
        parts += [f"proof of no harm in {', '.join(missing)}"] if missing else []
    return parts


def _expected(log_value: float, needed: float, seconds: float) -> str:
    """Say when an e-value is expected to be as large as needed: its logarithm grows with the requests."""
    return f", about {roughly((needed - log_value) / log_value * seconds)} more" if log_value > _SHOWS_GROWTH else ""


def detectable(batch: JudgeBatch) -> str:
    """The smallest regression of the error rate that this traffic could have shown by now, in words."""
    rate = smallest_detectable(batch)
    if rate is None:
        return "; no regression could have been shown yet"
    return f"; a failure rate of {rough_percent(rate)} would have shown by now"


def smallest_detectable(batch: JudgeBatch) -> float | None:
    """The least failure rate of the canary that is expected to be shown by now, with the blocks as they were.

    Returns:
        None while even a canary that always fails could not be told; NaN where errors are not compared.
    """
    metric = next((one for one in batch.policy.metrics if isinstance(one, ErrorRate)), None)
    return math.nan if metric is None else batch.least_rate(metric.name)


def split_alarm(realised: float, configured: float) -> str:
    """The alarm of a router that does not split as configured."""
    return f"the gateway sends {rough_percent(realised)} of requests and {format_percent(configured)} is configured"


def count_alarm(metric: str, arm: str, hits: int, trials: int) -> str:
    """The alarm of counters that cannot be right."""
    arm = {"canary": "canary", "stable": "stable version"}[arm]
    return f"the counters of the {arm} are wrong: {hits} of {trials} in {metric}; they are not judged"


def _evidence(batch: JudgeBatch, culprits: tuple[str, ...]) -> str:
    """What was seen: of the culprits, or of the metric that is nearest to being one and of errors."""
    names = list(culprits) or [max(batch.evidence.harm, key=lambda name: float(batch.evidence.harm[name][0]))]
    errors = [metric.name for metric in batch.policy.metrics if isinstance(metric, ErrorRate)][:1]
    shown = dict.fromkeys([*names, *errors] if not culprits else names)
    by_name = {metric.name: metric for metric in batch.policy.metrics}
    parts = [
        observed(by_name[name], batch.total["canary"][name][0], batch.total["stable"][name][0])
        for name in shown
        if batch.total["canary"][name].any() or name in errors
    ]
    value, needed = _number(float(batch.log_harm[0])), 1 / batch.policy.alpha
    return f"{'; '.join(parts)}; e-value {value} of {needed:g} needed to roll back"


def _guarantee(batch: JudgeBatch) -> str:
    """What the verdict is worth: how much the counts of the stable version vary, in its past and now."""
    phi, live = batch.live_dispersion()
    now = f"; evidence of {live} is divided by {phi:.3g} at least, as counts varied since the shift began"
    return f" ({_of_the_past(batch)}{now if phi > 1 else ''})"


def _of_the_past(batch: JudgeBatch) -> str:
    alpha = format_percent(batch.policy.alpha)
    if reasons := batch.undispersed():
        return f"{alpha} holds if requests fail independently: {reasons[0]}"
    name = max(batch.evidence.names, key=batch.dispersion_of)
    known, has_bursts = batch.past_of(name)
    past = f"in {format_duration(known)} of logs of the stable version's servers"
    if batch.dispersion_of(name) < _VARIES and not has_bursts:
        return f"requests failed independently {past}"
    bursts = "; failures came in bursts, so a fault has to last" if has_bursts else ""
    return f"evidence of {name} is divided by {batch.dispersion_of(name):.3g}, as counts varied {past}{bursts}"


def _quantile(metric: Latency, cells: Array, level: float) -> str:
    """The bucket that holds a quantile, all strata together."""
    histogram = cells.reshape(metric.strata, -1).sum(axis=0)
    if not histogram.any():
        return "unknown"
    place = int(np.searchsorted(np.cumsum(histogram) / histogram.sum(), level))
    if place >= len(metric.bounds):
        return f"over {_milliseconds(metric.bounds[-1])}"
    return f"≤ {_milliseconds(metric.bounds[place])}"


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms"


def _number(log_value: float) -> str:
    return f"{math.exp(min(log_value, MAX_LOG)):.3g}"
