"""Where models are served: one protocol, one module a target."""

from deploy_targets.protocol import CountsLate, Declares, DeployTarget, Feature, Measures
from deploy_targets.registry import open_target, required_features, unsupported_problems

__all__ = [
    "CountsLate",
    "Declares",
    "DeployTarget",
    "Feature",
    "Measures",
    "open_target",
    "required_features",
    "unsupported_problems",
]
