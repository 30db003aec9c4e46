"""The local target: supervised processes on this machine behind Envoy."""

from deploy_targets.local.target import LocalTarget

__all__ = ["LocalTarget"]
