"""What is in an image, as a CycloneDX document: every package of the lock with its hashes, and the base."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from cyclonedx.contrib.this.builders import this_component
from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

if TYPE_CHECKING:
    from headgate.records import Image

_PACKAGE = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)(.*?)(?=^[A-Za-z0-9]|\Z)", re.MULTILINE | re.DOTALL)
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


def bill_of_materials(image: Image, model: str, version: int) -> str:
    """The document of a version's image, as JSON (CycloneDX 1.6)."""
    subject = Component(
        name=model, version=str(version), type=ComponentType.MACHINE_LEARNING_MODEL, bom_ref=f"{model}@{version}",
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=image.digest.removeprefix("sha256:"))],
    )  # fmt: skip
    bom = Bom()
    bom.metadata.component = subject
    bom.metadata.tools.components.add(this_component())
    lock = (image.path / "requirements.lock").read_text(encoding="utf-8")
    packages = [_component(*match) for match in _PACKAGE.findall(lock)]
    for package in packages:
        bom.components.add(package)
    bom.register_dependency(subject, packages)
    return str(JsonV1Dot6(bom).output_as_string(indent=2))


def _component(name: str, version: str, rest: str) -> Component:
    url = PackageURL("pypi", name=name.lower().replace("_", "-"), version=version)
    # A lock holds the hashes of every platform's wheel; one of them was installed.
    hashes = [HashType(alg=HashAlgorithm.SHA_256, content=content) for content in _HASH.findall(rest)]
    return Component(
        name=name, version=version, type=ComponentType.LIBRARY, purl=url, bom_ref=url.to_string(), hashes=hashes
    )
