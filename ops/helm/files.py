"""Write what the chart has from the code: the rules of a release's Role, and the gateway's manifests.

`make chart` writes them; `--check` says where they are not those of the code.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import yaml

from deploy_targets.kubernetes import gateway, preflight
from deploy_targets.kubernetes.settings import KubernetesSettings
from headgate.limits import (
    GATEWAY_CONNECTIONS,
    GATEWAY_DRAIN,
    GATEWAY_HEADER_SIZE,
    GATEWAY_HEADERS,
    GATEWAY_IDLE,
    GATEWAY_MEMORY,
    GATEWAY_UPLOAD,
)

FOLDER = Path(__file__).parent / "headgate" / "files"
_HEAD = "# Written by `make chart`, from deploy_targets/kubernetes.\n"
_PODS = 7_654_321
"""Stands for a number that the chart fills in, as do those below."""
_MEMORY_MIB, _DRAIN = 765_432, 3333
_LIMITS = {
    GATEWAY_CONNECTIONS: "765431", GATEWAY_MEMORY: str(_MEMORY_MIB), GATEWAY_HEADER_SIZE: "7653",
    GATEWAY_HEADERS: "2345.671", GATEWAY_UPLOAD: "2345.672", GATEWAY_IDLE: "2345.673", GATEWAY_DRAIN: str(_DRAIN),
}  # fmt: skip
_WORDS = {
    str(_PODS): "REPLICAS",
    _LIMITS[GATEWAY_CONNECTIONS]: "MOST_CONNECTIONS", str(_MEMORY_MIB * 2**20): "MOST_BYTES",
    _LIMITS[GATEWAY_HEADER_SIZE]: "MOST_KIB_OF_HEADERS",
    f"{_LIMITS[GATEWAY_HEADERS]}s": "TIME_OF_HEADERS", f"{_LIMITS[GATEWAY_UPLOAD]}s": "TIME_OF_UPLOADS",
    f"{_LIMITS[GATEWAY_IDLE]}s": "TIME_IDLE",
    # The pod's own time to end, and that of the program beside Envoy, are so much longer.
    str(_DRAIN): "SECONDS_OF_DRAIN", str(_DRAIN + 10): "SECONDS_OF_DRAIN_AND_10",
    str(_DRAIN + 20): "SECONDS_OF_DRAIN_AND_20",
}  # fmt: skip
"""What the chart fills in, by what stands for it."""
_RESOURCES = """\
        resources:
          requests:
            cpu: 100m
            memory: 128Mi
"""
"""Those of Envoy's container."""


def files() -> dict[str, str]:
    """Each file's content, by its name."""
    settings = KubernetesSettings(kind="kubernetes", captures="s3://bucket/live")
    settings = settings.model_copy(update={"namespace": "NAMESPACE"})
    with patch.dict(os.environ, _LIMITS):
        made = yaml.safe_dump_all(gateway.manifests(settings, "IMAGE", _PODS), sort_keys=False, width=10**6)
    for value, word in {_RESOURCES: "        resources: RESOURCES\n", **_WORDS}.items():
        if value not in made:
            raise ValueError(f"nothing in the gateway's manifests is {value!r}, which stands for {word}")
        made = made.replace(value, word)
    return {
        "gateway.yaml": _HEAD + made,
        "rules.yaml": _rules((*preflight.RULES, *preflight.OF_METRICS)),
        "rules-gateway-api.yaml": _rules(preflight.OF_GATEWAY_API),
        "rules-keda.yaml": _rules(preflight.OF_KEDA),
        "rules-kserve.yaml": _rules(preflight.OF_KSERVE),
    }


def _rules(rules: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...]) -> str:
    told: list[dict[str, Any]] = [
        {"apiGroups": [group], "resources": list(resources), "verbs": list(verbs)} for group, resources, verbs in rules
    ]
    return _HEAD + yaml.safe_dump(told, sort_keys=False)


def main() -> int:
    """Write them, or compare."""
    wrong = []
    for name, text in files().items():
        path = FOLDER / name
        if "--check" not in sys.argv:
            path.write_text(text, encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != text:
            wrong.append(name)
    if wrong:
        print(f"{', '.join(wrong)} of the chart are not those of the code; run: make chart")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
