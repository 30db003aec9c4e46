"""Telling people: a few rows of the journal as messages, through Apprise or Prefect's notification blocks.

Where messages go is a secret (their URLs hold tokens), so release files name it only by reference, and nothing that is
written here or raised shows more than the reference.
"""

from __future__ import annotations

import logging
import os
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any

from headgate.phases import Phase
from headgate.verdicts import Verdict
from registry import Kind
from registry.history import APPROVAL, APPROVAL_REQUESTED, CONFIRMED, FOUND_CHANGED, NOT_ROLLED_BACK, QUIET, STUCK

if TYPE_CHECKING:
    from collections.abc import Sequence

    from registry import Entry


_TOLD = {STUCK, FOUND_CHANGED, NOT_ROLLED_BACK, CONFIRMED, QUIET}
"""The notes that people are told as they are."""


class Notices:
    """Those whom a release file names. Messages are sent beside the release, which never waits for them.

    Args:
        references: `env:NAME` of an Apprise URL, or `block:TYPE/NAME` of a Prefect notification block.
    """

    def __init__(self, references: Sequence[str]) -> None:
        self._references = references
        self._sender = ThreadPoolExecutor(max_workers=1, thread_name_prefix="notices")
        self._sent: list[Future[str]] = []

    def tell(self, entry: Entry) -> None:
        """Send a message about a row, if it is one that people are told about."""
        text = message_of(entry) if self._references else None
        if text is not None:
            title = f"headgate: {entry.endpoint}"
            self._sent += [self._sender.submit(send, reference, title, text) for reference in self._references]

    def problems(self, seconds: float = 20.0) -> list[str]:
        """Wait for what is being sent.

        Args:
            seconds: at most.

        Returns:
            Why messages were not sent, each reason once.
        """
        done, late = wait(self._sent, seconds)
        self._sent = []
        found = [future.result() for future in done] + ["a service did not answer in time"] * len(late)
        return list(dict.fromkeys(problem for problem in found if problem))


def message_of(entry: Entry) -> str | None:
    """What people are told of a row; None for most."""
    if entry.kind is Kind.PHASE and entry.what == Phase.STARTED:
        return f"release {entry.release_id} started by {entry.actor}"
    if entry.kind is Kind.NOTE:
        return _note(entry)
    if entry.kind is Kind.LOOK and entry.what == Verdict.ADVANCE:
        return entry.reason
    if entry.kind is Kind.PHASE and entry.what == Phase.UNDOING:
        return f"release {entry.release_id} is taken back: {entry.reason}"
    if entry.kind is Kind.DECISION and entry.what in {"judge", "outcome", APPROVAL, "rollback"}:
        return f"{entry.what}: {entry.reason} (release {entry.release_id})"
    return None


def _note(entry: Entry) -> str | None:
    if entry.what == APPROVAL_REQUESTED:
        return f"release {entry.release_id} waits for approval: {entry.reason}"
    return f"{entry.what}: {entry.reason}" if entry.what in _TOLD else None


def send(reference: str, title: str, text: str) -> str:
    """Send one message.

    Args:
        reference: to whom.
        title: its subject.
        text: its body.

    Returns:
        Why it could not be sent; empty where it was.
    """
    kind, _, name = reference.partition(":")
    try:
        problem = _send_by_url(name, title, text) if kind == "env" else _send_by_block(name, title, text)
    except Exception as error:  # noqa: BLE001 - whatever a service's library raises; its text may hold the URL
        problem = f"it cannot be used ({type(error).__name__})"
    return f"{reference}: {problem}" if problem else ""


def _send_by_url(name: str, title: str, text: str) -> str:
    url = os.environ.get(name)
    if not url:
        return f"the environment variable {name} is not set where the release runs"
    import apprise  # noqa: PLC0415 - a second to import, and only for who wants messages

    # It logs the addresses that it cannot reach.
    logging.getLogger("apprise").setLevel(logging.CRITICAL)
    service = apprise.Apprise()
    if not service.add(url):
        return f"{name} holds no URL that Apprise knows"
    return "" if service.notify(text, title) else "the service did not take the message"


def _send_by_block(name: str, title: str, text: str) -> str:
    from prefect.blocks.core import Block  # noqa: PLC0415 - seconds to import, and only for blocks

    # Both are plain calls in a thread without an event loop.
    block: Any = Block.load(name)
    with block.raise_on_failure():
        block.notify(text, title)
    return ""
