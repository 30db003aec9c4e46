"""What the servers of one revision counted: requests, failures, and histograms that have names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator, model_validator

from headgate.records import Record

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

LATENCY = "latency"
"""The histogram of how long answers took."""


class Histogram(Record):
    """Answers by one of their numbers.

    Attributes:
        name: of what is measured, such as `latency`.
        stratum: of which answers, such as those to prompts of one length; empty where answers are not told apart.
        buckets: one number for each bucket of the target's `LATENCY_BOUNDS`, and one for the answers above.
    """

    name: str
    stratum: str = ""
    buckets: tuple[int, ...]


class Counts(Record):
    """Cumulative counters of one revision since its gateway started; they fall to zero when it restarts.

    Attributes:
        requests: requests that were answered, live and mirrored.
        failures: answers with a status of 400 or more, and requests that got none.
        client_errors: those of the failures that are answers with a status of 400 to 499.
        histograms: at most one of a name and stratum; none where the target has no histograms.
    """

    requests: int = Field(ge=0)
    failures: int = Field(ge=0)
    client_errors: int = Field(0, ge=0)
    histograms: tuple[Histogram, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _of_one_histogram(cls, content: Any) -> Any:  # noqa: ANN401 - what is to be validated
        """Read what earlier versions wrote, which had the buckets of latencies under `latency`."""
        if not isinstance(content, dict) or LATENCY not in content:
            return content
        more = {name: value for name, value in content.items() if name != LATENCY}
        buckets = content[LATENCY]
        return {**more, "histograms": ({"name": LATENCY, "buckets": buckets},)} if buckets else more

    @field_validator("histograms")
    @classmethod
    def _are_distinct(cls, histograms: tuple[Histogram, ...]) -> tuple[Histogram, ...]:
        keys = [(one.name, one.stratum) for one in histograms]
        if doubled := sorted({key for key in keys if keys.count(key) > 1}):
            raise ValueError(f"one histogram of a name and stratum, not several of {doubled}")
        return histograms

    def buckets(self, name: str, stratum: str = "") -> tuple[int, ...]:
        """Return a histogram's buckets; none where it is not there."""
        return next((one.buckets for one in self.histograms if (one.name, one.stratum) == (name, stratum)), ())

    def since(self, before: Counts) -> Counts:
        """Return what was counted after `before`, a reading of the same counters."""
        return Counts(
            **{name: getattr(self, name) - getattr(before, name) for name in _NUMBERS},
            histograms=tuple(_less(one, before.buckets(one.name, one.stratum)) for one in self.histograms),
        )

    @classmethod
    def total(cls, some: Sequence[Counts]) -> Counts:
        """Return the sum of counters of the same revision that are kept in several places."""
        sums: dict[tuple[str, str], tuple[int, ...]] = {}
        for one in (one for counts in some for one in counts.histograms):
            known = sums.get((one.name, one.stratum))
            sums[one.name, one.stratum] = _sum(known, one.buckets) if known else one.buckets
        return cls(
            **{name: sum(getattr(one, name) for one in some) for name in _NUMBERS},
            histograms=tuple(Histogram(name=name, stratum=of, buckets=told) for (name, of), told in sums.items()),
        )

    def fell(self, before: Counts) -> bool:
        """Return whether a number is less than in an earlier reading of the same counters."""
        return any(getattr(self, name) < getattr(before, name) for name in _NUMBERS)


_NUMBERS = ("requests", "failures", "client_errors")
"""The fields of Counts that are a number."""


def latencies(buckets: Iterable[int]) -> tuple[Histogram, ...]:
    """Return the histograms of a target that measures latencies alone; none where there are no buckets."""
    told = tuple(buckets)
    return (Histogram(name=LATENCY, buckets=told),) if told else ()


def _less(histogram: Histogram, before: tuple[int, ...]) -> Histogram:
    if not before:
        return histogram
    buckets = tuple(now - then for now, then in zip(histogram.buckets, before, strict=True))
    return histogram.model_copy(update={"buckets": buckets})


def _sum(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(map(sum, zip(one, other, strict=True)))
