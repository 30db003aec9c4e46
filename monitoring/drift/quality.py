"""What is wrong with a window's values, whatever they are distributed like."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headgate.health import ColumnProblem
from headgate.units import rough_percent
from monitoring.drift.profile import WIDTHS, Categories, Numbers
from monitoring.drift.shares import new_by_chance, unseen

if TYPE_CHECKING:
    from collections.abc import Iterator

    from headgate.monitor import DataQuality
    from monitoring.drift.profile import Profile


def problems_of(
    name: str, reference: Profile, current: Profile, limits: DataQuality, rate: float
) -> Iterator[ColumnProblem]:  # fmt: skip
    """What of a column is more than the limits allow.

    Args:
        name: the column's.
        reference: its profile in the reference.
        current: and in the window.
        limits: shares of the window's rows.
        rate: how often chance alone may be taken for new categories.
    """
    shares = {
        "missing": (current.missing / current.rows - reference.missing / reference.rows, limits.missing,
                    "of its values are missing, beyond those of the reference"),
    }  # fmt: skip
    if isinstance(reference, Numbers) and isinstance(current, Numbers):
        beyond = (current.highs < reference.lows[0]) | (current.lows > reference.highs[-1])
        outside = float(WIDTHS[beyond].sum()) if current.used else 0.0
        span = f"{reference.lows[0]:g} to {reference.highs[-1]:g}"
        shares |= {
            "unreadable": (current.unreadable / current.rows, limits.unreadable, "of its values are no numbers"),
            "infinite": (current.infinite / current.rows, limits.unreadable, "of its values are infinite"),
            "out of range": (outside, limits.out_of_range, f"of its values are outside of {span}"),
        }  # fmt: skip
    elif isinstance(reference, Categories) and isinstance(current, Categories) and not reference.is_open:
        share, says = _new(reference, current, limits.new_categories, rate)
        shares["new categories"] = share, limits.new_categories, says
    for kind, (share, limit, says) in shares.items():
        if share > limit:
            message = f"{rough_percent(share)} {says}"
            yield ColumnProblem(column=name, kind=kind, share=share, limit=limit, message=message)


def _new(reference: Categories, current: Categories, limit: float, rate: float) -> tuple[float, str]:
    """The share of values that the reference lacks beyond what it was to lack, where chance does not explain it.

    A sample of many categories lacks some, and the next one has those.
    """
    new = {value: count for value, count in current.counts.items() if value not in reference.counts}
    expected = unseen(reference)
    beyond = (sum(new.values()) + current.rest) / max(current.used, 1) - expected
    # Chance takes time to count, and is not asked about what is allowed.
    if beyond <= limit or beyond <= new_by_chance(reference, current, rate):
        return 0.0, ""
    often = ", ".join(sorted(new, key=lambda value: -new[value])[:3])
    more = f" beyond the {rough_percent(expected)} that were to be expected," if expected else ""
    return beyond, f"of its values are not in the reference,{more} such as {often}"


def unreadable_requests(unreadable: int, rows: int, limits: DataQuality) -> list[ColumnProblem]:
    """Requests that were answered, and whose bodies cannot be read; `rows` are those of the others."""
    share = unreadable / max(rows + unreadable, 1)
    if share <= limits.unreadable:
        return []
    message = f"{rough_percent(share)} of requests have a body that cannot be read"
    return [ColumnProblem(column="request", kind="unreadable", share=share, limit=limits.unreadable, message=message)]


def repeated_ids(repeated: int, rows: int, limits: DataQuality) -> list[ColumnProblem]:
    """Requests that were sent, or logged, more than once."""
    share = repeated / max(rows, 1)
    if share <= limits.repeated:
        return []
    message = f"{rough_percent(share)} of requests have the id of an earlier one"
    return [ColumnProblem(column="request_id", kind="repeated", share=share, limit=limits.repeated, message=message)]
