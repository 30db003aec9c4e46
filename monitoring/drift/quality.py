"""What is wrong with a window's values, whatever they are distributed like."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headgate.health import ColumnProblem
from headgate.units import rough_percent
from monitoring.drift.profile import WIDTHS, Categories, Numbers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from headgate.monitor import DataQuality
    from monitoring.drift.profile import Profile


def problems_of(name: str, reference: Profile, current: Profile, limits: DataQuality) -> Iterator[ColumnProblem]:
    """What of a column is more than the limits allow.

    Args:
        name: the column's.
        reference: its profile in the reference.
        current: and in the window.
        limits: shares of the window's rows.
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
        new = {value: count for value, count in current.counts.items() if value not in reference.counts}
        often = ", ".join(sorted(new, key=lambda value: -new[value])[:3])
        shares["new categories"] = (
            (sum(new.values()) + current.rest) / max(current.used, 1), limits.new_categories,
            f"of its values are not in the reference, such as {often}",
        )  # fmt: skip
    for kind, (share, limit, says) in shares.items():
        if share > limit:
            message = f"{rough_percent(share)} {says}"
            yield ColumnProblem(column=name, kind=kind, share=share, limit=limit, message=message)


def repeated_ids(repeated: int, rows: int, limits: DataQuality) -> list[ColumnProblem]:
    """Requests that were sent, or logged, more than once."""
    share = repeated / rows
    if share <= limits.repeated:
        return []
    message = f"{rough_percent(share)} of requests have the id of an earlier one"
    return [ColumnProblem(column="request_id", kind="repeated", share=share, limit=limits.repeated, message=message)]
