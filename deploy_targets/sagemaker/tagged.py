"""What tags keep: whose an endpoint is, its fence, a revision's facts, and when that received copies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deploy_targets.clouds import is_kept, see_that_it_is_ours
from deploy_targets.copies import Copies
from deploy_targets.sagemaker import names

if TYPE_CHECKING:
    from collections.abc import Mapping

    from deploy_targets.sagemaker.aws import Aws

_COPIES, _SERVED = f"{names.PREFIX}mirrored", f"{names.PREFIX}served"


class Tagged:
    """Reads and writes them.

    Args:
        aws: the account.
    """

    def __init__(self, aws: Aws) -> None:
        self._aws = aws
        self._facts: dict[str, dict[str, str]] = {}

    def facts(self, model: str) -> dict[str, str]:
        """What a model's tags say of its revision, which does not change; `model` is its ARN."""
        if model not in self._facts:
            self._facts[model] = self._read(model)
        return self._facts[model]

    def see_that_it_is_ours(self, described: Mapping[str, Any]) -> dict[str, str]:
        """An endpoint's tags.

        Raises:
            TargetError: they say that somebody else made it.
        """
        found = self._read(described["EndpointArn"])
        name = described["EndpointName"]
        see_that_it_is_ours(found.get(names.OURS), name, "SageMaker", name)
        return found

    def keep_out(self, described: Mapping[str, Any], fence: int | None) -> None:
        """Refuse a lower fence, and keep a higher one.

        Raises:
            LeaseLostError: the endpoint has seen a higher one.
        """
        if fence is None:
            return
        seen = self.see_that_it_is_ours(described).get(names.FENCE)
        if not is_kept(seen, fence, "SageMaker", described["EndpointName"]):
            self._write(described["EndpointArn"], names.FENCE, str(fence))

    def copies(self, model: str) -> Copies | None:
        """When a revision received copies and nothing else, if it ever did; `model` is its model's ARN."""
        return Copies.parse(self._read(model).get(_COPIES, ""))

    def copies_begin(self, model: str) -> None:
        """From now on a revision receives copies."""
        known = self.copies(model)
        if (copies := Copies.begun(known)) != known:
            self._write(model, _COPIES, str(copies))

    def copies_end(self, model: str) -> None:
        """From now on it is given live requests."""
        known = self.copies(model)
        if known is not None and known.end is None:
            self._write(model, _COPIES, str(known.ended()))

    def has_served(self, model: str) -> bool:
        """Whether a revision has had all clients; `model` is its model's ARN."""
        return _SERVED in self._read(model)

    def serves(self, model: str) -> None:
        """Keep that it has."""
        self._write(model, _SERVED, "yes")

    def _read(self, arn: str) -> dict[str, str]:
        return names.read_tags(self._aws.pages("sagemaker", "list_tags", "Tags", ResourceArn=arn))

    def _write(self, arn: str, name: str, value: str) -> None:
        self._aws.call("sagemaker", "add_tags", ResourceArn=arn, Tags=[{"Key": name, "Value": value}])
