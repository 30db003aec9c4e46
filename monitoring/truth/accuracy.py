"""How often versions were wrong, by the labels that have arrived, and whether the live one is the worse of two.

Two comparisons are fair, and both hold however often one looks. Of requests that both versions answered, as in shadow,
it counts on which only one was wrong (McNemar's test, sequentially). Of the time in which both answered clients, it
compares how often each was wrong. What the version before did on another day says nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from headgate.errors import MonitorError
from headgate.health import Accuracy, QualityPoint, QualityReport
from headgate.units import rough_percent
from monitoring.judge.confidence import interval_of_rate, rate_interval
from monitoring.judge.paired import mcnemar_e_value
from monitoring.predictions.typed import OUTPUT
from monitoring.truth.labels import as_text

if TYPE_CHECKING:
    from headgate.monitor import Quality
    from monitoring.predictions import Predictions

_KEY = ["request_id", "row"]
_POINTS = 48
_CONFIDENCE = 0.05


class Arms(NamedTuple):
    """Wrong answers and all of them, of two versions that can be compared."""

    ours: tuple[int, int]
    theirs: tuple[int, int]


class Weighed(NamedTuple):
    """What two versions' wrong answers show: `difference` is an interval of their rates' difference, in shares."""

    e_value: float
    difference: tuple[float, float]
    verdict: str


def judge_quality(
    champion: Predictions, before: Predictions | None, labels: pd.DataFrame, limits: Quality
) -> QualityReport | None:
    """Hold answers against labels.

    Args:
        champion: what the live version answered, copies included.
        before: the same of the version before.
        labels: columns request_id, row, label.
        limits: what counts as wrong, and as worse.

    Returns:
        None where no label belongs to an answer of the live version.

    Raises:
        MonitorError: a file of predictions cannot be read, or an answer has no such part.
    """
    ours = _labelled(champion, labels, limits)
    if ours.empty:
        return None
    theirs = None if before is None else _labelled(before, labels, limits)
    known = set(map(tuple, ours[_KEY].to_numpy()))
    known |= set() if theirs is None else set(map(tuple, theirs[_KEY].to_numpy()))
    paired, side = (
        (Arms((0, 0), (0, 0)),) * 2 if theirs is None else (_pairs(ours, theirs), _side_by_side(ours, theirs))
    )
    weighed = weigh(paired, side, len(ours), limits)
    found = QualityReport(
        champion=_accuracy(champion.revision, ours),
        before=None if theirs is None or theirs.empty or before is None else _accuracy(before.revision, theirs),
        pairs=paired.ours[1], only_ours=paired.ours[0], only_theirs=paired.theirs[0], e_value=weighed.e_value,
        difference=weighed.difference, verdict=weighed.verdict, unknown=len(labels) - len(known),
        over_time=_over_time(ours), reason="",
    )  # fmt: skip
    return found.model_copy(update={"reason": _reason(found, limits, 2 / limits.false_alarms)})


def weigh(paired: Arms, side: Arms, labels: int, limits: Quality) -> Weighed:
    """Compare two versions' wrong answers, at any time and as often as wanted.

    Args:
        paired: of requests that both answered, those that one alone answered wrongly, and all.
        side: of requests that clients asked while both were live, the wrong answers, and all.
        labels: how many answers of the live version have a label.
        limits: the chance of a false alarm, which the two share, and what counts as no worse.
    """
    alpha = limits.false_alarms / 2
    e_value = mcnemar_e_value(paired.ours[0], paired.theirs[0])
    in_pairs, at_once = (rate_interval(*_counts(arms), alpha) for arms in (paired, side))
    verdict = "open"
    if e_value >= 1 / alpha or at_once[0] > 0:
        verdict = "worse"
    elif min(in_pairs[1], at_once[1]) <= limits.margin and labels >= limits.min_labels:
        verdict = "no worse"
    return Weighed(e_value, min(in_pairs, at_once, key=lambda interval: interval[1] - interval[0]), verdict)


def _labelled(predictions: Predictions, labels: pd.DataFrame, limits: Quality) -> pd.DataFrame:
    """The answers that have a label: request_id, row, time, mirrored, error, wrong."""
    stored = OUTPUT + _part_of_answer(predictions, limits)
    names = [*_KEY, "time", "mirrored", stored]
    rows = predictions.whole(lambda: predictions.of_requests(labels["request_id"], names))
    answers = rows.rename(columns={stored: "answer"}).drop_duplicates(_KEY).merge(labels, on=_KEY)
    answers = answers[answers["answer"].notna()]
    said, true = (pd.to_numeric(answers[name], errors="coerce") for name in ("answer", "label"))
    numbers = said.notna() & true.notna()
    error = (said - true).abs()
    texts = answers["answer"].map(as_text) != answers["label"]
    wrong = np.where(numbers, error > limits.tolerance * true.abs(), texts)
    return answers.assign(error=(said - true).where(numbers), wrong=wrong.astype(bool)).reset_index(drop=True)


def _part_of_answer(predictions: Predictions, limits: Quality) -> str:
    known = predictions.parts_of_answer
    if limits.answer in known or not known:
        return limits.answer
    if limits.answer or len(known) > 1:
        said = f"monitor.quality.answer is {limits.answer!r}" if limits.answer else "it has several parts"
        raise MonitorError(
            f"which part of {predictions.revision}'s answer labels are about is not known: {said}",
            fix=f"name one of them in monitor.quality.answer: {', '.join(known)}",
        )
    return known[0]


def _pairs(ours: pd.DataFrame, theirs: pd.DataFrame) -> Arms:
    both = ours.merge(theirs, on=_KEY, suffixes=("", "_before"))
    only_ours = int((both["wrong"] & ~both["wrong_before"]).sum())
    only_theirs = int((both["wrong_before"] & ~both["wrong"]).sum())
    return Arms((only_ours, len(both)), (only_theirs, len(both)))


def _side_by_side(ours: pd.DataFrame, theirs: pd.DataFrame) -> Arms:
    """Of clients' requests while both versions answered some."""
    seen = [answers[~answers["mirrored"].astype(bool)] for answers in (ours, theirs)]
    if any(answers.empty for answers in seen):
        return Arms((0, 0), (0, 0))
    start = max(answers["time"].min() for answers in seen)
    end = min(answers["time"].max() for answers in seen)
    at_once = [answers[(answers["time"] >= start) & (answers["time"] <= end)] for answers in seen]
    return Arms(*((int(answers["wrong"].sum()), len(answers)) for answers in at_once))


