"""Write what the chart has from the code: the rules of a release's Role, and the gateway's manifests.

`make chart` writes them; `--check` says where they are not those of the code.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml

from deploy_targets.kubernetes import gateway, preflight
from deploy_targets.kubernetes.settings import KubernetesSettings

FOLDER = Path(__file__).parent / "headgate" / "files"
_HEAD = "# Written by `make chart`, from deploy_targets/kubernetes.\n"
_PODS = 7_654_321
"""Stands for a number that the chart fills in."""


def files() -> dict[str, str]:
    """Each file's content, by its name."""
    settings = KubernetesSettings(kind="kubernetes", captures="s3://bucket/live")
    settings = settings.model_copy(update={"namespace": "NAMESPACE"})
    made = yaml.safe_dump_all(gateway.manifests(settings, "IMAGE", _PODS), sort_keys=False, width=10**6)
    return {
        "gateway.yaml": _HEAD + made.replace(str(_PODS), "REPLICAS"),
        "rules.yaml": _rules(preflight.RULES),
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
