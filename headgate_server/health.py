"""Whether the server in this container is ready, as an exit code: Docker's health check runs it."""

from __future__ import annotations

import http.client
import sys

from headgate_server.settings import Settings

_SECONDS = 4


def main() -> int:
    """0 where /ping is 200."""
    connection = http.client.HTTPConnection("127.0.0.1", Settings.from_env().port, timeout=_SECONDS)
    try:
        connection.request("GET", "/ping")
        return int(connection.getresponse().status != http.client.OK)
    except OSError:
        return 1
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(main())
