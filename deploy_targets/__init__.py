"""Where models are served: one protocol, one module a target."""

from deploy_targets.protocol import Declares, DeployTarget, Feature
from deploy_targets.registry import open_target, required_features, unsupported_problems

__all__ = ["Declares", "DeployTarget", "Feature", "open_target", "required_features", "unsupported_problems"]