def _counts(arms: Arms) -> tuple[np.ndarray, np.ndarray]:
    """As `rate_interval` takes them: trials, then hits."""
    return np.array(arms.ours[::-1], float), np.array(arms.theirs[::-1], float)


def _accuracy(revision: str, answers: pd.DataFrame) -> Accuracy:
    count, wrong = len(answers), int(answers["wrong"].sum())
    low, high = interval_of_rate(wrong, count, _CONFIDENCE)
    errors = answers["error"].dropna()
    return Accuracy(
        revision=revision, labels=count, wrong=wrong, rate=wrong / count, low=low, high=high,
        mean_absolute_error=float(errors.abs().mean()) if len(errors) else None,
        root_mean_squared_error=float(np.sqrt((errors**2).mean())) if len(errors) else None,
    )  # fmt: skip


def _over_time(answers: pd.DataFrame) -> tuple[QualityPoint, ...]:
    by_day = answers.groupby(answers["time"].dt.floor("D"))["wrong"].agg(["count", "sum"]).tail(_POINTS)
    return tuple(
        QualityPoint(day=day.to_pydatetime(), labels=int(count), wrong=int(wrong))
        for day, (count, wrong) in zip(by_day.index, by_day.to_numpy(), strict=True)
    )


def _reason(found: QualityReport, limits: Quality, needed: float) -> str:
    parts = [_of(found.champion)]
    if found.before is not None:
        parts.append(_of(found.before))
    if found.before is not None and found.pairs:
        parts.append(
            f"of {found.pairs} labelled pairs only {found.champion.revision} is wrong on {found.only_ours}, only "
            f"{found.before.revision} on {found.only_theirs} (e-value {found.e_value:.3g} of {needed:g} needed)"
        )
    says = {
        "worse": f"{found.champion.revision} is wrong more often",
        "no worse": f"it is shown to be wrong at most {rough_percent(limits.margin)} of answers more often",
        "open": "neither worse nor shown to be no worse",
    }[found.verdict]
    return "; ".join([*parts, says])


def _of(one: Accuracy) -> str:
    return (
        f"{one.revision} is wrong on {one.wrong} of {one.labels} labelled answers ({rough_percent(one.rate)}, "
        f"{rough_percent(one.low)} to {rough_percent(one.high)})"
    )
