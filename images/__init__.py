"""From a trained artifact to an image: the content-addressed bundle, its locked requirements, its environment."""

from images.artifact import fetch_artifact, input_example
from images.bundle import build_image
from images.container import build_container
from images.gateway import build_gateway
from images.sbom import bill_of_materials
from images.scan import scan_artifact

__all__ = [
    "bill_of_materials", "build_container", "build_gateway", "build_image", "fetch_artifact", "input_example",
    "scan_artifact",
]  # fmt: skip
