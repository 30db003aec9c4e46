"""From a trained artifact to an image: the content-addressed bundle, its locked requirements, its environment."""

from images.addresses import refuse_passwords
from images.artifact import fetch_artifact, input_example
from images.bundle import build_image
from images.compare import compare, signature_of
from images.container import build_container
from images.gateway import build_gateway
from images.sbom import bill_of_materials
from images.scan import scan_artifact
from images.signature import signature_request
from images.unpack import model_in_image

__all__ = [
    "bill_of_materials", "build_container", "build_gateway", "build_image", "compare", "fetch_artifact",
    "input_example", "model_in_image", "refuse_passwords", "scan_artifact", "signature_of", "signature_request",
]  # fmt: skip
