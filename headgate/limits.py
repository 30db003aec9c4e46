"""Limits that depend on the machine, so that the environment can set them.

docs/operating.md has the list, with what each is for.
"""

from __future__ import annotations

import math
import os
import resource

from headgate.errors import BadInputError

LEASE, BUILD, START = "HEADGATE_LEASE_SECONDS", "HEADGATE_BUILD_SECONDS", "HEADGATE_START_SECONDS"
EFFECT, BLIND, HEALTH = "HEADGATE_EFFECT_SECONDS", "HEADGATE_BLIND_SECONDS", "HEADGATE_HEALTH_SECONDS"
SETTLE = "HEADGATE_SETTLE_SECONDS"
GATEWAY_HEADERS, GATEWAY_UPLOAD = "HEADGATE_GATEWAY_HEADERS_SECONDS", "HEADGATE_GATEWAY_UPLOAD_SECONDS"
GATEWAY_IDLE, GATEWAY_DRAIN = "HEADGATE_GATEWAY_IDLE_SECONDS", "HEADGATE_GATEWAY_DRAIN_SECONDS"
GATEWAY_CONNECTIONS = "HEADGATE_GATEWAY_CONNECTIONS"
GATEWAY_MEMORY, GATEWAY_HEADER_SIZE = "HEADGATE_GATEWAY_MEMORY_MIB", "HEADGATE_GATEWAY_HEADERS_KIB"

_SECONDS = {
    LEASE: (30.0, 2.0, 3600.0), BUILD: (900.0, 1.0, 86400.0), START: (180.0, 1.0, 86400.0),
    EFFECT: (20.0, 1.0, 3600.0), BLIND: (30.0, 1.0, 3600.0), HEALTH: (2.0, 0.1, 60.0),
    SETTLE: (150.0, 0.0, 3600.0),
    GATEWAY_HEADERS: (10.0, 0.1, 3600.0), GATEWAY_UPLOAD: (60.0, 0.1, 3600.0),
    GATEWAY_IDLE: (75.0, 0.1, 86400.0), GATEWAY_DRAIN: (60.0, 1.0, 3600.0),
}  # fmt: skip
"""Of each variable: the default, the least and the most."""
_NUMBERS = {
    GATEWAY_CONNECTIONS: (70_000, 16, 1_000_000),
    GATEWAY_MEMORY: (2048, 64, 1_048_576),
    GATEWAY_HEADER_SIZE: (32, 1, 8192),
}
"""The same, of those that are whole numbers."""

MOST_OF_AN_ADDRESS = 65_535
"""Connections of one client's address to one port of the gateway: TCP has no more ports."""
FILES_OF_SERVERS = 5_000
"""Open files that are kept for connections to servers: ten versions with the default `gateway.limits.requests`."""
CONNECTION_BYTES = 24 * 2**10
"""Envoy's memory for a connection. Measured with Envoy 1.40: silent 12 KiB, idle 15 KiB, half a header 20 KiB."""
CALM = 0.85
"""The share of Envoy's memory below which it ends and refuses nothing to save memory."""


def seconds_of(variable: str, default: float | None = None) -> float:
    """Return how many seconds a variable of the environment sets, or its default.

    Args:
        variable: its name.
        default: in place of the variable's own, such as that of one platform.

    Raises:
        BadInputError: it is not a number, or out of bounds.
    """
    own, least, most = _SECONDS[variable]
    default = own if default is None else default
    given = os.environ.get(variable) or str(default)
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if not least <= seconds <= most:
        raise BadInputError(
            f"{variable} is {given!r}, and not a number between {least:g} and {most:g}",
            fix=f"leave it unset ({default:g}), or give seconds",
        )
    return seconds


def number_of(variable: str) -> int:
    """Return the whole number that a variable of the environment sets, or its default.

    Raises:
        BadInputError: it is no whole number, or out of bounds.
    """
    default, least, most = _NUMBERS[variable]
    given = os.environ.get(variable) or str(default)
    number = int(given) if given.isascii() and given.isdigit() else -1
    if not least <= number <= most:
        raise BadInputError(
            f"{variable} is {given!r}, and not a whole number between {least} and {most}",
            fix=f"leave it unset ({default}), or give such a number",
        )
    return number


def is_set(variable: str) -> bool:
    """Return whether the environment sets a variable."""
    return bool(os.environ.get(variable))


def files_of_a_process() -> int | None:
    """Return how many files a process that is started here may open; None where there is no limit."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if most == resource.RLIM_INFINITY else most


def connections_within(files: int) -> int:
    """Return how many connections of clients leave Envoy enough files: it crashes when it has none left.

    Args:
        files: that Envoy may open. A quarter of them is kept for connections to servers, FILES_OF_SERVERS at least,
            and two thirds at most: a request has one connection, and its mirrored request another.
    """
    return max(min(files * 3 // 4, files - FILES_OF_SERVERS), files // 3)


def files_for(connections: int) -> int:
    """Return how many files Envoy needs for so many connections of clients."""
    return min(max(math.ceil(connections * 4 / 3), connections + FILES_OF_SERVERS), connections * 3)


def gateway_connections(files: int | None) -> int:
    """Return how many connections the gateway takes: what the environment sets, or what files and memory allow.

    Args:
        files: that Envoy may open; None where that is not known.

    Raises:
        BadInputError: the environment sets more than the files allow, or no such number.
    """
    wanted = number_of(GATEWAY_CONNECTIONS)
    most = wanted if files is None else connections_within(files)
    if is_set(GATEWAY_CONNECTIONS):
        if most < wanted:
            raise BadInputError(
                f"{GATEWAY_CONNECTIONS} is {wanted}, and a process here may open {files} files: "
                f"{most} connections at most",
                fix=f"raise the limit (ulimit -Hn) to {files_for(wanted)}, or set {GATEWAY_CONNECTIONS} to {most}",
            )
        return wanted
    return min(wanted, most, connections_in_memory())


def connections_in_memory() -> int:
    """Return how many connections fit in Envoy's memory before it begins to refuse."""
    return int(number_of(GATEWAY_MEMORY) * 2**20 * CALM) // CONNECTION_BYTES
