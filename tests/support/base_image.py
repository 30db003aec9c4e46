"""The Docker daemon that tests find."""

from __future__ import annotations

import os
import sys

# Read when this is imported, which is before a test's environment is cleaned.
_NAMED = os.environ.get("HEADGATE_BASE_IMAGE", "")


def find_base() -> tuple[str | None, str]:
    """A base image that is here or can be pulled; else None, and why there is none."""
    from docker.errors import DockerException, ImageNotFound

    from headgate.errors import ImageError
    from images.daemon import Daemon

    try:
        daemon = Daemon()
    except ImageError as error:
        return None, error.message
    official = f"python:{sys.version_info.major}.{sys.version_info.minor}-slim"
    with daemon:
        for name in (name for name in (_NAMED, "headgate-base:latest", official) if name):
            try:
                daemon.client.images.get(name)
            except ImageNotFound:
                continue
            return name, ""
        try:
            daemon.client.images.pull(official)
        except DockerException as error:
            return None, f"no base image: {official} cannot be pulled: {error}; make one: make base-image"
    return official, ""
