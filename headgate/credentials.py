"""Keeping credentials out of what is written: addresses are shown, and printed by libraries, everywhere."""

from __future__ import annotations

import os
import re
from urllib.parse import unquote, urlsplit, urlunsplit

_USERINFO = re.compile(r"(?<=://)[^/\s'\"]+@")


def redact(text: str) -> str:
    """A text without the user and password of the addresses in it."""
    return _USERINFO.sub("", text)


def separate_credentials() -> None:
    """Move a user and password from MLflow's address to the variables that its client reads them from.

    The client prints its address in messages and tracebacks, which Prefect keeps.
    """
    parts = urlsplit(os.environ.get("MLFLOW_TRACKING_URI", ""))
    if parts.username is None or parts.hostname is None:
        return
    os.environ["MLFLOW_TRACKING_USERNAME"] = unquote(parts.username)
    os.environ["MLFLOW_TRACKING_PASSWORD"] = unquote(parts.password or "")
    os.environ["MLFLOW_TRACKING_URI"] = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
