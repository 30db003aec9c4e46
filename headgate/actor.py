"""Who is acting, as the history names them."""

from __future__ import annotations

import getpass
import os
import socket


def whoami() -> str:
    """HEADGATE_ACTOR, or the user and machine."""
    return os.environ.get("HEADGATE_ACTOR") or f"{_user()}@{socket.gethostname()}"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        # In a container that runs as a number.
        return f"user {os.getuid()}"
