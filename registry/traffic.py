"""How much an endpoint was asked, from what releases and checks have counted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headgate.traffic import Seen
from headgate.units import BASIS_POINTS
from headgate.verdicts import Look
from registry.journal import Kind

if TYPE_CHECKING:
    from registry.journal import Journal


def seen(journal: Journal, endpoint: str) -> Seen | None:
    """Return the traffic of an endpoint during its newest shift; None where no shift was looked at.

    Blue-green asks the old version what the new one is asked: clients asked as often as the new one was.
    """
    rows = journal.read(endpoint, kinds=(Kind.LOOK,), newest=1)
    if not rows:
        return None
    look = Look.model_validate(rows[0].evidence)
    arms = (look.canary,) if look.share == BASIS_POINTS else (look.stable, look.canary)
    requests, failures = sum(arm.requests for arm in arms), sum(arm.failures for arm in arms)
    refused = sum(arm.client_errors for arm in arms)
    per_second = requests / look.seconds if look.seconds else 0.0
    when = f"at the shift of {rows[0].at:%F %H:%M} UTC"
    return Seen(per_second=per_second, requests=requests, failures=failures, when=when, client_errors=refused)
