"""A change of a platform is done when the platform shows it, whatever its API answered.

An API throttles, times out before or after it has acted, fails, says yes and does nothing, or does it later. So each
change is looked at after it was made; where it does not show, or the platform does not answer, it is made again, ever
later and never in step with others, until a deadline. All changes are such that making them twice is making them once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

from headgate.errors import TargetUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE_SECONDS = 20.0
"""How long a change is tried. The lease is renewed meanwhile: who gives up can still put the endpoint in order."""


def attempts() -> Retrying:
    """When to try again."""
    return Retrying(
        retry=retry_if_exception_type(TargetUnavailableError), stop=stop_after_delay(PATIENCE_SECONDS),
        wait=wait_random_exponential(multiplier=0.2, max=4), reraise=True,
    )  # fmt: skip


def see_to(change: Callable[[], None], missing: Callable[[], str]) -> None:
    """Make a change, and return when the platform shows it.

    Args:
        change: asks the platform; may be called again.
        missing: what the platform shows instead; empty once the change shows.

    Raises:
        TargetUnavailableError: it did not answer, or does not show the change, for `PATIENCE_SECONDS`.
        TargetError: it refused the change.
    """
    for attempt in attempts():
        with attempt:
            if attempt.retry_state.attempt_number > 1 and not missing():
                # It answered badly and acted all the same, or acts late.
                return
            change()
            if shows := missing():
                raise TargetUnavailableError(f"the platform took the change and does not show it: {shows}")
