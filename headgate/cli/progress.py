"""Shows a release while it runs: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Self

from rich.console import Console

from headgate import clock
from headgate.phases import Phase
from headgate.units import BASIS_POINTS
from headgate.verdicts import Verdict

if TYPE_CHECKING:
    from registry import Entry

SHOW_SECONDS = 10.0
"""Without a terminal, no longer time passes without a line."""
_BEAT_SECONDS = 1.0
_COLOURS = {"phase": "cyan", "live": "green", "decision": "yellow", "note": "dim", "check": "magenta"}
_WAITS = frozenset({"look", "wait"})
_NEXT: dict[str, str] = {
    Phase.STARTED: "the image is made", Phase.PACKAGED: "the version is registered in MLflow",
    Phase.REGISTERED: "the revision is deployed", Phase.DEPLOYED: "the smoke gate asks it",
    Phase.SMOKED: "copies of live requests begin", Phase.SHADOWED: "live traffic begins to shift",
    Phase.SHIFTING: "the first requests are counted", Phase.UNDOING: "the candidate is removed",
    Phase.PROMOTED: "the old version is removed", "deploying": "the revision becomes ready",
    "approval requested": "a person approves or rejects",
}  # fmt: skip
"""What happens after a row of the history, as long as no other row follows."""


class Progress:
    """Shows every row of a release's history, and between rows what goes on and for how long."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._status = self._console.status("") if self._console.is_terminal else None
        self._last_reason = ""
        self._doing, self._quiet = "", _BEAT_SECONDS
        self._since = self._shown = clock.monotonic()
        # Rows come from the release's thread, and seconds from the one that counts them.
        self._lock = threading.Lock()
        self._ends = threading.Event()
        self._counts = threading.Thread(target=self._count, name="progress", daemon=True)

    def __enter__(self) -> Self:
        if self._status:
            self._status.start()
        self._counts.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._counts.join()
        if self._status:
            self._status.stop()

    def show(self, entry: Entry) -> None:
        """Show one row of the history, unless it is a judge's state."""
        if entry.kind == "state":
            return
        with self._lock:
            self._since, self._quiet = clock.monotonic(), _BEAT_SECONDS
            if entry.kind in _WAITS:
                self._wait(entry)
                return
            self._doing = _NEXT.get(entry.what, self._doing)
            # The same reason ends a look, a release and its outcome; once is enough to read.
            reason = entry.reason.removesuffix(self._last_reason).rstrip(": ")
            self._last_reason = entry.reason or self._last_reason
            self._print(entry, f"{entry.what}: {reason}" if reason else entry.what)

    def tell(self, message: str) -> None:
        """Show what is not in the history."""
        self._console.print(message, markup=False, soft_wrap=True)

    def beat(self) -> None:
        """Show for how long what goes on has done so."""
        with self._lock:
            now = clock.monotonic()
            if not self._doing or now - self._since < self._quiet:
                return
            said = f"{self._doing}, for {now - self._since:.0f} s so far"
            if self._status:
                self._status.update(said)
            elif now - max(self._shown, self._since) >= SHOW_SECONDS:
                self._shown = now
                self._console.print(f"             wait {said}", markup=False, soft_wrap=True)

    def _count(self) -> None:
        while not self._ends.wait(_BEAT_SECONDS):
            self.beat()

    def _wait(self, entry: Entry) -> None:
        """Show what a step waits for; without a terminal, a line in some seconds is enough to follow."""
        self._doing, self._quiet = "the next counts are read", SHOW_SECONDS
        share = f"{entry.evidence['share'] / BASIS_POINTS * 100:g}% " if entry.kind == "look" else ""
        if self._status:
            self._status.update(f"{share}{entry.reason}")
        is_decided = entry.kind == "look" and entry.what != Verdict.RUNNING
        if is_decided or (not self._status and self._since - self._shown >= SHOW_SECONDS):
            self._print(entry, entry.reason)
            self._last_reason = entry.reason

    def _print(self, entry: Entry, text: str) -> None:
        self._shown = self._since
        stamp, colour = entry.at.astimezone().strftime("%H:%M:%S"), _COLOURS.get(entry.kind, "default")
        self._console.print(f"[dim]{stamp}[/] [{colour}]{entry.kind:>8}[/] ", end="")
        self._console.print(text, markup=False, soft_wrap=True)
