"""The Docker target: containers of this machine behind Envoy."""

from deploy_targets.docker.stack import start_containers, stop_containers
from deploy_targets.docker.target import DockerTarget

__all__ = ["DockerTarget", "start_containers", "stop_containers"]
