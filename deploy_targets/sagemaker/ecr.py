"""The account's own registry of images: repositories are made before the first push, and its password is good for 12 h.

Source: https://docs.aws.amazon.com/AmazonECR/latest/userguide/registry_auth.html
"""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING

from deploy_targets.clouds import image_name
from deploy_targets.protocol import ImageRepository

if TYPE_CHECKING:
    from deploy_targets.sagemaker.aws import Aws

_HOST = re.compile(r"^\d{12}\.dkr\.ecr(-fips)?\.[a-z0-9-]+\.amazonaws\.com(\.cn)?$")


def repository(aws: Aws, model: str, named: str) -> ImageRepository:
    """Where a model's images are pushed to.

    Args:
        aws: the account.
        model: the registered name; the repository's, where none is named.
        named: by the release file, or empty.

    Raises:
        TargetError: the account does not allow it.
    """
    host, _, path = named.partition("/")
    if named and not _HOST.fullmatch(host):
        return ImageRepository(named)
    path = path or image_name(model)
    aws.make("ecr", "create_repository", repositoryName=path, imageTagMutability="IMMUTABLE")
    token = aws.call("ecr", "get_authorization_token")["authorizationData"][0]
    user, _, password = base64.b64decode(token["authorizationToken"]).decode().partition(":")
    return ImageRepository(f"{host or token['proxyEndpoint'].partition('://')[2]}/{path}", user, password)
