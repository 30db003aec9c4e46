"""From a trained artifact to an image: the content-addressed bundle, its locked requirements, its environment."""

from images.artifact import fetch_artifact, input_example
from images.bundle import build_image

__all__ = ["build_image", "fetch_artifact", "input_example"]
