"""What SageMaker's double keeps by name: models, endpoint configurations, tags, and how it refuses."""

from __future__ import annotations

import re
import threading
from collections import defaultdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from support.sagemaker import Endpoint

REGION, ACCOUNT = "eu-west-1", "123456789012"


class Refusal(Exception):  # noqa: N818 - what the service says
    """An error of the service."""

    def __init__(self, message: str, code: str = "ValidationException", status: int = 400) -> None:
        super().__init__(message)
        self.message, self.code, self.status = message, code, status


class Catalog:
    """Models and configurations, which are made once and never changed."""

    def __init__(self) -> None:
        self.models: dict[str, dict[str, Any]] = {}
        self.configs: dict[str, dict[str, Any]] = {}
        self.endpoints: dict[str, Endpoint] = {}
        self.tags: dict[str, dict[str, str]] = defaultdict(dict)
        self._lock = threading.RLock()

    def create_model(self, asked: dict[str, Any]) -> dict[str, Any]:
        return self._create("model", self.models, asked["ModelName"], asked, "ModelArn")

    def describe_model(self, asked: dict[str, Any]) -> dict[str, Any]:
        found = self._found("model", self.models, asked["ModelName"])
        return {**found, "ModelArn": arn_of("model", asked["ModelName"])}

    def list_models(self, asked: dict[str, Any]) -> dict[str, Any]:
        return {"Models": [
            {"ModelName": name, "ModelArn": arn_of("model", name), "CreationTime": found["CreationTime"]}
            for name, found in sorted(self.models.items()) if asked.get("NameContains", "") in name
        ]}  # fmt: skip

    def delete_model(self, asked: dict[str, Any]) -> dict[str, Any]:
        self._found("model", self.models, asked["ModelName"])
        del self.models[asked["ModelName"]]
        self.tags.pop(arn_of("model", asked["ModelName"]), None)
        return {}

    def create_endpoint_config(self, asked: dict[str, Any]) -> dict[str, Any]:
        shadow, production = asked.get("ShadowProductionVariants", []), asked["ProductionVariants"]
        if shadow and (len(shadow), len(production)) != (1, 1):
            raise Refusal("You must specify exactly one ProductionVariant and one ShadowProductionVariant")
        variants = [variant["VariantName"] for variant in (*production, *shadow)]
        if len(set(variants)) < len(variants):
            raise Refusal("Duplicate variant name")
        for variant in (*production, *shadow):
            if "ModelName" in variant:
                self._found("model", self.models, variant["ModelName"])
            elif "ExecutionRoleArn" not in asked:
                raise Refusal("ExecutionRoleArn is required where a variant has no model")
        name = asked["EndpointConfigName"]
        return self._create("endpoint configuration", self.configs, name, asked, "EndpointConfigArn")

    def describe_endpoint_config(self, asked: dict[str, Any]) -> dict[str, Any]:
        name = asked["EndpointConfigName"]
        found = self._found("endpoint configuration", self.configs, name)
        return {**found, "EndpointConfigArn": arn_of("endpoint-config", name)}

    def list_endpoint_configs(self, asked: dict[str, Any]) -> dict[str, Any]:
        return {"EndpointConfigs": [
            {"EndpointConfigName": name, "EndpointConfigArn": arn_of("endpoint-config", name),
             "CreationTime": found["CreationTime"]}
            for name, found in sorted(self.configs.items()) if asked.get("NameContains", "") in name
        ]}  # fmt: skip

    def delete_endpoint_config(self, asked: dict[str, Any]) -> dict[str, Any]:
        name = asked["EndpointConfigName"]
        self._found("endpoint configuration", self.configs, name)
        used = [endpoint.name for endpoint in self.endpoints.values() if endpoint.config == name]
        assert not used, f"the configuration {name} of {used} was deleted while it is in use"
        del self.configs[name]
        return {}

    def add_tags(self, asked: dict[str, Any]) -> dict[str, Any]:
        self._tag(asked["ResourceArn"], asked["Tags"])
        return {"Tags": asked["Tags"]}

    def list_tags(self, asked: dict[str, Any]) -> dict[str, Any]:
        return {"Tags": [{"Key": key, "Value": value} for key, value in self.tags[asked["ResourceArn"]].items()]}

    def _create(self, kind: str, known: dict[str, Any], name: str, asked: dict[str, Any], arn: str) -> dict[str, Any]:
        with self._lock:
            if name in known:
                raise Refusal(f'Cannot create already existing {kind} "{arn_of(_slug(kind), name)}".')
            known[name] = {
                **{key: value for key, value in asked.items() if key != "Tags"}, "CreationTime": datetime.now(UTC)
            }  # fmt: skip
            self._tag(arn_of(_slug(kind), name), asked.get("Tags", []))
        return {arn: arn_of(_slug(kind), name)}

    def _found(self, kind: str, known: dict[str, Any], name: str) -> Any:
        if name not in known:
            raise Refusal(f'Could not find {kind} "{arn_of(_slug(kind), name)}".')
        return known[name]

    def _tag(self, arn: str, tags: list[dict[str, str]]) -> None:
        for tag in tags:
            if not re.fullmatch(r"[\w\s.:/=+\-@]*", tag["Value"]) or len(tag["Value"]) > 256:
                raise Refusal(f"Value '{tag['Value']}' at 'tags' failed to satisfy constraint")
            self.tags[arn][tag["Key"]] = tag["Value"]


def _slug(kind: str) -> str:
    return {"endpoint configuration": "endpoint-config"}.get(kind, kind)


def arn_of(kind: str, name: str) -> str:
    return f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:{kind}/{name}"
